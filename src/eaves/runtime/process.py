"""How a process that trains or answers is set up."""

import ctypes
from typing import Final

import torch

from eaves.errors import ConfigError

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_MMAP_BYTES: Final = 32 * 2**20  # the largest that it takes
_TRIM_BYTES: Final = 256 * 2**20


MOST_THREADS: Final = 1_024
"""OpenMP ends the process, without an exception, where it cannot start as many as it is told."""


def set_up(threads: int) -> None:
    """Compute with so many CPU threads, and keep freed memory for the next step.

    Raises:
        ConfigError: less than one, or more than :data:`MOST_THREADS`.
    """
    if not 1 <= threads <= MOST_THREADS:
        raise ConfigError(f"expected --threads from 1 to {MOST_THREADS:,}, got {threads:,}")
    torch.set_num_threads(threads)
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Let malloc keep up to 256 MB of what is freed; return whether it can be told so.

    glibc returns large blocks to the system at once and gets them back page by page. A training
    step frees and takes the same tensors each time: on the edge half of a net of two layers this
    costs a third of a step, on its cloud half a tenth (benchmarks/allocator.py).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    # One arena for all threads: the others' heaps have 64 MB and are given back when empty.
    return bool(
        mallopt(_M_ARENA_MAX, 1)
        and mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
        and mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
    )


def return_freed_memory() -> None:
    """Give the system back what malloc keeps; what is needed next is taken page by page again."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
