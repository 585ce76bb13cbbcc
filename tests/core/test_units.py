"""Quantities in words, by a table and by what holds for all of them."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaves.core.units import bytes_text, joules_text, seconds_text

UNITS = {
    bytes_text: {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9},
    seconds_text: {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0},
    joules_text: {"J": 1.0, "kJ": 1e3, "MJ": 1e6},
}
TEXTS = st.sampled_from(list(UNITS))


@pytest.mark.parametrize(
    ("text", "quantity", "words"),
    [
        (bytes_text, 0, "0 B"),
        (bytes_text, 999, "999 B"),
        (bytes_text, 999.6, "1.0 kB"),
        (bytes_text, 1000, "1.0 kB"),
        (bytes_text, 999_960, "1.0 MB"),
        (bytes_text, 1_250_000, "1.2 MB"),
        (bytes_text, 999_970_000, "1.0 GB"),
        (bytes_text, 5e12, "5000.0 GB"),
        (seconds_text, 0, "0 ms"),
        (seconds_text, 0.0123, "12.3 ms"),
        (seconds_text, 0.9994, "999 ms"),
        (seconds_text, 0.9996, "1.00 s"),
        (seconds_text, 1, "1.00 s"),
        (seconds_text, 9.98, "9.98 s"),
        (seconds_text, 59.94, "59.9 s"),
        (seconds_text, 299, "299 s"),
        (seconds_text, 300, "5.0 min"),
        (seconds_text, 17_999, "300.0 min"),
        (seconds_text, 18_000, "5.0 h"),
        (joules_text, 0, "0 J"),
        (joules_text, 0.0123, "0.0123 J"),
        (joules_text, 999.4, "999 J"),
        (joules_text, 999.7, "1.0 kJ"),
        (joules_text, 999_960, "1.0 MJ"),
        (joules_text, 2.5e6, "2.5 MJ"),
    ],
)
def test_a_quantity_in_words(text: Callable[[float], str], quantity: float, words: str) -> None:
    assert text(quantity) == words


@given(text=TEXTS, quantity=st.floats(1e-3, 1e12))
def test_the_words_mean_the_quantity(text: Callable[[float], str], quantity: float) -> None:
    if text is bytes_text:
        quantity = float(round(quantity))
    number, unit = text(quantity).split(" ")
    # Two digits at least: off by half of the last one, which is 5 % of 1.0.
    assert float(number) * UNITS[text][unit] == pytest.approx(quantity, rel=0.0501)


@given(text=TEXTS, quantity=st.floats(1e-3, 1e12))
def test_a_number_is_plain_and_below_1000_but_in_the_largest_unit(
    text: Callable[[float], str], quantity: float
) -> None:
    number, unit = text(quantity).split(" ")
    assert re.fullmatch(r"\d+(\.\d+)?", number)
    assert float(number) < 1000 or unit == list(UNITS[text])[-1]
