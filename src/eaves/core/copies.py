"""Copies of a net on which it can be tried without touching it."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from eaves.core.contents import WATCHED, content, refill
from eaves.core.sharing import memory_groups, weights_of
from eaves.errors import CutError

_NESTED = 3  # levels of lists and dicts that are searched for tensors


def copy_of(net: nn.Module) -> nn.Module:
    """Return a copy that shares no memory with ``net``, and without gradients.

    ``copy.deepcopy`` alone is not enough: it parts weights that share memory, and it fails on
    tensors that were computed from weights (``torch.nn.utils.weight_norm`` leaves one) and on
    random generators.

    Raises:
        CutError: something in the net cannot be copied.
    """
    memo: dict[int, Any] = {}
    kept: list[object] = []  # memo goes by id: what is in it must live as long as it does
    _join_shared(net, memo)
    for module in net.modules():
        for value in _values(vars(module), _NESTED):
            if isinstance(value, torch.Generator):
                memo[id(value)] = value.clone_state()
            elif isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
            kept.append(value)
    try:
        twin = copy.deepcopy(net, memo)
    except Exception as error:  # a net may hold anything
        raise CutError(
            f"{type(net).__name__} cannot be copied ({type(error).__name__}: {error}), and a cut "
            "is compared with the net on copies; keep what cannot be copied (locks, open files, "
            "connections) out of the net"
        ) from error
    for parameter in twin.parameters():
        parameter.grad = None
    return twin


@contextmanager
def untouched(net: nn.Module) -> Iterator[None]:
    """Put ``net`` back to what it is in the end: modes, buffers, attributes and gradients.

    Work is done on copies, but code of a net may reach the original all the same: through a
    function that it holds, which a copy shares.
    """
    before = [
        (
            module,
            dict(vars(module)),
            {k: content(v) for k, v in vars(module).items() if _kept(k, v)},
        )
        for module in net.modules()
    ]
    gradients = [(p, p.grad) for p in net.parameters()]
    try:
        yield
    finally:
        for module, attributes, contents in before:
            now = vars(module)
            if [(k, id(v)) for k, v in now.items()] != [(k, id(v)) for k, v in attributes.items()]:
                vars(module).clear()
                vars(module).update(attributes)
            for key, kept in contents.items():
                refill(attributes[key], kept)
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _kept(key: str, value: object) -> bool:
    return key != "_parameters" and isinstance(value, WATCHED)


def _join_shared(net: nn.Module, memo: dict[int, Any]) -> None:
    """Prepare copies of parameters and buffers that share memory, so that these share it too."""
    tensors = weights_of(net)
    groups = memory_groups(tensors)
    numbers = list(groups.values())
    storages: dict[int, torch.UntypedStorage] = {}
    for tensor in tensors:
        if numbers.count(groups[id(tensor)]) < 2:
            continue
        shared = tensor.untyped_storage()
        mine = storages.setdefault(shared.data_ptr(), shared.clone())  # type: ignore[no-untyped-call]
        with torch.no_grad():
            twin = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(
                mine, tensor.storage_offset(), tensor.shape, tensor.stride()
            )
        parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(twin, tensor.requires_grad) if parameter else twin


def _values(value: object, depth: int) -> Iterator[object]:
    """Yield what is in lists, tuples and dicts, down to ``depth`` of them."""
    if not isinstance(value, dict | list | tuple):
        yield value
    elif depth:
        for item in value.values() if isinstance(value, dict) else value:
            yield from _values(item, depth - 1)
