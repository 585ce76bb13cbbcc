"""Write files so that a reader finds the old content or the new one, never a part."""

import os
from contextlib import suppress
from pathlib import Path

from eaves.errors import StorageError


def write_atomically(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``, safe against a crash or a full disk in the middle.

    Raises:
        StorageError: the disk is full or refuses; what was at ``path`` before is intact.
    """
    draft = path.with_name(f".{path.name}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):  # where a draft cannot be made, none can be removed
            draft.unlink()
        raise StorageError(
            f"cannot write {path} ({len(content)} bytes): {error.strerror}; "
            "what was there before is intact"
        ) from error
