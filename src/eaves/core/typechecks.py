"""Notice when code asks for the type of an object, by ``isinstance`` or ``__class__``.

torch itself asks for the type of everything that it is given, and so does C code: only questions
that stand in Python code outside torch count.
"""

import dis
from functools import cache
from types import CodeType, FrameType

import torch

_NOT_ASKING = ("torch", "eaves", "inspect", "copy")
_LOADS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_FAST")
_ASKS = ("isinstance", "issubclass")

_Place = tuple[int | None, int | None]


def asker(frame: FrameType | None) -> FrameType | None:
    """Return the frame whose code asks, from that in which ``__class__`` is read, or None."""
    while frame is not None and _asks_for_others(frame):
        frame = frame.f_back
    if frame is None or frame.f_code is torch.is_tensor.__code__:
        return frame
    if str(frame.f_globals.get("__name__", "")).partition(".")[0] in _NOT_ASKING:
        return None
    return frame if frame.f_lasti // 2 in _asking(frame.f_code) else None


def _asks_for_others(frame: FrameType) -> bool:
    """Return whether the code is a part of ``isinstance``, as that of abstract classes is."""
    module = frame.f_globals.get("__name__")
    return module in ("abc", "_py_abc", "typing") or frame.f_code.co_name == "__instancecheck__"


@cache
def _asking(code: CodeType) -> frozenset[int]:
    """Return the numbers of the instructions that ask for a type."""
    places = list(code.co_positions())
    names: set[_Place] = set()
    asking: set[int] = set()
    for instruction in dis.get_instructions(code):
        number = instruction.offset // 2
        if instruction.opname in _LOADS and instruction.argval in _ASKS:
            names.add(_start(places[number]))
        if instruction.opname == "MATCH_CLASS" or instruction.argval == "__class__":
            asking.add(number)
    # A call begins in the source where the name of what is called does.
    return frozenset(asking | {i for i, place in enumerate(places) if _start(place) in names})


def _start(place: tuple[int | None, int | None, int | None, int | None]) -> _Place:
    return place[0], place[2]
