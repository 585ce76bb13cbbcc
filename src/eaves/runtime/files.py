"""Write files so that a reader finds the old content or the new one, never a part."""

import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from eaves.errors import StateError, StorageError

_LOCK: Final = ".lock"
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD, RENAME_EXCHANGE: see renameat2(2)


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
def held(folder: Path, *, beside: bool = False) -> Iterator[None]:
    """Have a folder to oneself while the context is open, until the process ends at the latest.

    The system takes the lock back when the process dies, however it dies: a lock file that a crash
    left is no obstacle. ``beside``: the lock lies beside the folder, which need not exist and is
    not made.

    Raises:
        StorageError: another process has it (its number is in the message), or the folder cannot
            be made or written.
    """
    made: list[Path] = []
    folder = Path(os.path.abspath(folder)) if beside else folder  # "." has no name beside it
    try:
        needed = folder.parent if beside else folder
        made = [path for path in (needed, *needed.parents) if not path.exists()]
        needed.mkdir(parents=True, exist_ok=True)
        lock = folder.with_name(f".{folder.name}.lock") if beside else folder / _LOCK
        handle = _locked(lock, folder)
    except OSError as error:
        raise StorageError(
            f"cannot use {folder}: {error.strerror}; expected a folder that can be written: choose "
            "another --out"
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink()
        os.close(handle)
        with suppress(OSError):  # one that holds something by now stays
            for path in made:
                path.rmdir()


def _locked(lock: Path, folder: Path) -> int:
    """Return the open lock file; raises :class:`StorageError` where another process has it."""
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who had it before may have removed the file since it was opened.
            if _same_file(handle, lock):
                os.ftruncate(handle, 0)
                os.write(handle, str(os.getpid()).encode())
                return handle
        except BlockingIOError as error:
            holder = os.read(handle, 20).decode("ascii", "replace").strip()
            named = f" (number {holder})" if holder.isdecimal() else ""
            os.close(handle)
            raise StorageError(
                f"another process is at work in {folder}{named}: wait until it ends, end it, or "
                "choose another --out"
            ) from error
        except OSError:
            os.close(handle)
            raise
        os.close(handle)


def _same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def replace_folder(draft: Path, folder: Path) -> None:
    """Put ``draft`` in the place of ``folder``, whole at every moment; ``draft`` is gone then.

    Where the system cannot exchange two names at once, a crash between two renames leaves what was
    there before at :func:`spare`.

    Raises:
        StorageError: the disk refuses; what was at ``folder`` before is intact.
    """
    try:
        if not folder.exists():
            draft.rename(folder)
        # By one rename where the system can: a reader may come at any moment.
        elif not _exchanged(draft, folder):
            shutil.rmtree(spare(folder), ignore_errors=True)
            folder.rename(spare(folder))
            draft.rename(folder)
        _sync_folder(folder.parent)
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error.strerror}") from error
    for old in (draft, spare(folder)):
        shutil.rmtree(old, ignore_errors=True)


def spare(folder: Path) -> Path:
    """Return where what ``folder`` held is while it is replaced."""
    return folder.with_name(f".{folder.name}.before")


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two names at once; return False where this system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    paths = os.fsencode(one), os.fsencode(other)
    if rename(_HERE, paths[0], _HERE, paths[1], _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.EXDEV):
        return False
    raise OSError(number, os.strerror(number))


def expect_format(found: object, known: int, *, place: Path, kind: str) -> None:
    """Refuse what is not of the format ``known``, the newest that this version reads.

    Raises:
        StateError: a newer version has written it, or it is damaged.
    """
    if type(found) is int and 1 <= found <= known:
        return
    newer = type(found) is int and found > known
    why = (
        "a newer Eaves has written it: install that version, as with pip install --upgrade eaves"
        if newer
        else "it is damaged"
    )
    raise StateError(f"{place}: expected {kind} of format {known}, got {found!r}: {why}")


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
