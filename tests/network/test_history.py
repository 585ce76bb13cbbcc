"""The history of checkpoints: what is kept, what it says, and what is found in it."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eaves.core.state import State
from eaves.errors import ConfigError, StateError
from eaves.network.history import History
from eaves.network.keeper import Keeper, Kept
from eaves.network.ledger import Account, Ledger, Run


def kept(step: int, **applied: int) -> Kept:
    accounts = {Run(edge, "1"): Account(applied=n, samples=5 * n) for edge, n in applied.items()}
    state = State({"w": torch.full((3,), float(step))}, {"steps": step})
    return Kept("s", 10, Ledger(accounts), state, contributions={"journal": 7 * step})


def made(folder: Path, count: int, keep: int = 100) -> History:
    """Save checkpoints; edge b comes with the third."""
    history = History(folder / "history", keep)
    keeper = Keeper(folder / "checkpoint", "{}", every_s=1, history=history)
    for step in range(count):
        keeper.save(kept(step, a=step, **({"b": step - 1} if step >= 2 else {})))
    keeper.close()
    return history


def test_each_checkpoint_can_be_loaded_as_it_was(tmp_path: Path) -> None:
    states = made(tmp_path, 4).states()
    assert [state.steps for state in states] == [0, 1, 2, 3]
    assert [dict(state.examples) for state in states[1:3]] == [{"a": 5}, {"a": 10, "b": 5}]
    assert [state.lines for state in states] == [0, 7, 14, 21]
    keeper = Keeper(tmp_path / "checkpoint", "{}", every_s=1)
    for state in states:
        then = keeper.load(state.folder)
        assert then is not None
        assert then.cloud is not None
        assert then.cloud.tensors["w"].tolist() == [float(state.steps)] * 3
    keeper.close()


def test_nothing_new_is_not_kept_twice(tmp_path: Path) -> None:
    history = made(tmp_path, 2)
    history.add(tmp_path / "checkpoint")
    assert len(history.states()) == 2


def test_a_copy_costs_no_room(tmp_path: Path) -> None:
    history = made(tmp_path, 2)
    (newest,) = history.states()[-1].folder.glob("*.safetensors")
    assert newest.stat().st_nlink == 2


@settings(deadline=None)
@given(keep=st.integers(2, 12), count=st.integers(1, 300))
def test_the_first_and_the_newest_are_kept_and_the_others_lie_apart(keep: int, count: int) -> None:
    history, numbers = History(Path("/nowhere"), keep), list[int]()
    for number in range(1, count + 1):
        numbers.append(number)
        history._thin(numbers)
    assert len(numbers) <= max(2, keep)
    assert numbers[0] == 1
    newest = keep // 2
    assert numbers[-newest:] == list(range(max(1, count - newest + 1), count + 1))
    if keep >= 6 and count > 50:  # some of the time between is there
        assert any(count * 0.2 < number < count * 0.95 for number in numbers)


def test_no_history_is_none(tmp_path: Path) -> None:
    assert made(tmp_path, 3, keep=0).states() == []


def test_states_are_found_by_number_and_by_edge(tmp_path: Path) -> None:
    history = made(tmp_path, 5)
    assert history.find("2").steps == 1
    assert history.find("before:b").steps == 1  # the newest of them
    assert history.find("before:a").steps == 0


@pytest.mark.parametrize(
    ("which", "words"),
    [
        ("9", r"expected --rollback list, a number, or before:EDGE, got '9'.*are: 1, 2, 3"),
        ("before:x", "no checkpoint .* has learnt from an edge called 'x'; they have from: a, b"),
        ("yesterday", "got 'yesterday'"),
        ("", "got ''"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(tmp_path: Path, which: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        made(tmp_path, 3).find(which)


def test_states_that_an_edge_was_in_can_be_removed(tmp_path: Path) -> None:
    history = made(tmp_path, 5)
    history.forget("b")
    assert [state.steps for state in history.states()] == [0, 1]


def test_a_damaged_one_is_named(tmp_path: Path) -> None:
    history = made(tmp_path, 2)
    (tmp_path / "history" / "00000002" / "checkpoint.json").write_bytes(b"{")
    with pytest.raises(StateError, match=r"00000002 is damaged .* remove it"):
        history.states()
