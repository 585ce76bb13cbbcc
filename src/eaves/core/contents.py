"""What can change within a value: compare it with what it was, and put that back."""

from collections import deque
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

SCALARS: Final = (int, float, complex, bool, str, bytes, type(None))
CONTAINERS: Final = (list, dict, set, deque)
WATCHED: Final = (*SCALARS, *CONTAINERS, tuple, Tensor, np.ndarray)
_ITEMS = 10_000  # of a container that is watched, at most
_DEPTH = 3  # of containers within containers


def content(value: object, depth: int = _DEPTH) -> object:
    """Return a copy of what can change within ``value``: of a tensor, or of a container."""
    if isinstance(value, Tensor):
        return None if isinstance(value, nn.UninitializedParameter) else value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if not depth or not isinstance(value, (*CONTAINERS, tuple)) or len(value) > _ITEMS:
        return None
    if isinstance(value, dict):
        return {key: (item, content(item, depth - 1)) for key, item in value.items()}
    if isinstance(value, set):
        return set(value)
    return [(item, content(item, depth - 1)) for item in value]


def refill(value: Any, kept: Any) -> None:
    """Put what :func:`content` returned back into a tensor or container changed in place."""
    if kept is None:
        return
    if isinstance(value, Tensor):
        if not equal(value, kept):
            with torch.no_grad():
                value.copy_(kept)
    elif isinstance(value, np.ndarray):
        value[...] = kept
    elif isinstance(value, set):
        if value != kept:
            value.clear()
            value.update(kept)
    elif isinstance(value, dict):
        if [(k, id(v)) for k, v in value.items()] != [(k, id(v)) for k, (v, _) in kept.items()]:
            value.clear()
            value.update({key: item for key, (item, _) in kept.items()})
        for item, inside in kept.values():
            refill(item, inside)
    elif isinstance(value, list | deque | tuple):
        if not isinstance(value, tuple) and [*map(id, value)] != [id(item) for item, _ in kept]:
            value.clear()
            value.extend(item for item, _ in kept)
        for item, inside in kept:
            refill(item, inside)


def same(one: Any, other: Any, depth: int = 2 * _DEPTH + 2) -> bool:
    """Compare two values deeply; NaN equals NaN, and objects of one class count as the same."""
    if not depth:
        return True
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return equal(one, other)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and bool(np.array_equal(one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            same(one[key], other[key], depth - 1) for key in one
        )
    if isinstance(one, list | tuple | deque) and isinstance(other, list | tuple | deque):
        return len(one) == len(other) and all(
            same(a, b, depth - 1) for a, b in zip(one, other, strict=True)
        )
    if isinstance(one, (*SCALARS, set)) or isinstance(other, (*SCALARS, set)):
        return type(one) is type(other) and bool(one == other or one != one)
    return type(one) is type(other)


def equal(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same type, shape and values, NaN equal to NaN."""
    if one.shape != other.shape or one.dtype != other.dtype or one.layout != other.layout:
        return False
    if one.layout != torch.strided or one.device.type == "meta":
        return True
    a, b = one.detach(), other.detach()
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())
