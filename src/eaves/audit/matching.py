"""Which estimate is of which source: one to one, so that their correlations are the largest.

Dimension key:  G groups   E estimates and V sources of a group   C channels   H, W height and width
"""

import numpy as np
import torch
from torch import Tensor

from eaves.errors import ConfigError

_EVEN = 1e-12  # share of its energy below which what varies in an estimate counts as rounding


def correlations(estimates_GECHW: Tensor, sources_GVCHW: Tensor) -> Tensor:
    """Return the Pearson correlation of each estimate with each source, float64 (G, E, V).

    Over all values of an example. It is 0 with what is constant.

    Raises:
        ValueError: other groups, or examples of other shapes.

    >>> x = torch.tensor([0.0, 1.0, 2.0]).reshape(1, 1, 1, 1, 3)
    >>> round(correlations(5 - 2 * x, x).item(), 6)
    -1.0
    """
    a, b = estimates_GECHW, sources_GVCHW
    if a.ndim != 5 or b.ndim != 5 or len(a) != len(b) or a.shape[2:] != b.shape[2:]:
        raise ValueError(
            "expected estimates (G, E, C, H, W) and sources (G, V, C, H, W) of the same groups "
            f"and shape, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    return _standardised(a) @ _standardised(b).mT


def _standardised(x_GKCHW: Tensor) -> Tensor:
    """Return values (G, K, N) of mean 0 and length 1; of length 0 where they were all the same."""
    flat_GKN = x_GKCHW.flatten(2).double()
    centred_GKN = flat_GKN - flat_GKN.mean(dim=2, keepdim=True)
    length_GK1 = centred_GKN.norm(dim=2, keepdim=True)
    even_GK1 = length_GK1.square() <= _EVEN * flat_GKN.square().sum(dim=2, keepdim=True)
    return torch.where(even_GK1, 0.0, centred_GKN / length_GK1.clamp(min=torch.finfo().tiny))


def best_pairs(gains_GEV: Tensor) -> Tensor:
    """Return int64 (G, V): which estimate each source gets, so that the sum of gains is largest.

    No estimate is of two sources; estimates that are left over are of none.

    Raises:
        ValueError: fewer estimates than sources, or gains that are not finite.
        ConfigError: scipy is not installed.

    >>> best_pairs(torch.tensor([[[0.9, 0.8], [0.7, 0.1]]]))
    tensor([[1, 0]])
    """
    estimates, sources = gains_GEV.shape[1:]
    if estimates < sources or not bool(gains_GEV.isfinite().all()):
        raise ValueError(
            f"expected finite gains of as many estimates as sources or more, got {estimates} "
            f"estimates of {sources} sources"
        )
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ConfigError(
            'matching estimates to sources needs scipy: pip install "eaves[lab]"'
        ) from error
    gains_GVE = gains_GEV.detach().mT.double().numpy()
    pairs = [linear_sum_assignment(gains_VE, maximize=True)[1] for gains_VE in gains_GVE]
    return torch.tensor(np.array(pairs), dtype=torch.int64).reshape(len(gains_GEV), sources)
