"""``python -m eaves`` is the command ``eaves``."""

import os
import signal
import sys
from types import FrameType


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


def run() -> int:
    """Run the command line as a process of its own; return its exit code.

    Signals are handled first: importing takes longer than many need to change their mind.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if not (number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN):
            signal.signal(number, _leave)
    from eaves.commands.main import main

    code = main()
    if code > 128:  # interrupted: whatever still waits in a thread does not keep the process
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(run())
