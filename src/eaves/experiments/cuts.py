"""What each cut of a net means: what crosses there, and how much of the net the edge holds."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import final

import torch

from eaves.core.net import StagedNet
from eaves.planner.analyse import analyse_chain


@final
@dataclass(frozen=True, kw_only=True)
class CutFacts:
    """One cut. ``edge_macs`` and ``edge_params`` are shares of the whole net, in [0, 1]."""

    cut: str
    feature_shape: tuple[int, ...]
    values: int
    edge_macs: float
    edge_params: float
    uncounted: tuple[str, ...] = ()
    """Operations on weights, anywhere in the net, that ``edge_macs`` knows no count for."""


def cut_facts(net: StagedNet, input_shape: Sequence[int]) -> list[CutFacts]:
    """Return the facts of every cut, from input to output, for one input of ``input_shape``.

    Multiply-accumulates are those of :mod:`eaves.planner.counting`; what else uses weights is
    named.
    """
    stages = analyse_chain(dict(net.stages()), torch.zeros(1, *input_shape), nullcontext)
    uncounted = tuple(sorted({name for stage in stages for name in stage.uncounted}))
    macs, params = [s.forward_macs for s in stages], [s.params for s in stages]
    return [
        CutFacts(
            cut=stage.name,
            feature_shape=stage.output_shape,
            values=stage.values,
            edge_macs=sum(macs[: i + 1]) / max(1, sum(macs)),
            edge_params=sum(params[: i + 1]) / max(1, sum(params)),
            uncounted=uncounted,
        )
        for i, stage in enumerate(stages[:-1])
    ]
