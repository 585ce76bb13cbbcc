"""The standard streams of a command, which never end it with a traceback.

A reader that has gone (``| head``), a full disk (``> /dev/full``), a stream that is closed
(``>&-``) and an encoding that lacks a character are no mistakes of the command. What cannot be
encoded is written in other characters. What cannot be written is dropped: a command whose results
are on disk goes on and ends as if it had printed; one that has nothing but its output ends.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TextIO, final

from eaves.report.printable import printable_but_colours

PIPE_CLOSED: Final = 141
"""The exit code of a command whose reader has gone: 128 + SIGPIPE, as shells report it."""
_PLAIN: Final = str.maketrans(
    {
        "\N{EN DASH}": "-",
        "\N{EM DASH}": "-",
        "\N{MULTIPLICATION SIGN}": "x",
        "\N{MIDDLE DOT}": ".",
        "\N{PLUS-MINUS SIGN}": "+-",
        "\N{HORIZONTAL ELLIPSIS}": "...",
        "\N{RIGHTWARDS ARROW}": "->",
        "\N{LESS-THAN OR EQUAL TO}": "<=",
        "\N{GREATER-THAN OR EQUAL TO}": ">=",
        "\N{MICRO SIGN}": "u",
        "\N{SUPERSCRIPT TWO}": "^2",
        "\N{RIGHT SINGLE QUOTATION MARK}": "'",
        "\N{BULLET}": "*",
    }
)
"""What the house prints beyond ASCII, for streams that cannot."""


@final
class OutputLostError(BaseException):
    """The standard output cannot be written any more, and there is no other result."""


@final
class Guarded:
    """A text stream that passes on what it is given, and never raises an :class:`OSError`.

    ``lost`` is why nothing is written any more. With ``ends``, the first loss raises
    :class:`OutputLostError`. ``had_to_be_read`` says that the output is all that a command has.
    With ``escapes``, what would lead a terminal is written out.
    """

    def __init__(self, stream: TextIO | None):
        self._stream = stream
        self.lost: OSError | None = None
        self.ends = self.had_to_be_read = self.escapes = False

    def write(self, text: str) -> int:
        """Write ``text``, in other characters where the encoding lacks some."""
        if self._stream is None or self.lost:
            return len(text)
        if self.escapes:
            text = printable_but_colours(text)
        try:
            self._stream.write(_encodable(text, self._stream))
        except OSError as error:
            self._lose(error)
        except ValueError as error:  # it was closed
            self._lose(OSError(errno.EBADF, str(error)))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each of ``lines``."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what waits."""
        if self._stream is None or self.lost:
            return
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)
        except ValueError as error:
            self._lose(OSError(errno.EBADF, str(error)))

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:
            return False

    @property
    def encoding(self) -> str:
        """How characters become bytes."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def __getattr__(self, name: str) -> Any:
        if self._stream is None:
            raise AttributeError(name)
        return getattr(self._stream, name)

    def _lose(self, error: OSError) -> None:
        self.lost = error
        # What waits in its buffer would fail again when Python ends.
        with suppress(OSError, ValueError, AttributeError):
            assert self._stream is not None
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, self._stream.fileno())
            os.close(devnull)
        if self.ends:
            raise OutputLostError


def _encodable(text: str, stream: TextIO) -> str:
    """Return ``text`` in characters that ``stream`` can write."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
        return text
    except UnicodeEncodeError:
        plain = text.translate(_PLAIN)
        return plain.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        return text


@contextmanager
def guarded_streams() -> Iterator[tuple[Guarded, Guarded]]:
    """Guard the standard output and error streams; at the end, all is written or lost."""
    _open_what_is_closed()
    before = sys.stdout, sys.stderr
    out, err = Guarded(sys.stdout), Guarded(sys.stderr)
    sys.stdout, sys.stderr = out, err
    try:
        yield out, err
    finally:
        out.ends = False
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def _open_what_is_closed() -> None:
    """Open descriptors 0 to 2 where they are closed: else the next file would be printed to."""
    for stream in (0, 1, 2):
        try:
            os.fstat(stream)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # takes the lowest one that is free
