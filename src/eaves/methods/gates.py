r"""Activations that a group of mixtures shares, so that they can be taken apart without a fault.

Every usual activation is a gate on its input, x g(x): g is 0 or 1 for ReLU, a sigmoid for SiLU. On
the mixtures q_1..q_K of a group, gates that each mixture opens for itself make answers that no
longer add up. Opened by the group's mean they are the same for all of its mixtures::

    y_j = q_j g(m) ,   m = 1/K sum_k q_k

so that what lies between is linear in the mixtures of a group, whatever it is between groups:
coefficients that were mixed in are taken out again exactly. With K = 1 nothing changes. A maximum
over a window becomes the value at the place of the mean's maximum.

The cloud learns which mixtures belong together, as it does from queries that are not shuffled.
Ours; the paper does not say how its nets come close to linear.

Dimension key:  B batch, of G groups   K mixtures of a group   C channels   H, W height and width
"""

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import hardsigmoid, max_pool2d

GATES: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.ReLU: lambda m: (m > 0).to(m),
    nn.SiLU: torch.sigmoid,
    nn.Hardswish: hardsigmoid,
    nn.GELU: lambda m: torch.special.ndtr(m.float()).to(m),
}
"""The gate of each activation that can be shared."""


@final
class SharedGate(nn.Module):
    """Mixtures (B, ...) -> the same shape; groups of ``group`` follow each other."""

    def __init__(self, gate: Callable[[Tensor], Tensor], group: int):
        super().__init__()
        self._gate, self._group = gate, group

    def forward(self, x: Tensor) -> Tensor:
        """Return x times the gate of its group's mean."""
        x_GK = x.unflatten(0, (-1, self._group))
        return (x_GK * self._gate(x_GK.mean(dim=1, keepdim=True))).flatten(0, 1)


@final
class SharedMaximum(nn.Module):
    """Max pooling (B, C, H, W) at the places that the group's mean has its maxima at."""

    def __init__(self, pool: nn.MaxPool2d, group: int):
        super().__init__()
        self._group = group
        self._pool = {
            "kernel_size": pool.kernel_size,
            "stride": pool.stride,
            "padding": pool.padding,
            "dilation": pool.dilation,
            "ceil_mode": pool.ceil_mode,
        }

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return maps at the pooled resolution."""
        x_GKCN = x_BCHW.unflatten(0, (-1, self._group)).flatten(3)
        m_GCHW = x_GKCN.mean(dim=1).unflatten(2, x_BCHW.shape[2:])
        _, places_GCHW = max_pool2d(m_GCHW, return_indices=True, **self._pool)
        places_GKCN = places_GCHW.flatten(2)[:, None].expand(-1, self._group, -1, -1)
        picked_GKCN = x_GKCN.gather(3, places_GKCN)
        return picked_GKCN.unflatten(3, places_GCHW.shape[2:]).flatten(0, 1)


def share_gates(net: nn.Module, group: int) -> None:
    """Put shared activations in place of those of ``net``, which keeps its weights and their names.

    Modules of :data:`GATES` and ``nn.MaxPool2d`` are replaced; what a net does by functions, or by
    other modules (attention, a softmax), stays each mixture's own.
    """
    for name, child in net.named_children():
        if type(child) in GATES:
            setattr(net, name, SharedGate(GATES[type(child)], group))
        elif type(child) is nn.MaxPool2d:
            setattr(net, name, SharedMaximum(child, group))
        else:
            share_gates(child, group)
