"""Which estimate is of which source: one to one, so that their correlations are the largest.

Dimension key:  G groups   E estimates and V sources of a group   C channels   H, W height and width
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_EVEN = 1e-12  # share of its energy below which what varies in an estimate counts as rounding

Costs = NDArray[np.float64]


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

    Source: Kuhn, *The Hungarian Method for the Assignment Problem* (1955); Jonker and Volgenant,
    *A Shortest Augmenting Path Algorithm for Dense and Sparse Linear Assignment Problems* (1987).

    >>> best_pairs(torch.tensor([[[0.9, 0.8], [0.7, 0.1]]]))
    tensor([[1, 0]])
    """
    estimates, sources = gains_GEV.shape[1:]
    if estimates < sources or not bool(gains_GEV.isfinite().all()):
        raise ValueError(
            f"expected finite gains of as many estimates as sources or more, got {estimates} "
            f"estimates of {sources} sources"
        )
    costs_GVE = -gains_GEV.detach().mT.double().numpy()
    return torch.tensor([_assigned(costs_VE) for costs_VE in costs_GVE], dtype=torch.int64)


def _assigned(costs_VE: Costs) -> list[int]:
    """Return the column of each row of least cost in all; there are as many columns or more.

    Row after row is given the column at the end of the shortest path of changes to those before.
    """
    rows, columns = costs_VE.shape
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    owner = np.full(columns, -1)
    for row in range(rows):
        before, distance, reached, column = _shortest_path(
            costs_VE - row_price[:, None] - column_price, owner, row
        )
        end = distance[column]
        row_price[row] += end
        row_price[owner[reached]] += end - distance[reached]
        column_price[reached] -= end - distance[reached]
        while column != -1:  # back along the path: each row moves on to the next column
            from_row = row if before[column] == -1 else owner[before[column]]
            owner[column], column = from_row, before[column]
    return [int(np.flatnonzero(owner == row)[0]) for row in range(rows)]


def _shortest_path(
    slack_VE: Costs, owner: NDArray[np.int64], row: int
) -> tuple[NDArray[np.int64], Costs, NDArray[np.bool_], int]:
    """Return the way from ``row`` to the nearest column without owner.

    As the column before each column (-1: the row itself), the distances, the columns that were
    passed through, and the column at the end.
    """
    before, distance = np.full(len(owner), -1), slack_VE[row].copy()
    reached = np.zeros(len(owner), dtype=bool)
    while True:
        column = int(np.where(reached, np.inf, distance).argmin())
        if owner[column] == -1:
            return before, distance, reached, column
        reached[column] = True
        through = distance[column] + slack_VE[owner[column]]
        shorter = ~reached & (through < distance)
        distance[shorter], before[shorter] = through[shorter], column
