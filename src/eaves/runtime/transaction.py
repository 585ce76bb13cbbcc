"""Several files of one folder, changed all together or not at all, whatever ends the process.

A redo log. All contents are written into ``.draft`` first. One rename makes it ``.ready``: from
then on the change has happened. Its files are then moved to where they belong. A process that is
killed before the rename has changed nothing. After one that was killed later, :func:`finish` moves
what is left; :func:`locked` calls it, and so does whoever reads the folder.

Not guaranteed: a reader that does not call :func:`finish` first may find some files old and some
new, between the rename and the last move.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple, final

from eaves.errors import StateError, StorageError

_DRAFT: Final = ".draft"
_READY: Final = ".ready"
_INDEX: Final = "index.json"


@final
class Content(NamedTuple):
    """What a file will hold, and who may read it."""

    data: bytes
    mode: int = 0o600


@contextmanager
def locked(folder: Path, *, make: bool = False) -> Iterator[None]:
    """Have ``folder`` to oneself, with nothing half done in it; with ``make`` it may be new.

    Other processes and threads that ask for it wait.

    Raises:
        FileNotFoundError: there is no such folder, and ``make`` is not given.
        StorageError: the folder cannot be made, opened or put in order.
    """
    try:
        if make:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(f"cannot use the folder {folder}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        finish(folder)
        yield
    finally:
        os.close(lock)


def unfinished(folder: Path) -> bool:
    """Whether a change of ``folder`` has happened, and is not finished yet."""
    return (folder / _READY).is_dir()


def commit(folder: Path, files: Mapping[str, Content]) -> None:
    """Write ``files``, by their paths within ``folder``, all or none. Only while it is locked.

    They appear in the order given. Folders are made as they are needed, for their owner alone.

    Raises:
        StorageError: the disk is full or refuses. Nothing has changed; or the change has happened,
            and is finished when the folder is used next.
    """
    # Not one rename of the whole folder: it may hold other things, and a change may touch several
    # folders in it.
    draft = folder / _DRAFT
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        index = json.dumps({"files": list(files)}).encode()
        numbered = {str(n): content for n, content in enumerate(files.values())}
        for name, content in {**numbered, _INDEX: Content(index)}.items():
            _write(draft / name, content)
        _sync(draft)
        draft.rename(folder / _READY)
        _sync(folder)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise StorageError(
            f"cannot write into {folder}: {error.strerror}; what was there before is intact"
        ) from error
    finish(folder)


def finish(folder: Path) -> bool:
    """Finish a change that was interrupted after it had happened; return whether there was one.

    Raises:
        StateError: what is left of it is damaged.
        StorageError: the disk refuses.
    """
    if not unfinished(folder):
        return False
    ready = folder / _READY
    try:
        for name, path in _index(ready).items():
            if (source := ready / name).exists():
                target = folder / path
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                source.rename(target)
                _sync(target.parent)
        (ready / _INDEX).unlink(missing_ok=True)
        ready.rmdir()
    except OSError as error:
        raise StorageError(
            f"cannot finish a change in {folder}: {error.strerror}; it is kept in {ready}, and "
            "finished when the folder is used next"
        ) from error
    return True


def _index(ready: Path) -> dict[str, str]:
    """Return the paths of a change by the names of its files; none where all were moved."""
    path = ready / _INDEX
    if not path.exists():
        return {}
    try:
        paths = json.loads(path.read_bytes())["files"]
        if not all(_inside(found) for found in paths):
            raise ValueError("expected paths within the folder")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise StateError(f"{path} is damaged; bring the folder back from a backup") from error
    return {str(n): found for n, found in enumerate(paths)}


def _inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    whole = bool(parts) and ".." not in parts and not path.startswith("/")
    return whole and path.isascii() and path.isprintable()


def _write(path: Path, content: Content) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "wb") as opened:
        os.chmod(file, content.mode)  # os.open leaves out what the umask forbids
        opened.write(content.data)
        opened.flush()
        os.fsync(file)


def _sync(folder: Path) -> None:
    """Make new names in ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
