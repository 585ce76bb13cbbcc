"""How soon one thread hands the interpreter to another."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# Both halves spend their time in torch, which releases the interpreter: at this interval two in
# threads were measured to run at 0.9 to 1.0 of their speed alone.
_SWITCH_S: Final = 0.0005  # 5 ms, the usual, would stall the other side


@contextmanager
def quick_switching() -> Iterator[None]:
    """Let threads of both halves take turns quickly while the context is open."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
