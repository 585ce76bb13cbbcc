"""Private attributes: chosen by name, taken by index, refused where the task's labels tell them.

Dimension key:  N examples   A attributes
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eaves.core.roles import PrivateLabels
from eaves.data.private import choose_private, named, refuse_known, take
from eaves.errors import ConfigError

_NAMES = ("Bald", "Male", "Smiling", "smiling")


def _labels(*attributes: list[int]) -> PrivateLabels:
    names = tuple("abc"[: len(attributes)])
    return PrivateLabels(torch.tensor(attributes).T.contiguous(), names)


def test_a_name_is_found_as_it_is_written_else_in_any_case() -> None:
    assert named("attribute", "MALE", _NAMES) == "Male"
    assert named("attribute", "smiling", _NAMES) == "smiling"
    assert named("attribute", "Smiling", _NAMES) == "Smiling"
    with pytest.raises(ConfigError, match="unknown attribute 'SMILING'"):  # which of the two?
        named("attribute", "SMILING", _NAMES)
    with pytest.raises(ConfigError, match="unknown attribute 'Mael'; choose from: Male, "):
        named("attribute", "Mael", _NAMES)


def test_the_order_is_that_of_the_question() -> None:
    assert choose_private(["male", "BALD"], _NAMES, task="Smiling") == ("Male", "Bald")
    assert choose_private([], _NAMES) == ()


def test_the_task_itself_and_repetitions_are_refused() -> None:
    with pytest.raises(ConfigError, match="the private attribute is the task itself: Male"):
        choose_private(["Bald", "male"], _NAMES, task="Male")
    with pytest.raises(ConfigError, match="the private attribute Bald is given twice"):
        choose_private(["bald", "Male", "Bald"], _NAMES)


def test_what_is_taken_is_a_copy_in_the_order_of_the_indices() -> None:
    whole = _labels([1, 2, 3], [4, 5, 6])
    taken = take(whole, torch.tensor([2, 0, 2]))
    assert taken is not None
    assert taken.names == ("a", "b")
    assert taken.labels_BA.tolist() == [[3, 6], [1, 4], [3, 6]]
    taken.labels_BA.zero_()
    assert whole.of("a").tolist() == [1, 2, 3]
    assert take(None, torch.tensor([0])) is None


@pytest.mark.parametrize(
    ("attribute", "reason"),
    [
        ([1, 1, 1, 1, 1, 1], "b is the same on all 6 training examples"),
        ([0, 0, 1, 1, 2, 2], "b follows from the task's label on all 6 training examples"),
        ([2, 2, 1, 1, 0, 0], "b follows"),
        ([0, 0, 1, 1, 1, 1], "b follows"),
        ([5, 5, 0, 0, 0, 0], "b follows"),
    ],
)
def test_what_the_label_tells_is_refused_by_name(attribute: list[int], reason: str) -> None:
    labels_N = torch.tensor([0, 0, 1, 1, 2, 2])
    with pytest.raises(ConfigError, match=reason):
        refuse_known(_labels([0, 1, 0, 1, 0, 1], attribute), labels_N)


@settings(deadline=None)  # a busy machine is no failure
@given(pairs=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_an_attribute_passes_where_one_label_comes_with_two_values(
    pairs: list[tuple[int, int]],
) -> None:
    tells = len(dict(pairs)) == len(set(pairs))  # a function from the label to the attribute
    private, labels_N = _labels([value for _, value in pairs]), torch.tensor([y for y, _ in pairs])
    if tells:
        with pytest.raises(ConfigError, match="the private attribute a "):
            refuse_known(private, labels_N)
    else:
        refuse_known(private, labels_N)


def test_without_private_labels_nothing_is_refused() -> None:
    refuse_known(None, torch.zeros(3, dtype=torch.int64))
