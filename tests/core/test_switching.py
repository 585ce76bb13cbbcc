"""Quick while it lasts, and as before afterwards, whatever happens."""

import sys

import pytest

from eaves.core.switching import quick_switching


def test_the_interpreter_switches_quickly_and_then_as_before() -> None:
    before = sys.getswitchinterval()
    with quick_switching():
        assert sys.getswitchinterval() == pytest.approx(0.0005)
    assert sys.getswitchinterval() == before


def test_an_error_changes_nothing_about_that() -> None:
    before = sys.getswitchinterval()
    with pytest.raises(KeyError), quick_switching():
        raise KeyError
    assert sys.getswitchinterval() == before
