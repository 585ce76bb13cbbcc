"""A bounded queue between two stages that says how long each of them waited for the other."""

import threading
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Generic, TypeVar, final

T = TypeVar("T")


@final
class Closed(Exception):  # noqa: N818  # not an error: how a stage learns that the run is over
    """The channel was closed: a stage on the other side has failed or was stopped."""


@final
class Channel(Generic[T]):
    """First in, first out, ``depth`` items at most.

    >>> channel: Channel[str] = Channel(depth=2)
    >>> channel.put("a") < 1.0
    True
    >>> channel.get()[0]
    'a'
    """

    def __init__(self, depth: int, *, takes_room: Callable[[T], bool] = lambda item: True):
        """``takes_room`` says whether an item counts towards ``depth``, whenever one is put."""
        if depth < 1:
            raise ValueError(f"expected a depth of 1 or more, got {depth}")
        self._depth, self._takes_room = depth, takes_room
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> float:
        """Append ``item`` when there is room; return the seconds spent blocked, 0 where there was.

        Raises:
            Closed: the channel is closed.
        """
        blocked_s = 0.0
        with self._changed:
            if not (self._closed or self._has_room()):
                started = perf_counter()
                self._changed.wait_for(lambda: self._closed or self._has_room())
                blocked_s = perf_counter() - started
            if self._closed:
                raise Closed
            self._items.append(item)
            self._changed.notify_all()
        return blocked_s

    def get(self) -> tuple[T, float]:
        """Return the oldest item when there is one, and the seconds spent waiting.

        Raises:
            Closed: the channel is closed; what was still in it is given up.
        """
        started = perf_counter()
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._items))
            if self._closed:
                raise Closed
            item = self._items.popleft()
            self._changed.notify_all()
        return item, perf_counter() - started

    def _has_room(self) -> bool:
        return sum(map(self._takes_room, self._items)) < self._depth

    def close(self) -> None:
        """Wake and turn away everybody."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
