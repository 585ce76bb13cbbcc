"""Count the bytes that autograd keeps for the backward pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor


@final
class KeptBytes:
    """A running count of distinct storages kept for backward, in bytes."""

    def __init__(self) -> None:
        self.total = 0
        self._seen: set[int] = set()

    def add(self, tensor: Tensor) -> Tensor:
        """Count the storage of ``tensor`` once and return it unchanged."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.total += storage.nbytes()
        return tensor


@contextmanager
def kept_for_backward() -> Iterator[KeptBytes]:
    """Count what the code inside keeps for backward: activations, and weights that it needs.

    The tensors pass through unchanged, so a training step inside computes the same bits.

    >>> x = torch.ones(1000, requires_grad=True)
    >>> with kept_for_backward() as kept:
    ...     y = x.exp().sum()
    >>> kept.total
    4000
    """
    kept = KeptBytes()
    with torch.autograd.graph.saved_tensors_hooks(kept.add, lambda tensor: tensor):
        yield kept
