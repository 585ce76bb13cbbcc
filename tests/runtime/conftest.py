"""What the tests of this folder share: a disk that is full, and no thread left behind."""

import resource
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest


@contextmanager
def _files_end_at(size_bytes: int) -> Iterator[None]:
    """Let real writes beyond ``size_bytes`` of a file fail (Python ignores the signal SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def files_end_at() -> Callable[[int], AbstractContextManager[None]]:
    return _files_end_at


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """After every test here: no stage still runs, and the interpreter switches as before."""
    interval = sys.getswitchinterval()
    yield
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("eaves-")]
    assert left == []
    assert sys.getswitchinterval() == interval
