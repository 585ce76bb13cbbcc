"""The server's lists of what is revoked and which tokens there are, as files that may change.

The folder's owner writes them with `eaves certs`; a server that runs reads them again.
"""

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, TypeVar, final

from eaves.errors import ConfigError, StateError
from eaves.runtime.sealed import unsealed_json

EDGE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger(__name__)
T = TypeVar("T")


def expect_name(name: str) -> str:
    """Return the name of an edge if it can be one, and hence that of a folder.

    Raises:
        ConfigError: it cannot.

    >>> expect_name("../edge")
    Traceback (most recent call last):
    eaves.errors.ConfigError: expected a name of 1 to 64 letters, digits, '.', '_' and '-' that...
    """
    if not EDGE_NAME.fullmatch(name):
        raise ConfigError(
            "expected a name of 1 to 64 letters, digits, '.', '_' and '-' that begins with a "
            f"letter or digit, got {name[:80]!r}"
        )
    return name


@final
class Watched(Generic[T]):
    """What a file says, read again when it has changed; looks at most every ``recheck_s``."""

    def __init__(self, path: Path, read: Callable[[str], T], recheck_s: float):
        self._path, self._read, self._recheck_s = path, read, recheck_s
        self._stamp: tuple[int, ...] = ()
        self._value: T | None = None
        self._problem, self._next_s = "", 0.0

    def value(self) -> T:
        """Return what the file says.

        Raises:
            StateError: the file is missing or damaged.
        """
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + self._recheck_s
            self._look()
        if self._value is None:
            raise StateError(
                f"the server's list {self._path.name} is {self._problem}: no one is admitted until "
                "its operator has mended it"
            )
        return self._value

    def _look(self) -> None:
        value, problem = None, ""
        stamp = stamp_of(self._path)  # before reading: what is written in between is seen later
        if stamp and stamp == self._stamp:
            return
        try:
            value = self._read(self._path.read_text(encoding="utf-8"))
        except OSError as error:
            problem, stamp = f"not there or not readable ({error.strerror})", ()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            problem = "damaged"
        if problem and problem != self._problem:
            _log.error("no device is admitted: %s is %s", self._path, problem)
        self._value, self._problem, self._stamp = value, problem, stamp


def stamp_of(path: Path) -> tuple[int, ...]:
    """Return what changes when a file is written or replaced; nothing where it is not there."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


@final
@dataclass(frozen=True)
class TokenEntry:
    """A token that was given out, by its digest."""

    name: str
    digest: str = field(repr=False)
    revoked: bool


def read_revoked(text: str) -> frozenset[str]:
    """Return the fingerprints in ``revoked.json``.

    Raises:
        ValueError, TypeError, KeyError: it is damaged; no entry is passed over.
    """
    return frozenset(_digest(entry["sha256"]) for entry in _entries(text, "revoked"))


def read_tokens(text: str) -> tuple[TokenEntry, ...]:
    """Return the entries of ``tokens.json``.

    Raises:
        ValueError, TypeError, KeyError: it is damaged; no entry is passed over.
    """
    return tuple(
        TokenEntry(
            expect_name(entry["name"]), _digest(entry["sha256"]), entry["revoked"] is not None
        )
        for entry in _entries(text, "tokens")
    )


def by_digest(text: str) -> dict[str, TokenEntry]:
    """Return the entries of ``tokens.json`` by their digests; raises as :func:`read_tokens`."""
    return {entry.digest: entry for entry in read_tokens(text)}


def _entries(text: str, kind: str) -> list[dict[str, Any]]:
    found = unsealed_json(text.encode())[kind]
    if not isinstance(found, list):
        raise TypeError(f"expected a list of {kind}")
    return found


def _digest(value: str) -> str:
    if not _DIGEST.fullmatch(value):
        raise ValueError("expected 64 hexadecimal digits")
    return value
