"""Which uploads a step takes: a robust merge waits for others, but never for ever."""

import threading
from time import monotonic

import pytest
from tests.network.test_trainer import AMPLE, Ear

from eaves.network.intake import Intake
from eaves.network.policy import TrainingPolicy
from eaves.network.register import Register
from eaves.network.workqueue import UploadWork, WorkQueue


def _made(
    edges: str, rule: str = "trimmed", wait_s: float = 0.3, merge: int = 3
) -> tuple[Intake, WorkQueue, dict[str, Ear], Register]:
    work, register = WorkQueue(), Register()
    lines = {edge: Ear(edge) for edge in edges}
    for line in lines.values():
        register.open(line, steps=5, memory_bytes=AMPLE)
    policy = TrainingPolicy(merge_rule=rule, merge_wait_s=wait_s)
    return Intake(work, register, policy, merge), work, lines, register


def _put(work: WorkQueue, line: Ear, seq: int = 1) -> None:
    work.put(UploadWork(line, seq, seq - 1, b""))


def _taken(intake: Intake) -> list[str]:
    return [work.line.run.edge for work in intake.take(stopping=False)]


def test_a_robust_step_waits_for_the_uploads_of_others() -> None:
    intake, work, lines, _ = _made("abcd", wait_s=30.0)
    _put(work, lines["a"])
    assert _taken(intake) == []
    _put(work, lines["a"], 2)  # of the same edge: it is no other
    _put(work, lines["b"])
    assert _taken(intake) == []
    _put(work, lines["c"])
    assert _taken(intake) == ["a", "b", "c"]
    assert intake.take(stopping=True)[0].seq == 2


def test_it_waits_for_a_while_only() -> None:
    intake, work, lines, _ = _made("abc")
    _put(work, lines["a"])
    began = monotonic()
    while not (taken := _taken(intake)):
        threading.Event().wait(0.001)
    assert taken == ["a"]
    assert monotonic() - began >= 0.3


def test_it_waits_for_those_that_still_train_only() -> None:
    intake, work, lines, register = _made("abc", wait_s=30.0)
    register.finish(lines["c"].run, 0)
    register.close(lines["b"])
    account = register._ledger.of(lines["c"].run)
    account.applied = account.steps
    _put(work, lines["a"])
    assert _taken(intake) == ["a"]


@pytest.mark.parametrize(("rule", "merge"), [("mean", 3), ("auto", 2), ("trimmed", 1)])
def test_a_mean_waits_for_nobody(rule: str, merge: int) -> None:
    intake, work, lines, _ = _made("abc", rule=rule, merge=merge, wait_s=30.0)
    _put(work, lines["a"])
    assert _taken(intake) == ["a"]


def test_suspects_are_taken_one_by_one() -> None:
    intake, work, lines, _ = _made("abc", wait_s=30.0)
    for line in lines.values():
        _put(work, line)
    together = intake.take(stopping=False)
    intake.alone(together)
    assert [_taken(intake) for _ in range(3)] == [["a"], ["b"], ["c"]]
