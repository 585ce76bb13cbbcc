"""Write files so that a reader finds the old content or the new one, never a part."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from eaves.errors import StorageError


def write_atomically(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Replace ``path`` by ``content``, safe against a crash or a full disk in the middle.

    With ``mode``, its permissions are these from the start, whatever the umask and whatever they
    were before: a secret is never readable for others, not even for a moment.

    Raises:
        StorageError: the disk is full or refuses; what was at ``path`` before is intact.
    """
    draft = path.with_name(f".{path.name}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _opened(draft, mode) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):  # where a draft cannot be made, none can be removed
            draft.unlink()
        raise StorageError(
            f"cannot write {path} ({len(content)} bytes): {error.strerror}; "
            "what was there before is intact"
        ) from error


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Have a folder to oneself while the context is open, until the process ends at the latest.

    Raises:
        StorageError: another process has it, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise StorageError(f"cannot use {folder}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError(
                f"another process is at work in {folder}: end it, or choose another --out"
            ) from error
        yield
    finally:
        os.close(lock)


def _sync_folder(folder: Path) -> None:
    """Make a new name in ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _opened(draft: Path, mode: int | None) -> BinaryIO:
    if mode is None:
        return draft.open("wb")
    draft.unlink(missing_ok=True)  # that of a crash may be open to others, or opened by them
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.chmod(file, mode)  # os.open leaves out what the umask forbids
    return os.fdopen(file, "wb")
