"""What waits for the one thread that owns the cloud half: uploads to learn from, queries."""

import threading
from abc import ABC, abstractmethod
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import final

from eaves.codecs.contract import Buffer
from eaves.errors import EavesError
from eaves.network.ledger import Run


@final
@dataclass(frozen=True, slots=True)
class Receipt:
    """What the cloud has: numbers of uploads learnt from and made durable, perhaps a reply."""

    applied: int
    durable: int
    reply: bytes = b""


class Line(ABC):
    """The way back to one edge that is connected. Called from the trainer's thread."""

    run: Run

    @abstractmethod
    def receipt(self, receipt: Receipt, *, done: int = 0) -> None:
        """Tell the edge what the cloud has; ``done`` of its uploads wait no longer."""

    @abstractmethod
    def refuse(self, error: EavesError) -> None:
        """End the line, and say why."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class UploadWork:
    """An upload that has arrived, still encoded."""

    line: Line
    seq: int
    follows: int
    payload: Buffer


@final
@dataclass(frozen=True, slots=True, eq=False)
class QueryWork:
    """A batch to answer, still encoded; the future gets the logits, encoded."""

    payload: bytes
    answer: "Future[bytes]" = field(default_factory=Future)


@final
class WorkQueue:
    """Work in the order of its arrival; queries go before uploads. Bounded by whoever fills it."""

    def __init__(self) -> None:
        self._uploads: deque[UploadWork] = deque()
        self._queries: deque[QueryWork] = deque()
        self._changed = threading.Condition()
        self._woken, self._closed = False, False

    def __len__(self) -> int:
        return len(self._uploads) + len(self._queries)

    def put(self, work: UploadWork | QueryWork) -> None:
        """Add work at the end; an upload that comes after :meth:`close` is let go."""
        with self._changed:
            if isinstance(work, QueryWork):
                self._queries.append(work)
            elif not self._closed:
                self._uploads.append(work)
            self._changed.notify()

    def close(self) -> None:
        """Take no more uploads, or an edge that never pauses would never let anybody finish."""
        with self._changed:
            self._closed = self._woken = True
            self._changed.notify()

    def next_upload(self) -> UploadWork | None:
        """Return the upload that is the oldest, and leave it where it is."""
        with self._changed:
            return self._uploads[0] if self._uploads else None

    def edges(self) -> int:
        """Return of how many edges uploads wait."""
        with self._changed:
            return len({work.line.run.edge for work in self._uploads})

    def put_back(self, uploads: list[UploadWork]) -> None:
        """Return uploads that were taken to the front."""
        with self._changed:
            self._uploads.extendleft(reversed(uploads))

    def wake(self) -> None:
        """Let :meth:`wait` return at once."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    def wait(self, timeout_s: float) -> None:
        """Return when there is work, when woken, or after ``timeout_s``."""
        with self._changed:
            if not (self._uploads or self._queries or self._woken):
                self._changed.wait(timeout_s)
            self._woken = False

    def take_queries(self, most: int) -> list[QueryWork]:
        """Return up to ``most`` queries."""
        with self._changed:
            return [self._queries.popleft() for _ in range(min(most, len(self._queries)))]

    def take_uploads(self, most: int) -> list[UploadWork]:
        """Return up to ``most`` uploads, at most one of each edge, the oldest first."""
        with self._changed:
            taken: list[UploadWork] = []
            left: deque[UploadWork] = deque()
            seen = set()
            while self._uploads and len(taken) < most:
                work = self._uploads.popleft()
                if work.line.run.edge in seen:
                    left.append(work)
                    continue
                seen.add(work.line.run.edge)
                taken.append(work)
            self._uploads.extendleft(reversed(left))
            return taken
