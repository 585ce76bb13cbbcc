"""One connected edge, as the server's event loop sees it, and how answers reach that loop."""

import asyncio
import threading
from concurrent.futures import Future
from contextlib import suppress
from math import inf
from time import monotonic
from typing import final

from eaves.errors import EavesError
from eaves.network.ledger import Run
from eaves.network.workqueue import Line, Receipt


@final
class Connection(Line):
    """Receipts on their way to one edge. Only the newest is kept: it says what the others said.

    An edge that does not read its receipts therefore costs no memory.
    """

    def __init__(self, run: Run, *, depth: int):
        """``depth`` uploads may wait for the trainer."""
        self.run = run
        self._loop = asyncio.get_running_loop()
        self._changed, self._freed = asyncio.Event(), asyncio.Event()
        self._latest: Receipt | None = None
        self._error: EavesError | None = None
        self._waiting, self._depth = 0, depth
        self.reader: asyncio.Task[None] | None = None
        """Takes what the edge sends."""
        self.call = asyncio.current_task()
        """What serves the stream."""

    # From the trainer's thread

    def receipt(self, receipt: Receipt, *, done: int = 0) -> None:
        """See :meth:`Line.receipt`."""
        self._soon(receipt, done, None)

    def refuse(self, error: EavesError) -> None:
        """See :meth:`Line.refuse`."""
        self._soon(None, 0, error)

    def _soon(self, receipt: Receipt | None, done: int, error: EavesError | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._take, receipt, done, error)

    # In the event loop

    def _take(self, receipt: Receipt | None, done: int, error: EavesError | None) -> None:
        self._latest = receipt or self._latest
        self._error = self._error or error
        self._waiting -= done
        self._changed.set()
        self._freed.set()

    def wake(self) -> None:
        """Let :meth:`next` return."""
        self._changed.set()

    def end(self, error: EavesError, grace_s: float) -> None:
        """Read no more from the edge; end its stream, also where it does not read why."""
        if self.reader is not None:
            self.reader.cancel()
        self.refuse(error)
        if (call := self.call) is not None:
            self._loop.call_later(grace_s, call.cancel)  # which does nothing if it has ended

    async def room(self) -> None:
        """Wait until another upload may be given to the trainer, and count it."""
        while self._waiting >= self._depth:
            self._freed.clear()
            await self._freed.wait()
        self._waiting += 1

    async def next(self, timeout_s: float) -> Receipt | None:
        """Return the newest receipt that was not returned yet; None after a while or a wake.

        Raises:
            EavesError: the line was refused.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return None
        self._changed.clear()
        if self._error is not None:
            raise self._error
        latest, self._latest = self._latest, None
        return latest


@final
class Pace:
    """A token bucket: at most ``rate`` a second, with a burst of one second's worth.

    >>> pace = Pace(10)
    >>> pace.delay_s(10), round(pace.delay_s(5), 1)
    (0.0, 0.5)
    """

    def __init__(self, rate: float | None, *, debt_s: float = inf):
        """None: no limit. Who has gone on too soon waits for ``debt_s`` at most."""
        self._rate, self._debt_s = rate, debt_s
        self._tokens, self._at = rate or 0.0, monotonic()

    def delay_s(self, amount: float) -> float:
        """Take ``amount`` and return how long to wait before going on."""
        if self._rate is None:
            return 0.0
        now = monotonic()
        self._tokens = min(self._rate, self._tokens + (now - self._at) * self._rate) - amount
        self._at = now
        self._tokens = max(self._tokens, -self._rate * self._debt_s)
        return max(0.0, -self._tokens / self._rate)


@final
class Returns:
    """Brings answers from the trainer's thread into the event loop, all of a batch at once.

    (:func:`asyncio.wrap_future` wakes the loop for each.)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ready: list[tuple[asyncio.Future[bytes], Future[bytes]]] = []

    async def of(self, answer: "Future[bytes]") -> bytes:
        """Return an answer once it is there; let go of it where no caller waits any more."""
        loop = asyncio.get_running_loop()
        here: asyncio.Future[bytes] = loop.create_future()
        answer.add_done_callback(lambda done: self._has(loop, here, done))
        try:
            return await here
        except asyncio.CancelledError:
            answer.cancel()
            raise

    def _has(
        self,
        loop: asyncio.AbstractEventLoop,
        here: "asyncio.Future[bytes]",
        answer: "Future[bytes]",
    ) -> None:
        with self._lock:
            self._ready.append((here, answer))
            if len(self._ready) > 1:
                return
        with suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(self._bring)

    def _bring(self) -> None:
        with self._lock:
            ready, self._ready = self._ready, []
        for here, answer in ready:
            if here.cancelled():
                continue
            if (error := answer.exception()) is not None:
                here.set_exception(error)
            else:
                here.set_result(answer.result())
