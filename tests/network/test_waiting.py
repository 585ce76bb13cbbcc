"""When a cloud is asked again, how long for, and who answers in the end.

The whole way, with an edge and a cloud, is tested in tests/experiments/test_answering.py.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaves.errors import ConfigError, EavesError
from eaves.network.waiting import (
    Answer,
    Breaker,
    Caller,
    CloudLate,
    Counts,
    Patience,
    Policy,
    combined,
)


@given(failures=st.integers(1, 5000), first_s=st.floats(0.01, 2), longest_s=st.floats(2, 60))
def test_a_back_off_grows_to_its_limit(failures: int, first_s: float, longest_s: float) -> None:
    patience = Patience(first_s=first_s, longest_s=longest_s)
    waits = [patience.backoff_s(n) for n in (1, failures, failures + 1)]
    assert waits[0] == first_s
    assert first_s <= waits[1] <= waits[2] <= longest_s
    assert waits[2] in (longest_s, 2 * waits[1])


def test_a_breaker_opens_and_closes() -> None:
    breaker = Breaker(Patience(first_s=1, longest_s=2))
    assert breaker.allows(-1e9)  # a monotonic clock may begin anywhere
    breaker.failed(10)
    assert [breaker.allows(t) for t in (10, 10.9, 11)] == [False, False, True]
    breaker.failed(11)
    assert [breaker.allows(t) for t in (12.9, 13)] == [False, True]
    breaker.succeeded()
    assert breaker.allows(11)


def test_being_late_is_an_event_and_no_error_of_ours() -> None:
    assert not issubclass(CloudLate, EavesError)


def test_settings_that_cannot_be_are_refused() -> None:
    for deadline_s in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="expected a deadline above 0 s"):
            Policy(deadline_s=deadline_s)
    for first_s, longest_s in ((0.0, 1.0), (2.0, 1.0), (1.0, float("inf")), (float("nan"), 1.0)):
        with pytest.raises(ConfigError, match="expected 0 < first_s <= longest_s"):
            Patience(first_s=first_s, longest_s=longest_s)


def test_a_caller_hands_over_what_is_left_of_the_deadline() -> None:
    now_s = 10.0
    caller = Caller(Policy(deadline_s=2.0), clock=lambda: now_s)
    assert caller.ask(b"abc", lambda left_s: left_s, 9.5) == (1.5, 3)
    assert caller.ask(b"abc", lambda left_s: left_s, 8.0) == (None, 0)
    assert caller.counts == Counts(asked=1, overdue=1)


def test_a_caller_leaves_a_cloud_alone_that_was_late() -> None:
    now_s = 0.0

    def late(left_s: float) -> str:
        raise CloudLate("too slow")

    patience = Patience(first_s=1.0, longest_s=1.0)
    caller = Caller(Policy(patience=patience), clock=lambda: now_s)
    assert caller.ask(b"abc", late, 0.0) == (None, 3)
    assert not caller.allows()
    now_s = 1.0
    assert caller.allows()
    assert caller.counts == Counts(asked=1, late=1, skipped=1)


def test_nobody_answers_what_neither_exit_nor_cloud_did() -> None:
    assert combined([True], None, None) == (
        Answer(label=None, confidence=None, answered_by="none"),
    )


def test_an_answer_is_needed_for_everything_that_was_sent() -> None:
    with pytest.raises(ValueError, match="shorter"):
        combined([True, True], None, [(0, 1.0)])
