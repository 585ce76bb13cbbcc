"""Which tensors lie, wholly or in part, in the same memory."""

from collections.abc import Iterable
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


def memory_groups(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Return a number for each tensor, by its ``id``; those that overlap have the same one.

    Tensors that lie side by side in one storage, as flattened weights do, do not overlap. Between
    the first and the last value of a tensor all memory counts as its own.

    >>> a, b = torch.zeros(4), torch.zeros(4)
    >>> groups = memory_groups([a, b, a[2:]])
    >>> groups[id(a)] == groups[id(b)]
    False
    >>> c = a.view(2, 2)
    >>> groups = memory_groups([a, c])
    >>> groups[id(a)] == groups[id(c)]
    True
    """
    spans: list[tuple[int, int, int]] = []
    groups: dict[int, int] = {}
    numbers = count()
    for tensor in tensors:
        span = _span(tensor)
        if span is None:  # it has no memory, so it shares none
            groups.setdefault(id(tensor), next(numbers))
        else:
            spans.append((*span, id(tensor)))
    end, number = -1, -1
    for first, last, key in sorted(spans):
        if first >= end:
            number = next(numbers)
        end = max(end, last)
        groups[key] = number
    return groups


def weights_of(module: nn.Module) -> list[Tensor]:
    """Return every parameter and buffer of ``module``, each once."""
    return [*module.parameters(), *module.buffers()]


def _span(tensor: Tensor) -> tuple[int, int] | None:
    """Return the addresses of the first byte and of that behind the last one."""
    if is_lazy(tensor):  # it has no memory before its first input
        return None
    if tensor.layout != torch.strided or not tensor.numel():
        return None
    try:
        first = tensor.data_ptr()
    except RuntimeError:  # a subclass without memory of its own
        return None
    if not first:  # on the device 'meta'
        return None
    steps = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return first, first + (steps + 1) * tensor.element_size()
