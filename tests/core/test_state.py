"""The state of a learner is a value: two of them share nothing."""

from dataclasses import FrozenInstanceError

import pytest
import torch

from eaves.core.state import State


def test_an_empty_state_is_its_own() -> None:
    one, other = State(), State()
    one.tensors["weights/a"] = torch.ones(1)
    one.facts["steps"] = 1
    assert other == State({}, {})


def test_a_state_cannot_be_given_other_contents() -> None:
    state = State({}, {"steps": 3})
    with pytest.raises(FrozenInstanceError):
        state.facts = {}  # type: ignore[misc]
    assert state.facts == {"steps": 3}
