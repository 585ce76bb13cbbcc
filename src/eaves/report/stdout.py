"""The standard output as a console."""

from rich.console import Console

_PIPE_WIDTH = 140


def console() -> Console:
    """Return a console for the standard output; a pipe or file gets long lines, not a terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=max(found.width, _PIPE_WIDTH))
