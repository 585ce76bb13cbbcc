"""What un-mixing looks at: linear filters after which sources are sparse, and so told apart.

A filter acts on every query alike, so it commutes with the mixing: what un-mixes the filtered
queries un-mixes the queries.

Dimension key:  G groups   K queries of a group   C channels   H, W height and width   N samples
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from eaves.errors import ConfigError

_FLAT = 1e-6  # share of the largest eigenvalue that is added to all: no channel is blown up

Filter = Callable[[Tensor], Tensor]


def values(x_GKCHW: Tensor) -> Tensor:
    """Return the values as they are, (G, K, N)."""
    return x_GKCHW.flatten(2)


def gradients(x_GKCHW: Tensor) -> Tensor:
    """Return the differences of all neighbours, across and down, (G, K, N).

    >>> gradients(torch.tensor([[0.0, 1.0], [5.0, 5.0]]).reshape(1, 1, 1, 2, 2))
    tensor([[[1., 0., 5., 4.]]])
    """
    across, down = x_GKCHW.diff(dim=4), x_GKCHW.diff(dim=3)
    return torch.cat([across.flatten(2), down.flatten(2)], dim=2)


def coarse_gradients(x_GKCHW: Tensor) -> Tensor:
    """Return the gradients of the means of 2 x 2 neighbours, (G, K, N).

    Of independent noise on every value, these keep a quarter of the variance; of an image they
    keep nearly all.
    """
    pairs = x_GKCHW[..., 1:] + x_GKCHW[..., :-1]
    return gradients((pairs[..., 1:, :] + pairs[..., :-1, :]) / 4)


def laplacians(x_GKCHW: Tensor) -> Tensor:
    """Return the Laplacian at every inner place, its channels made white, (G, K, N).

    The channels are those of all queries together: their covariance becomes 1 (by ZCA). Channels of
    a feature map repeat each other, and would count several times in an independence test.
    """
    inner = 4 * x_GKCHW[..., 1:-1, 1:-1]
    beside = x_GKCHW[..., 1:-1, :-2] + x_GKCHW[..., 1:-1, 2:]
    edges_GKCHW = inner - beside - x_GKCHW[..., :-2, 1:-1] - x_GKCHW[..., 2:, 1:-1]
    flat_CN = edges_GKCHW.transpose(0, 2).flatten(1).double()
    flat_CN = flat_CN - flat_CN.mean(dim=1, keepdim=True)
    values_C, vectors_CC = torch.linalg.eigh(flat_CN @ flat_CN.T / flat_CN.shape[1])
    floor = (_FLAT * values_C[-1]).clamp(min=torch.finfo().tiny)
    zca_CC = (vectors_CC * (values_C.clamp(min=0) + floor).rsqrt()) @ vectors_CC.T
    return torch.einsum("dc,gkchw->gkdhw", zca_CC.to(x_GKCHW.dtype), edges_GKCHW).flatten(2)


FILTERS: Mapping[str, Filter] = {
    "raw": values,
    "gradient": gradients,
    "coarse": coarse_gradients,
    "laplacian": laplacians,
}

_SMALLEST = {"raw": 1, "gradient": 2, "coarse": 3, "laplacian": 3}


def usable(x_GKCHW: Tensor) -> list[str]:
    """Return the filters that maps of this size are large enough for.

    >>> usable(torch.zeros(1, 2, 64, 1, 1))
    ['raw']
    """
    return [name for name in FILTERS if min(x_GKCHW.shape[3:]) >= _SMALLEST[name]]


def filtered(name: str, x_GKCHW: Tensor) -> Tensor:
    """Return what the filter ``name`` leaves of queries, (G, K, N).

    Raises:
        ConfigError: an unknown name, or maps too small for it.
    """
    if name not in FILTERS:
        raise ConfigError(f"expected a filter of {', '.join(FILTERS)}, got {name!r}")
    if name not in usable(x_GKCHW):
        raise ConfigError(
            f"expected maps with sides of {_SMALLEST[name]} or more for the filter {name!r}, got "
            f"{tuple(x_GKCHW.shape[3:])}; 'raw' takes any"
        )
    return FILTERS[name](x_GKCHW)
