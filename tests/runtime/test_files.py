import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from eaves.errors import StorageError
from eaves.runtime.files import write_atomically


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
