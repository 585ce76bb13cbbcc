"""What passes between the halves, and what a half without weights of its own still does."""

from typing import ClassVar

import pytest
import torch
from torch import nn

from eaves.core.optimise import OneCycle, Optimised
from eaves.core.roles import (
    Batch,
    CloudLearner,
    CloudPredictor,
    EdgeLearner,
    EdgePredictor,
    Losses,
    Upload,
)
from eaves.core.state import State


class _Edge(EdgeLearner):
    one_way: ClassVar[bool] = True

    def __init__(self, part: Optimised | None):
        self._part = part

    @property
    def part(self) -> Optimised | None:
        return self._part

    def step(self, batch: Batch) -> tuple[Upload, Losses]:
        return Upload(batch.inputs, batch.labels), {}


def _part() -> Optimised:
    return Optimised({"a": nn.Linear(3, 2)}, OneCycle(total_steps=4), torch.device("cpu"))


def test_an_upload_refuses_features_with_a_gradient() -> None:
    features, labels = torch.ones(2, 3, requires_grad=True), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="an Upload carries no gradient: detach its features"):
        Upload(features, labels)
    with pytest.raises(ValueError, match="detach"):
        Upload(features * 2, labels)
    upload = Upload(features.detach(), labels)
    assert upload.features.data_ptr() == features.data_ptr()
    assert upload.labels is labels


@pytest.mark.parametrize("role", [EdgeLearner, CloudLearner, EdgePredictor, CloudPredictor])
def test_a_role_is_abstract(role: type) -> None:
    with pytest.raises(TypeError, match="abstract"):
        role()


def test_a_half_without_weights_has_an_empty_state() -> None:
    edge = _Edge(None)
    assert edge.state() == State({}, {})
    edge.load_state(State({}, {}))
    assert edge.state_bytes() == 0


def test_the_state_of_a_half_is_that_of_its_part() -> None:
    first, second = _Edge(_part()), _Edge(_part())
    assert first.part is not None
    second.load_state(first.state())
    assert second.state().facts == {"steps": 0}
    expected = first.part.state().tensors
    assert second.state().tensors.keys() == expected.keys()
    assert all(torch.equal(v, expected[k]) for k, v in second.state().tensors.items())
    assert first.state_bytes() == first.part.state_bytes() == 3 * 4 * (6 + 2)


def test_a_one_way_edge_takes_no_reply() -> None:
    with pytest.raises(TypeError, match="_Edge is one-way and takes no reply"):
        _Edge(None).receive(torch.zeros(1))
