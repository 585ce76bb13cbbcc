"""What a spool's file does when it is damaged, foreign or cannot be made."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from eaves.errors import StateError, StorageError
from eaves.network.spoolfile import Slot, SpoolFile, Tidy

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
        assert file.load(7)[1:] == (4 + 3, 8 + 3, 6, 7)  # 8 to 11 will be made again
        assert file.load(0)[1:] == (4 + 2, 8 + 2, 6, 6)  # 7 too; 5 and 6 the cloud has gone past
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT * FROM dropped").fetchall() == [(5, 6, 1)]


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
    with pytest.raises(StateError, match="expected a spool of layout 1, got layout 0"):
        SpoolFile(tmp_path / "spool")
    with closing(sqlite3.connect(tmp_path / "spool")) as db:
        assert db.execute("SELECT name FROM sqlite_schema").fetchall() == [("theirs",)]


def test_a_file_of_another_layout_is_refused(tmp_path: Path) -> None:
    made(tmp_path / "spool")
    changed(tmp_path / "spool", "PRAGMA user_version = 2")
    with pytest.raises(StateError, match="expected a spool of layout 1, got layout 2"):
        SpoolFile(tmp_path / "spool")


def test_a_file_without_its_tables_is_refused(tmp_path: Path) -> None:
    made(tmp_path / "spool")
    changed(tmp_path / "spool", "DROP TABLE uploads")
    with closing(SpoolFile(tmp_path / "spool")) as file, pytest.raises(StateError, match=REMOVE):
        file.load(0)


def test_an_upload_that_has_changed_is_refused_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    made(path, b"one" * 5000, b"two" * 5000)
    blob = path.read_bytes()
    path.write_bytes(blob.replace(b"twotwotwo", b"twotwotwi", 1))
    with closing(SpoolFile(path)) as file:
        file.load(2)
        assert file.read("uploads", 1) == b"one" * 5000
        with pytest.raises(StateError, match="number 2 of its uploads has changed"):
            file.read("uploads", 2)


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
        assert file.load(9) == ([], 0, 0, 0, 0)
        file.write([Slot(1, 3, 3, b"one")], Tidy([], {}, 0), durable=True)
        assert file.read("uploads", 1) == b"one"
