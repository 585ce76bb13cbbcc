import sys
from collections.abc import Callable, Iterable, Sized
from functools import singledispatch
from types import FrameType

import pytest
import torch
from torch import Tensor, nn

from eaves.core.typechecks import asker


class Asked:
    """Notes who asks for its type."""

    def __init__(self) -> None:
        self.by: list[str] = []

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        frame: FrameType | None = asker(sys._getframe(1))
        if frame is not None:
            self.by.append(frame.f_code.co_name)
        return Asked

    def __len__(self) -> int:
        return 3


@singledispatch
def _dispatched(x: object) -> None: ...


def _matches(x: object) -> bool:
    match x:
        case Tensor():
            return True
    return False


ASKING: dict[str, Callable[[Asked], object]] = {
    "isinstance": lambda x: isinstance(x, Tensor),
    "a parameter": lambda x: isinstance(x, nn.Parameter),
    "one of several": lambda x: 1 if isinstance(x, (int, Tensor)) else 2,
    "an abstract class": lambda x: isinstance(x, Iterable),
    "is_tensor": torch.is_tensor,
    "match": _matches,
    "__class__": lambda x: x.__class__,
    "dispatch": _dispatched,
}
NOT_ASKING: dict[str, Callable[[Asked], object]] = {
    "type": lambda x: type(x),
    "length": lambda x: (len(x), isinstance(3, Sized)),
    "identity": lambda x: x is None,
    "torch": lambda x: torch.overrides.has_torch_function([x]),
}


@pytest.mark.parametrize("name", ASKING)
def test_code_that_asks_for_a_type_is_noticed(name: str) -> None:
    asked = Asked()
    ASKING[name](asked)
    assert asked.by


@pytest.mark.parametrize("name", NOT_ASKING)
def test_other_code_is_not(name: str) -> None:
    asked = Asked()
    NOT_ASKING[name](asked)
    assert not asked.by
