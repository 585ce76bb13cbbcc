from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from eaves.errors import StorageError
from eaves.runtime.files import write_atomically

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
