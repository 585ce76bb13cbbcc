"""The state of a learner is a value: two of them share nothing, and several are joined to one."""

from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eaves.core.state import State, joined, parted
from eaves.errors import StateError

NAMES = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1)
KEYS = st.text("ab/.0", min_size=1)  # a slash in what is behind the name is no matter
STATES = st.builds(
    State,
    st.dictionaries(KEYS, st.integers(-9, 9).map(torch.tensor), max_size=3),
    st.dictionaries(st.text(), st.none() | st.integers(), max_size=3),
)


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


# Several as one


@given(st.dictionaries(NAMES, STATES, max_size=4))
def test_what_was_joined_is_parted_again(states: dict[str, State]) -> None:
    whole = joined(states)
    assert len(whole.tensors) == sum(len(state.tensors) for state in states.values())
    assert parted(whole, states) == states


@given(STATES, STATES)
def test_two_with_the_same_keys_are_kept_apart(one: State, other: State) -> None:
    assert list(parted(joined({"a": one, "b": other}), "ba").items()) == [("b", other), ("a", one)]


def test_one_that_was_not_joined_comes_back_empty() -> None:
    """As a learner without weights has it; whoever needs more of it says so."""
    assert parted(State(), ["part"]) == {"part": State()}


@pytest.mark.parametrize(
    ("key", "names"), [("part/weights/a", ["noise"]), ("draws", ["draws"]), ("/a", ["part"])]
)
def test_the_state_of_another_learner_is_refused(key: str, names: list[str]) -> None:
    with pytest.raises(StateError, match="the saved state belongs to another learner"):
        parted(State({key: torch.zeros(1)}), names)
