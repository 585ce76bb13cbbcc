"""Large blocks that are freed stay with the process."""

import platform
import subprocess
import sys

import pytest
import torch

from eaves.errors import ConfigError
from eaves.runtime.process import MOST_THREADS, keep_freed_memory, set_up

# Page faults of taking and freeing 8 MB a hundred times: 2,048 pages each, or none but the first.
_FAULTS = """
import resource, numpy
from eaves.runtime.process import keep_freed_memory
if {tuned}:
    assert keep_freed_memory()
else:  # as malloc is while no block has been freed yet: it adapts to the largest
    import ctypes
    ctypes.CDLL(None).mallopt(-3, 128 * 1024)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
numpy.ones(2**20)
before = faults()
for _ in range(100):
    numpy.ones(2**20)
print(faults() - before)
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")


def _faults(*, tuned: bool) -> int:
    words = [sys.executable, "-c", _FAULTS.format(tuned=tuned)]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


@glibc
def test_freed_memory_is_used_again_without_page_faults() -> None:
    assert _faults(tuned=True) < 3_000
    assert _faults(tuned=False) > 30_000


def test_threads_are_set() -> None:
    before = torch.get_num_threads()
    try:
        set_up(3)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@glibc
def test_glibc_can_be_told() -> None:
    assert keep_freed_memory()


@pytest.mark.parametrize("threads", [0, -1, MOST_THREADS + 1, 1_000_000, 2**31])
def test_threads_that_no_machine_has_are_refused_not_fatal(threads: int) -> None:
    before = torch.get_num_threads()
    with pytest.raises(ConfigError, match=r"expected --threads from 1 to 1,024, got -?[0-9,]+"):
        set_up(threads)
    assert torch.get_num_threads() == before
