"""How well scores part the classes, whatever threshold is set: AUC, and TPR at 1 % FPR.

A rate of right answers hides a rare class: an attacker that never names it is right nearly always.
The area under the ROC curve (AUC) weighs classes alike. The true-positive rate at a false-positive
rate of 1 % shows an attacker that is sure of a few victims, and knows nothing of the others.

Dimension key:  N victims   P of the class   Q of all others   K classes
"""

from math import exp, lgamma, sqrt

import torch
from torch import Tensor

from eaves.core.rates import Rate

FALSE_POSITIVES = 0.01
_Z95 = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution


def auc(positive_P: Tensor, negative_Q: Tensor) -> tuple[float, float]:
    """Return the AUC of two samples of scores, and its standard error; ties count half.

    The error is the larger of two: that of DeLong, and that of Hanley and McNeil for a curve no
    better than the smaller sample can show, for a perfect curve is given an error of 0 by DeLong.

    Sources: DeLong, DeLong, Clarke-Pearson, *Comparing the areas under two or more correlated
    receiver operating characteristic curves*, Biometrics 44 (1988). Hanley, McNeil, *The meaning
    and use of the area under a ROC curve*, Radiology 143 (1982).

    >>> auc(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.0, 0.0]))[0]
    0.9166...
    """
    p, q = len(positive_P), len(negative_Q)
    above_P, above_Q = _shares(positive_P, negative_Q), 1 - _shares(negative_Q, positive_P)
    value = float(above_P.mean())
    delong = _variance(above_P) / p + _variance(above_Q) / q
    floor = 1 / (2 * min(p, q))
    a = min(max(value, floor), 1 - floor)
    one, two = a / (2 - a), 2 * a * a / (1 + a)
    hanley = (a * (1 - a) + (p - 1) * (one - a * a) + (q - 1) * (two - a * a)) / (p * q)
    return value, sqrt(max(delong, hanley))


def caught(positive_P: Tensor, negative_Q: Tensor) -> tuple[Rate, float]:
    """Return the TPR at an FPR of at most 1 %, and the chance of as much by luck alone.

    Scores above the threshold are positive; it is the lowest one that at most 1 % of the others
    exceed. Where scores tie there, none of them is above it. The interval is for that threshold.

    The chance is exact: were all N scores in random order, x or more of the class would stand above
    m + 1 of the others where at most m of the first x + m are others (hypergeometric).

    >>> rate, luck = caught(torch.tensor([9.0, 8.0, 0.5, 0.2]), torch.arange(4.0))
    >>> rate.value, round(luck, 3)
    (0.5, 0.214)
    """
    p, q = len(positive_P), len(negative_Q)
    allowed = int(FALSE_POSITIVES * q)
    threshold = negative_Q.sort(descending=True).values[allowed]
    hits = int((positive_P > threshold).sum())
    return Rate.of(hits, p), _luck(hits, p, q, allowed)


def chance_of_caught(negatives: int) -> float:
    """Return the TPR that scores without any knowledge have on average: about 1 %.

    A little more, for the threshold is where 1 % of these few others are, and not of all there are.

    >>> round(chance_of_caught(1000), 4)
    0.011
    """
    return (int(FALSE_POSITIVES * negatives) + 1) / (negatives + 1)


def _luck(hits: int, p: int, q: int, allowed: int) -> float:
    if not hits:
        return 1.0
    drawn = hits + allowed

    def ways(n: int, k: int) -> float:
        return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)

    found = [
        exp(ways(q, others) + ways(p, drawn - others) - ways(p + q, drawn))
        for others in range(allowed + 1)
        if 0 <= drawn - others <= p
    ]
    return min(1.0, sum(found))


def _shares(of_N: Tensor, among_M: Tensor) -> Tensor:
    """Return the share of ``among_M`` below each, ties counting half, float64 (N,)."""
    ordered, scores_N = among_M.sort().values, of_N.contiguous()
    below_N = torch.searchsorted(ordered, scores_N, right=False)
    upto_N = torch.searchsorted(ordered, scores_N, right=True)
    return (below_N + upto_N).double() / (2 * len(among_M))


def _variance(x_N: Tensor) -> float:
    return float(x_N.var()) if len(x_N) > 1 else 0.25
