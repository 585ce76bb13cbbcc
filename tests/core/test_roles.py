"""What passes between the halves, and what a half without weights of its own still does."""

import copy
import logging
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from eaves.core.optimise import OneCycle, Optimised
from eaves.core.roles import (
    Batch,
    CloudLearner,
    CloudPredictor,
    EdgeLearner,
    EdgePredictor,
    Losses,
    PrivateLabels,
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


# What the cloud shall not learn

SECRET = PrivateLabels(torch.tensor([[7, 1], [5, 0], [3, 1]]), ("Age", "Male"))


def test_private_labels_are_found_by_name() -> None:
    assert SECRET.of("Age").tolist() == [7, 5, 3]
    assert SECRET.of("Male").tolist() == [1, 0, 1]
    assert len(SECRET) == 3
    with pytest.raises(ValueError, match="expected one of Age, Male, got 'Young'"):
        SECRET.of("Young")


@pytest.mark.parametrize(
    "labels_BA",
    [
        torch.zeros(3, 2),
        torch.zeros(3, 2, dtype=torch.int32),
        torch.zeros(3, 1, dtype=torch.int64),
        torch.zeros(3, dtype=torch.int64),
        torch.zeros(3, 2, 1, dtype=torch.int64),
    ],
)
def test_private_labels_have_a_column_for_each_name(labels_BA: Tensor) -> None:
    message = r"expected int64 labels of shape \(B, 2\) for Age, Male, got "
    with pytest.raises(ValueError, match=message):
        PrivateLabels(labels_BA, ("Age", "Male"))


@pytest.mark.parametrize("place", ["features", "labels"])
def test_private_labels_fit_no_upload(place: str) -> None:
    assert not isinstance(SECRET, Tensor)
    given: dict[str, Any] = {"features": torch.ones(3, 2), "labels": torch.zeros(3)}
    given[place] = SECRET
    with pytest.raises(TypeError, match=r"^an Upload carries tensors alone, got PrivateLabels\(3"):
        Upload(**given)
    with pytest.raises(TypeError, match="carries tensors alone"):
        replace(Upload(torch.ones(3, 2), torch.zeros(3)), **{place: given[place]})


@pytest.mark.parametrize("leave", [pickle.dumps, copy.copy, copy.deepcopy])
def test_private_labels_are_not_copied_into_what_leaves(leave: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="private labels do not leave the edge"):
        leave(SECRET)


@pytest.mark.parametrize("leave", [pickle.dumps, copy.deepcopy])
def test_nor_is_a_batch_that_holds_them(leave: Callable[[Any], Any]) -> None:
    batch = Batch(torch.ones(3, 2), torch.zeros(3), SECRET)
    with pytest.raises(TypeError, match="private labels do not leave the edge"):
        leave({"payload": [batch]})
    leave({"payload": [replace(batch, private=None)]})


def test_what_shows_private_labels_shows_no_label(caplog: pytest.LogCaptureFixture) -> None:
    shown = "PrivateLabels(3 of Age, Male)"
    assert repr(SECRET) == str(SECRET) == f"{SECRET}" == shown
    batch = Batch(torch.ones(3, 2), torch.zeros(3), SECRET)
    assert repr(batch).endswith(f"private={shown})")
    logging.getLogger("eaves.test").error("a batch failed: %s", batch)
    assert shown in caplog.text
    assert "[7, 1]" not in caplog.text


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
