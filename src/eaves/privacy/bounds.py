"""Bounds on features: how far apart any two inputs can be, whatever the net makes of them.

Each bounds the values of one example; a batch is so many examples. Outside its limit a clip has no
gradient that grows the values further; :class:`Tanh` always has one, if a small one.

For payloads of d values (``limit`` is what is given, not what is left after rounding)::

    name   what it does                     one value   all, L1 norm        all, L2 norm
    tanh   limit * tanh(z / limit)          2 limit     2 limit d           2 limit sqrt(d)
    clip   z to [-limit, limit]             2 limit     2 limit d           2 limit sqrt(d)
    l1     z shrunk to an L1 norm of limit  2 limit     2 limit             2 limit
    l2     z shrunk to an L2 norm of limit  2 limit     2 limit sqrt(d)     2 limit

These hold for the float32 numbers that come out, not only for exact ones. NaN stays NaN.

Dimension key:  B batch   D values of one example
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import final

import torch
from torch import Tensor

from eaves.errors import ConfigError, unknown

_SMALLEST, _LARGEST = 1e-30, 1e30  # limits, so that what is scaled to them stays normal float32
_BELOW = 1 - 2.0**-21  # of a norm: what float32 rounding of each value can add to it, and more


@final
@dataclass(frozen=True, kw_only=True)
class Reach:
    """How far apart two bounded examples can be."""

    element: float
    """In one value."""
    l1: float
    """In all values, L1 norm."""
    l2: float
    """In all values, L2 norm."""


class Bound(ABC):
    """What keeps the features of any input within limits; differentiable."""

    limit: float

    @abstractmethod
    def apply(self, z: Tensor) -> Tensor:
        """Return features (B, ...) within the bound: float64 as such, all others as float32."""

    @abstractmethod
    def holds(self, z: Tensor) -> bool:
        """Return whether features (B, ...) are within the bound; not if any is NaN."""

    @abstractmethod
    def reach(self, values: int) -> Reach:
        """Return how far apart any two examples of ``values`` values can be."""


@final
@dataclass(frozen=True)
class Tanh(Bound):
    """limit * tanh(z / limit): smooth, slope 1 at 0.

    >>> Tanh(1.0).apply(torch.tensor([[0.0, 50.0]])).tolist()
    [[0.0, 1.0]]
    """

    limit: float

    def __post_init__(self) -> None:
        _expect_limit(self.limit)

    def apply(self, z: Tensor) -> Tensor:
        """Return features of any shape, squashed."""
        limit = _in_float32(self.limit)
        return limit * torch.tanh(_real(z) / limit)

    def holds(self, z: Tensor) -> bool:
        """Return whether each value is in [-limit, limit]."""
        return bool((_real(z).abs() <= _in_float32(self.limit)).all())

    def reach(self, values: int) -> Reach:
        """Return the extent of a cube."""
        return _cube(self.limit, values)


@final
@dataclass(frozen=True)
class Clip(Bound):
    """Values to [-limit, limit].

    >>> Clip(0.5).apply(torch.tensor([[0.25, -3.0]])).tolist()
    [[0.25, -0.5]]
    """

    limit: float

    def __post_init__(self) -> None:
        _expect_limit(self.limit)

    def apply(self, z: Tensor) -> Tensor:
        """Return features of any shape, clipped."""
        limit = _in_float32(self.limit)
        return _real(z).clamp(-limit, limit)

    def holds(self, z: Tensor) -> bool:
        """Return whether each value is in [-limit, limit]."""
        return bool((_real(z).abs() <= _in_float32(self.limit)).all())

    def reach(self, values: int) -> Reach:
        """Return the extent of a cube."""
        return _cube(self.limit, values)


@final
@dataclass(frozen=True)
class L1Clip(Bound):
    """Each example shrunk to an L1 norm of ``limit`` where it has more.

    >>> L1Clip(1.0).apply(torch.tensor([[3.0, -1.0], [0.5, 0.0]])).mul(4).round().tolist()
    [[3.0, -1.0], [2.0, 0.0]]
    """

    limit: float

    def __post_init__(self) -> None:
        _expect_limit(self.limit)

    def apply(self, z: Tensor) -> Tensor:
        """Return features (B, ...), those of each example shrunk by one factor."""
        return _shrunk(z, self.limit, order=1)

    def holds(self, z: Tensor) -> bool:
        """Return whether the L1 norm of each example is at most the limit."""
        return bool((_norms(z, order=1) <= self.limit).all())

    def reach(self, values: int) -> Reach:
        """Return the extent of a cross-polytope: its corners are on the axes."""
        across = 2 * self.limit
        return Reach(element=across, l1=across, l2=across)


@final
@dataclass(frozen=True)
class L2Clip(Bound):
    """Each example shrunk to an L2 norm of ``limit`` where it has more.

    >>> L2Clip(5.0).apply(torch.tensor([[6.0, -8.0], [3.0, 4.0]])).round().tolist()
    [[3.0, -4.0], [3.0, 4.0]]
    """

    limit: float

    def __post_init__(self) -> None:
        _expect_limit(self.limit)

    def apply(self, z: Tensor) -> Tensor:
        """Return features (B, ...), those of each example shrunk by one factor."""
        return _shrunk(z, self.limit, order=2)

    def holds(self, z: Tensor) -> bool:
        """Return whether the L2 norm of each example is at most the limit."""
        return bool((_norms(z, order=2) <= self.limit).all())

    def reach(self, values: int) -> Reach:
        """Return the extent of a ball."""
        across = 2 * self.limit
        return Reach(element=across, l1=across * sqrt(values), l2=across)


BOUNDS: dict[str, Callable[[float], Bound]] = {
    "tanh": Tanh,
    "clip": Clip,
    "l1": L1Clip,
    "l2": L2Clip,
}


def bound_named(name: str, limit: float = 1.0) -> Bound:
    """Return the bound of a name in :data:`BOUNDS`.

    Raises:
        ConfigError: no such bound, or a limit that cannot be.

    >>> bound_named("l2", 3.0)
    L2Clip(limit=3.0)
    """
    if name not in BOUNDS:
        raise unknown("bound", name, BOUNDS)
    return BOUNDS[name](limit)


def _expect_limit(limit: float) -> None:
    if not (isfinite(limit) and _SMALLEST <= limit <= _LARGEST):
        raise ConfigError(
            f"expected a bound's limit from {_SMALLEST:g} to {_LARGEST:g}, got {limit}"
        )


def _cube(limit: float, values: int) -> Reach:
    across = 2 * limit
    return Reach(element=across, l1=across * values, l2=across * sqrt(values))


def _real(z: Tensor) -> Tensor:
    return z if z.dtype == torch.float64 else z.float()


def _in_float32(limit: float) -> float:
    """Return the largest float32 that is not above ``limit``: 0.1 as float32 is more than 0.1."""
    nearest = torch.tensor(limit, dtype=torch.float32)
    if nearest.item() > limit:
        nearest = torch.nextafter(nearest, torch.tensor(0.0))
    return float(nearest.item())


def _norms(z: Tensor, order: int) -> Tensor:
    """Return the norm of each example in float64: the sum of many float32 is not to be trusted."""
    z_BD = z.flatten(1) if z.dim() > 1 else z.unsqueeze(1)
    norms_B: Tensor = torch.linalg.vector_norm(z_BD.double(), ord=order, dim=1)
    return norms_B


def _shrunk(z: Tensor, limit: float, order: int) -> Tensor:
    target = limit * _BELOW
    factor_B = target / _norms(z, order).clamp(min=target)  # 1 exactly where nothing is to be done
    factor = factor_B.reshape(-1, *[1] * (z.dim() - 1))
    return (z.double() * factor).to(_real(z).dtype)
