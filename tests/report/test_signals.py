"""The first signal asks, the second insists; handlers are as they were afterwards."""

import signal

import pytest

from eaves.report.signals import interruptible


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks(number: signal.Signals) -> None:
    with interruptible() as asked:
        assert not asked.stop.is_set()
        signal.raise_signal(number)
        assert asked.stop.is_set()
        assert asked.number == number


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_second_interrupts_at_once(first: signal.Signals, second: signal.Signals) -> None:
    with interruptible() as asked:
        signal.raise_signal(first)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(second)
    assert asked.number == first


def test_only_ctrl_c_is_an_interruption() -> None:
    with interruptible() as asked:
        asked.raise_if_interrupted()  # nobody has asked
        signal.raise_signal(signal.SIGTERM)
        asked.raise_if_interrupted()  # a service that is stopped ends well
    with interruptible() as asked:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            asked.raise_if_interrupted()


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_handlers_are_given_back(error: type[Exception] | None) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    try:
        with interruptible():
            assert [signal.getsignal(number) for number in numbers] != before
            if error is not None:
                raise error
    except RuntimeError:
        pass
    assert [signal.getsignal(number) for number in numbers] == before


def test_an_event_within_another_is_its_own() -> None:
    with interruptible() as outer:
        with interruptible() as inner:
            signal.raise_signal(signal.SIGTERM)
        assert inner.stop.is_set()
        assert not outer.stop.is_set()
