"""No text leads a terminal, forges a line or breaks a stream; what is harmless stays as it is."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from eaves.report.printable import printable, printable_but_colours, printable_line

BAD = ["\x1b[2J", "\x07", "\x9b31m", "\x1b]0;title\x07", "\u202e", "\u2066", "\x7f", "\r", "\ud800"]


def test_what_leads_a_terminal_is_written_out() -> None:
    for bad in BAD:
        assert printable(f"a{bad}b") != f"a{bad}b"
        assert printable(f"a{bad}b").isprintable()
    assert printable("a\x1b[2Jb") == "a\\x1b[2Jb"


def test_what_is_harmless_stays() -> None:
    for text in ("fine", "Größe", "猫 🐈", "a\tb\nc", "a\u200dz"):
        assert printable(text) == text


def test_a_line_stays_one() -> None:
    assert printable_line("a\nb\tc\r\n") == "a\\nb\\tc\\r\\n"


def test_colours_of_others_stay_and_nothing_else_of_theirs() -> None:
    assert printable_but_colours("\x1b[1;31mred\x1b[0m") == "\x1b[1;31mred\x1b[0m"
    assert printable_but_colours("\x1b[2J\x1b[1m") == "\\x1b[2J\x1b[1m"


@given(st.text(st.characters(exclude_categories=[])))
def test_no_text_has_control_characters_left(text: str) -> None:
    shown = printable_line(text)
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    shown.encode()  # any stream of UTF-8 takes it
    assert printable_line(shown) == shown
