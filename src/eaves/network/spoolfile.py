"""The file of a spool: uploads, replies and what must not be forgotten, in SQLite.

It is in WAL mode (https://sqlite.org/wal.html): with ``synchronous=NORMAL`` a commit is whole or
absent after a crash of the process, with ``FULL`` after a loss of power as well, together with
every commit before it.

Every row has a checksum over all that is in it, its number included: SQLite has none of its own in
the file, and where the log is damaged it drops what comes after, without a word. What is gone or
has changed is missing in the sequence; :meth:`SpoolFile.load` finds it.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, final
from zlib import crc32

from eaves.errors import StateError, StorageError

_LOG_PAGES: Final = 2048  # of 4 KiB, after which SQLite moves the log into the file
_LOG_BYTES: Final = 8 << 20  # to which the log is cut then, where one transaction made it larger
_LAYOUT: Final = 2
_MODE: Final = 0o600  # features and labels are in it
_ABOVE_ALL: Final = 1 << 48  # no run has so many uploads, no spool so many bytes
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)

# dropped: runs of consecutive numbers with as many samples each, so that a run can be cut anywhere.
# reserved: no upload above it has ever been sent. made: the highest that was written, or dropped.
_SCHEMA: Final = f"""
BEGIN;
CREATE TABLE uploads (seq INTEGER PRIMARY KEY, samples INTEGER, crc INTEGER, data BLOB);
CREATE TABLE replies (seq INTEGER PRIMARY KEY, crc INTEGER, data BLOB);
CREATE TABLE dropped (first INTEGER PRIMARY KEY, last INTEGER, samples INTEGER, crc INTEGER);
CREATE TABLE facts (forgotten INTEGER, dropped INTEGER, dropped_samples INTEGER, writes INTEGER,
  reserved INTEGER, lost INTEGER, crc INTEGER);
INSERT INTO facts VALUES (0, 0, 0, 0, 0, 0, seal(0, 0, 0, 0, 0, 0));
PRAGMA user_version = {_LAYOUT};
COMMIT;
"""
_FROM_1: Final = f"""
BEGIN;
UPDATE uploads SET crc = seal(seq, samples, data) WHERE crc = plain(data);
UPDATE replies SET crc = seal(seq, data) WHERE crc = plain(data);
ALTER TABLE dropped ADD COLUMN crc INTEGER;
UPDATE dropped SET crc = seal(first, last, samples);
ALTER TABLE facts ADD COLUMN reserved INTEGER;
ALTER TABLE facts ADD COLUMN lost INTEGER;
ALTER TABLE facts ADD COLUMN crc INTEGER;
UPDATE facts SET reserved = {_ABOVE_ALL - 1}, lost = 0;
{{seal}};
PRAGMA user_version = {_LAYOUT};
COMMIT;
"""
_SEAL_FACTS: Final = (
    "UPDATE facts SET crc = seal(forgotten, dropped, dropped_samples, writes, reserved, lost)"
)
# In one statement with its seal: it is part of every write.
_ADD_TO_FACTS: Final = """
UPDATE facts SET forgotten = :forgotten, dropped = dropped + :dropped,
  dropped_samples = dropped_samples + :samples, writes = writes + 1,
  crc = seal(:forgotten, dropped + :dropped, dropped_samples + :samples, writes + 1, reserved, lost)
"""
_TOTALS: Final = """
SELECT coalesce(sum(last - first + 1), 0), coalesce(sum((last - first + 1) * samples), 0)
FROM dropped WHERE last <= ?
"""


@final
@dataclass(slots=True)
class Slot:
    """An upload that waits; ``data`` is None where it is on disk alone.

    ``stored``: it is on disk. ``gone``: it waits no more.
    """

    seq: int
    samples: int
    size_bytes: int
    data: bytes | None
    stored: bool = False
    gone: bool = False


@final
class Found(NamedTuple):
    """What was in the file when it was opened."""

    slots: list[Slot]
    dropped: int
    dropped_samples: int
    forgotten: int
    highest: int
    reserved: int = 0
    """The highest number that may ever have been sent."""
    lost: int = 0
    """Uploads that were missing once, and could not be made again."""
    missing: tuple[range, ...] = ()
    """Numbers up to ``keep_through`` that should be there: lost, or their checksum did not fit."""


@final
class Tidy(NamedTuple):
    """What has changed since the file was last written, beside new uploads."""

    gone: list[int]
    """Uploads in the file that wait no more."""
    drops: dict[int, tuple[int, int]]
    """Runs of dropped uploads: first number to (last number, samples of each)."""
    forgotten: int


@final
class SpoolFile:
    """One connection that writes, for one thread at a time, and one that reads beside it.

    Raises:
        StorageError: from every method: the disk is full or refuses; the file is as before.
        StateError: from every method: the file is damaged or not a spool.
    """

    def __init__(self, path: Path):
        self._path, self._reading = path, threading.Lock()
        with self._in_words("open"), ExitStack() as opened:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.is_new = not path.exists() or path.stat().st_size == 0
            _keep_private(path)
            self._writer = opened.enter_context(closing(_connect(path)))
            self._check_layout()
            self._reader = opened.enter_context(closing(_connect(path)))
            self._closing = opened.pop_all()

    def load(self, keep_through: int) -> Found:
        """Drop what comes after ``keep_through``, which will be made again; return the rest.

        What the cloud has durably is forgotten all the same: it will not be stored again. Every
        upload is read, and its checksum compared; one that has changed is dropped, and missing.
        """
        with self._transaction("open", durable=False) as db:
            facts = db.execute(
                "SELECT forgotten, dropped, dropped_samples, writes, reserved, lost, crc FROM facts"
            ).fetchall()
            forgotten, dropped, samples, _, reserved, lost, crc = self._numbers(facts)
            if crc != seal(*facts[0][:-1]):
                raise self._damaged("the checksum of its counts does not fit")
            last = max(forgotten, keep_through)
            db.execute("DELETE FROM uploads WHERE seq > ? OR seq <= ?", (keep_through, forgotten))
            db.execute("DELETE FROM uploads WHERE crc IS NOT seal(seq, samples, data)")
            runs = [tuple(self._numbers([row])) for row in db.execute("SELECT * FROM dropped")]
            if any(crc != seal(*run) for *run, crc in runs):
                raise self._damaged("the checksum of what was dropped does not fit")
            db.execute("DELETE FROM dropped WHERE first > ?", (last,))
            db.execute("UPDATE dropped SET last = ? WHERE last > ?", (last, last))
            db.execute("UPDATE dropped SET crc = seal(first, last, samples)")
            more, more_samples = self._numbers(db.execute(_TOTALS, (last,)).fetchall())
            (highest,) = self._numbers(
                db.execute("SELECT coalesce(max(last), 0) FROM dropped").fetchall()
            )
            rows = db.execute("SELECT seq, samples, length(data) FROM uploads ORDER BY seq")
            numbers = [self._numbers([row]) for row in rows]
            slots = [Slot(seq, n, size_bytes, None, stored=True) for seq, n, size_bytes in numbers]
            there = [(slot.seq, slot.seq) for slot in slots] + [run[:2] for run in runs]
            missing = _gaps(forgotten, keep_through, there)
        highest = max([forgotten, highest, *(slot.seq for slot in slots[-1:])])
        sums = (dropped + more, samples + more_samples)
        return Found(slots, *sums, forgotten, highest, reserved, lost, missing)

    def bad_replies(self) -> list[int]:
        """Return the numbers of replies that have changed."""
        with self._reading, self._in_words("read"):
            rows = self._reader.execute(
                "SELECT seq FROM replies WHERE crc IS NOT seal(seq, data) ORDER BY seq"
            )
            return [seq for (seq,) in rows]

    def highest(self) -> int:
        """Return the highest number of an upload that is in the file."""
        with self._reading, self._in_words("read"):
            rows = self._reader.execute("SELECT coalesce(max(seq), 0) FROM uploads").fetchall()
            return self._numbers(rows)[0]

    def reserve(self, seq: int) -> None:
        """Take note, on disk when this returns, that uploads up to ``seq`` may be sent."""
        with self._transaction("write", durable=True) as db:
            db.execute("UPDATE facts SET reserved = max(reserved, ?), writes = writes + 1", (seq,))
            db.execute(_SEAL_FACTS)

    def lose(self, runs: Sequence[range]) -> None:
        """Count uploads as dropped and lost, so that they are not missing any more."""
        with self._transaction("write", durable=True) as db:
            rows = [(run[0], run[-1], 0, seal(run[0], run[-1], 0)) for run in runs]
            db.executemany("INSERT OR REPLACE INTO dropped VALUES (?, ?, ?, ?)", rows)
            number = sum(map(len, runs))
            db.execute("UPDATE facts SET lost = lost + ?, writes = writes + 1", (number,))
            db.execute(_SEAL_FACTS)

    def write(self, slots: Sequence[Slot], tidy: Tidy, *, durable: bool) -> None:
        """Add uploads and bring the rest up to date, all or nothing."""
        with self._transaction("write", durable=durable) as db:
            db.executemany("DELETE FROM uploads WHERE seq = ?", ((seq,) for seq in tidy.gone))
            db.executemany(
                "INSERT OR REPLACE INTO dropped VALUES (?, ?, ?, ?)",
                ((first, *rest, seal(first, *rest)) for first, rest in tidy.drops.items()),
            )
            # A run below what is forgotten cannot be put and dropped again: its sum is enough.
            ((dropped, samples),) = db.execute(_TOTALS, (tidy.forgotten,)).fetchall()
            # Counted, since SQLite writes no row that has not changed, and syncs no empty commit.
            db.execute(
                _ADD_TO_FACTS, {"forgotten": tidy.forgotten, "dropped": dropped, "samples": samples}
            )
            db.execute("DELETE FROM dropped WHERE last <= ?", (tidy.forgotten,))
            db.executemany(
                "INSERT OR REPLACE INTO uploads VALUES (?, ?, ?, ?)",
                (
                    (slot.seq, slot.samples, seal(slot.seq, slot.samples, slot.data), slot.data)
                    for slot in slots
                    if slot.data is not None
                ),
            )

    def keep_reply(self, seq: int, data: bytes) -> None:
        """Add or replace a reply, on disk when this returns."""
        with self._transaction("write", durable=True) as db:
            row = (seq, seal(seq, data), data)
            db.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?)", row)

    def forget_replies(self, through_seq: int) -> None:
        """Remove the replies up to ``through_seq``."""
        with self._transaction("write", durable=False) as db:
            db.execute("DELETE FROM replies WHERE seq <= ?", (through_seq,))

    def read(self, table: str, seq: int) -> bytes | None:
        """Return what is kept as ``seq``; None where nothing is, or the file is closed."""
        samples = "samples, " if table == "uploads" else ""
        with self._reading, self._in_words("read"):
            try:
                rows = self._reader.execute(
                    f"SELECT crc, {samples}data FROM {table} WHERE seq = ?", (seq,)
                ).fetchall()
            except sqlite3.ProgrammingError:  # closed
                return None
        for crc, *rest in rows:
            data = rest[-1]
            if not isinstance(data, bytes) or seal(seq, *rest) != crc:
                raise self._damaged(f"number {seq} of its {table} has changed")
            return data
        return None

    @contextmanager
    def _transaction(self, doing: str, *, durable: bool) -> Iterator[sqlite3.Connection]:
        """Give the connection that writes; all that is done with it takes effect, or nothing."""
        db = self._writer
        with self._in_words(doing):
            db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:  # SQLite ends some of those that fail by itself
                    db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close both connections."""
        with self._reading, self._in_words("close"):
            self._closing.close()

    def _numbers(self, rows: list[tuple[object, ...]]) -> list[int]:
        """Return what is in the only row; SQLite keeps other values than numbers as well."""
        row = rows[0] if len(rows) == 1 else ()
        numbers = [n for n in row if isinstance(n, int) and 0 <= n < _ABOVE_ALL]
        if not numbers or len(numbers) < len(row):
            raise self._damaged("it holds no numbers where they belong")
        return numbers

    def _check_layout(self) -> None:
        ((layout,),) = self._writer.execute("PRAGMA user_version").fetchall()
        ((tables,),) = self._writer.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        if layout == 0 and tables == 0:
            self._writer.executescript(_SCHEMA)
            self.is_new = True
        elif layout == 1 and tables:
            self._writer.executescript(_FROM_1.format(seal=_SEAL_FACTS))
        elif layout != _LAYOUT:
            raise self._damaged(f"expected a spool of layout {_LAYOUT}, got layout {layout}")
        ((words),) = self._writer.execute("PRAGMA quick_check(1)").fetchall()[0]
        if words != "ok":
            raise self._damaged(str(words))

    @contextmanager
    def _in_words(self, doing: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_IOERR) & 0xFF in _DAMAGED:
                raise self._damaged(str(error)) from error
            raise self._refused(doing, str(error)) from error
        except UnicodeDecodeError as error:  # in SQLite's own message about damage
            raise self._damaged("what is wrong has no readable name") from error
        except OSError as error:
            raise self._refused(doing, str(error.strerror)) from error

    def _refused(self, doing: str, why: str) -> StorageError:
        return StorageError(
            f"cannot {doing} the spool {self._path}: {why}; what it held before is intact"
        )

    def _damaged(self, why: str) -> StateError:
        return StateError(
            f"the spool {self._path} is damaged or not a spool ({why}); remove it, and the -wal "
            "and -shm files beside it, to go on without the uploads that wait in it: the same "
            "command makes them again where it can, and else counts them as lost"
        )


def seal(*values: object) -> int:
    """Return the checksum of a row: 32 bits over all of its values, their types and lengths.

    The last four bytes count for themselves: uploads end with their own CRC, and the CRC of what
    ends so is always the same.

    >>> seal(1, b"ab") == seal(1, b"a"), seal(12, 3) == seal(1, 23), seal(1, "1") == seal(1, 1)
    (False, False, False)
    """
    parts = [
        (len(v), crc32(memoryview(v)[:-4]), v[-4:]) if isinstance(v, bytes) else v for v in values
    ]
    return crc32(repr(parts).encode())


def _gaps(above: int, through: int, there: list[tuple[int, ...]]) -> tuple[range, ...]:
    """Return the numbers in (above, through] that are in none of these runs (first, last).

    >>> _gaps(2, 9, [(4, 4), (5, 7)])
    (range(3, 4), range(8, 10))
    """
    found, expected = [], above + 1
    for first, last in sorted(there):
        if first > expected:
            found.append(range(expected, min(first, through + 1)))
        expected = max(expected, last + 1)
    if expected <= through:
        found.append(range(expected, through + 1))
    return tuple(run for run in found if run)


def _keep_private(path: Path) -> None:
    """Make the file, and the log beside it, readable for its user alone; SQLite copies the mode."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, _MODE))
    for suffix in ("", "-wal", "-shm"):
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            beside.chmod(_MODE)


def _plain(data: object) -> int | None:
    """Return the checksum of layout 1, which was over the data alone."""
    return crc32(data) if isinstance(data, bytes) else None


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        db.create_function("seal", -1, seal, deterministic=True)
        db.create_function("plain", 1, _plain, deterministic=True)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        db.execute(
            "PRAGMA secure_delete = FAST"
        )  # ON, as Debian has it, writes all that is deleted
        db.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
    except BaseException:
        db.close()
        raise
    return db
