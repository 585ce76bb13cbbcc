"""Who answers without torch: the same as with it.

Dimension key:  B batch   K classes
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.experiments.conftest import asked_of
from tests.light.conftest import EXIT_FK, features_of, inputs_of

from eaves.codecs.base import decode, parse_codec
from eaves.core.rules import ConfidenceAbove, EntropyBelow, ExitRule
from eaves.errors import DivergedError
from eaves.light.answering import LightAnswerer, _taken
from eaves.light.codec import LightCodec
from eaves.light.facts import read_facts
from eaves.light.model import LightEdge
from eaves.network.asking import CloudClient
from eaves.network.eaves_pb2 import Answer, Query
from eaves.network.waiting import Answers, Patience, Policy

FolderOf = Callable[[str], Path]
CALM = Policy(deadline_s=30.0)


@contextmanager
def served(
    answer: Callable[[np.ndarray], np.ndarray], codec: str = "fp32"
) -> Iterator[CloudClient]:
    """Answer queries on loopback from their features, with the codecs that have torch."""

    def answered(query: Query) -> Answer:
        logits = torch.from_numpy(answer(decode(query.payload).numpy()))
        return Answer(payload=parse_codec(codec).encode(logits), ticket=query.ticket)

    with asked_of(answered) as client:
        yield client


def answerer(
    folder: Path, client: CloudClient | None, policy: Policy = CALM, codec: str = "fp32"
) -> LightAnswerer:
    edge = LightEdge(folder, read_facts(folder))
    return LightAnswerer(edge, client, LightCodec(codec), policy, classes=3)


def names(answers: Answers) -> list[str]:
    return [answer.answered_by for answer in answers.answers]


def cloud_of(z: np.ndarray) -> np.ndarray:
    """Return logits that are no exit's: the exit's, turned around."""
    return np.ascontiguousarray(-(z @ EXIT_FK))


@pytest.mark.parametrize("codec", ["fp32", "fp16"])
def test_the_cloud_answers_what_it_is_sent(folder_of: FolderOf, codec: str) -> None:
    x = inputs_of(6)
    with served(cloud_of, codec) as client:
        device = answerer(folder_of("plain"), client)
        found = device.answer(x)
    assert names(found) == ["cloud"] * 6
    expected = cloud_of(features_of(x))
    assert [answer.label for answer in found.answers] == expected.argmax(axis=1).tolist()
    sure = torch.from_numpy(expected).double().softmax(dim=1).amax(dim=1).tolist()
    assert [answer.confidence for answer in found.answers] == pytest.approx(sure, abs=1e-3)
    assert found.bytes_up == len(LightCodec("fp32").encode(features_of(x)))
    assert device.counts.as_json() == {
        "asked": 1,
        "late": 0,
        "skipped": 0,
        "overdue": 0,
        "unusable": 0,
    }


def test_what_the_exit_is_sure_of_is_not_sent(folder_of: FolderOf) -> None:
    x = inputs_of(40)
    early = torch.from_numpy(features_of(x) @ EXIT_FK)
    median = float(ConfidenceAbove.scores(early).median())
    rule = ConfidenceAbove(threshold=median)
    seen: list[int] = []

    def counting(z: np.ndarray) -> np.ndarray:
        seen.append(len(z))
        return cloud_of(z)

    with served(counting) as client:
        found = answerer(folder_of("plain"), client, Policy(rule=rule, deadline_s=30)).answer(x)
    final = rule.accepts(early).tolist()
    assert names(found) == ["exit" if sure else "cloud" for sure in final]
    assert seen == [40 - sum(final)]
    assert 0 < sum(final) < 40


def test_the_exit_stands_in_for_a_late_cloud_which_then_is_left_alone(folder_of: FolderOf) -> None:
    done = Event()

    def slow(z: np.ndarray) -> np.ndarray:
        done.wait(30)
        return cloud_of(z)

    x, patience = inputs_of(2), Patience(first_s=1000.0, longest_s=1000.0)
    with served(slow) as client:
        policy = Policy(deadline_s=0.3, patience=patience)
        device = answerer(folder_of("plain"), client, policy)
        found = [device.answer(x) for _ in range(3)]
        done.set()
    expected = (features_of(x) @ EXIT_FK).argmax(axis=1).tolist()
    for answers in found:
        assert names(answers) == ["exit-late"] * 2
        assert [answer.label for answer in answers.answers] == expected
    assert device.counts.as_json() == {
        "asked": 1,
        "late": 1,
        "skipped": 2,
        "overdue": 0,
        "unusable": 0,
    }
    assert found[0].bytes_up > found[1].bytes_up == 0


def test_without_cloud_and_exit_nobody_answers(folder_of: FolderOf) -> None:
    device = answerer(folder_of("without exit"), None, codec="int8")
    found = device.answer(inputs_of(2))
    assert (names(found), found.bytes_up) == (["none"] * 2, 0)
    x = inputs_of(3)
    assert device.payload_bytes(x) == len(LightCodec("int8").encode(features_of(x)))


REPLIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rows": lambda z: np.zeros((len(z) + 1, 3), np.float32),
    "classes": lambda z: np.zeros((len(z), 4), np.float32),
    "flat": lambda z: np.zeros(6, np.float32),
}


@pytest.mark.parametrize("name", REPLIES)
def test_where_no_logits_come_the_exit_answers_and_it_is_counted(
    folder_of: FolderOf, name: str
) -> None:
    with served(REPLIES[name]) as client:
        device = answerer(folder_of("plain"), client)
        assert names(device.answer(inputs_of(2))) == ["exit-late"] * 2
    assert (device.counts.asked, device.counts.unusable) == (1, 1)


def test_a_codec_that_cannot_hold_the_features_sends_nothing(
    folder_of: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = np.full((1, 6), 1e6, np.float32)
    monkeypatch.setattr(LightEdge, "predict", lambda self, x: (huge, None))
    with served(cloud_of) as client, pytest.raises(DivergedError, match="cannot be sent"):
        answerer(folder_of("without exit"), client, codec="fp16").answer(inputs_of(1))


@settings(deadline=None, max_examples=200)  # a busy machine is no failure
@given(
    values=st.lists(st.floats(-60, 60, width=32), min_size=12, max_size=12),
    threshold=st.floats(0, 1),
    kind=st.sampled_from([ConfidenceAbove, EntropyBelow]),
)
def test_a_rule_takes_the_same_answers_as_with_torch(
    values: list[float], threshold: float, kind: type[ConfidenceAbove] | type[EntropyBelow]
) -> None:
    logits = np.array(values, np.float32).reshape(3, 4)
    rule: ExitRule = kind(threshold=threshold)
    scores = kind.scores(torch.from_numpy(logits))
    close = (scores - threshold).abs() < 1e-12  # what rounding decides
    same = torch.from_numpy(_taken(rule, logits)) == rule.accepts(torch.from_numpy(logits))
    assert bool((same | close).all())
