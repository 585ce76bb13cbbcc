"""What the tests of this folder share: a disk that is full, and no thread left behind."""

import sys
import threading
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """After every test here: no stage still runs, and the interpreter switches as before."""
    interval = sys.getswitchinterval()
    yield
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("eaves-")]
    assert left == []
    assert sys.getswitchinterval() == interval
