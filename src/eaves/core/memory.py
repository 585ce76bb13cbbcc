"""Count the bytes that a training step needs: what autograd keeps, and the peak of all tensors."""

import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


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
def kept_for_backward(*, but: Iterable[Tensor] = ()) -> Iterator[KeptBytes]:
    """Count what the code inside keeps for backward, without the storages of ``but``.

    These are the weights, as a rule, which are there anyway. The tensors pass through unchanged, so
    a training step inside computes the same bits.

    >>> x = torch.ones(1000, requires_grad=True)
    >>> with kept_for_backward() as kept:
    ...     y = x.exp().sum()
    >>> kept.total
    4000
    """
    kept = KeptBytes()
    for tensor in but:
        kept.add(tensor)
    kept.total = 0
    with torch.autograd.graph.saved_tensors_hooks(kept.add, lambda tensor: tensor):
        yield kept


@final
class PeakBytes:
    """The most bytes of tensors that were alive at one moment."""

    def __init__(self) -> None:
        self.total = 0
        self._alive = 0
        self._seen: set[int] = set()

    def add(self, tensor: Tensor) -> None:
        """Count the storage of ``tensor`` until it is freed."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self._alive += size
        self.total = max(self.total, self._alive)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self._alive -= size


@final
class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its __init_subclass__
    """Show every tensor that an operation makes to ``peak``."""

    def __init__(self, peak: PeakBytes):
        super().__init__()  # type: ignore[no-untyped-call]
        self._peak = peak

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        given = set() if func is _NEW else _storages((args, kwargs))
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            # A view of what was given, or that itself after work in place, is no new tensor.
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in given:
                self._peak.add(leaf)
        return result


_NEW = torch.ops.aten.lift_fresh.default  # what torch.tensor() ends with: it is given its own


def _storages(values: Any) -> set[int]:
    tensors = (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))
    return {tensor.untyped_storage()._cdata for tensor in tensors}


@contextmanager
def peak_of_tensors(device: torch.device) -> Iterator[PeakBytes]:
    """Measure the peak of the tensors that the code inside makes; not what is there before.

    On CUDA it is the allocator's own figure. On a CPU the storages of all results are followed,
    without what a kernel takes and gives back within one operation; ``total`` is final at the end.

    >>> with peak_of_tensors(torch.device("cpu")) as peak:
    ...     x = torch.zeros(1000) + 1
    >>> peak.total
    8000
    """
    peak = PeakBytes()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak.total = torch.cuda.max_memory_allocated(device) - before
        return
    with _Watch(peak):
        yield peak
