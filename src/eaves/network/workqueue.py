"""What waits for the one thread that owns the cloud half: uploads to learn from, queries.

Edges take turns: one that sends much waits behind itself, not before the others. Work is opened
(decoded) by other threads (:mod:`eaves.network.opening`), which take turns between edges as well;
an upload that is long in opening is passed by.

While uploads wait, an edge whose queries took the thread's time rests until as much has gone into
learning: edges that only ask have half of the thread together, at most.
"""

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Final, Generic, TypeVar, final

from eaves.codecs.contract import Buffer
from eaves.errors import EavesError
from eaves.network.ledger import Run

if TYPE_CHECKING:
    from torch import Tensor

    from eaves.core.roles import Upload

_PATIENCE_S: Final = 0.05  # with an upload that is not open yet; those that are open go first then
_CREDIT_S: Final = 0.01  # of the thread's time, which an edge's queries have before it rests
_LARGEST_DEBT_S: Final = 0.2  # a long time without uploads is not held against an edge
T = TypeVar("T")


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
class Opened(Generic[T]):
    """What a payload holds, once it is decoded: a value, or why there is none."""

    __slots__ = ("asked", "error", "since_s", "value")

    def __init__(self) -> None:
        self.asked = False
        """Whether a thread decodes it, or has done so."""
        self.since_s: float | None = None
        """When it was first waited for."""
        self.value: T | None = None
        self.error: EavesError | None = None

    @property
    def done(self) -> bool:
        """Whether there is a value or an error."""
        return self.value is not None or self.error is not None

    def result(self) -> T:
        """Return the value, or raise why there is none; once it is :attr:`done`."""
        if self.error is not None:
            raise self.error
        assert self.value is not None  # only what is open is taken
        return self.value

    def is_late(self, now_s: float) -> bool:
        """Whether it was waited for long enough; the first call begins the wait."""
        if self.since_s is None:
            self.since_s = now_s
        return not self.done and now_s - self.since_s > _PATIENCE_S


@final
@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class UploadWork:
    """An upload that has arrived, still encoded."""

    line: Line
    seq: int
    follows: int
    payload: Buffer
    opened: "Opened[Upload]" = field(default_factory=Opened)

    @property
    def edge(self) -> str:
        """The name of the edge."""
        return self.line.run.edge


@final
@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class QueryWork:
    """A batch to answer, still encoded; the future gets the logits, encoded."""

    payload: Buffer
    answer: "Future[bytes]" = field(default_factory=Future)
    edge: str = ""
    opened: "Opened[Tensor]" = field(default_factory=Opened)


@final
class _Turns(Generic[T]):
    """Lists of work by edge, and the order in which edges have their turn."""

    def __init__(self) -> None:
        self.by_edge: dict[str, deque[T]] = {}  # in the order of turns
        self.count = 0

    def add(self, edge: str, work: T) -> None:
        self.by_edge.setdefault(edge, deque()).append(work)
        self.count += 1

    def pop(self, edge: str) -> T:
        """Return the oldest work of an edge, whose next turn is after those of all others."""
        work, rest = self.by_edge[edge].popleft(), self.by_edge.pop(edge)
        if rest:
            self.by_edge[edge] = rest
        self.count -= 1
        return work

    def put_back(self, edge: str, work: T) -> None:
        """Return work that was taken; its edge has the next turn."""
        mine = self.by_edge.pop(edge, deque())
        mine.appendleft(work)
        self.by_edge = {edge: mine, **self.by_edge}
        self.count += 1

    def in_turn(self) -> Iterator[tuple[str, T]]:
        """Yield the work in the order in which it would be taken."""
        depth = 0
        while any(len(works) > depth for works in self.by_edge.values()):
            for edge, works in self.by_edge.items():
                if len(works) > depth:
                    yield edge, works[depth]
            depth += 1


@final
class WorkQueue:
    """Work of edges that take turns; queries go before uploads. Bounded by whoever fills it.

    With ``opens`` work is taken only when it is open, by threads that call :meth:`next_to_open` and
    :meth:`has_opened`. Of uploads so many are open ``ahead``; of the queries of one edge, so many
    that they take more than ``spare_bytes``. The thread says what took its time with :meth:`charge`
    and :meth:`pay_back`.
    """

    def __init__(self, *, opens: bool = False, ahead: int = 1, spare_bytes: int = 2**60) -> None:
        self._opens, self._ahead, self._spare_bytes = opens, ahead, spare_bytes
        self._uploads, self._most = _Turns[UploadWork](), 1
        self._closed_queries, self._open_queries = _Turns[QueryWork](), _Turns[QueryWork]()
        self._open_bytes: dict[str, int] = {}  # of queries, by edge
        self._opening: dict[str, UploadWork | QueryWork] = {}  # one of each edge
        self._debts_s: dict[str, float] = {}  # answered, not yet learnt as long
        lock = threading.Lock()
        self._changed, self._to_open = threading.Condition(lock), threading.Condition(lock)
        self._woken, self._closed, self._over = False, False, False

    def __len__(self) -> int:
        opening = sum(isinstance(work, QueryWork) for work in list(self._opening.values()))
        return self._uploads.count + self._queries + opening

    @property
    def _queries(self) -> int:
        return self._closed_queries.count + self._open_queries.count

    def put(self, work: UploadWork | QueryWork, *, ready: bool = False) -> None:
        """Add work at the end; an upload that comes after :meth:`close` is let go.

        A query may be ``ready`` though it is not open: whoever takes it opens it.
        """
        with self._changed:
            if isinstance(work, QueryWork) and (ready or work.opened.value is not None):
                self._add_open(work, work.opened.value)
                return
            if isinstance(work, QueryWork):
                self._closed_queries.add(work.edge, work)
            elif not self._closed:
                self._uploads.add(work.edge, work)
            if self._opens:
                self._ask_to_open()
            else:
                self._changed.notify()

    def edges(self) -> int:
        """Return of how many edges uploads wait."""
        with self._changed:
            return len(self._uploads.by_edge)

    def close(self) -> None:
        """Take no more uploads, or an edge that never pauses would never let anybody finish."""
        with self._changed:
            self._closed = self._woken = True
            self._changed.notify()

    def drop(self, line: Line) -> int:
        """Let go of the uploads of a line that are still waiting; return how many."""
        with self._changed:
            mine = self._uploads.by_edge.pop(line.run.edge, deque())
            kept = deque(work for work in mine if work.line is not line)
            if kept:
                self._uploads.by_edge[line.run.edge] = kept
            self._uploads.count -= len(mine) - len(kept)
            return len(mine) - len(kept)

    def put_back(self, uploads: list[UploadWork]) -> None:
        """Return uploads that were taken to the front."""
        with self._changed:
            for work in reversed(uploads):
                self._uploads.put_back(work.edge, work)

    def wake(self) -> None:
        """Let :meth:`wait` return at once."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    def wait(self, timeout_s: float) -> None:
        """Return when there is work, when woken, or after ``timeout_s``.

        Where uploads are not open yet, that is the time that they are waited for.
        """
        with self._changed:
            opening = self._opens and bool(self._uploads.count)
            self._changed.wait_for(self._has_work, _PATIENCE_S if opening else timeout_s)
            self._woken = False
            if self._uploads.count:
                self._ask_to_open()  # an upload may have become late: others go first

    def _has_work(self) -> bool:
        ready = self._next_to_ask() is not None or self._ready_uploads(self._most)
        return bool(self._woken or ready)

    def _next_to_ask(self) -> str | None:
        """Return the edge whose query is next; those with debts rest while uploads wait."""
        edges = self._ready_queries().by_edge
        if not self._uploads.count:
            return next(iter(edges), None)
        return next((e for e in edges if self._debts_s.get(e, 0.0) <= _CREDIT_S), None)

    def charge(self, queries: list[QueryWork], took_s: float) -> None:
        """Note that answering took so long, shared out by the number of examples."""
        sizes = [1 if (x := query.opened.value) is None else len(x) for query in queries]
        with self._changed:
            for query, size in zip(queries, sizes, strict=True):
                debt_s = self._debts_s.get(query.edge, 0.0) + took_s * size / sum(sizes)
                self._debts_s[query.edge] = min(debt_s, _LARGEST_DEBT_S)

    def pay_back(self, took_s: float) -> None:
        """Note that learning took so long: it pays back what answering took."""
        with self._changed:
            each_s = took_s / max(1, len(self._debts_s))
            left = {edge: debt_s - each_s for edge, debt_s in self._debts_s.items()}
            self._debts_s = {edge: debt_s for edge, debt_s in left.items() if debt_s > 0}

    def take_queries(self, most: int) -> list[QueryWork]:
        """Return up to ``most`` queries of so many examples together, or one that has more."""
        with self._changed:
            ready, taken, examples = self._ready_queries(), list[QueryWork](), 0
            while len(taken) < most and (edge := self._next_to_ask()) is not None:
                value = ready.by_edge[edge][0].opened.value
                examples += 1 if value is None else len(value)
                if taken and examples > most:
                    break
                taken.append(ready.pop(edge))
                if value is not None:
                    self._open_bytes[edge] -= value.nbytes
                    if not self._open_bytes[edge]:
                        del self._open_bytes[edge]
            if taken:
                self._ask_to_open()
            return taken

    def take_uploads(self, most: int) -> list[UploadWork]:
        """Return up to ``most`` uploads, one of each edge whose turn it is.

        None at all while one of them is about to be open: steps are as full as they can be.
        """
        with self._changed:
            self._most = most
            taken = [self._uploads.pop(edge) for edge in self._ready_uploads(most)]
            if taken:
                self._ask_to_open()
            return taken

    def _ready_queries(self) -> "_Turns[QueryWork]":
        return self._open_queries if self._opens else self._closed_queries

    def _ready_uploads(self, most: int) -> list[str]:
        """Return the edges whose uploads may be taken."""
        ready, now = list[str](), monotonic()
        for edge, works in self._uploads.by_edge.items():
            if len(ready) == most:
                break
            if not self._opens or works[0].opened.done:
                ready.append(edge)
            elif not works[0].opened.is_late(now):
                return []
        return ready

    # For the threads that open work

    def next_to_open(self, *, uploads_first: bool) -> UploadWork | QueryWork | None:
        """Wait for work that is to be opened, and return it; None when there will be none."""
        kinds = (self._next_upload, self._next_query)
        with self._to_open:
            while not self._over:
                for find in kinds if uploads_first else kinds[::-1]:
                    if (work := find()) is not None:
                        self._opening[work.edge] = work
                        work.opened.asked = True
                        return work
                self._to_open.wait()
            return None

    def _ask_to_open(self) -> None:
        """Wake a thread where there is work for it: each that wakes in vain holds up the others."""
        if self._opens and (self._query_to_open() is not None or self._next_upload() is not None):
            self._to_open.notify()

    def _query_to_open(self) -> str | None:
        """Return the edge whose query is to be opened next."""
        for edge in self._closed_queries.by_edge:
            if edge not in self._opening and self._open_bytes.get(edge, 0) <= self._spare_bytes:
                return edge
        return None

    def _next_query(self) -> QueryWork | None:
        edge = self._query_to_open()
        return None if edge is None else self._closed_queries.pop(edge)

    def _next_upload(self) -> UploadWork | None:
        ahead, now = 0, monotonic()
        for edge, work in self._uploads.in_turn():
            if not work.opened.asked and edge not in self._opening:
                work.opened.is_late(now)
                return work
            ahead += not work.opened.is_late(now)
            if ahead >= self._ahead:
                break
        return None

    def has_opened(self, work: UploadWork | QueryWork) -> None:
        """Let work be taken that is open now, or be forgotten where it is a query that is not."""
        with self._changed:
            del self._opening[work.edge]
            if isinstance(work, QueryWork) and work.opened.value is not None:
                self._add_open(work, work.opened.value)
            else:
                self._changed.notify()
            self._ask_to_open()

    def _add_open(self, work: QueryWork, value: "Tensor | None") -> None:
        self._open_queries.add(work.edge, work)
        if value is not None:
            self._open_bytes[work.edge] = self._open_bytes.get(work.edge, 0) + value.nbytes
        self._changed.notify()

    def end_opening(self) -> None:
        """Let :meth:`next_to_open` return None."""
        with self._to_open:
            self._over = True
            self._to_open.notify_all()
