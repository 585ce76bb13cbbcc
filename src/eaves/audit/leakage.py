"""What the task label alone gives away: it is sent in the clear, whatever the shield.

Dimension key:  N examples   L classes of the task   K classes of the private attribute
"""

from time import perf_counter

import torch
from torch import Tensor

from eaves.audit.findings import Effort, Finding, Reading
from eaves.audit.knowledge import Exposure


def label_leakage(exposure: Exposure) -> Finding:
    """Return how well the private attribute is read from the task label, and nothing else.

    The answer is the class most frequent among the attacker's examples of that label; for balanced
    accuracy, the class of which the label is most typical. A label without an example counts for
    nothing: the answer is that of all labels.

    Where sizes of payloads are to be judged, give them as features (N, 1), without noise, to
    :func:`eaves.audit.attribute.attack`.
    """
    start_s = perf_counter()
    known, victims = exposure.known, exposure.victims
    counts_LK = _counts(exposure)
    of_class_K = counts_LK.sum(dim=0)
    counts_LK[counts_LK.sum(dim=1) == 0] = of_class_K
    typical_LK = counts_LK / of_class_K.clamp(min=1)
    return Finding(
        attack="labels",
        attacker="most frequent class of each task label",
        attribute=exposure.attribute,
        reading=Reading.of(
            counts_LK.argmax(dim=1)[victims.labels],
            victims.private,
            fair_N=typical_LK.argmax(dim=1)[victims.labels],
        ),
        effort=Effort(known=len(known), rounds=1, time_s=perf_counter() - start_s),
    )


def _counts(exposure: Exposure) -> Tensor:
    """Return how many of the attacker's examples have each label and class, (L, K)."""
    cells = exposure.labels * exposure.classes
    cell_N = exposure.known.labels * exposure.classes + exposure.known.private
    return torch.bincount(cell_N, minlength=cells).reshape(exposure.labels, exposure.classes)
