"""What a spool's file does when it is damaged, foreign or cannot be made."""

import sqlite3
import zlib
from contextlib import closing
from pathlib import Path

import pytest

from eaves.errors import StateError, StorageError
from eaves.network.spoolfile import Slot, SpoolFile, Tidy, seal

REMOVE = r"remove it, and the -wal and -shm files beside it, to go on without the uploads"


def made(path: Path, *datas: bytes) -> None:
    with closing(SpoolFile(path)) as file:
        slots = [Slot(seq, 3, len(data), data) for seq, data in enumerate(datas, 1)]
        file.write(slots, Tidy([], {}, 0), durable=True)


def changed(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(statement)
        db.commit()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    made(tmp_path / "spool", b"one", b"", b"three")
    with closing(SpoolFile(tmp_path / "spool")) as file:
        found = file.load(2)
        assert [(slot.seq, slot.samples, slot.size_bytes) for slot in found.slots] == [
            (1, 3, 3),
            (2, 3, 0),
        ]
        assert [file.read("uploads", seq) for seq in (1, 2, 3)] == [b"one", b"", None]


def test_drops_that_are_forgotten_become_a_sum(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    with closing(SpoolFile(path)) as file:
        file.write([], Tidy([], {1: (4, 2), 5: (9, 1), 10: (11, 5)}, 3), durable=False)
        file.write([], Tidy([], {}, 6), durable=False)
        assert file.load(7)[1:5] == (4 + 3, 8 + 3, 6, 7)  # 8 to 11 will be made again
        assert file.load(0)[1:5] == (4 + 2, 8 + 2, 6, 6)  # 7 too; 5 and 6 the cloud has gone past
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT first, last, samples FROM dropped").fetchall()
    assert rows == [(5, 6, 1)]


def test_what_is_forgotten_is_not_found_again(tmp_path: Path) -> None:
    with closing(SpoolFile(tmp_path / "spool")) as file:
        file.write([Slot(n, 3, 1, b"x") for n in (1, 2, 3)], Tidy([], {}, 2), durable=False)
        assert [slot.seq for slot in file.load(3).slots] == [3]


@pytest.mark.parametrize("durable", [True, False])
def test_only_a_durable_write_waits_for_the_disk(tmp_path: Path, durable: bool) -> None:
    ran: list[str] = []
    with closing(SpoolFile(tmp_path / "spool")) as file:
        file._writer.set_trace_callback(ran.append)
        file.write([], Tidy([], {}, 0), durable=durable)
    assert ran[0] == f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}"
    assert ran[1] == "BEGIN IMMEDIATE"


@pytest.mark.parametrize("size", [100, 5000])
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "spool").write_bytes(b"not one" * size)
    with pytest.raises(StateError, match=REMOVE):
        SpoolFile(tmp_path / "spool")


def test_another_program_s_database_is_refused_untouched(tmp_path: Path) -> None:
    changed(tmp_path / "spool", "CREATE TABLE theirs (x)")
    with pytest.raises(StateError, match="expected a spool of layout 2, got layout 0"):
        SpoolFile(tmp_path / "spool")
    with closing(sqlite3.connect(tmp_path / "spool")) as db:
        assert db.execute("SELECT name FROM sqlite_schema").fetchall() == [("theirs",)]


def test_a_file_of_another_layout_is_refused(tmp_path: Path) -> None:
    made(tmp_path / "spool")
    changed(tmp_path / "spool", "PRAGMA user_version = 3")
    with pytest.raises(StateError, match="expected a spool of layout 2, got layout 3"):
        SpoolFile(tmp_path / "spool")


def test_a_file_without_its_tables_is_refused(tmp_path: Path) -> None:
    made(tmp_path / "spool")
    changed(tmp_path / "spool", "DROP TABLE uploads")
    with closing(SpoolFile(tmp_path / "spool")) as file, pytest.raises(StateError, match=REMOVE):
        file.load(0)


def test_an_upload_that_changes_after_the_file_was_opened_is_refused_when_it_is_read(
    tmp_path: Path,
) -> None:
    path = tmp_path / "spool"
    made(path, b"one" * 5000, b"two" * 5000)
    with closing(SpoolFile(path)) as file:
        assert file.load(2).missing == ()
        changed(path, "UPDATE uploads SET data = replace(data, 'w', 'i') WHERE seq = 2")
        assert file.read("uploads", 1) == b"one" * 5000
        with pytest.raises(StateError, match="number 2 of its uploads has changed"):
            file.read("uploads", 2)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE uploads SET data = replace(data, 'w', 'i') WHERE seq = 2",
        "UPDATE uploads SET samples = 4 WHERE seq = 2",
        "UPDATE uploads SET samples = NULL WHERE seq = 2",
        "UPDATE uploads SET data = NULL WHERE seq = 2",
        "UPDATE uploads SET crc = crc + 1 WHERE seq = 2",
        "UPDATE uploads SET seq = 9 WHERE seq = 2",
        "UPDATE uploads SET data = 'two' WHERE seq = 2",
        "DELETE FROM uploads WHERE seq = 2",
    ],
)
def test_an_upload_that_has_changed_or_gone_is_missing(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "spool"
    made(path, b"one", b"two", b"three")
    changed(path, statement)
    with closing(SpoolFile(path)) as file:
        found = file.load(3)
        assert [slot.seq for slot in found.slots] == [1, 3]
        assert found.missing == (range(2, 3),)


def test_what_was_dropped_or_forgotten_is_not_missing(tmp_path: Path) -> None:
    with closing(SpoolFile(tmp_path / "spool")) as file:
        file.write([Slot(n, 1, 1, b"x") for n in (3, 8)], Tidy([], {4: (5, 1)}, 1), durable=True)
        assert file.load(9).missing == (range(2, 3), range(6, 8), range(9, 10))
        assert file.load(3).missing == (range(2, 3),)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE facts SET forgotten = 2",
        "UPDATE facts SET dropped = 1",
        "UPDATE facts SET reserved = 99",
        "UPDATE dropped SET last = 6",
        "UPDATE dropped SET samples = 9",
    ],
)
def test_counts_that_have_changed_are_refused(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "spool"
    with closing(SpoolFile(path)) as file:
        file.write([Slot(1, 1, 1, b"x")], Tidy([], {2: (5, 1)}, 0), durable=True)
    changed(path, statement)
    with closing(SpoolFile(path)) as file, pytest.raises(StateError, match="checksum"):
        file.load(5)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("how", ["flip", "cut"])
def test_a_log_that_is_damaged_loses_no_upload_silently(
    tmp_path: Path, share: float, how: str
) -> None:
    """SQLite ends its log at the first frame whose checksum does not fit, and says nothing."""
    path = tmp_path / "spool"
    with closing(SpoolFile(path)) as file:
        for seq in range(1, 21):
            file.write([Slot(seq, 1, 3000, bytes(3000))], Tidy([], {}, 0), durable=True)
        content, log = path.read_bytes(), path.with_name("spool-wal").read_bytes()
    at = int(share * len(log))
    damaged = bytearray(log)
    damaged[at] ^= 16
    other = tmp_path / "other"
    other.write_bytes(content)
    other.with_name("other-wal").write_bytes(log[:at] if how == "cut" else damaged)
    try:
        with closing(SpoolFile(other)) as file:
            found = file.load(20)
    except StateError:
        return
    there = {slot.seq for slot in found.slots} | {n for run in found.missing for n in run}
    assert there == set(range(1, 21))


def test_what_may_have_been_sent_outlives_a_restart_and_never_becomes_less(tmp_path: Path) -> None:
    with closing(SpoolFile(tmp_path / "spool")) as file:
        assert file.load(0).reserved == 0
        file.reserve(50)
        file.reserve(7)
    with closing(SpoolFile(tmp_path / "spool")) as file:
        assert file.load(0).reserved == 50


def test_the_file_and_its_log_are_private_also_where_they_were_not(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    made(path, b"one")
    path.chmod(0o644)
    with closing(SpoolFile(path)) as file:
        file.write([Slot(2, 1, 3, b"two")], Tidy([], {}, 0), durable=True)
        modes = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("spool", "spool-wal", "spool-shm"), 0o600)


OLD = """
CREATE TABLE uploads (seq INTEGER PRIMARY KEY, samples INTEGER, crc INTEGER, data BLOB);
CREATE TABLE replies (seq INTEGER PRIMARY KEY, crc INTEGER, data BLOB);
CREATE TABLE dropped (first INTEGER PRIMARY KEY, last INTEGER, samples INTEGER);
CREATE TABLE facts (forgotten INTEGER, dropped INTEGER, dropped_samples INTEGER, writes INTEGER);
INSERT INTO facts VALUES (2, 0, 0, 7);
INSERT INTO dropped VALUES (3, 4, 2);
INSERT INTO replies VALUES (5, 0, 'x');
PRAGMA user_version = 1;
"""


def test_a_file_of_the_first_layout_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(OLD)
        rows = [(seq, 1, zlib.crc32(b"data"), b"data") for seq in (5, 6)]
        db.executemany("INSERT INTO uploads VALUES (?, ?, ?, ?)", [*rows, (7, 1, 0, b"data")])
        db.execute("INSERT INTO replies VALUES (6, ?, ?)", (zlib.crc32(b"reply"), b"reply"))
        db.commit()
    for _ in range(2):
        with closing(SpoolFile(path)) as file:
            found = file.load(8)
            assert [slot.seq for slot in found.slots] == [5, 6]
            assert (found.dropped, found.forgotten) == (2, 2)
            assert found.missing == (range(7, 9),)  # 7 had changed, 8 was never there
            assert found.reserved > 10**9  # it was not written down what was sent
            assert file.read("replies", 6) == b"reply"


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    made(path, b"one" * 50_000)
    path.write_bytes(path.read_bytes()[:60_000])

    def use() -> None:
        with closing(SpoolFile(path)) as file:
            file.load(1)
            file.read("uploads", 1)

    with pytest.raises(StateError, match=REMOVE):
        use()


def test_a_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"a file")
    with pytest.raises(StorageError, match=r"cannot open the spool .*taken"):
        SpoolFile(tmp_path / "taken" / "spool")
    with pytest.raises(StorageError, match="cannot open the spool"):
        SpoolFile(tmp_path)


def test_a_write_that_fails_changes_nothing(tmp_path: Path) -> None:
    with closing(SpoolFile(tmp_path / "spool")) as file:
        bad = Slot("two", 3, 3, b"two")  # type: ignore[arg-type]
        with pytest.raises(StorageError, match="cannot write"):
            file.write([Slot(1, 3, 3, b"one"), bad], Tidy([], {4: (4, 1)}, 0), durable=True)
        assert file.load(9)[:5] == ([], 0, 0, 0, 0)
        file.write([Slot(1, 3, 3, b"one")], Tidy([], {}, 0), durable=True)
        assert file.read("uploads", 1) == b"one"


def test_a_seal_tells_uploads_of_one_length_apart_although_each_ends_with_its_own_crc() -> None:
    def ending_with_its_crc(content: bytes) -> bytes:
        return content + zlib.crc32(content).to_bytes(4, "little")

    contents = [ending_with_its_crc(bytes([n]) * 100) for n in range(50)]
    assert len({zlib.crc32(content) for content in contents}) == 1
    assert len({seal(7, 4, content) for content in contents}) == 50
    for bit in range(8 * len(contents[1])):
        damaged = bytearray(contents[1])
        damaged[bit // 8] ^= 1 << bit % 8
        assert seal(7, 4, bytes(damaged)) != seal(7, 4, contents[1])
