"""The standard output as a console, and what is printed there in more than one place."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

ANSWERED_BY = {
    "exit": "the exit, on the edge",
    "cloud": "the cloud",
    "exit-late": "the exit, because the cloud did not answer in time",
    "none": "nobody: the cloud did not answer, and there is no exit",
}
"""In words, who answers an example."""
_PIPE_WIDTH = 140


def console() -> Console:
    """Return a console for the standard output; a pipe or file gets long lines, not a terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=max(found.width, _PIPE_WIDTH))


def print_lines(rows: Iterable[Mapping[str, Any]]) -> int:
    """Print each row as a line of JSON; return the exit code."""
    for row in rows:
        console().out(json.dumps(row), highlight=False)
    return 0


def plain_table(first: str, *others: str) -> Table:
    """Return a table of these columns, the first never broken."""
    table = Table(box=box.SIMPLE_HEAD, caption_justify="left")
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name)
    return table
