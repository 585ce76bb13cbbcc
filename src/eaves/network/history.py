"""A history of checkpoints, to roll a cloud back to: the first, the newest, and some between.

Each is a folder of hard links to the files of a checkpoint, so a copy costs no time; a state on
disk is not written again, and stays as long as one of its names does.
"""

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from eaves.errors import ConfigError, StateError, StorageError

_INDEX: Final = "checkpoint.json"
_FAR_AWAY_S: Final = 2e11  # since 1970: four digits of a year
_DAMAGED: Final = (AttributeError, TypeError, ValueError, RecursionError)


@final
@dataclass(frozen=True, kw_only=True)
class PastState:
    """A checkpoint of the history."""

    number: int
    folder: Path
    at: float
    """When it was written, in seconds since 1970."""
    steps: int
    applied: Mapping[str, int]
    """Uploads of each edge that its weights have learnt from."""
    examples: Mapping[str, int]
    lines: int
    """Lines of the journal that belong to it."""


@final
class History:
    """The last ``keep`` checkpoints in ``folder``, the older ones ever further apart.

    The first checkpoint of all, before anything was learnt, is never removed.
    """

    def __init__(self, folder: Path, keep: int):
        self._folder, self._keep = folder, keep

    def add(self, checkpoint: Path) -> None:
        """Take a checkpoint in, unless nothing was learnt since the last one.

        Raises:
            StorageError: the disk is full or refuses.
        """
        if self._keep < 1:
            return
        try:
            files = _files(checkpoint)
            numbers = self._numbers()
            if numbers and _files(self._path(numbers[-1])) == files:
                return
            number = (numbers[-1] if numbers else 0) + 1
            draft = self._folder / ".draft"
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True, mode=0o700)
            for name in (*files, _INDEX):
                _link(checkpoint / name, draft / name)
            draft.rename(self._path(number))
        except OSError as error:
            raise StorageError(f"cannot keep a checkpoint in {self._folder}: {error}") from error
        self._thin([*numbers, number])

    def states(self) -> list[PastState]:
        """Return the checkpoints, the oldest first; raises :class:`StateError` for damage."""
        return [_read(number, self._path(number)) for number in self._numbers()]

    def find(self, which: str) -> PastState:
        """Return the checkpoint with a number, or the last ``before:EDGE`` contributed.

        Raises:
            ConfigError: there is no such checkpoint; the message lists those that there are.
        """
        if which.startswith("before:"):
            return self.before(which.removeprefix("before:"))[-1]
        states = self.states()
        found = [state for state in states if str(state.number) == which]
        if not found:
            numbers = ", ".join(str(state.number) for state in states) or "none"
            raise ConfigError(
                f"expected --rollback list, a number, or before:EDGE, got {which!r}; the "
                f"checkpoints in {self._folder} are: {numbers}"
            )
        return found[0]

    def before(self, edge: str) -> list[PastState]:
        """Return the checkpoints that have learnt nothing from an edge, the oldest first.

        Raises:
            ConfigError: none has learnt from such an edge, or all have.
        """
        states = self.states()
        if not any(edge in state.applied for state in states):
            known = sorted({edge for state in states for edge in state.applied})
            raise ConfigError(
                f"no checkpoint of {self._folder} has learnt from an edge called {edge!r}; "
                f"they have from: {', '.join(known) or 'none'}"
            )
        if not (found := [state for state in states if not state.applied.get(edge)]):
            raise ConfigError(f"all checkpoints of {self._folder} have learnt from {edge}")
        return found

    def forget(self, edge: str) -> None:
        """Remove all checkpoints that an edge has contributed to."""
        for state in self.states():
            if state.applied.get(edge):
                shutil.rmtree(state.folder)

    def _thin(self, numbers: list[int]) -> None:
        """Remove what is too much: in the older half, that with the closest neighbours for its age.

        >>> history = History(Path("/nowhere"), keep=6)
        >>> numbers = []
        >>> for number in range(1, 101):
        ...     numbers.append(number)
        ...     history._thin(numbers)
        >>> len(numbers), numbers[0], numbers[-3:]
        (6, 1, [98, 99, 100])
        """
        while len(numbers) > max(2, self._keep):
            newest = numbers[-1]
            older = range(1, max(2, len(numbers) - self._keep // 2))
            i = min(
                older, key=lambda i: (numbers[i + 1] - numbers[i - 1]) / (newest - numbers[i] + 1)
            )
            shutil.rmtree(self._path(numbers.pop(i)), ignore_errors=True)

    def _numbers(self) -> list[int]:
        if not self._folder.is_dir():
            return []
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdecimal())

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}"


def _files(checkpoint: Path) -> list[str]:
    """Return the names of the tensor files of a checkpoint, which say what is in them."""
    index = json.loads((checkpoint / _INDEX).read_bytes())
    return sorted(str(entry["file"]) for entry in index["states"].values())


def _link(source: Path, target: Path) -> None:
    with suppress(OSError):  # a disk without hard links
        os.link(source, target)
        return
    shutil.copy2(source, target)


def _moment(found: Any) -> float:
    if not 0 <= (seconds := float(found)) < _FAR_AWAY_S:
        raise ValueError(f"expected a time, got {found!r:.50}")
    return seconds


def _read(number: int, folder: Path) -> PastState:
    try:
        index: dict[str, Any] = json.loads((folder / _INDEX).read_bytes())
        facts = index["facts"]
        applied: dict[str, int] = {}
        examples: dict[str, int] = {}
        for row in facts["ledger"]:
            if not isinstance(row["edge"], str):
                raise TypeError("expected edges by their names")
            applied[row["edge"]] = applied.get(row["edge"], 0) + int(row["applied"])
            examples[row["edge"]] = examples.get(row["edge"], 0) + int(row["samples"])
        return PastState(
            number=number,
            folder=folder,
            at=_moment(facts["saved_at"]),
            steps=int(index["states"].get("cloud", {"facts": {}})["facts"].get("steps", 0)),
            applied=applied,
            examples=examples,
            lines=int(facts.get("contributions", {}).get("journal", 0)),
        )
    except (OSError, ArithmeticError, LookupError, *_DAMAGED) as error:
        raise StateError(
            f"the checkpoint in {folder} is damaged ({error!r}); remove it to use the others"
        ) from error
