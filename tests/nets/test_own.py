import sys
from pathlib import Path

import pytest
import torch

from eaves.core.net import cut_points, split_at
from eaves.errors import ConfigError
from eaves.nets.build import build_net

SOURCE = """
from __future__ import annotations
from dataclasses import dataclass
from math import prod
from torch import nn
from eaves.core.net import StagedNet

@dataclass
class Widths:
    hidden: int = 8

class Plain(nn.Module):
    def __init__(self, classes, input_shape):
        super().__init__()
        self.flat = nn.Flatten()
        self.hidden = nn.Linear(prod(input_shape), Widths().hidden)
        self.out = nn.Linear(Widths().hidden, classes)

    def forward(self, x):
        return self.out(self.hidden(self.flat(x)).relu())

def by_stages(classes, input_shape):
    net = Plain(classes, input_shape)
    return StagedNet([("edge", nn.Sequential(net.flat, net.hidden)), ("cloud", net.out)])

def wrong_arguments(size):
    return Plain(2, (1, 1, 1))

def no_module(classes, input_shape):
    return 3

def one_class_too_many(classes, input_shape):
    return Plain(classes + 1, input_shape)

def broken(classes, input_shape):
    raise LookupError("from the user's own code")

number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


def _message(name: str) -> str:
    with pytest.raises(ConfigError) as caught:
        build_net(name, classes=4, input_shape=(1, 5, 6))
    return str(caught.value)


def test_a_plain_module_is_traced_and_cut(file: Path) -> None:
    net = build_net(f"{file}:Plain", classes=4, input_shape=(1, 5, 6))
    assert cut_points(net) == ("flat", "hidden", "relu")
    x_BCHW = torch.randn(2, 1, 5, 6)
    split = split_at(net, "hidden")
    assert torch.equal(split.cloud(split.edge(x_BCHW)), net(x_BCHW))


def test_stages_of_ones_own_are_taken_as_they_are(file: Path) -> None:
    net = build_net(f"{file}:by_stages", classes=4, input_shape=(1, 5, 6))
    assert net.names == ("edge", "cloud")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert f"expected a Python file at {tmp_path / 'none.py'}" in _message(
        f"{tmp_path}/none.py:Net"
    )


@pytest.mark.parametrize("attribute", ["Plane", "number"])
def test_a_missing_name_lists_what_the_file_defines(file: Path, attribute: str) -> None:
    message = _message(f"{file}:{attribute}")
    assert f"'{attribute}'; choose from: " in message
    choices = message.partition("choose from: ")[2].split(", ")
    assert {"Plain", "by_stages"} < set(choices)
    assert not {"nn", "prod", "StagedNet", "number"} & set(choices)


def test_the_likeliest_name_comes_first(file: Path) -> None:
    assert "choose from: Plain, " in _message(f"{file}:Plane")


def test_an_empty_file_has_no_nets(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("")
    assert "defines no function or class" in _message(f"{tmp_path}/empty.py:Net")


def test_a_function_of_other_arguments_says_how_to_write_it(file: Path) -> None:
    assert "write it as wrong_arguments(classes, input_shape)" in _message(
        f"{file}:wrong_arguments"
    )


def test_what_is_not_a_module_is_refused(file: Path) -> None:
    assert "to return an nn.Module, got int" in _message(f"{file}:no_module")


def test_a_net_of_another_number_of_classes_is_refused(file: Path) -> None:
    assert "with 4 logits, got shape (5,)" in _message(f"{file}:one_class_too_many")


def test_what_the_users_code_raises_is_passed_on(file: Path) -> None:
    with pytest.raises(LookupError, match="own code"):
        build_net(f"{file}:broken", classes=4, input_shape=(1, 5, 6))


def test_a_file_that_fails_leaves_no_module_behind(tmp_path: Path) -> None:
    before = set(sys.modules)
    (tmp_path / "bad.py").write_text("import dataclasses\n1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        build_net(f"{tmp_path}/bad.py:Net", classes=4, input_shape=(1, 5, 6))
    assert not [name for name in set(sys.modules) - before if "bad.py" in name]
