"""Streams that fail in every way lose what is printed, and nothing else."""

import errno
import io
import os
import sys
from typing import Any

import pytest

from eaves.report.streams import Guarded, OutputLostError, guarded_streams


class _Failing(io.StringIO):
    def __init__(self, error: Exception, *, at: str):
        super().__init__()
        self._error, self._at = error, at

    def write(self, text: str) -> int:
        if self._at == "write":
            raise self._error
        return super().write(text)

    def flush(self) -> None:
        if self._at == "flush":
            raise self._error


FAILURES = [
    BrokenPipeError(errno.EPIPE, "Broken pipe"),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EIO, "Input/output error"),
    ValueError("I/O operation on closed file"),
]


@pytest.mark.parametrize("at", ["write", "flush"])
@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_a_failure_is_kept_and_not_raised(error: Exception, at: str) -> None:
    guarded = Guarded(_Failing(error, at=at))
    for _ in range(3):
        assert guarded.write("abc") == 3
        guarded.flush()
    assert guarded.lost is not None
    if isinstance(error, OSError):
        assert guarded.lost is error


def test_a_command_of_output_alone_ends() -> None:
    guarded = Guarded(_Failing(FAILURES[0], at="write"))
    guarded.ends = True
    with pytest.raises(OutputLostError):
        guarded.write("abc")


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", "5 +-1 x 3 - \\u732b"),
        ("latin-1", "5 +-1 x 3 - \\u732b"),
        ("cp1252", "5 +-1 x 3 - \\u732b"),
        ("utf-8", "5 \xb11 \xd7 3 \u2013 \u732b"),
    ],
)
def test_characters_that_cannot_be_are_others(encoding: str, shown: str) -> None:
    raw = io.BytesIO()
    guarded = Guarded(io.TextIOWrapper(raw, encoding=encoding))
    guarded.write("5 \xb11 \xd7 3 \u2013 \u732b")
    guarded.flush()
    assert raw.getvalue().decode(encoding) == shown


def test_a_stream_that_is_not_there_takes_everything() -> None:
    guarded = Guarded(None)
    assert guarded.write("abc") == 3
    guarded.flush()
    guarded.writelines(["a", "b"])
    assert not guarded.isatty()
    assert guarded.encoding == "utf-8"
    with pytest.raises(AttributeError):
        _: Any = guarded.buffer


def test_what_waits_is_written_at_the_end_and_streams_are_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", stream)
    with guarded_streams() as (out, _):
        sys.stdout.write("kept")
        assert out.write("") == 0
        assert raw.getvalue() == b""
    assert raw.getvalue() == b"kept"
    assert id(sys.stdout) == id(stream)


def test_escapes_are_for_what_others_print() -> None:
    stream = io.StringIO()
    guarded = Guarded(stream)
    guarded.escapes = True
    guarded.write("\x1b[31m\x1b[2J")
    guarded.escapes = False
    guarded.write("\x1b[2K")
    assert stream.getvalue() == "\x1b[31m\\x1b[2J\x1b[2K"


def test_a_full_device_does_not_fail_again_when_python_ends() -> None:
    with open("/dev/full", "w") as full:  # closing it flushes, and would raise
        guarded = Guarded(full)
        guarded.write("abc")
        guarded.flush()
        assert guarded.lost is not None
        assert guarded.lost.errno == errno.ENOSPC
        assert os.fstat(full.fileno()).st_rdev == os.stat(os.devnull).st_rdev
