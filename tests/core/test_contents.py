from collections import deque
from typing import Any

import numpy as np
import pytest
import torch

from eaves.core.contents import content, equal, refill, same

VALUES: dict[str, tuple[Any, Any]] = {
    "list": ([1, [2]], lambda v: v[1].append(3)),
    "dict": ({"a": {"b": 1}}, lambda v: v["a"].update(b=2)),
    "set": ({1, 2}, lambda v: v.add(3)),
    "deque": (deque([1]), lambda v: v.appendleft(0)),
    "tensor": (torch.zeros(2), lambda v: v.add_(1)),
    "array": (np.zeros(2), lambda v: v.fill(3)),
    "tensor in a tuple": ((torch.zeros(2),), lambda v: v[0].add_(1)),
}


@pytest.mark.parametrize("name", VALUES)
def test_what_was_changed_in_place_is_seen_and_put_back(name: str) -> None:
    value, change = VALUES[name]
    before = content(value)
    assert same(content(value), before)
    change(value)
    assert not same(content(value), before)
    refill(value, before)
    assert same(content(value), before)


def test_a_value_within_itself_ends() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert same(content(loop), content(loop))


def test_nan_equals_nan_and_types_count() -> None:
    nan = torch.tensor([1.0, float("nan")])
    assert equal(nan, nan.clone())
    assert not equal(nan, torch.tensor([1.0, 2.0]))
    assert not equal(torch.zeros(2), torch.zeros(2, dtype=torch.float64))
    assert not equal(torch.zeros(2), torch.zeros(2, 1))
    assert same(float("nan"), float("nan"))
    assert not same(1, 1.0)
    assert not same(1, True)
    assert same(object(), object())
