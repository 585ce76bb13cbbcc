"""What the task label alone gives away: it is sent in the clear, whatever the shield.

Dimension key:  N examples   L classes of the task   K classes of the private attribute
"""

from dataclasses import replace
from time import perf_counter

import torch
from torch import Tensor

from eaves.audit.findings import Effort, Finding, Reading
from eaves.audit.knowledge import Exposure
from eaves.audit.planted import divided, exposure_from
from eaves.audit.verdict import Planted

_KEPT = 0.9  # of the labels give the planted attribute away


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
            scores_NK=typical_LK.clamp(min=1e-9).log()[victims.labels],
        ),
        effort=Effort(known=len(known), rounds=1, time_s=perf_counter() - start_s, planned=1),
    )


def label_control(exposure: Exposure, *, generator: torch.Generator) -> Planted | None:
    """Return whether an attribute is read that is planted in the task label, nine times in ten.

    None where the attacker's examples have one label: then there is nothing to plant it in.
    """
    labels = exposure.known.labels
    if not bool((labels != labels[0]).any()):
        return None
    tied = replace(exposure.known, private=_tied_to(labels, generator))
    teach, victims = divided(tied, generator=generator)
    told = replace(exposure, attribute="planted")
    part = exposure_from(told, teach, victims, generator=generator)
    return Planted.of(label_leakage(part), strength=_KEPT)


def _tied_to(labels_N: Tensor, generator: torch.Generator) -> Tensor:
    """Return a class for each: whether its label is above the median one, but for some."""
    above_N = labels_N > (labels_N.min() + labels_N.max()) // 2
    kept_N = torch.rand(len(labels_N), generator=generator) < _KEPT
    return torch.where(kept_N, above_N, ~above_N).long()


def _counts(exposure: Exposure) -> Tensor:
    """Return how many of the attacker's examples have each label and class, (L, K)."""
    cells = exposure.labels * exposure.classes
    cell_N = exposure.known.labels * exposure.classes + exposure.known.private
    return torch.bincount(cell_N, minlength=cells).reshape(exposure.labels, exposure.classes)
