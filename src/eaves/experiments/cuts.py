"""What each cut of a net means: what crosses there, and how much of the net the edge holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import final

import torch
from torch.utils.flop_counter import FlopCounterMode

from eaves.core.modes import modes_kept
from eaves.core.net import StagedNet


@final
@dataclass(frozen=True, kw_only=True)
class CutFacts:
    """One cut. ``edge_macs`` and ``edge_params`` are shares of the whole net, in [0, 1]."""

    cut: str
    feature_shape: tuple[int, ...]
    values: int
    edge_macs: float
    edge_params: float


def cut_facts(net: StagedNet, input_shape: Sequence[int]) -> list[CutFacts]:
    """Return the facts of every cut, from input to output, for one input of ``input_shape``.

    Multiply-accumulates are those of convolutions and matrix products; the rest is not counted.
    """
    x, shapes, macs, params = torch.zeros(1, *input_shape), [], [], []
    with modes_kept(net), torch.no_grad():
        for _, stage in net.eval().stages():
            with FlopCounterMode(display=False) as counter:
                x = stage(x)
            shapes.append(tuple(x.shape[1:]))
            macs.append(counter.get_total_flops() / 2)
            params.append(sum(p.numel() for p in stage.parameters()))
    return [
        CutFacts(
            cut=name,
            feature_shape=shapes[i],
            values=prod(shapes[i]),
            edge_macs=sum(macs[: i + 1]) / max(1, sum(macs)),
            edge_params=sum(params[: i + 1]) / max(1, sum(params)),
        )
        for i, name in enumerate(net.names[:-1])
    ]
