"""What an edge does where its spool has lost uploads: it goes back to where sending began.

Every upload is a function of the run and its number, its noise included. So an edge that starts
over from the state in which its first upload was made sends the very same ones again, and the cloud
learns only from those that it has not got. Where that state is not there, or the cloud's replies
would be needed to make them, uploads that are gone are counted as lost.
"""

import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

from eaves.errors import StorageError

_FIRST: Final = "first"  # within the folder of the checkpoint: forgotten with it
_INDEX: Final = "checkpoint.json"
_log = logging.getLogger(__name__)


def keep_beginning(checkpoint: Path) -> None:
    """Keep the checkpoint in this folder as the one in which sending began.

    Raises:
        StorageError: the disk is full or refuses.
    """
    _replace(checkpoint, checkpoint / _FIRST)


def back_to_beginning(checkpoint: Path) -> bool:
    """Make the checkpoint in which sending began the last one; return whether there was any.

    Raises:
        StorageError: the disk is full or refuses.
    """
    if not (checkpoint / _FIRST / _INDEX).exists():
        return False
    _replace(checkpoint / _FIRST, checkpoint)
    return True


def numbers_text(missing: tuple[range, ...]) -> str:
    """Return numbers in words.

    >>> numbers_text((range(3, 4), range(8, 11)))
    '3, 8-10'
    """
    shown = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in missing[:10]]
    return ", ".join([*shown, "..."] if len(missing) > len(shown) else shown)


def _replace(source: Path, to: Path) -> None:
    """Put the files of a checkpoint into another folder, its index last, as ever."""
    try:
        to.mkdir(parents=True, exist_ok=True)
        for path in source.glob("*.safetensors"):
            with suppress(FileExistsError):  # it is named by its content
                os.link(path, to / path.name)
        draft = to / f".{_INDEX}.draft"
        shutil.copyfile(source / _INDEX, draft)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(to / _INDEX)
    except OSError as error:
        raise StorageError(f"cannot keep the beginning of the run in {to}: {error}") from error
