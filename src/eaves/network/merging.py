"""Robust aggregation: one gradient from those of several edges, some of which may be poisoned.

The rules see one gradient for each edge, of its own upload at the same weights.

========  ======================================================================================
mean      weighted by examples; one edge can move it anywhere
clipped   each gradient is scaled down to the median norm, then averaged (norm bounding: Sun et al.,
          *Can You Really Backdoor Federated Learning?*, 2019)
trimmed   coordinate-wise mean without the largest and smallest fifth, one at least (Yin, Chen,
          Ramchandran, Bartlett, *Byzantine-Robust Distributed Learning*, ICML 2018)
median    coordinate-wise median (the same source)
krum      mean of the gradients that are nearest to the others (Multi-Krum: Blanchard, El Mhamdi,
          Guerraoui, Stainer, *Machine Learning with Adversaries*, NeurIPS 2017)
auto      trimmed where 3 or more edges are merged, else mean
========  ======================================================================================

Fewer than 3 gradients say nothing of which is the odd one: their rule is always the mean.

Dimension key:  E edges
"""

from collections.abc import Callable, Sequence
from typing import Final, final

import torch
from torch import Tensor, nn

from eaves.core.optimise import Averaging

MERGE_RULES: Final = ("auto", "mean", "clipped", "trimmed", "median", "krum")
_TRIMMED: Final = 0.2  # at each end
_FEWEST: Final = 3  # gradients of which one may be the odd one


@final
class GradientsAlone(Averaging):
    """Collects the gradients and buffers of each update, and lets no step be made."""

    def __init__(self) -> None:
        self.gradients: list[list[Tensor]] = []
        self.buffers: list[list[Tensor]] = []

    def average(self, modules: nn.Module) -> bool:
        """Take them; see :meth:`Averaging.average`."""
        self.gradients.append(
            [torch.zeros_like(p) if p.grad is None else p.grad for p in trained(modules)]
        )
        self.buffers.append([buffer.clone() for buffer in modules.buffers()])
        return False


def trained(modules: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that have gradients."""
    return [p for p in modules.parameters() if p.requires_grad]


def rule_for(rule: str, edges: int) -> str:
    """Return the rule by which so many edges are merged.

    >>> rule_for("auto", 10), rule_for("auto", 2), rule_for("median", 1)
    ('trimmed', 'mean', 'mean')
    """
    if edges < _FEWEST:
        return "mean"
    return "trimmed" if rule == "auto" else rule


def merged(
    rule: str, gradients: Sequence[Sequence[Tensor]], examples: Sequence[int]
) -> list[Tensor]:
    """Return one gradient for each parameter, from those of every edge.

    ``examples`` are those behind each; only the mean weighs by them, for they are the edge's word.
    """
    stacked = [torch.stack(tensors) for tensors in zip(*gradients, strict=True)]
    return _RULES[rule_for(rule, len(gradients))](stacked, examples)


def merged_buffers(buffers: Sequence[Sequence[Tensor]], before: Sequence[Tensor]) -> list[Tensor]:
    """Return the statistics of BatchNorm after a merged step: their coordinate-wise median.

    What counts steps goes on by one. ``before`` are the values before the step.
    """
    found = []
    for tensors, old in zip(zip(*buffers, strict=True), before, strict=True):
        floating = old.dtype.is_floating_point
        found.append(_median([torch.stack(tensors)], ())[0] if floating else tensors[0])
    return found


def _mean(stacked: list[Tensor], examples: Sequence[int]) -> list[Tensor]:
    total = sum(examples)
    return [
        torch.tensordot(
            torch.tensor([n / total for n in examples], dtype=x.dtype, device=x.device), x, dims=1
        )
        for x in stacked
    ]


def _clipped(stacked: list[Tensor], examples: Sequence[int]) -> list[Tensor]:
    norms_E = _norms(stacked)
    scales_E = (norms_E.median() / norms_E.clamp_min(1e-30)).clamp_max(1.0)
    return [torch.tensordot(scales_E.to(x.dtype), x, dims=1) / len(x) for x in stacked]


def _trimmed(stacked: list[Tensor], examples: Sequence[int]) -> list[Tensor]:
    cut = max(1, round(_TRIMMED * len(stacked[0])))
    cut = min(cut, (len(stacked[0]) - 1) // 2)
    return [x.sort(dim=0).values[cut : len(x) - cut].mean(dim=0) for x in stacked]


def _median(stacked: list[Tensor], examples: Sequence[int]) -> list[Tensor]:
    found = []
    for x in stacked:  # torch's median of an even number is the lower one: it would be biased
        ordered, edges = x.sort(dim=0).values, len(x)
        found.append((ordered[(edges - 1) // 2] + ordered[edges // 2]) / 2)
    return found


def _krum(stacked: list[Tensor], examples: Sequence[int]) -> list[Tensor]:
    edges = len(stacked[0])
    odd = min(max(1, round(_TRIMMED * edges)), (edges - 1) // 2)
    flat = torch.cat([x.flatten(1) for x in stacked], dim=1)
    distances_EE = torch.cdist(flat, flat).square()
    nearest = max(1, edges - odd - 2)  # others than itself
    scores_E = distances_EE.sort(dim=1).values[:, 1 : 1 + nearest].sum(dim=1)
    chosen = scores_E.argsort(stable=True)[: edges - odd]
    return [x[chosen].mean(dim=0) for x in stacked]


def _norms(stacked: list[Tensor]) -> Tensor:
    squares = torch.stack([x.flatten(1).square().sum(dim=1) for x in stacked])
    return squares.sum(dim=0).sqrt()


_RULES: Final[dict[str, Callable[[list[Tensor], Sequence[int]], list[Tensor]]]] = {
    "mean": _mean,
    "clipped": _clipped,
    "trimmed": _trimmed,
    "median": _median,
    "krum": _krum,
}
