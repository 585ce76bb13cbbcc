"""The standard streams as consoles, and what is printed there in more than one place."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, final

from rich import box, markup
from rich.console import Console, ConsoleOptions, RenderableType
from rich.errors import MarkupError
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from eaves.report.printable import printable

ANSWERED_BY = {
    "exit": "the exit, on the edge",
    "cloud": "the cloud",
    "exit-late": "the exit, because the cloud did not answer in time",
    "none": "none: the cloud did not answer, and there is no exit",
}
"""In words, who answers an example."""
_PIPE_WIDTH = 140


@final
class PrintableConsole(Console):
    """A console on which no text, wherever it comes from, leads the terminal.

    Brackets and colons in a text are what they are, not markup or pictures.
    """

    def __init__(self, *, stderr: bool = False, width: int | None = None):
        """Print on the standard output, or the standard error stream."""
        super().__init__(stderr=stderr, width=width, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return ``text`` as a table lays it out: with its control characters written out."""
        if options.get("markup") is not False:  # else it is no text for a table, but JSON perhaps
            text = _unescaped(text)
        return super().render_str(printable(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Yield the parts of anything; those that rich itself leads the terminal with as they are.

        The last boundary: also for texts that came with their own layout.
        """
        for part in super().render(renderable, options):
            yield part if part.control else part._replace(text=printable(part.text))


def _unescaped(text: str) -> str:
    r"""Return ``text`` as it was before ``rich.markup.escape``, for consoles without markup.

    >>> print(_unescaped(r"net \[b]"), _unescaped("net [b]"), _unescaped("[/b]"))
    net [b] net [b] [/b]
    """
    try:
        found = markup.render(text, emoji=False)
    except MarkupError:
        return text
    return text if found.spans else found.plain


def console() -> Console:
    """Return a console for the standard output; a pipe or file gets long lines, not a terminal."""
    found = PrintableConsole()
    return found if found.is_terminal else PrintableConsole(width=max(found.width, _PIPE_WIDTH))


def error_console() -> Console:
    """Return a console for the standard error stream: progress, and what is no result."""
    return PrintableConsole(stderr=True)


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
