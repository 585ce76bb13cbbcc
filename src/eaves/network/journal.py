"""An append-only journal of what a cloud learnt from whom, and of what it refused.

One JSON object on each line, numbered, each with a SHA-256 over itself and the line before it: a
line that was changed, removed or put in breaks the chain. It names edges and holds the digest of
each payload, no data.

A checkpoint says how many lines belong to it. The journal is on the disk first, so it may be
ahead after a crash: the lines beyond are then marked as void (event ``restarted``), for the edges
send those uploads again. A last line that was cut by the crash is removed.

Events: ``begun``, ``restarted`` (``void_from``), ``learnt`` (edge, run, seq, examples, step,
sha256, and ``kept``, its place in the store), ``refused``, ``quarantined``, ``rolled back`` (to
the weights after so many ``lines``), ``forgot`` (edge).
"""

import hashlib
import json
import os
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from time import time
from typing import Any, Final, final

from eaves.codecs.contract import Buffer
from eaves.errors import StateError, StorageError

NAME: Final = "journal.jsonl"
"""Of rank 0 of a cloud; those of others have theirs in it."""
_MODE: Final = 0o600
_TOGETHER_S: Final = 0.05  # lines that come so soon after each other are written at once
_LONGEST: Final = 300  # characters of a reason: an edge may have chosen some of them


@final
class Journal:
    """The journal at ``path``, of which a checkpoint holds the first ``lines``.

    Digests are taken and lines are written in a thread of its own, in the order of :meth:`add`.

    Raises:
        StateError: it is damaged, or shorter than that.
        StorageError: the disk refuses.
    """

    def __init__(self, path: Path, *, lines: int):
        self._path = path
        found = read_journal(path)
        if found and found[-1]["n"] < lines:
            raise StateError(
                f"{path} ends with line {found[-1]['n']:,}, and the checkpoint belongs to "
                f"{lines:,}: bring it back, or move it away to begin another"
            )
        self.lines = found[-1]["n"] if found else lines
        self._chain = str(found[-1]["chain"]) if found else ""
        self._added: deque[tuple[dict[str, Any], Buffer | None]] = deque()
        self._pending: list[bytes] = []
        self._size = sum(len(line) for line in _whole_lines(path))
        self._writer = ThreadPoolExecutor(1, "eaves-journal")
        self._hurry = threading.Event()
        if not found:
            self.add("begun", missing=lines)
        elif self.lines > lines:
            self.add("restarted", void_from=lines + 1)
        self.flush()

    def add(self, event: str, payload: Buffer | None = None, **facts: Any) -> None:
        """Add a line; ``payload`` is digested, not kept."""
        self.lines += 1
        record = {"n": self.lines, "at": round(time(), 3), "event": event, **facts}
        self._added.append((record, payload))
        if len(self._added) == 1:
            self._writer.submit(self._write)

    def flush(self) -> None:
        """Force all lines to the disk; raises :class:`StorageError`, and none is lost by that."""
        self._hurry.set()
        try:
            self._writer.submit(self._write, sync=True).result()
        finally:
            self._hurry.clear()

    def close(self) -> None:
        """Write what is left, if the disk takes it, and end the thread."""
        with suppress(StorageError):
            self.flush()
        self._writer.shutdown()

    def _write(self, *, sync: bool = False) -> None:
        """Write the lines that are there; without ``sync``, those of a moment together."""
        if not sync:
            self._hurry.wait(_TOGETHER_S)
        while self._added:
            record, payload = self._added[0]
            if payload is not None:
                record["sha256"] = hashlib.sha256(payload).hexdigest()
            if isinstance(record.get("why"), str):
                record["why"] = record["why"][:_LONGEST]
            self._chain = _chained(self._chain, record)
            self._pending.append(json.dumps({**record, "chain": self._chain}).encode() + b"\n")
            self._added.popleft()
        if sync:
            self._append(sync=True)
            return
        if not self._pending:
            return
        with suppress(StorageError):  # tried again with the next lines, and before a checkpoint
            self._append(sync=False)

    def _append(self, *, sync: bool) -> None:
        content = b"".join(self._pending)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            opened = os.open(self._path, os.O_WRONLY | os.O_CREAT, _MODE)
            try:
                os.fchmod(opened, _MODE)
                os.ftruncate(opened, self._size)  # what a crash or a full disk has cut
                if content and os.pwrite(opened, content, self._size) < len(content):
                    raise OSError(28, "No space left on device")
                if sync:
                    os.fsync(opened)
            finally:
                os.close(opened)
        except OSError as error:
            raise StorageError(f"cannot write {self._path}: {error.strerror}") from error
        self._size += len(content)
        self._pending.clear()


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a journal; none where there is no journal.

    Raises:
        StateError: a line is not what was written, or one is missing.
    """
    found: list[dict[str, Any]] = []
    chain = ""
    for number, line in enumerate(_whole_lines(path), 1):
        try:
            record = json.loads(line)
            claimed = record.pop("chain")
            expected = _chained(chain, record)
            _expect_facts(record)
            if claimed != expected or (found and record["n"] != found[-1]["n"] + 1):
                raise ValueError("it is not the line that was written")
            chain = expected
            found.append({**record, "chain": chain})
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise StateError(
                f"line {number} of {path} is damaged ({error}): bring the journal back, or move it "
                "away to begin another; what was learnt before can then not be taken back"
            ) from error
    return found


_NEEDED: Final[Mapping[str, Mapping[str, type[Any]]]] = {
    "learnt": {"edge": str, "run": str, "seq": int, "examples": int, "step": int},
    "restarted": {"void_from": int},
    "rolled back": {"lines": int},
    "forgot": {"edge": str},
}
"""What is read of each event; of others, their names alone."""


def _expect_facts(record: Mapping[str, Any]) -> None:
    """Raise a ValueError or KeyError where a line lacks what is read of it, or has another kind."""
    needed = {"n": int, "event": str, **_NEEDED.get(str(record["event"]), {})}
    wrong = [name for name, kind in needed.items() if type(record[name]) is not kind]
    if record["event"] == "learnt" and type(record["kept"]) not in (int, type(None)):
        wrong.append("kept")
    if wrong:
        raise ValueError(f"unexpected {', '.join(wrong)}")


def learnt(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the uploads that were learnt from, in order: void and forgotten ones left out.

    ``kept`` is the place of each in the store as it is now; None where it was not kept. ``undone``
    says that the weights went back to a state before it.
    """
    found: list[dict[str, Any]] = []
    for record in _valid(list(records)):
        if record["event"] == "learnt":
            found.append(dict(record, undone=False))
        elif record["event"] == "rolled back":
            for one in found:
                one["undone"] |= one["n"] > record["lines"]
        elif record["event"] == "forgot":
            found = [one for one in found if one["edge"] != record["edge"]]
            place = 0
            for one in found:  # the store was written without it
                if one["kept"] is not None:
                    one["kept"], place = place, place + 1
    return found


def _valid(records: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the lines without those that a crash has made void."""
    found: list[Mapping[str, Any]] = []
    for record in records:
        if record["event"] == "restarted":
            found = [one for one in found if one["n"] < record["void_from"]]
        found.append(record)
    return found


def _chained(chain: str, record: Mapping[str, Any]) -> str:
    content = json.dumps(record, sort_keys=True)
    return hashlib.sha256(f"{chain}\n{content}".encode()).hexdigest()


def _whole_lines(path: Path) -> list[bytes]:
    """Return the lines, without one that a crash has cut."""
    if not path.exists():
        return []
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StateError(f"cannot read {path}: {error.strerror}") from error
    return content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
