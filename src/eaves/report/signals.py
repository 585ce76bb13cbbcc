"""Signals that ask a process to end: Ctrl-C, SIGTERM, and SIGHUP of a terminal that was closed.

Three ways, from the start of a process on:

1. While modules are imported nothing is worth keeping: the process ends at once. A
   ``KeyboardInterrupt`` there may be caught by what is imported, and hide or hang.
2. While a command runs, the signal is an :class:`Interrupted`, which unwinds it.
3. Within :func:`interruptible` the first signal is a wish, which loses nothing; the second is as
   above; a third ends the process at once, whatever waits.

The exit code is 128 and the number of the signal, as shells report it.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final, final

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_Handler = Callable[[int, FrameType | None], Any]


@final
class Interrupted(KeyboardInterrupt):
    """A signal has ended a command."""

    def __init__(self, number: int = signal.SIGINT):
        super().__init__(signal.Signals(number).name)
        self.number = number


def exit_code_of(error: KeyboardInterrupt) -> int:
    """Return what a shell reports for a process that this signal ended.

    >>> exit_code_of(KeyboardInterrupt()), exit_code_of(Interrupted(signal.SIGTERM))
    (130, 143)
    """
    return 128 + (error.number if isinstance(error, Interrupted) else signal.SIGINT)


@final
@dataclass
class Asked:
    """Set ``stop`` when a signal has asked to end."""

    stop: threading.Event = field(default_factory=threading.Event)
    number: int | None = None

    def raise_if_interrupted(self) -> None:
        """Raise :class:`Interrupted` where it was Ctrl-C; a service that is stopped ends well."""
        if self.number == signal.SIGINT:
            raise Interrupted(self.number)

    def interruption(self) -> Interrupted:
        """Return what to raise where any of the signals has cut the work short."""
        return Interrupted(self.number or signal.SIGINT)


@contextmanager
def interruptible() -> Iterator[Asked]:
    """Turn the first signal into an event; the second interrupts, the third ends the process."""
    asked, times = Asked(), 0

    def take(number: int, frame: FrameType | None) -> None:
        nonlocal times
        times += 1
        if times > 2:
            os._exit(128 + number)
        if times > 1 or asked.stop.is_set():
            raise Interrupted(number)
        asked.number = number
        asked.stop.set()

    with _handled(take):
        yield asked


@contextmanager
def unwinding() -> Iterator[None]:
    """Turn signals into :class:`Interrupted`; while something is imported they end the process."""

    def take(number: int, frame: FrameType | None) -> None:
        if _imports(frame):
            os._exit(128 + number)
        raise Interrupted(number)

    with _handled(take):
        yield


@contextmanager
def _handled(take: _Handler) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread gets signals
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    for number in ENDING:
        # `nohup` has a terminal that is closed ignored.
        if not (number == signal.SIGHUP and before[number] is signal.SIG_IGN):
            signal.signal(number, take)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _imports(frame: FrameType | None) -> bool:
    """Return whether a module is being imported where the signal came."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
