import ctypes
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from eaves.errors import StateError, StorageError
from eaves.runtime import files
from eaves.runtime.files import expect_format, held, replace_folder, spare, write_atomically


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


FilesEndAt = Callable[[int], AbstractContextManager[None]]


def test_a_file_is_made_with_its_folders_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    for content in (b"first", b""):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, files_end_at: FilesEndAt) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"before")
    with files_end_at(1000), pytest.raises(StorageError, match=r"cannot write .*file \(5000 bytes"):
        write_atomically(path, bytes(5000))
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_draft_that_a_crash_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".file.draft").write_bytes(b"half of it")
    write_atomically(tmp_path / "file", b"all")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"a file, not a folder")
    with pytest.raises(StorageError, match="taken/inside/file"):
        write_atomically(tmp_path / "taken" / "inside" / "file", b"x")


@pytest.mark.parametrize("mode", [0o600, 0o644])
@pytest.mark.usefixtures("umask")
def test_permissions_are_those_asked_for(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"open to all")
    path.chmod(0o666)
    (tmp_path / ".file.draft").write_bytes(b"of a crash")
    (tmp_path / ".file.draft").chmod(0o666)
    write_atomically(path, b"secret", mode=mode)
    assert _mode(path) == mode
    assert path.read_bytes() == b"secret"


def test_permissions_are_never_wider_not_even_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    opened = os.open

    def watched(path: Path, flags: int, mode: int = 0o777) -> int:
        file = opened(path, flags, mode)
        if flags & os.O_CREAT:  # the folder is opened, too, and keeps its own
            seen.append(stat.S_IMODE(os.fstat(file).st_mode))
        return file

    monkeypatch.setattr(os, "open", watched)
    before = os.umask(0)
    try:
        write_atomically(tmp_path / "file", b"secret", mode=0o600)
    finally:
        os.umask(before)
    assert seen == [0o600]


def test_a_secret_does_not_go_through_the_link_that_somebody_put_there(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"")
    (tmp_path / ".file.draft").symlink_to(elsewhere)
    write_atomically(tmp_path / "file", b"secret", mode=0o600)
    assert elsewhere.read_bytes() == b""
    assert not (tmp_path / "file").is_symlink()


def test_without_permissions_they_are_those_of_any_file(tmp_path: Path, umask: int) -> None:
    write_atomically(tmp_path / "file", b"x")
    assert _mode(tmp_path / "file") == 0o666 & ~umask


# A folder for one

_HOLDS = """
import sys, time
from pathlib import Path
from eaves.runtime.files import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("beside", [False, True])
def test_a_folder_is_held_by_one_at_a_time(tmp_path: Path, beside: bool) -> None:
    folder = tmp_path / "a" / "out"
    with held(folder, beside=beside):
        assert folder.exists() != beside
        with (
            pytest.raises(StorageError, match=rf"at work in .*/out \(number {os.getpid()}\): "),
            held(folder, beside=beside),
        ):
            pass
        with held(tmp_path / "other", beside=beside):
            pass
    with held(folder, beside=beside):
        pass
    assert list(tmp_path.iterdir()) == []  # nothing was written, so nothing is left


def test_what_was_written_stays_and_the_lock_does_not(tmp_path: Path) -> None:
    with held(tmp_path / "out"):
        (tmp_path / "out" / "file").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    words = [sys.executable, "-c", _HOLDS, str(folder)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(StorageError, match=rf"at work in .*/out \(number {process.pid}\): "),
            held(folder),
        ):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (folder / ".lock").exists()  # and is no obstacle
    with held(folder):
        pass


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/out"])
def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("precious")
    folder = tmp_path / place
    with pytest.raises(StorageError, match=f"cannot use {folder}: .*choose another --out"):  # noqa: SIM117
        with held(folder):
            pass
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_is_replaced_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    if not exchanges:
        monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    for content in ("first", "second"):
        draft = tmp_path / ".draft"
        draft.mkdir()
        (draft / content).touch()
        replace_folder(draft, tmp_path / "folder")
        assert [path.name for path in (tmp_path / "folder").iterdir()] == [content]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_what_was_there_is_spared_where_names_cannot_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, draft = tmp_path / "folder", tmp_path / ".draft"
    for path in (folder, draft):
        path.mkdir()
    (folder / "old").touch()
    monkeypatch.setattr(files, "_exchanged", lambda *_: False)
    rename = Path.rename

    def dies(self: Path, target: Path) -> Path:
        if self == draft:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", dies)
    with pytest.raises(KeyboardInterrupt):
        replace_folder(draft, folder)
    assert [path.name for path in spare(folder).iterdir()] == ["old"]


# Formats


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (2, "a newer Eaves has written it: install that version"),
        (99, "a newer Eaves has written it"),
        (None, "it is damaged"),
        ("1", "it is damaged"),
        (1.0, "it is damaged"),
        (True, "it is damaged"),
        (0, "it is damaged"),
        (-1, "it is damaged"),
        ([1], "it is damaged"),
    ],
)
def test_a_format_that_is_not_known_is_refused(tmp_path: Path, found: object, why: str) -> None:
    with pytest.raises(StateError) as caught:
        expect_format(found, 1, place=tmp_path, kind="a thing")
    assert f"{tmp_path}: expected a thing of format 1, got {found!r}: {why}" in str(caught.value)
    expect_format(1, 1, place=tmp_path, kind="a thing")
    expect_format(1, 2, place=tmp_path, kind="a thing")
