"""Flags as they stand in a command: those that are given more than once.

A flag that takes a list takes it in pieces, too: what it is given each time adds up. Of all others
the last counts, as everywhere, so that a script may add to the flags that it is given.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar

from eaves.experiments.netconfig import PREFIXES, AgentConfig, InferConfig, ServeConfig
from eaves.experiments.settings import read_settings

Settings = TypeVar("Settings", ServeConfig, AgentConfig, InferConfig)

COMMA_LISTS: Final = frozenset(
    {
        "--attacks",
        "--codecs",
        "--compare",
        "--cuts",
        "--input-codecs",
        "--methods",
        "--private",
    }
)
"""Flags whose value is a list with commas between."""
MANY: Final = frozenset({"--host"})
"""Flags that take any number of words."""


def flags_of(argv: Sequence[str]) -> list[tuple[str, str | None]]:
    """Return the flags in ``argv`` with the word behind each, None where it is another flag.

    >>> flags_of(["train", "--epochs", "3", "--json", "--lr=0.1"])
    [('--epochs', '3'), ('--json', None), ('--lr', '0.1')]
    """
    found: list[tuple[str, str | None]] = []
    for i, word in enumerate(argv):
        if not word.startswith("--") or word == "--":
            continue
        name, equals, value = word.partition("=")
        behind = argv[i + 1] if i + 1 < len(argv) and not argv[i + 1].startswith("--") else None
        found.append((name.replace("_", "-"), value if equals else behind))
    return found


def value_of(flag: str, argv: Sequence[str]) -> str | None:
    """Return the value of a flag that counts: the last, as of all flags that take one.

    >>> value_of("--out", ["train", "--out", "a", "--out=b"])
    'b'
    """
    given = [value for name, value in flags_of(argv) if name == flag and value is not None]
    return given[-1] if given else None


def given_settings(kind: type[Settings], argv: Sequence[str]) -> Settings:
    """Return the settings of the file that ``--config`` names, and of the environment above it."""
    config = value_of("--config", argv)
    path = Path(config) if config else None
    return read_settings(kind, prefix=PREFIXES[kind], environ=os.environ, path=path)


def accumulated(argv: Sequence[str]) -> list[str]:
    """Return ``argv`` with the pieces of lists put together.

    >>> accumulated(["audit", "--attacks", "labels", "--attacks=rank"])
    ['audit', '--attacks', 'labels,rank']
    >>> accumulated(["init", "--host", "a", "--host", "b", "c"])
    ['init', '--host', 'a', 'b', 'c']
    """
    names = [name for name, value in flags_of(argv) if value is not None]
    words = list(argv)
    for name in sorted(COMMA_LISTS | MANY):
        if names.count(name) > 1:
            words = _gathered(words, name)
    return words


def _gathered(argv: Sequence[str], flag: str) -> list[str]:
    """Return ``argv`` with all values of ``flag`` behind its first place."""
    rest: list[str] = []
    values: list[str] = []
    at, i = None, 0
    while i < len(argv):
        name, equals, value = argv[i].partition("=")
        i += 1
        if name.replace("_", "-") != flag or not name.startswith("--"):
            rest.append(argv[i - 1])
            continue
        at = len(rest) if at is None else at
        if equals:
            values.append(value)
        while i < len(argv) and not argv[i].startswith("--") and (flag in MANY or not equals):
            values.append(argv[i])
            i += 1
            if flag not in MANY:
                break
    given = values if flag in MANY else [",".join(values)]
    return [*rest[:at], flag, *given, *rest[at:]]
