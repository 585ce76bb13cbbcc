"""A spool against a model of it, and what it does when it is full, killed, or refused a disk."""

import multiprocessing
import os
import shutil
import signal
import sqlite3
import tempfile
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic, sleep
from typing import Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from eaves.errors import ConfigError, StorageError
from eaves.network.spool import Spool, Stopped

NEVER: Final = threading.Event()
SET: Final = threading.Event()
SET.set()
AMPLE: Final = 1 << 30

FilesEndAt = Callable[[int], AbstractContextManager[None]]


def content(seq: int, size_bytes: int = 100) -> bytes:
    """Return bytes that only this upload has."""
    return (f"upload {seq} ".encode() * (size_bytes // 8 + 1))[:size_bytes]


def opened(
    folder: Path,
    *,
    limit_bytes: int = AMPLE,
    memory_bytes: int = AMPLE,
    when_full: str = "block",
    keep_through: int = 0,
) -> "closing[Spool]":
    return closing(
        Spool(
            folder / "spool.db",
            limit_bytes=limit_bytes,
            memory_bytes=memory_bytes,
            when_full=when_full,
            keep_through=keep_through,
        )
    )


def fill(spool: Spool, first: int, last: int, size_bytes: int = 100) -> None:
    for seq in range(first, last + 1):
        spool.put(seq, content(seq, size_bytes), 2, stop=NEVER)


def taken(spool: Spool, seq: int = 0) -> list[int]:
    """Return the numbers of all that comes after ``seq``; contents and sizes must be theirs."""
    found = []
    while (entry := spool.after(seq, timeout_s=0)) is not None:
        seq = entry.seq
        assert entry.data == content(seq, len(entry.data))
        found.append(seq)
    return found


# Laws


class SpoolMachine(RuleBasedStateMachine):
    """Every order of calls, restarts and crashes, against a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.folders = 0
        self.live: dict[int, tuple[bytes, int]] = {}
        self.sent: set[int] = set()
        self.drops: dict[int, int] = {}
        self.saved: set[int] = set()  # drops that the file must know
        self.base = (0, 0)  # uploads and samples dropped before a crash
        self.forgotten = self.highest = self.mark = 0
        self.numbers = {0}  # that a run can go on after: some are skipped

    @initialize(policy=st.sampled_from(["block", "drop-oldest"]), memory=st.sampled_from([0, 120]))
    def start(self, policy: str, memory: int) -> None:
        self.policy, self.memory = policy, memory
        self.open(0)

    def open(self, keep_through: int) -> None:
        folder = self.root / str(self.folders)
        self.spool = Spool(
            folder / "spool.db",
            limit_bytes=300,
            memory_bytes=self.memory,
            when_full=self.policy,
            keep_through=keep_through,
        )

    def size(self) -> int:
        return sum(len(data) for data, _ in self.live.values())

    @rule(size=st.integers(0, 120), samples=st.integers(1, 2), skip=st.sampled_from([1, 1, 1, 2]))
    def put(self, size: int, samples: int, skip: int) -> None:
        seq, data = self.highest + skip, os.urandom(size)
        if self.policy == "block" and self.size() + size > 300:
            with pytest.raises(Stopped):
                self.spool.put(seq, data, samples, stop=SET)
            return
        self.spool.put(seq, data, samples, stop=SET)
        self.highest = seq
        self.numbers.add(seq)
        sent_bytes = sum(len(self.live[n][0]) for n in self.sent)
        if sent_bytes + size > 300:
            self.drops[seq] = samples
            return
        while self.size() + size > 300:
            oldest = min(self.live.keys() - self.sent)
            self.drops[oldest] = self.live.pop(oldest)[1]
        self.live[seq] = (data, samples)

    @rule(back=st.integers(0, 8))
    def put_again(self, back: int) -> None:
        self.spool.put(max(0, self.highest - back), b"another", 9, stop=SET)

    @rule(back=st.integers(0, 8))
    def after(self, back: int) -> None:
        seq = max(0, self.highest - back)
        entry = self.spool.after(seq, timeout_s=0)
        above = [n for n in self.live if n > seq]
        through = min(above, default=seq)
        self.sent |= {n for n in self.live if n <= through}
        if not above:
            assert entry is None
            return
        assert entry is not None
        assert (entry.seq, entry.data, entry.samples) == (through, *self.live[through])

    @rule(back=st.integers(0, 8))
    def rewind(self, back: int) -> None:
        seq = self.highest - back
        self.spool.rewind(seq)
        self.sent = {n for n in self.live if n <= seq}

    @rule(back=st.integers(-1, 8))
    def forget(self, back: int) -> None:
        self.spool.forget(self.highest - back)
        self.forgotten = max(self.forgotten, self.highest - back)
        self.highest = max(self.highest, self.forgotten)
        self.live = {n: kept for n, kept in self.live.items() if n > self.forgotten}
        self.sent &= self.live.keys()

    @rule()
    def persist(self) -> None:
        self.spool.persist()
        self.mark, self.saved = self.highest, set(self.drops)
        assert self.spool.status().on_disk_bytes == self.size()

    @rule(back=st.integers(0, 4))
    def restart(self, back: int) -> None:
        """End in order, perhaps without a checkpoint, or with one whose state was not saved."""
        known = {n for n in self.numbers if n <= self.mark - back}
        keep = max(known, default=0)
        self.spool.close()
        self.open(keep)
        self.forget_after(keep)
        self.saved = set(self.drops)

    @precondition(lambda self: self.mark > 0)
    @rule()
    def crash(self) -> None:
        """Go on with the files as they are, as after SIGKILL."""
        old, self.folders = self.root / str(self.folders), self.folders + 1
        (self.root / str(self.folders)).mkdir()
        for name in ("spool.db", "spool.db-wal"):
            shutil.copy(old / name, self.root / str(self.folders))
        self.spool.close()
        self.open(self.mark)
        base, drops = self.drops_in_file()
        self.spool.forget(self.forgotten)  # the first receipt says so
        self.forget_after(self.mark)
        found: dict[int, tuple[bytes, int]] = {}
        while entry := self.spool.after(max(found, default=0), timeout_s=0):
            found[entry.seq] = (entry.data, entry.samples)
        self.spool.rewind(0)
        back = found.keys() - self.live.keys()
        assert self.live.items() <= found.items()
        assert back <= self.drops.keys()
        # Counts that no write has saved may be gone, but nothing is counted that waits.
        count = self.spool.status().dropped - self.base[0]
        assert len(self.saved & self.drops.keys()) <= count <= len(self.drops) - len(back)
        self.live, self.base, self.drops, self.saved = found, base, drops, set(drops)

    def drops_in_file(self) -> tuple[tuple[int, int], dict[int, int]]:
        with closing(sqlite3.connect(self.root / str(self.folders) / "spool.db")) as db:
            (base,) = db.execute("SELECT dropped, dropped_samples FROM facts").fetchall()
            runs = db.execute("SELECT first, last, samples FROM dropped").fetchall()
        drops = {n: each for first, last, each in runs for n in range(first, last + 1)}
        return (base[0], base[1]), drops

    def forget_after(self, keep: int) -> None:
        """Take back in the model what a run that goes on after ``keep`` makes again."""
        last = max(keep, self.forgotten)
        self.live = {n: kept for n, kept in self.live.items() if n <= keep}
        self.drops = {n: samples for n, samples in self.drops.items() if n <= last}
        self.saved &= self.drops.keys()
        self.mark, self.sent, self.highest = keep, set(), last

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "spool"):
            return
        status = self.spool.status()
        assert (status.waiting, status.bytes) == (len(self.live), self.size())
        assert status.dropped == self.base[0] + len(self.drops)
        assert status.dropped_samples == self.base[1] + sum(self.drops.values())
        assert status.bytes <= 300
        assert status.on_disk_bytes >= status.bytes - self.memory

    def teardown(self) -> None:
        if hasattr(self, "spool"):
            self.spool.close()
        shutil.rmtree(self.root)


TestLaws = SpoolMachine.TestCase
TestLaws.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("memory_bytes", [0, 250, AMPLE])
def test_uploads_come_out_in_order_from_memory_and_disk(tmp_path: Path, memory_bytes: int) -> None:
    with opened(tmp_path, memory_bytes=memory_bytes) as spool:
        fill(spool, 1, 4)
        spool.forget(1)
        fill(spool, 5, 6)  # in memory again, behind some that are on disk
        assert taken(spool) == [2, 3, 4, 5, 6]
        assert taken(spool, 3) == [4, 5, 6]


def test_on_a_good_link_nothing_is_written(tmp_path: Path) -> None:
    def files() -> list[tuple[str, int, bytes]]:
        return [
            (path.name, path.stat().st_mtime_ns, path.read_bytes())
            for path in sorted(tmp_path.iterdir())
            if path.suffix != ".db-shm"
        ]

    with opened(tmp_path) as spool:
        spool.put(1, content(1), 2, stop=NEVER)
        spool.persist()
        before = files()
        for seq in range(2, 50):
            spool.put(seq, content(seq), 2, stop=NEVER)
            assert taken(spool, seq - 1) == [seq]
            spool.forget(seq)
        assert files() == before
        assert spool.status().on_disk_bytes == 0


# Full


def test_block_waits_until_there_is_room(tmp_path: Path) -> None:
    with opened(tmp_path, limit_bytes=250) as spool:
        fill(spool, 1, 2)
        timer = threading.Timer(0.2, spool.forget, [1])
        timer.start()
        waited_s = spool.put(3, content(3), 2, stop=NEVER)
        timer.join()
        assert 0.1 < waited_s < 5
        assert taken(spool) == [2, 3]
        assert spool.put(3, content(3), 2, stop=NEVER) == 0  # known, however full it is


def test_a_stop_ends_the_wait_and_loses_nothing(tmp_path: Path) -> None:
    with opened(tmp_path, limit_bytes=250) as spool:
        fill(spool, 1, 2)
        stop = threading.Event()
        timer = threading.Timer(0.1, stop.set)
        timer.start()
        with pytest.raises(Stopped):
            spool.put(3, content(3), 2, stop=stop)
        timer.join()
        assert (spool.status().highest, taken(spool)) == (2, [1, 2])
        spool.forget(1)
        assert spool.put(3, content(3), 2, stop=stop) == 0  # where there is room, stop is no matter
        assert taken(spool, 1) == [2, 3]


def test_drop_oldest_drops_what_has_not_been_sent(tmp_path: Path) -> None:
    with opened(tmp_path, limit_bytes=350, when_full="drop-oldest") as spool:
        fill(spool, 1, 3)
        assert spool.after(0, timeout_s=0) is not None
        fill(spool, 4, 5)
        assert taken(spool) == [1, 4, 5]
        fill(spool, 6, 6)  # all others are on their way: the new one is the oldest that is not
        assert taken(spool) == [1, 4, 5]
        spool.rewind(1)
        fill(spool, 7, 7)
        assert taken(spool) == [1, 5, 7]
        status = spool.status()
        assert (status.dropped, status.dropped_samples, status.highest) == (4, 8, 7)


def test_an_upload_larger_than_the_spool_names_the_flag(tmp_path: Path) -> None:
    with opened(tmp_path, limit_bytes=250) as spool:
        with pytest.raises(ConfigError, match=r"251 B cannot wait .* 250 B: raise --spool-mb"):
            spool.put(1, content(1, 251), 2, stop=NEVER)
        assert spool.put(1, content(1, 250), 2, stop=NEVER) == 0


@pytest.mark.parametrize(
    "wrong", [{"limit_bytes": 0}, {"memory_bytes": -1}, {"keep_through": -1}, {"when_full": "drop"}]
)
def test_nonsense_is_refused(tmp_path: Path, wrong: dict[str, int | str]) -> None:
    with pytest.raises(ConfigError):
        opened(tmp_path, **wrong)  # type: ignore[arg-type]


def test_the_file_does_not_grow_without_bound(tmp_path: Path) -> None:
    def sizes() -> list[int]:
        return [(tmp_path / name).stat().st_size for name in ("spool.db", "spool.db-wal")]

    limit_bytes = 4_000_000
    with opened(
        tmp_path, limit_bytes=limit_bytes, memory_bytes=0, when_full="drop-oldest"
    ) as spool:
        largest = [0, 0]
        for seq in range(1, 401):  # 40 MB through 4 MB
            spool.put(seq, content(seq, 100_000), 2, stop=NEVER)
            if seq % 3 == 0:
                spool.after(seq - 3, timeout_s=0)
                spool.forget(seq - 3)
            if seq % 50 == 0:
                spool.persist()
            largest = [max(pair) for pair in zip(largest, sizes(), strict=True)]
    assert largest[0] < 1.5 * limit_bytes
    assert largest[1] < 20_000_000


# Restarts


def test_a_restart_keeps_the_counts_and_what_the_cloud_has(tmp_path: Path) -> None:
    with opened(tmp_path, limit_bytes=350, when_full="drop-oldest") as spool:
        fill(spool, 1, 5)  # 1 and 2 are dropped
        spool.persist()
        fill(spool, 6, 7)  # 3 and 4, after the checkpoint
        spool.forget(3)
    with opened(tmp_path, limit_bytes=350, when_full="drop-oldest", keep_through=5) as spool:
        assert taken(spool) == [5]
        status = spool.status()
        assert (status.dropped, status.dropped_samples, status.highest) == (4, 8, 5)
        fill(spool, 6, 7)
        assert taken(spool) == [5, 6, 7]
        spool.forget(9)  # more than it has made again: the cloud was ahead
        fill(spool, 8, 10)
        assert taken(spool) == [10]


def test_a_drop_after_the_checkpoint_is_not_counted_twice(tmp_path: Path) -> None:
    for _ in range(3):  # each run gets as far, and is restarted at the same checkpoint
        with opened(tmp_path, limit_bytes=250, memory_bytes=0, when_full="drop-oldest") as spool:
            fill(spool, 1, 6)
            assert spool.status().dropped == 4
    with opened(tmp_path, limit_bytes=250, when_full="drop-oldest", keep_through=3) as spool:
        assert (spool.status().dropped, spool.status().dropped_samples) == (3, 6)


def _killed(folder: Path, memory_bytes: int, ready: Connection) -> None:
    """Put and persist for as long as it lives; say what is promised."""
    with opened(folder, memory_bytes=memory_bytes) as spool:
        seq = 0
        while True:
            seq += 1
            spool.put(seq, content(seq, 20_000), 2, stop=NEVER)
            if seq % 5 == 0:
                spool.persist()
                spool.keep_reply(seq, content(seq))
                ready.send(seq)


@pytest.mark.parametrize("memory_bytes", [0, AMPLE])
def test_what_was_persisted_outlives_a_kill(tmp_path: Path, memory_bytes: int) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_killed, args=(tmp_path, memory_bytes, there))
    child.start()
    there.close()
    promised = 0
    while promised < 50:
        promised = here.recv()
    os.kill(child.pid or 0, signal.SIGKILL)  # in the midst of a put or a persist
    child.join()
    while here.poll():
        try:
            promised = here.recv()
        except EOFError:
            break
    here.close()
    assert child.exitcode == -signal.SIGKILL
    child.close()
    with opened(tmp_path, keep_through=promised) as spool:
        assert taken(spool) == list(range(1, promised + 1))
        assert spool.reply(promised) == content(promised)
        fill(spool, promised + 1, promised + 1)
        assert taken(spool, promised) == [promised + 1]


def test_a_persist_syncs_what_was_spilled_before(tmp_path: Path) -> None:
    """SQLite syncs the log only with a commit that writes to it."""
    log, ran = tmp_path / "spool.db-wal", list[str]()
    with opened(tmp_path, memory_bytes=0) as spool:
        fill(spool, 1, 1)
        spool._file._writer.set_trace_callback(ran.append)
        for _ in range(2):
            before = log.read_bytes()
            spool.persist()
            assert log.read_bytes() != before
        assert ran.count("PRAGMA synchronous = FULL") == 2


def test_replies_stay_until_they_are_forgotten(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        for seq in (1, 2, 3):
            spool.keep_reply(seq, content(seq))
        spool.keep_reply(2, b"changed")
        assert spool.reply(4) is None
    with opened(tmp_path, keep_through=1) as spool:
        assert [spool.reply(seq) for seq in (1, 2, 3)] == [content(1), b"changed", content(3)]
        spool.forget_replies(2)
        assert [spool.reply(seq) for seq in (1, 2, 3)] == [None, None, content(3)]


# A disk that is full


def test_a_full_disk_refuses_a_spill_and_keeps_the_rest(
    tmp_path: Path, files_end_at: FilesEndAt
) -> None:
    with opened(tmp_path, memory_bytes=250_000) as spool:
        fill(spool, 1, 2, 100_000)
        with files_end_at(60_000), pytest.raises(StorageError, match=r"cannot write the spool .*"):
            spool.put(3, content(3, 100_000), 2, stop=NEVER)
        assert (taken(spool), spool.status().highest) == ([1, 2], 2)
        fill(spool, 3, 3, 100_000)  # there is room again
        assert taken(spool) == [1, 2, 3]


def test_a_full_disk_keeps_in_memory_what_it_could_not_persist(
    tmp_path: Path, files_end_at: FilesEndAt
) -> None:
    with opened(tmp_path, limit_bytes=1_000_000, when_full="drop-oldest") as spool:
        fill(spool, 1, 12, 100_000)
        with files_end_at(300_000), pytest.raises(StorageError, match="is intact"):
            spool.persist()
        with files_end_at(300_000), pytest.raises(StorageError, match="cannot write"):
            spool.keep_reply(1, content(1, 400_000))
        assert taken(spool) == list(range(3, 13))
        spool.persist()
    with opened(tmp_path, keep_through=12) as spool:
        assert taken(spool) == list(range(3, 13))
        assert spool.status().dropped == 2
        assert spool.reply(1) is None


def test_what_a_full_disk_kept_from_being_deleted_is_deleted_later(
    tmp_path: Path, files_end_at: FilesEndAt
) -> None:
    with opened(tmp_path, limit_bytes=250_000, when_full="drop-oldest") as spool:
        fill(spool, 1, 2, 100_000)
        spool.persist()
        fill(spool, 3, 3, 100_000)  # drops 1, which is in the file
        with files_end_at(0), pytest.raises(StorageError):
            spool.persist()
        spool.persist()
    with opened(tmp_path, keep_through=3) as spool:
        assert (taken(spool), spool.status().dropped) == ([2, 3], 1)


def test_a_spool_on_a_full_disk_closes(tmp_path: Path, files_end_at: FilesEndAt) -> None:
    with opened(tmp_path, memory_bytes=0) as spool:
        fill(spool, 1, 2, 100_000)
        spool.persist()
        spool.forget(1)
        with files_end_at(0):
            spool.close()
    with opened(tmp_path, keep_through=2) as spool:
        assert taken(spool, 1) == [2]


# Threads


def within(limit_s: float, call: Callable[[], object]) -> object:
    """Return what ``call`` returns; it must not take longer."""
    started_s = monotonic()
    result = call()
    assert monotonic() - started_s < limit_s
    return result


def test_one_thread_puts_while_another_takes_and_a_third_persists(tmp_path: Path) -> None:
    count, found, failed = 1500, list[int](), list[BaseException]()
    done = threading.Event()

    def guarded(body: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                body()
            except BaseException as error:
                failed.append(error)

        return threading.Thread(target=run)

    with opened(tmp_path, limit_bytes=20_000, memory_bytes=10_000) as spool:

        def take() -> None:
            while len(found) < count:
                entry = spool.after(found[-1] if found else 0, timeout_s=10)
                assert entry is not None
                assert entry.data == content(entry.seq, 1000)
                found.append(entry.seq)
                if entry.seq % 7 == 0:
                    spool.forget(entry.seq - 3)
            spool.forget(count)

        def persist() -> None:
            while not done.wait(0.01):
                spool.persist()

        threads = [
            guarded(lambda: fill(spool, 1, count, 1000)),
            guarded(take),
            guarded(persist),
        ]
        for thread in threads:
            thread.start()
        assert spool.wait_empty(60) or failed
        for thread in threads[:2]:
            thread.join()
        done.set()
        threads[2].join()
        assert not failed
        assert found == list(range(1, count + 1))
        status = spool.status()
        assert (status.waiting, status.bytes, status.on_disk_bytes) == (0, 0, 0)


@pytest.mark.parametrize("how", ["wake", "close"])
def test_what_waits_for_an_upload_can_be_woken(tmp_path: Path, how: str) -> None:
    with opened(tmp_path) as spool:
        timer = threading.Timer(0.1, getattr(spool, how))
        timer.start()
        assert within(5, lambda: spool.after(0, timeout_s=30)) is None
        timer.join()
        assert within(5, lambda: spool.after(0, timeout_s=0.05)) is None


def test_what_waits_for_an_upload_gets_it_at_once(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        timer = threading.Timer(0.1, fill, [spool, 1, 1])
        timer.start()
        entry = spool.after(0, timeout_s=30)
        timer.join()
        assert entry is not None
        assert entry == (1, content(1), 2)


def test_waiting_for_the_end(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        assert spool.wait_empty(0)
        fill(spool, 1, 2)
        assert not spool.wait_empty(0.05)
        timer = threading.Timer(0.1, spool.forget, [2])
        timer.start()
        assert within(5, lambda: spool.wait_empty(30)) is True
        timer.join()


def test_a_put_that_waits_is_ended_by_close(tmp_path: Path) -> None:
    with opened(tmp_path, limit_bytes=100) as spool:
        fill(spool, 1, 1)
        timer = threading.Timer(0.1, spool.close)
        timer.start()
        with pytest.raises(Stopped):
            spool.put(2, content(2), 2, stop=NEVER)
        timer.join()
        spool.close()  # twice is once


def test_a_persist_that_is_slow_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as spool:
        fill(spool, 1, 3)
        write, writing = spool._file.write, threading.Event()

        def slow(*args: object, durable: bool) -> None:
            writing.set()
            sleep(0.5)
            write(*args, durable=durable)  # type: ignore[arg-type]

        monkeypatch.setattr(spool._file, "write", slow)
        thread = threading.Thread(target=spool.persist)
        thread.start()
        writing.wait()
        within(0.3, lambda: fill(spool, 4, 4))
        assert within(0.3, lambda: taken(spool)) == [1, 2, 3, 4]
        within(0.3, lambda: spool.forget(2))  # while it is written
        thread.join()
        monkeypatch.undo()
    with opened(tmp_path, keep_through=3) as spool:
        assert taken(spool) == [3]
