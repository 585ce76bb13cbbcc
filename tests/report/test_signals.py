"""The first signal asks, the second insists; handlers are as they were afterwards."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from eaves.report.signals import ENDING, Interrupted, exit_code_of, interruptible, unwinding


@pytest.mark.parametrize("number", ENDING)
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
    numbers = ENDING
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


@pytest.mark.parametrize("number", ENDING)
def test_what_has_ended_a_command_is_its_exit_code(number: signal.Signals) -> None:
    with unwinding(), pytest.raises(Interrupted) as ended:
        signal.raise_signal(number)
    assert exit_code_of(ended.value) == 128 + number
    with interruptible() as asked:
        signal.raise_signal(number)
    assert exit_code_of(asked.interruption()) == 128 + number


def test_a_terminal_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        for context in (interruptible, unwinding):
            with context():
                assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", ENDING)
def test_a_third_signal_ends_the_process_whatever_waits(number: signal.Signals) -> None:
    code = f"""
import signal
from eaves.report.signals import interruptible
with interruptible():
    try:
        signal.raise_signal({number})
        signal.raise_signal({number})
    except KeyboardInterrupt:
        signal.raise_signal({number})
        print("went on")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (128 + number, b"", b"")


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_while_something_is_imported_ends_at_once(
    tmp_path: Path, number: signal.Signals
) -> None:
    """A module that catches everything does not keep the process."""
    (tmp_path / "greedy.py").write_text(
        "import os, signal\n"
        f"try:\n    signal.raise_signal({number})\nexcept BaseException:\n    pass\n"
    )
    code = """
from eaves.report.signals import unwinding
with unwinding():
    import greedy
print("went on")
"""
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, env=environ
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (128 + number, b"", b"")
