"""Who answers what, and when the cloud is asked at all.

Dimension key:  B batch   K classes
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from socket import socket
from threading import Event
from time import monotonic
from typing import final

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.experiments.conftest import asked_of
from torch import Tensor

from eaves.codecs.base import Codec, decode, parse_codec
from eaves.core.roles import CloudPredictor, EdgePredictor
from eaves.core.rules import ConfidenceAbove, EntropyBelow, ExitRule
from eaves.errors import PayloadError
from eaves.experiments.answering import Answerer, Beside, Cloud, FarCloud
from eaves.network.asking import CloudClient
from eaves.network.channel import insecure_target
from eaves.network.eaves_pb2 import Answer, Query
from eaves.network.waiting import Answers, CloudLate, Patience, Policy

K = 4
EXACT = parse_codec("fp32")
SURE, UNSURE = 10, 0  # what an input says: how sure the exit shall be of class 0
RULES: list[ExitRule] = [ConfidenceAbove(threshold=0.9), EntropyBelow(threshold=0.5)]


@final
@dataclass
class Clock:
    """Stands still until it is moved."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


@final
@dataclass
class Edge(EdgePredictor):
    """Its features are (id, sureness); its exit says class 0, as surely as the input."""

    sends: bool = True
    exits: bool = True
    works_s: float = 0.0
    clock: Clock = field(default_factory=Clock)

    def predict(self, inputs: Tensor) -> tuple[Tensor | None, Tensor | None]:
        self.clock.now_s += self.works_s
        early_BK = torch.zeros(len(inputs), K)
        early_BK[:, 0] = inputs[:, 1]
        return (inputs if self.sends else None), (early_BK if self.exits else None)


@final
class Reading(CloudPredictor):
    """Says the class that is the id of the example, 5 to 1 in logits."""

    def answer(self, features: Tensor) -> Tensor:
        return 5 * torch.nn.functional.one_hot(features[:, 0].long() % K, K).float()


@final
@dataclass
class Scripted(Cloud):
    """Answers after ``takes_s``, or is late; keeps what it was asked."""

    clock: Clock = field(default_factory=Clock)
    takes_s: float = 0.0
    reply: Callable[[Tensor], Tensor] = Reading().answer
    asked: list[tuple[float, Tensor]] = field(default_factory=list)

    def ask(self, payload: bytes, *, timeout_s: float) -> Tensor:
        features = decode(payload)
        self.asked.append((timeout_s, features))
        self.clock.now_s += min(self.takes_s, timeout_s)
        if self.takes_s > timeout_s:
            raise CloudLate("too slow")
        return self.reply(features)


def batch(*sureness: float) -> Tensor:
    return torch.tensor([[i + 1, s] for i, s in enumerate(sureness)], dtype=torch.float32)


def names(answers: Answers) -> list[str]:
    return [answer.answered_by for answer in answers.answers]


def labels(answers: Answers) -> list[int | None]:
    return [answer.label for answer in answers.answers]


@pytest.mark.parametrize("rule", RULES)
def test_a_sure_exit_answers_and_the_cloud_the_rest(rule: ExitRule) -> None:
    clock, inputs = Clock(), batch(SURE, UNSURE, SURE, UNSURE)
    cloud = Scripted(clock, takes_s=0.2)
    policy = Policy(rule=rule, deadline_s=1)
    answerer = Answerer(Edge(works_s=0.3, clock=clock), cloud, EXACT, policy, clock=clock)
    found = answerer.answer(inputs)
    assert names(found) == ["exit", "cloud", "exit", "cloud"]
    assert labels(found) == [0, 2, 0, 0]
    sure = torch.tensor([10.0, 0, 0, 0], dtype=torch.float64).softmax(0)[0].item()
    told = torch.tensor([5.0, 0, 0, 0], dtype=torch.float64).softmax(0)[0].item()
    assert [a.confidence for a in found.answers] == pytest.approx([sure, told, sure, told])
    [(timeout_s, features)] = cloud.asked
    assert timeout_s == pytest.approx(0.7)  # what the edge has left of the deadline
    assert features.equal(inputs[[1, 3]])
    assert found.bytes_up == len(EXACT.encode(inputs[[1, 3]]))
    assert found.latency_s == pytest.approx(0.5)
    assert answerer.counts.as_json() == {
        "asked": 1,
        "late": 0,
        "skipped": 0,
        "overdue": 0,
        "unusable": 0,
    }


@settings(deadline=None, max_examples=50)  # a busy machine is no failure
@given(sureness=st.lists(st.sampled_from([SURE, UNSURE]), min_size=1, max_size=12))
def test_every_example_is_answered_once_by_the_one_who_should(sureness: list[int]) -> None:
    cloud = Scripted()
    found = Answerer(Edge(), cloud, EXACT, Policy(rule=RULES[0])).answer(batch(*sureness))
    assert names(found) == ["exit" if s == SURE else "cloud" for s in sureness]
    assert labels(found) == [0 if s == SURE else (i + 1) % K for i, s in enumerate(sureness)]
    assert len(cloud.asked) == (UNSURE in sureness)
    assert (found.bytes_up > 0) == (UNSURE in sureness)


def test_when_the_cloud_is_late_the_exit_stands_and_says_so() -> None:
    clock = Clock()
    cloud = Scripted(clock, takes_s=5)
    answerer = Answerer(
        Edge(clock=clock), cloud, EXACT, Policy(rule=RULES[0], deadline_s=2), clock=clock
    )
    found = answerer.answer(batch(SURE, UNSURE))
    assert names(found) == ["exit", "exit-late"]
    assert labels(found) == [0, 0]
    assert found.answers[1].confidence == pytest.approx(1 / K)
    assert found.latency_s == pytest.approx(2)
    assert found.bytes_up == len(EXACT.encode(batch(SURE, UNSURE)[1:]))
    assert answerer.counts.late == 1


def test_without_an_exit_there_is_nobody_to_stand_in() -> None:
    clock = Clock()
    cloud = Scripted(clock)
    answerer = Answerer(Edge(exits=False), cloud, EXACT, Policy(rule=RULES[0]), clock=clock)
    assert names(answerer.answer(batch(SURE, UNSURE))) == ["cloud", "cloud"]
    cloud.takes_s = 9
    found = answerer.answer(batch(SURE, UNSURE))
    assert names(found) == ["none", "none"]
    assert labels(found) == [None, None]
    assert [a.confidence for a in found.answers] == [None, None]


def test_an_edge_that_sends_nothing_always_answers() -> None:
    cloud = Scripted()
    found = Answerer(Edge(sends=False), cloud, EXACT, Policy(rule=RULES[0])).answer(batch(0, 0))
    assert names(found) == ["exit", "exit"]
    assert (found.bytes_up, cloud.asked) == (0, [])


def test_without_a_rule_all_is_sent() -> None:
    found = Answerer(Edge(), Scripted(), EXACT, Policy()).answer(batch(SURE, UNSURE))
    assert names(found) == ["cloud", "cloud"]


def test_without_a_cloud_the_exit_stands() -> None:
    answerer = Answerer(Edge(), None, EXACT, Policy(rule=RULES[0]))
    found = answerer.answer(batch(SURE, UNSURE))
    assert (names(found), found.bytes_up) == (["exit", "exit-late"], 0)
    assert answerer.counts.asked == 0


def test_an_edge_that_uses_up_the_deadline_does_not_blame_the_cloud() -> None:
    clock = Clock()
    edge, cloud = Edge(works_s=1, clock=clock), Scripted(clock)
    answerer = Answerer(edge, cloud, EXACT, Policy(rule=RULES[0], deadline_s=1), clock=clock)
    found = answerer.answer(batch(UNSURE))
    assert (names(found), found.bytes_up, cloud.asked) == (["exit-late"], 0, [])
    assert (answerer.counts.overdue, answerer.counts.late) == (1, 0)
    edge.works_s = 0
    assert names(answerer.answer(batch(UNSURE))) == ["cloud"]


def test_a_cloud_that_is_down_costs_a_deadline_only_after_each_back_off() -> None:
    clock = Clock()
    cloud = Scripted(clock, takes_s=100)
    patience = Patience(first_s=1, longest_s=4)
    policy = Policy(rule=RULES[0], deadline_s=0.5, patience=patience)
    answerer = Answerer(Edge(works_s=0.25, clock=clock), cloud, EXACT, policy, clock=clock)
    asked_at_s, start_s = [], clock.now_s
    while clock.now_s < start_s + 15:
        began_s, before = clock.now_s, answerer.counts.asked
        found = answerer.answer(batch(UNSURE))
        assert names(found) == ["exit-late"]
        if answerer.counts.asked > before:
            asked_at_s.append(began_s - start_s)
            assert found.latency_s == pytest.approx(0.5)
        else:
            assert (found.latency_s, found.bytes_up) == (0.25, 0)  # of the edge alone
    # Asked 0.25 s into a batch and late at 0.5 s; then 1, 2, 4, 4 s until a batch may ask again.
    assert asked_at_s == [0, 1.25, 3.5, 7.75, 12.0]
    assert answerer.counts.late == answerer.counts.asked == 5
    assert answerer.counts.skipped > 30

    cloud.takes_s = 0
    clock.now_s += 4
    assert names(answerer.answer(batch(UNSURE))) == ["cloud"]
    cloud.takes_s = 100  # it starts again from the shortest back-off
    answerer.answer(batch(UNSURE))
    clock.now_s += 1
    asked = answerer.counts.asked
    answerer.answer(batch(UNSURE))
    assert answerer.counts.asked == asked + 1


REPLIES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "rows": (lambda z: torch.zeros(len(z) + 1, K), r"logits of shape \(1, 4\).*\(2, 4\)"),
    "classes": (lambda z: torch.zeros(len(z), K + 1), r"logits of shape \(1, 4\).*\(1, 5\)"),
    "flat": (lambda z: torch.zeros(len(z) * K), r"got torch\.float32 of shape \(4,\)"),
    "whole numbers": (lambda z: torch.zeros(len(z), K).int(), r"got torch\.int32"),
    "NaN": (lambda z: torch.full((len(z), K), float("nan")), "expected finite logits"),
}


def why(caplog: pytest.LogCaptureFixture) -> str:
    """Return why an answer could not be used."""
    (record,) = caplog.records
    return str(vars(record)["why"])


@pytest.mark.parametrize("name", REPLIES)
def test_where_no_logits_come_the_exit_answers_and_it_is_counted(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    reply, message = REPLIES[name]
    answerer = Answerer(Edge(), Scripted(reply=reply), EXACT, Policy(rule=RULES[0]))
    assert names(answerer.answer(batch(SURE, UNSURE))) == ["exit", "exit-late"]
    assert (answerer.counts.asked, answerer.counts.unusable) == (1, 1)
    assert re.search(message, why(caplog))


@pytest.mark.parametrize("shape", [(2, K), (1, 0), (1,)])
def test_where_no_logits_come_and_there_is_no_exit_nobody_answers(
    shape: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    cloud = Scripted(reply=lambda z: torch.zeros(shape))
    answerer = Answerer(Edge(exits=False), cloud, EXACT, Policy())
    assert names(answerer.answer(batch(UNSURE))) == ["none"]
    assert answerer.counts.unusable == 1
    assert re.search(r"logits of shape \(1, K\)", why(caplog))


def test_a_cloud_beside_answers_as_its_predictor() -> None:
    z = batch(1, 2, 3)
    found = Beside(Reading()).ask(EXACT.encode(z), timeout_s=1e-9)
    assert found.equal(Reading().answer(z))
    with pytest.raises(PayloadError):
        Beside(Reading()).ask(b"nothing", timeout_s=1)


@contextmanager
def served(answer: Callable[[Query], Answer]) -> Iterator[FarCloud]:
    """Run a service that answers queries so, on loopback, and a cloud that asks it."""

    with asked_of(answer) as client:
        yield FarCloud(client)


def test_a_far_cloud_answers_as_the_one_beside() -> None:
    z = batch(1, 2, 3)

    def answer(query: Query) -> Answer:
        logits = Reading().answer(decode(query.payload))
        return Answer(payload=EXACT.encode(logits), ticket=query.ticket)

    with served(answer) as cloud:
        found = cloud.ask(EXACT.encode(z), timeout_s=30)
    assert found.equal(Beside(Reading()).ask(EXACT.encode(z), timeout_s=30))


def test_a_far_cloud_that_takes_too_long_is_late() -> None:
    done = Event()

    def answer(query: Query) -> Answer:
        done.wait(30)
        return Answer()

    with served(answer) as cloud:
        with pytest.raises(CloudLate):
            cloud.ask(b"", timeout_s=0.1)
        done.set()


def test_a_far_cloud_that_is_not_there_is_late() -> None:
    with socket() as closed:  # bound, so that nobody else listens there
        closed.bind(("127.0.0.1", 0))
        target = insecure_target(f"127.0.0.1:{closed.getsockname()[1]}", "edge")
        with closing(CloudClient(target, "s")) as client, pytest.raises(CloudLate):
            FarCloud(client).ask(b"", timeout_s=5)


def test_a_far_cloud_that_sends_no_answer_is_an_error() -> None:
    with (
        served(lambda query: Answer(payload=b"nothing", ticket=query.ticket)) as cloud,
        pytest.raises(PayloadError),
    ):
        cloud.ask(EXACT.encode(batch(1)), timeout_s=30)


@pytest.mark.parametrize(
    ("codec", "shape", "words"),
    [
        ("fp32+range", (1, K), "in fp32 or fp16, got one in 'fp32\\+range'"),
        ("int8+zstd", (1, K), "in fp32 or fp16"),
        ("fp32", (1, K + 1), r"shape \(1, 4\) from the cloud, got \(1, 5\)"),
        ("fp32", (2, K), r"shape \(1, 4\) from the cloud, got \(2, 4\)"),
        ("fp32", (1, 1, K), r"got \(1, 1, 4\)"),
    ],
)
def test_an_answer_that_is_not_laid_out_as_agreed_is_not_decoded(
    codec: str, shape: tuple[int, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = parse_codec(codec).encode(torch.zeros(shape))

    def decoded(*_: object, **__: object) -> Tensor:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(Codec, "decode", decoded)
    with asked_of(lambda query: Answer(payload=payload, ticket=query.ticket)) as client:
        cloud = FarCloud(client, values=K)
        with pytest.raises(PayloadError, match=words):
            cloud.ask(EXACT.encode(batch(1)), timeout_s=30)


def test_all_questions_together_take_no_longer_than_agreed() -> None:
    done = Event()

    def answer(query: Query) -> Answer:
        done.wait(0.4)
        logits = Reading().answer(decode(query.payload))
        return Answer(payload=EXACT.encode(logits), ticket=query.ticket)

    with asked_of(answer) as client:
        cloud = FarCloud(client, values=K, total_s=1.0)
        started_s = monotonic()
        asks = (cloud.ask(EXACT.encode(batch(1)), timeout_s=30) for _ in range(100))
        with pytest.raises(CloudLate):
            list(asks)
        assert monotonic() - started_s < 5
        done.set()


def test_an_edge_that_neither_sends_nor_answers_is_refused() -> None:
    with pytest.raises(ValueError, match="got one with neither"):
        Answerer(Edge(sends=False, exits=False), None, EXACT, Policy()).answer(batch(0))


def test_answers_become_json() -> None:
    found = Answerer(Edge(), None, EXACT, Policy(rule=RULES[0])).answer(batch(SURE))
    facts = json.loads(json.dumps(replace(found, latency_s=0.5).as_json(), allow_nan=False))
    [answer] = facts.pop("answers")
    assert facts == {"latency_s": 0.5, "bytes_up": 0}
    assert (answer.pop("confidence") > 0.99, answer) == (True, {"class": 0, "answered_by": "exit"})
