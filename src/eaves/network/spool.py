"""Uploads on their way to the cloud: bounded, in order, and as durable as a checkpoint needs.

An upload stays in memory until the cloud has it in its own checkpoint. It goes to disk only where
memory is full, or where :meth:`Spool.persist` is called: on a good link nothing is written between
two checkpoints, which spares an edge's flash.
"""

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from time import monotonic
from typing import Final, NamedTuple, final

from eaves.core.units import bytes_text
from eaves.errors import ConfigError, StateError, StorageError, unknown
from eaves.network.spoolfile import Found, Slot, SpoolFile, Tidy

_POLICIES: Final = ("block", "drop-oldest")
_POLL_S: Final = 0.05  # how soon a put that waits sees that it is to stop
_BATCH_BYTES: Final = 8 << 20  # in one transaction; bounds the log beside the file
_ANY: Final = 1 << 48  # no run has so many uploads
_RESERVE: Final = 1024  # uploads that may be sent before the disk has to hear of it again
_by_seq = attrgetter("seq")


@final
class Stopped(Exception):  # noqa: N818 - not an error: the run is to end
    """A put was told to stop while it waited; its upload is not in the spool."""


@final
class Entry(NamedTuple):
    """An upload with its number, and how many samples are in it."""

    seq: int
    data: bytes
    samples: int


@final
@dataclass(frozen=True, kw_only=True)
class SpoolStatus:
    """How full a spool is, and what it has lost on purpose."""

    waiting: int
    """Uploads not yet durable in the cloud."""
    bytes: int
    """Of those uploads."""
    on_disk_bytes: int
    """Of those among them that are on disk, whether in memory too or not."""
    dropped: int
    """Uploads that never went out, since the run began."""
    dropped_samples: int
    """Samples in them."""
    highest: int
    """The highest number that was put or forgotten; 0 at first."""
    lost: int
    """Of those dropped, uploads that were gone from the disk."""


@final
class _Queue:
    """What waits, in order: first what has been sent, then what has not."""

    def __init__(self, slots: Iterable[Slot]):
        self._sent: deque[Slot] = deque()
        self._unsent = deque(slots)
        self.sent_bytes, self.bytes = 0, sum(slot.size_bytes for slot in self._unsent)

    def __len__(self) -> int:
        return len(self._sent) + len(self._unsent)

    def append(self, slot: Slot) -> None:
        self._unsent.append(slot)
        self.bytes += slot.size_bytes

    def send_above(self, seq: int) -> Slot | None:
        """Return the first slot above ``seq``; it and all before it count as sent."""
        self._count_sent(seq)
        if self._sent and self._sent[-1].seq > seq:  # it had been sent before
            return self._sent[bisect_right(self._sent, seq, key=_by_seq)]
        if not self._unsent:
            return None
        self._count_sent(self._unsent[0].seq)
        return self._sent[-1]

    def rewind(self, seq: int) -> None:
        while self._sent and self._sent[-1].seq > seq:
            slot = self._sent.pop()
            self.sent_bytes -= slot.size_bytes
            self._unsent.appendleft(slot)
        self._count_sent(seq)

    def forget(self, seq: int) -> Iterator[Slot]:
        """Take out, and yield, everything up to ``seq``."""
        self._count_sent(seq)
        while self._sent and self._sent[0].seq <= seq:
            slot = self._sent.popleft()
            self.sent_bytes -= slot.size_bytes
            self.bytes -= slot.size_bytes
            yield slot

    def drop(self) -> Slot:
        """Take out the oldest that has not been sent."""
        slot = self._unsent.popleft()
        self.bytes -= slot.size_bytes
        return slot

    def _count_sent(self, seq: int) -> None:
        while self._unsent and self._unsent[0].seq <= seq:
            slot = self._unsent.popleft()
            self.sent_bytes += slot.size_bytes
            self._sent.append(slot)


@final
class _Drops:
    """How many uploads were dropped, and which of them a restart may put once more."""

    def __init__(self, uploads: int, samples: int):
        self.uploads, self.samples = uploads, samples
        self.changed: dict[int, tuple[int, int]] = {}
        """Runs to write: first number to (last number, samples of each)."""
        self._run = (0, -1, 0)  # first, last, samples of each

    def add(self, seq: int, samples: int, forgotten: int) -> None:
        first, last, each = self._run
        # A run that is forgotten may be in the file's sums already: it is not made longer.
        if (seq, samples) != (last + 1, each) or last <= forgotten:
            first = seq
        self._run = (first, seq, samples)
        self.changed[first] = (seq, samples)
        self.uploads += 1
        self.samples += samples


@final
class Past:
    """What is known, when a spool is opened, of the process that had it before.

    ``missing`` are the numbers up to ``keep_through`` that should be there and are not: neither
    waiting, nor forgotten, nor dropped. ``is_new``: the file was made just now. ``sent`` is the
    highest number that may have been sent. ``lost`` counts uploads that were missing for good.
    """

    def __init__(self, file: SpoolFile, found: Found, drops: _Drops, disk: threading.Lock):
        self._file, self._drops, self._disk = file, drops, disk
        self.missing, self.lost, self.is_new = found.missing, found.lost, file.is_new
        self.sent = self._reserved = found.reserved

    def reserve(self, seq: int) -> None:
        """Take note on disk, once for many uploads, that ``seq`` may be sent.

        After a crash, the cloud may have all that was sent, and can have nothing more.

        Raises:
            StorageError: the disk is full or refuses.
        """
        if seq > self._reserved:
            with self._disk:
                self._file.reserve(seq + _RESERVE)
            self._reserved = seq + _RESERVE

    def expect_anything(self) -> None:
        """Believe a cloud that has any number: the file that knew better is gone."""
        self.sent = _ANY

    def lose_missing(self, above: int) -> None:
        """Count what is missing as dropped and lost; the cloud has all up to ``above``.

        Raises:
            StorageError: the disk is full or refuses.
        """
        runs = [range(max(run[0], above + 1), run[-1] + 1) for run in self.missing]
        if runs := [run for run in runs if run]:
            number = sum(map(len, runs))
            with self._disk:
                self._file.lose(runs)
                self.lost += number
                self._drops.uploads += number
        self.missing = ()


@final
class _Places:
    """Where uploads are: in memory, on disk, or both."""

    def __init__(self, stored_bytes: int):
        self.stored_bytes, self.held_bytes = stored_bytes, 0
        self.unsaved: dict[int, Slot] = {}
        """In memory alone."""
        self.garbage: list[int] = []
        """In the file, but they wait no more."""

    def add(self, slot: Slot) -> None:
        if slot.stored:
            self.stored_bytes += slot.size_bytes
        else:
            self.unsaved[slot.seq] = slot
            self.held_bytes += slot.size_bytes

    def saved(self, slots: Iterable[Slot]) -> None:
        """Count slots as stored; those that were let go while they were written are garbage."""
        for slot in slots:
            slot.stored = True
            if slot.gone:
                self.garbage.append(slot.seq)
            else:
                del self.unsaved[slot.seq]
                self.stored_bytes += slot.size_bytes

    def let_go(self, slot: Slot) -> None:
        """Take out a slot that waits no more."""
        slot.gone = True
        self.unsaved.pop(slot.seq, None)
        if slot.data is not None:
            self.held_bytes -= slot.size_bytes
        if slot.stored:
            self.stored_bytes -= slot.size_bytes
            self.garbage.append(slot.seq)


@final
class Spool:
    """Uploads not yet durable in the cloud, at most ``limit_bytes`` of them.

    They are in memory first, up to ``memory_bytes``; on disk when memory is full or when they must
    outlive a crash. What is gone from there is in :attr:`past`. One thread puts, another takes and
    forgets. Where it is full, ``when_full`` says what a put does: "block" waits for room;
    "drop-oldest" drops the oldest upload not sent, the new one where all others have been.

    Guaranteed: what was there when :meth:`persist` returned is there after a crash or a loss of
    power, less what was forgotten or dropped since. Numbers come out in rising order. What is
    dropped is counted, once, and the counts outlive a restart.
    Not guaranteed: after a crash, what was forgotten or dropped since the last write may be there
    again, and not be counted. Two processes must not open the same file. The file does not shrink:
    it stays within the most that it has held, some pages, and a log of about 16 MB beside it.
    """

    def __init__(
        self, path: Path, *, limit_bytes: int, memory_bytes: int, when_full: str, keep_through: int
    ):
        """Open or make the file; uploads above ``keep_through`` go, they will be made again.

        Raises:
            ConfigError: a size or the policy makes no sense.
            StorageError: the disk is full or refuses.
            StateError: the file is damaged or not a spool; the message says what to do.
        """
        if when_full not in _POLICIES:
            raise unknown("policy of a full spool", when_full, _POLICIES)
        if limit_bytes < 1 or memory_bytes < 0 or keep_through < 0:
            raise ConfigError(
                "expected limit_bytes >= 1, memory_bytes >= 0 and keep_through >= 0, "
                f"got {limit_bytes}, {memory_bytes} and {keep_through}"
            )
        self._limit_bytes, self._memory_bytes = limit_bytes, memory_bytes
        self._blocks, self._closed, self._wakes = when_full == "block", False, 0
        self._changed, self._disk = threading.Condition(), threading.Lock()  # _disk comes first
        self._file = SpoolFile(path)
        with ExitStack() as on_error:
            on_error.callback(self._file.close)
            found = self._file.load(keep_through)
            on_error.pop_all()
        self._queue = _Queue(found.slots)
        self._places = _Places(self._queue.bytes)
        self._drops = _Drops(found.dropped, found.dropped_samples)
        self._forgotten, self._highest = found.forgotten, found.highest
        self.past = Past(self._file, found, self._drops, self._disk)

    def put(self, seq: int, data: bytes, samples: int, *, stop: threading.Event) -> float:
        """Store one upload; return the seconds waited for room.

        Numbers rise; one that was put or forgotten before is ignored.

        Raises:
            ConfigError: the upload is larger than the spool.
            StorageError: it must go to disk, and that is full or refuses. It is not in the spool
                and may be put again; all others are as before.
            Stopped: ``stop`` was set, or the spool closed, while there was no room.
        """
        if len(data) > self._limit_bytes:
            raise ConfigError(
                f"an upload of {bytes_text(len(data))} cannot wait in a spool of "
                f"{bytes_text(self._limit_bytes)}: raise --spool-mb"
            )
        slot = Slot(seq, samples, len(data), data)
        with self._changed:
            if seq <= self._highest:
                return 0.0
            waited_s = self._make_room(len(data), stop)
            if not self._fits(len(data)):  # all others have been sent
                self._count_dropped(slot)
                return waited_s
            spills = self._places.held_bytes + len(data) > self._memory_bytes
            if not spills:
                self._add(slot)
        if spills:
            with self._disk:  # no other thread puts: the room that there was cannot go
                self._write([slot], durable=False)
            with self._changed:
                slot.data, slot.stored = None, True
                self._add(slot)
        return waited_s

    def after(self, seq: int, *, timeout_s: float) -> Entry | None:
        """Return the first upload with a number above ``seq``, and count it as sent.

        Everything up to ``seq`` counts as sent, too. None when there is none within ``timeout_s``,
        after :meth:`wake`, or when closed.

        Raises:
            StorageError: the disk cannot be read.
            StateError: the file is damaged.
        """
        until_s = monotonic() + timeout_s
        while True:
            with self._changed:
                wakes = self._wakes
                while (slot := self._queue.send_above(seq)) is None or self._closed:
                    left_s = until_s - monotonic()
                    if left_s <= 0 or self._closed or self._wakes > wakes:
                        return None
                    self._changed.wait(left_s)
                data = slot.data
            if data is None:
                data = self._file.read("uploads", slot.seq)
            if data is not None:
                return Entry(slot.seq, data, slot.samples)
            if not (slot.gone or self._closed):
                raise StateError(f"upload {slot.seq} is missing in the spool's file: it is damaged")

    def rewind(self, seq: int) -> None:
        """Begin a new connection after ``seq``: all up to it counts as sent, and nothing above."""
        with self._changed:
            self._queue.rewind(seq)
            self._changed.notify_all()

    def forget(self, seq: int) -> None:
        """Let go of everything up to ``seq``: it is durable in the cloud. Writes nothing."""
        with self._changed:
            if seq <= self._forgotten:
                return
            self._forgotten, self._highest = seq, max(self._highest, seq)
            for slot in self._queue.forget(seq):
                self._places.let_go(slot)
            self._changed.notify_all()

    def persist(self) -> None:
        """Write all that is in memory alone to disk, and wait until it is there.

        Raises:
            StorageError: the disk is full or refuses; all stays in memory, and may be tried again.
        """
        with self._disk:
            # Uploads made after the edge's checkpoint can be made again, bit for bit: until the
            # next one they are written only where memory is full.
            with self._changed:
                slots = list(self._places.unsaved.values())
            for batch in _batches(slots):
                waiting = [slot for slot in batch if not slot.gone]
                self._write(waiting, durable=False)
                with self._changed:
                    self._places.saved(waiting)
            # A durable commit waits for the log as a whole, with what was written before.
            self._write([], durable=True)

    def status(self) -> SpoolStatus:
        """Return how full it is."""
        with self._changed:
            return SpoolStatus(
                waiting=len(self._queue),
                bytes=self._queue.bytes,
                on_disk_bytes=self._places.stored_bytes,
                dropped=self._drops.uploads,
                dropped_samples=self._drops.samples,
                highest=self._highest,
                lost=self.past.lost,
            )

    def wait_empty(self, timeout_s: float) -> bool:
        """Wait until nothing waits; return whether that is so."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._queue, timeout_s)
            return not self._queue

    def wake(self) -> None:
        """Let an :meth:`after` that waits return at once."""
        with self._changed:
            self._wakes += 1
            self._changed.notify_all()

    def keep_reply(self, seq: int, data: bytes) -> None:
        """Keep the cloud's reply to upload ``seq``, on disk when this returns.

        Unlike uploads, replies stay when the spool is opened again, whatever ``keep_through``: the
        same upload is made again, and its reply may be asked for only once.

        Raises:
            StorageError: the disk is full or refuses.
        """
        with self._disk:
            self._file.keep_reply(seq, data)

    def reply(self, seq: int) -> bytes | None:
        """Return the reply kept for upload ``seq``; None where there is none."""
        return self._file.read("replies", seq)

    def forget_replies(self, through_seq: int) -> None:
        """Remove the replies to all uploads up to ``through_seq``.

        Raises:
            StorageError: the disk is full or refuses; they stay.
        """
        with self._disk:
            self._file.forget_replies(through_seq)

    def close(self) -> None:
        """End all waiting, and close the file; what is in memory alone is gone."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        with self._disk:
            with suppress(StorageError, StateError):  # it tidies up: the next start can as well
                self._write([], durable=False)
            self._file.close()

    def _fits(self, size_bytes: int) -> bool:
        return self._queue.bytes + size_bytes <= self._limit_bytes

    def _make_room(self, size_bytes: int, stop: threading.Event) -> float:
        """Wait for room, or drop what makes some; return the seconds waited."""
        if self._blocks and not self._fits(size_bytes):
            started_s = monotonic()
            while not self._fits(size_bytes):
                if stop.is_set() or self._closed:
                    raise Stopped
                self._changed.wait(_POLL_S)
            return monotonic() - started_s
        if self._queue.sent_bytes + size_bytes <= self._limit_bytes:  # else nothing would help
            while not self._fits(size_bytes):
                slot = self._queue.drop()
                self._count_dropped(slot)
                self._places.let_go(slot)
        return 0.0

    def _count_dropped(self, slot: Slot) -> None:
        self._highest = max(self._highest, slot.seq)
        self._drops.add(slot.seq, slot.samples, self._forgotten)

    def _add(self, slot: Slot) -> None:
        self._highest = max(self._highest, slot.seq)
        self._places.add(slot)
        if slot.seq <= self._forgotten:  # durable in the cloud meanwhile, from before a crash
            self._places.let_go(slot)
            return
        self._queue.append(slot)
        self._changed.notify_all()

    def _write(self, slots: Sequence[Slot], *, durable: bool) -> None:
        """Write to the file, holding ``_disk`` but not ``_changed``: slow work stops no thread."""
        with self._changed:
            tidy = Tidy(self._places.garbage, self._drops.changed, self._forgotten)
            self._places.garbage, self._drops.changed = [], {}
        try:
            self._file.write(slots, tidy, durable=durable)
        except BaseException:
            with self._changed:
                self._places.garbage += tidy.gone
                self._drops.changed = tidy.drops | self._drops.changed
            raise


def _batches(slots: Iterable[Slot]) -> Iterator[list[Slot]]:
    """Yield slots in groups of a size that one transaction may have."""
    batch: list[Slot] = []
    size_bytes = 0
    for slot in slots:
        batch.append(slot)
        size_bytes += slot.size_bytes
        if size_bytes >= _BATCH_BYTES:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch
