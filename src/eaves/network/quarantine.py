"""Quarantine: edges that are set aside until an operator releases them.

One small file for each in a folder, so that all processes of a group see the same, it outlasts a
restart, and an edge is released while the cloud runs.
"""

from pathlib import Path
from time import gmtime, monotonic, strftime
from typing import Final, final
from urllib.parse import quote, unquote

from eaves.errors import AccessError, ConfigError
from eaves.runtime.files import write_atomically
from eaves.runtime.sealed import sealed_json, unsealed_json

_MODE = 0o600
_LONGEST = 600  # characters of a reason
_LOOK_S: Final = 0.25  # how soon is seen what another process has set aside
_MOST_SEEN: Final = 4096  # edges


@final
class Quarantine:
    """The edges that are set aside, in ``folder``; ``strikes`` refusals set one aside (0: none do).

    Refusals are counted since the cloud started.
    """

    def __init__(self, folder: Path, strikes: int):
        self._folder, self._strikes = folder, strikes
        self._refused: dict[str, int] = {}
        self._free_until: dict[str, float] = {}

    def expect_free(self, edge: str) -> None:
        """Raise an :class:`AccessError` where an edge is set aside; the message says why."""
        if (now := monotonic()) < self._free_until.get(edge, 0.0):
            return
        if (path := self._path(edge)).exists():
            raise AccessError(
                f"{edge} is in quarantine, {_reason(path)}. What it sends is refused until an "
                f"operator of the cloud releases it: `eaves serve ... --release {edge}`"
            )
        if len(self._free_until) >= _MOST_SEEN:
            self._free_until.clear()
        self._free_until[edge] = now + _LOOK_S

    def strike(self, edge: str, why: str) -> bool:
        """Count an upload that was refused; return whether the edge is set aside for it."""
        self._refused[edge] = self._refused.get(edge, 0) + 1
        if not self._strikes or self._refused[edge] < self._strikes:
            return False
        self.set_aside(edge, f"after {self._refused[edge]} refused uploads: {why}")
        return True

    def set_aside(self, edge: str, why: str) -> None:
        """Refuse an edge from now on; raises :class:`StorageError` where the disk refuses."""
        self._free_until.pop(edge, None)
        since = strftime("%Y-%m-%d %H:%M:%S UTC", gmtime())
        content = sealed_json({"edge": edge, "since": since, "why": why[:500]})
        write_atomically(self._path(edge), content, mode=_MODE)

    def release(self, edge: str) -> None:
        """Accept an edge again; raises :class:`ConfigError` where it is not set aside."""
        path = self._path(edge)
        if not path.exists():
            known = ", ".join(self.edges()) or "none is"
            raise ConfigError(f"{edge} is not in quarantine; in it: {known}")
        path.unlink()
        self._refused.pop(edge, None)

    def edges(self) -> dict[str, str]:
        """Return why each edge is set aside, by its name."""
        found = sorted(self._folder.glob("*.json")) if self._folder.is_dir() else []
        return {unquote(path.stem): _reason(path) for path in found}

    def _path(self, edge: str) -> Path:
        return self._folder / f"{quote(edge, safe='')}.json"


def _reason(path: Path) -> str:
    """Return since when and why, in words; a damaged file still counts."""
    try:
        found = unsealed_json(path.read_bytes())
        words = f"since {found['since']}, {found['why']}"[:_LONGEST]
        return words.encode(errors="backslashreplace").decode()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "for a reason that can no longer be read"
