"""A bound on the time that decoding may take, for stages that can take long."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from time import monotonic

from eaves.errors import PayloadError

_of_this_thread = threading.local()


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Let :func:`expect_time` raise in this thread once so many seconds are over.

    >>> with time_limit(60):
    ...     expect_time()
    """
    before = getattr(_of_this_thread, "until_s", inf)
    _of_this_thread.until_s = min(before, monotonic() + seconds)
    try:
        yield
    finally:
        _of_this_thread.until_s = before


def expect_time() -> None:
    """Raise a :class:`PayloadError` where the time of :func:`time_limit` is over.

    Stages call it between pieces of work that take some milliseconds.
    """
    if monotonic() > getattr(_of_this_thread, "until_s", inf):
        raise PayloadError("decoding takes too long; send smaller batches, or choose another codec")
