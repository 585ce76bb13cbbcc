"""The accounts of runs: what they promise, and what a checkpoint makes of them."""

import json
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaves.errors import StateError
from eaves.network.ledger import MOST_RUNS, Account, Ledger, Run

RUNS = st.builds(Run, st.sampled_from(["attic", "barn"]), st.sampled_from(["1", "2"]))


@st.composite
def accounts(draw: st.DrawFn) -> Account:
    applied = draw(st.integers(0, 9))
    return Account(
        applied=applied,
        durable=draw(st.integers(0, applied)),
        samples=draw(st.integers(0, 99)),
        steps=draw(st.integers(0, 9)),
        last=draw(st.integers(0, 9)),
    )


LEDGERS = st.builds(Ledger, st.dictionaries(RUNS, accounts()))


def test_a_run_that_is_unknown_has_an_empty_account_from_then_on() -> None:
    ledger = Ledger()
    account = ledger.of(Run("attic", "1"))
    assert account == Account()
    account.applied = 3
    assert ledger.of(Run("attic", "1")).applied == 3
    assert ledger.of(Run("attic", "2")).applied == 0


def test_a_run_whose_end_was_not_heard_ends_with_the_steps_that_it_takes() -> None:
    assert Account(applied=5, steps=5).finished
    assert not Account(applied=4, steps=5).finished
    assert Account(applied=4, steps=5, last=4).finished  # it had to drop the last
    run = Run("a", "1")
    assert not Ledger({run: Account(applied=5, durable=4, steps=5)}).all_durable(1)
    assert Ledger({run: Account(applied=5, durable=5, steps=5)}).all_durable(1)


@pytest.mark.parametrize(
    ("applied", "last", "finished"), [(0, 0, False), (5, 0, False), (4, 5, False), (5, 5, True)]
)
def test_a_run_is_finished_when_all_of_it_is_learnt(
    applied: int, last: int, finished: bool
) -> None:
    assert Account(applied=applied, last=last).finished is finished


@given(LEDGERS)
def test_a_checkpoint_gives_the_accounts_back_and_all_in_it_is_durable(ledger: Ledger) -> None:
    read = Ledger.from_json(json.loads(json.dumps(ledger.as_json())))
    assert list(read.accounts) == list(ledger.accounts)  # the order is who goes to which port
    for run, account in ledger.accounts.items():
        assert read.of(run) == Account(
            applied=account.applied,
            durable=account.applied,
            samples=account.samples,
            steps=account.steps,
            last=account.last,
        )


@pytest.mark.parametrize(
    "rows",
    [
        [3],
        ["row"],
        [{}],
        [{"edge": "attic", "run": "1"}],
        [{"edge": "attic", "run": "1", "applied": 3, "colour": 4}],
        [{"edge": "attic", "run": "1", "applied": "3"}],
        [{"edge": "attic", "run": "1", "applied": True}],
        [{"edge": "attic", "run": "1", "applied": -1}],
        [{"edge": "attic", "run": 1, "applied": 3}],
        {"edge": "attic"},
        None,
    ],
)
def test_what_is_no_account_is_refused(rows: Any) -> None:
    with pytest.raises(StateError, match="no accounts of the edges"):
        Ledger.from_json(rows)


@given(LEDGERS, st.dictionaries(RUNS, st.integers(0, 9)))
def test_what_is_durable_never_becomes_less(ledger: Ledger, settled: dict[Run, int]) -> None:
    before = deepcopy(ledger)
    ledger.settle(settled)
    assert set(ledger.accounts) == set(before.accounts)  # a run that is forgotten stays so
    for run, was in before.accounts.items():
        assert ledger.of(run).durable == max(was.durable, settled.get(run, 0))
        assert ledger.of(run).applied == was.applied


@given(LEDGERS, LEDGERS)
def test_of_two_accounts_of_a_run_the_one_that_has_come_further_is_kept(
    ours: Ledger, theirs: Ledger
) -> None:
    before = deepcopy(ours)
    ours.merge(theirs)
    assert set(ours.accounts) == {*before.accounts, *theirs.accounts}
    for run, account in ours.accounts.items():
        known, other = before.accounts.get(run), theirs.accounts.get(run)
        durable = known.durable if known else 0  # a checkpoint is only about to be written
        further = other and (not known or other.applied > known.applied or other.last > known.last)
        assert account == (replace(other, durable=durable) if other and further else known)
    again = deepcopy(ours)
    ours.merge(again)
    assert ours == again


def test_what_is_given_out_is_a_copy() -> None:
    run = Run("attic", "1")
    ledger = Ledger({run: Account(applied=4, durable=3)})
    numbers, durable, copy = ledger.applied(), ledger.durable(), ledger.copy()
    ledger.of(run).applied = ledger.of(run).durable = 5
    assert (numbers, durable) == ({run: 4}, {run: 3})
    assert copy == Ledger({run: Account(applied=4, durable=3)})


def test_edges_are_counted_once_however_many_runs_they_finish() -> None:
    done, begun = Account(applied=5, durable=5, last=5), Account(applied=4, last=5)
    ledger = Ledger(
        {
            Run("attic", "1"): done,
            Run("attic", "2"): deepcopy(done),
            Run("barn", "1"): begun,
        }
    )
    assert ledger.finished() == 1
    assert ledger.all_durable(1)
    assert not ledger.all_durable(2)
    begun.applied = 5
    assert ledger.finished() == 2
    assert not ledger.all_durable(2)  # learnt, but not yet in a checkpoint
    ledger.settle({Run("barn", "1"): 5})
    assert ledger.all_durable(2)


def test_room_is_made_among_the_runs_that_are_durable_and_not_needed() -> None:
    runs = [Run("edge", str(i)) for i in range(MOST_RUNS)]
    other = Run("other", "0")
    ledger = Ledger({run: Account(applied=2, durable=1, steps=5) for run in [*runs, other]})
    assert not ledger.make_room("edge", ())
    assert ledger.make_room("other", ())
    ledger.of(runs[3]).durable = ledger.of(runs[5]).durable = ledger.of(other).durable = 2
    assert not ledger.make_room("edge", {runs[3], runs[5]})
    assert ledger.make_room("edge", {runs[3]})
    assert set(ledger.accounts) == {*runs, other} - {runs[5]}
    assert ledger.make_room("edge", ())  # there is room already
    assert runs[3] in ledger.accounts


def test_who_has_trained_to_the_end_has_done_so_whatever_is_forgotten() -> None:
    runs = [Run("edge", str(i)) for i in range(MOST_RUNS)]
    ledger = Ledger({run: Account(applied=5, durable=5, last=5) for run in runs})
    for i in range(100):
        assert ledger.make_room("edge", ())
        ledger.of(Run("edge", f"new{i}"))
        assert len(ledger.accounts) == MOST_RUNS
        assert ledger.finished() == 1
    assert runs[-1] in ledger.accounts
