"""Access log: who was admitted or refused and why, and what was done to credentials.

One object of JSON on each line, in ASCII, in a file for its owner alone (0600), which is only
appended to. What comes from a peer is cut to a length and escaped, so that it forges no line. Last
in each is its checksum, ``crc``: a line that has changed is found, one that is gone is not.

A peer cannot fill the disk with it: each may write a burst of lines, then one every few seconds;
all peers together have such a limit too; what is left out is counted, and the count is written.
A file that has become too large is renamed, and the oldest of those goes.
"""

import json
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any, Final, final
from zlib import crc32

from eaves.errors import StateError
from eaves.network.redaction import redact

NAME: Final = "access.jsonl"
"""Of the file in a folder of credentials, where what was done to them is written."""
_MOST_WORDS: Final = 300  # characters of one fact
_MOST_FACTS: Final = 16
_CRC: Final = "crc"
_log = logging.getLogger(__name__)
Fact = str | int | float | bool | None


@final
@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How much may be written."""

    file_bytes: int = 4_000_000
    """Of one file, before another is begun;"""
    files: int = 4
    """and files in all."""
    burst: int = 20
    """Lines of one source in a row;"""
    every_s: float = 10.0
    """then one in so many seconds."""
    all_burst: int = 500
    """The same for all sources together."""
    all_every_s: float = 1.0
    sources: int = 4096
    """Sources that are told apart, the latest ones."""


@final
class _Bucket:
    """Lines that a source may write, and how many were left out since the last one."""

    def __init__(self, burst: int, every_s: float, now_s: float):
        self._burst, self._every_s = burst, every_s
        self._left, self._at_s = float(burst), now_s
        self.omitted = 0

    def takes(self, now_s: float) -> bool:
        self._left = min(self._burst, self._left + (now_s - self._at_s) / self._every_s)
        self._at_s = now_s
        if self._left < 1:
            self.omitted += 1
            return False
        self._left -= 1
        return True


@final
class AccessLog:
    """Appends to the file ``path``; for any thread. A disk that refuses is said once, in the log.

    An event without a source is one of this machine's own operator, and is never left out.
    """

    def __init__(
        self,
        path: Path,
        bounds: Bounds | None = None,
        *,
        clock: Callable[[], float] = monotonic,
    ):
        self._path, self._bounds, self._clock = path, bounds or Bounds(), clock
        self._lock, self._failed = threading.Lock(), False
        self._sources: OrderedDict[str, _Bucket] = OrderedDict()
        self._all = _Bucket(self._bounds.all_burst, self._bounds.all_every_s, clock())

    def write(self, event: str, *, source: str = "", **facts: Fact) -> None:
        """Append a line, unless its source, or all of them, have written too much."""
        with self._lock:
            omitted = self._omitted(source) if source else 0
            if omitted is None:
                return
            line = {"ts": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
            if source:
                line["source"] = source
            rest = {**facts, **({"left_out": omitted} if omitted else {})}
            self._append({k: _short(v) for k, v in {**line, **_first(rest)}.items()})

    def _omitted(self, source: str) -> int | None:
        """Return how many lines are missing before this one; None where this one is, too."""
        now_s, bounds = self._clock(), self._bounds
        bucket = self._sources.get(source)
        if bucket is None:
            bucket = self._sources[source] = _Bucket(bounds.burst, bounds.every_s, now_s)
        self._sources.move_to_end(source)
        while len(self._sources) > bounds.sources:
            self._all.omitted += self._sources.popitem(last=False)[1].omitted
        if not bucket.takes(now_s) or not self._all.takes(now_s):
            return None
        omitted = bucket.omitted + self._all.omitted
        bucket.omitted = self._all.omitted = 0
        return omitted

    def _append(self, line: dict[str, Fact]) -> None:
        text = (json.dumps(line | {_CRC: _sum(line)}) + "\n").encode("ascii")
        try:
            self._make_room(len(text))
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
            file = os.open(self._path, flags, 0o600)
            try:
                os.write(file, text)  # at once: lines of two processes do not mix
            finally:
                os.close(file)
            self._failed = False
        except OSError as error:
            if not self._failed:
                _log.error("cannot write the access log %s: %s", self._path, error.strerror)
            self._failed = True

    def _make_room(self, more_bytes: int) -> None:
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return
        if size + more_bytes <= self._bounds.file_bytes:
            return
        for n in range(self._bounds.files - 1, 0, -1):
            older = self._path if n == 1 else self._path.with_name(f"{self._path.name}.{n - 1}")
            if older.exists():
                older.replace(self._path.with_name(f"{self._path.name}.{n}"))


def read_access_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file; lines of older versions have no checksum.

    Raises:
        StateError: one of them has changed or is cut; the message says which.
    """
    found = []
    for number, text in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        try:
            line = json.loads(text)
            crc = line.pop(_CRC, None)
            if not text.endswith(b"\n") or crc not in (None, _sum(line)):
                raise ValueError("it is not the line that was written")
            found.append(line)
        except (AttributeError, ValueError, RecursionError) as error:
            raise StateError(f"line {number} of {path} is damaged ({error})") from error
    return found


def _sum(line: dict[str, Fact]) -> str:
    return f"{crc32(json.dumps(line).encode('ascii')):08x}"


def _first(facts: dict[str, Fact]) -> dict[str, Fact]:
    return dict(list(facts.items())[:_MOST_FACTS])


def _short(value: Fact) -> Fact:
    if not isinstance(value, str):
        return value
    words = redact(value)
    return words if len(words) <= _MOST_WORDS else f"{words[:_MOST_WORDS]}…"
