"""All files are new or all are old, and what was interrupted is finished by the next."""

import json
import os
import stat
import threading
from pathlib import Path
from time import sleep

import pytest

from eaves.errors import StateError, StorageError
from eaves.runtime.transaction import Content, commit, finish, locked, unfinished

OLD = {"a": b"old a", "deep/er/b": b"old b"}
NEW = {"a": Content(b"new a"), "deep/er/b": Content(b"new b", 0o644), "c": Content(b"new c")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in OLD.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path


def _files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_files_are_replaced_with_their_modes(folder: Path) -> None:
    with locked(folder):
        commit(folder, NEW)
    assert _files(folder) == {name: content.data for name, content in NEW.items()}
    for name, content in NEW.items():
        assert stat.S_IMODE((folder / name).stat().st_mode) == content.mode
    assert not unfinished(folder)


def test_a_new_folder_is_made_only_when_asked_and_is_private(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locked(tmp_path / "none"):
        pass
    assert not (tmp_path / "none").exists()
    with locked(tmp_path / "new", make=True):
        commit(tmp_path / "new", {"x/y": Content(b"1")})
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "new" / "x").stat().st_mode) == 0o700


@pytest.mark.parametrize("moves", [0, 1, 2])
def test_what_was_killed_between_two_moves_is_finished(
    folder: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    class Killed(BaseException):
        pass

    real, done = Path.rename, 0

    def rename(path: Path, target: Path) -> Path:
        nonlocal done
        if path.name.isdigit():
            if done == moves:
                raise Killed
            done += 1
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(Killed), locked(folder):
        commit(folder, NEW)
    monkeypatch.undo()
    assert unfinished(folder)
    with locked(folder):
        assert _files(folder) == {name: content.data for name, content in NEW.items()}
    assert not finish(folder)  # there is nothing more to do


def test_a_draft_that_was_left_is_thrown_away(folder: Path) -> None:
    (folder / ".draft").mkdir()
    (folder / ".draft" / "0").write_bytes(b"half")
    with locked(folder):
        assert (folder / "a").read_bytes() == OLD["a"]
        commit(folder, NEW)
    assert not (folder / ".draft").exists()


@pytest.mark.parametrize(
    "index", [b"{", b"[]", b'{"files": ["../x"]}', b'{"files": ["/etc/x"]}', b'{"files": [1]}']
)
def test_an_index_that_leads_elsewhere_is_refused(folder: Path, index: bytes) -> None:
    (folder / ".ready").mkdir()
    (folder / ".ready" / "0").write_bytes(b"bad")
    (folder / ".ready" / "index.json").write_bytes(index)
    with pytest.raises(StateError, match="is damaged"), locked(folder):
        pass
    assert not (folder.parent / "x").exists()
    assert json.dumps(sorted(OLD)) == json.dumps(sorted(n for n in _files(folder) if "." not in n))


def test_a_disk_that_refuses_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="what was there before is intact"), locked(folder):
        commit(folder, NEW)
    assert _files(folder) == OLD


def test_one_waits_for_the_other(folder: Path) -> None:
    inside, order = threading.Event(), []

    def first() -> None:
        with locked(folder):
            inside.set()
            sleep(0.1)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait()
    with locked(folder):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]
