r"""What may be printed as it is: text without characters that lead a terminal or forge a line.

Names of classes and files, refusals of a peer and damaged files reach the terminal; none of them
may move the cursor, change the title or turn the direction of writing. :func:`printable` is applied
at the boundary: by the consoles of :mod:`eaves.report.stdout`, by the log, and by the command line.
"""

import re
from typing import Final

# Control characters of C0 and C1, DEL; separators that end a line for some programs; marks and
# overrides of the direction of writing; invisible ones; and what Python has in place of bytes of a
# file name that are no UTF-8, which no stream takes.
_UNSAFE: Final = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u206f"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff"
)
_IN_TEXT: Final = re.compile(f"[{_UNSAFE}]")
_IN_A_LINE: Final = re.compile(f"[{_UNSAFE}\t\n]")
_COLOUR: Final = re.compile(r"(\x1b\[[0-9;]*m)")


def printable(text: str) -> str:
    r"""Return ``text`` with such characters written out; line feeds and tabs stay.

    >>> printable("fine\x1b[2J, and\nthe next line")
    'fine\\x1b[2J, and\nthe next line'
    """
    return _IN_TEXT.sub(_written_out, text)


def printable_line(text: str) -> str:
    r"""Return ``text`` as one line: line feeds and tabs are written out, too.

    >>> printable_line("fine\x1b[2J, and\na forged line")
    'fine\\x1b[2J, and\\na forged line'
    """
    return _IN_A_LINE.sub(_written_out, text)


def printable_but_colours(text: str) -> str:
    r"""Return ``text`` as :func:`printable` does, but with colours as they are.

    For what another library has coloured: a forged colour leads a terminal nowhere.
    """
    parts = _COLOUR.split(text)
    return "".join(part if n % 2 else printable(part) for n, part in enumerate(parts))


def _written_out(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
