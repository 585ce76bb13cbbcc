"""Ctrl-C and SIGTERM as a wish to end, which loses nothing."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import final


@final
@dataclass
class Asked:
    """Set ``stop`` when a signal has asked to end."""

    stop: threading.Event = field(default_factory=threading.Event)
    number: int | None = None

    def raise_if_interrupted(self) -> None:
        """Raise ``KeyboardInterrupt`` where it was Ctrl-C; a service that is stopped ends well."""
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[Asked]:
    """Turn the first Ctrl-C (or SIGTERM) into an event; the second interrupts at once."""
    asked = Asked()

    def take(number: int, frame: FrameType | None) -> None:
        if asked.stop.is_set():
            raise KeyboardInterrupt
        asked.number = number
        asked.stop.set()

    before = {number: signal.signal(number, take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
