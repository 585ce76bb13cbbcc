"""A step from what is kept that fails is left out; what is no longer whole ends the cloud."""

from typing import Any, cast

import pytest

from eaves.errors import DivergedError, StateError, StorageError
from eaves.network.counts import Counts
from eaves.network.learning import Learning
from eaves.network.replays import Replays


class Failing:
    """Steps that fail as they are told to."""

    def __init__(self, *errors: BaseException | None, whole: bool = True):
        self.errors, self.whole = list(errors), whole

    def again(self) -> None:
        if (error := self.errors.pop(0)) is not None:
            raise error

    def expect_finite(self) -> None:
        if not self.whole:
            raise DivergedError("NaN")


def learning(*errors: BaseException | None, **rest: Any) -> Learning:
    return cast(Learning, Failing(*errors, **rest))


def test_a_step_that_fails_is_left_out_and_counted() -> None:
    counts, replays = Counts(), Replays()
    steps = learning(None, RuntimeError("out of memory"), MemoryError(), None)
    for _ in range(4):
        replays.step(steps, counts)
    assert (counts.again, counts.faults) == (2, 2)


def test_steps_that_fail_one_after_the_other_end_it() -> None:
    counts, replays = Counts(), Replays()
    steps = learning(*[RuntimeError("x")] * 9, None, *[RuntimeError("x")] * 10)
    for _ in range(19):
        replays.step(steps, counts)
    with pytest.raises(RuntimeError):
        replays.step(steps, counts)


def test_a_disk_that_refuses_and_weights_that_are_not_whole_are_said() -> None:
    with pytest.raises(StorageError):
        Replays().step(learning(StorageError("full")), Counts())
    with pytest.raises(StateError, match="damaged"):
        Replays().step(learning(StateError("upload 2 is damaged")), Counts())
    with pytest.raises(DivergedError):
        Replays().step(learning(RuntimeError("x"), whole=False), Counts())
