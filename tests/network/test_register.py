"""Runs that an edge invents: they cost a bounded memory, and end no checkpoint."""

import pytest

from eaves.errors import EavesError
from eaves.network import register as module
from eaves.network.ledger import MOST_RUNS, Run
from eaves.network.refusals import BusyError
from eaves.network.register import Register
from eaves.network.workqueue import Line, Receipt, UploadWork


class Deaf(Line):
    """A line that takes what it is told."""

    def __init__(self, edge: str, run: str):
        self.run = Run(edge, run)
        self.told: list[Receipt] = []

    def receipt(self, receipt: Receipt, *, done: int = 0) -> None:
        self.told.append(receipt)

    def refuse(self, error: EavesError) -> None:
        raise AssertionError("a register refuses nobody")


def enter(register: Register, run: str, edge: str = "evil") -> Deaf:
    line = Deaf(edge, run)
    register.open(line, steps=100, memory_bytes=2**20)
    return line


def apply(register: Register, line: Line, seq: int) -> None:
    register.apply(UploadWork(line, seq, seq - 1, b"x"), samples=1, reply=b"")


def test_runs_beyond_the_limit_are_refused_while_the_others_are_connected() -> None:
    register = Register()
    lines = [enter(register, f"r{n}") for n in range(MOST_RUNS)]
    with pytest.raises(BusyError, match=f"edge evil has {MOST_RUNS} runs"):
        enter(register, "one-more")
    register.settle(register.hand_in())  # ended the process when an old run had been forgotten
    assert enter(register, "r0", "honest").told == [Receipt(0, 0)]
    register.close(lines[0])
    enter(register, "one-more")
    assert register.applied(Run("evil", "r0")) is None
    assert len(register.accounts().accounts) == MOST_RUNS + 1


def test_a_checkpoint_of_runs_that_are_forgotten_meanwhile_is_settled() -> None:
    register = Register()
    honest = enter(register, "h", "honest")
    apply(register, honest, 1)
    for n in range(MOST_RUNS):
        register.close(enter(register, f"r{n}"))
    numbers = register.hand_in()
    for n in range(3 * MOST_RUNS):
        register.close(enter(register, f"s{n}"))
    register.settle({**numbers, Run("nobody", "knows"): 7})
    assert honest.told[-1] == Receipt(1, 1)
    assert Run("nobody", "knows") not in register.accounts().accounts
    assert register.applied(Run("nobody", "knows")) is None


def test_what_is_not_durable_yet_is_not_forgotten() -> None:
    register = Register()
    for n in range(MOST_RUNS):
        line = enter(register, f"r{n}")
        apply(register, line, 1)
        register.close(line)
    with pytest.raises(BusyError, match="not in a checkpoint yet"):
        enter(register, "one-more")
    register.settle(register.hand_in())
    enter(register, "one-more")


def test_a_finish_of_a_run_that_nobody_knows_changes_nothing() -> None:
    register = Register()
    register.finish(Run("evil", "x"), 3)
    assert not register.accounts().accounts
    assert not register.wanted


def test_one_edge_causes_few_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    register = Register()
    line = Deaf("evil", "r")
    register.open(line, steps=1, memory_bytes=0)  # it says that it can hold nothing
    wanted = 0
    for seq in range(1, 101):  # one each 10 ms
        now += 0.01
        apply(register, line, seq)
        register.finish(line.run, seq)
        if register.wanted:
            wanted += 1
            register.settle(register.hand_in())
            register.finish(line.run, seq)  # all of it is durable: nobody waits
            assert not register.wanted
    assert 3 <= wanted <= 5
    other = enter(register, "h", "honest")
    apply(register, other, 1)
    register.finish(other.run, 1)
    assert register.wanted  # at once


def test_an_edge_is_told_of_its_own_runs() -> None:
    register = Register()
    for edge in ("a", "b"):
        enter(register, "r", edge)
    assert set(register.accounts_of("a")) == {Run("a", "r")}
