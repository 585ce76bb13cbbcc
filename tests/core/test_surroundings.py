import random
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from eaves.core.surroundings import Surroundings, first_difference

LOG: list[int] = []
NUMBER = 0
TABLE = torch.zeros(2)


def _helper() -> None:
    LOG.append(1)


class Net(nn.Module):
    seen: ClassVar[dict[str, int]] = {}

    def __init__(self, change: str = "", closure: Any = None):
        super().__init__()
        self.change, self.closure = change, closure

    def forward(self, x: Tensor) -> Tensor:
        global NUMBER
        if self.change == "global":
            NUMBER += 1
        elif self.change == "list":
            _helper()
        elif self.change == "tensor":
            TABLE.add_(1)
        elif self.change == "class":
            type(self).seen["x"] = 1
        elif self.change == "closure":
            self.closure()
        elif self.change == "random":
            random.random()
        elif self.change == "numpy":
            np.random.rand()
        elif self.change == "torch":
            torch.rand(())
        elif self.change == "gradients":
            torch.set_grad_enabled(False)
        return x


def _closure() -> Any:
    calls = 0

    def count() -> int:
        nonlocal calls
        calls += 1
        return calls

    return count


PLACES = {
    "global": "the global variable NUMBER",
    "list": "the global variable LOG",
    "tensor": "the global variable TABLE",
    "class": "the class attribute Net.seen",
    "closure": "the variable calls of _closure.<locals>.count",
    "random": "Python's random generator",
    "numpy": "NumPy's random generator",
    "torch": "torch's random generator",
    "gradients": "whether gradients are kept",
}


@pytest.mark.parametrize("change", PLACES)
def test_what_forward_changes_outside_its_net_is_found_and_put_back(change: str) -> None:
    net = Net(change, _closure())
    surroundings = Surroundings(net)
    before = surroundings.state()
    with surroundings.kept():
        net(torch.zeros(1))
        assert first_difference(before, surroundings.state()) == PLACES[change]
    assert first_difference(before, surroundings.state()) is None
    assert (LOG, NUMBER, Net.seen, bool(TABLE.any())) == ([], 0, {}, False)
    assert torch.is_grad_enabled()


def test_everything_is_put_back_after_a_failure() -> None:
    def fail() -> None:
        with Surroundings(net).kept():
            net(torch.zeros(1))
            raise RuntimeError("in the middle")

    net = Net("list")
    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert LOG == []


def test_code_of_other_packages_is_not_followed() -> None:
    class Uses(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            pytest.importorskip("torch")
            return x

    assert not [place for place in Surroundings(Uses()).state() if "pytest" in place]
