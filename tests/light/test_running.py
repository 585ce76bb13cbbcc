"""Answers to a file of inputs: each once, and what came of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.light.conftest import INPUT_SHAPE, features_of, inputs_of

from eaves.core.rules import ConfidenceAbove
from eaves.errors import ConfigError
from eaves.light.codec import LightCodec
from eaves.light.facts import read_facts
from eaves.light.model import LightEdge
from eaves.light.running import LightAnswered, LightRecord, answer_all
from eaves.network.waiting import Policy

FolderOf = Callable[[str], Path]


def ran(
    folder: Path, count: int, policy: Policy, size: int
) -> tuple[list[LightAnswered], LightRecord]:
    facts = read_facts(folder)
    edge = LightEdge(folder, facts)
    *answered, record = answer_all(edge, facts, inputs_of(count), None, policy, batch_size=size)
    assert isinstance(record, LightRecord)
    return [event for event in answered if isinstance(event, LightAnswered)], record


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_every_input_is_answered_once_by_the_exit(folder_of: FolderOf, size: int) -> None:
    answered, record = ran(folder_of("plain"), 7, Policy(), size)
    assert [event.first for event in answered] == list(range(0, 7, size))
    labels = [answer.label for event in answered for answer in event.answers.answers]
    together = ran(folder_of("plain"), 7, Policy(), 7)[0][0].answers.answers
    assert labels == [answer.label for answer in together]
    facts = record.as_json()
    assert (facts["examples"], facts["answered_by"]) == (7, {"exit-late": 7})
    assert (facts["bytes_up"], facts["payload_bytes"], facts["rule"]) == (0, 0, None)
    assert 0 < facts["latency_s"]["p50"] <= facts["latency_s"]["p99"]


def test_the_rule_is_in_the_record(folder_of: FolderOf) -> None:
    policy = Policy(rule=ConfidenceAbove(threshold=0.0))
    _, record = ran(folder_of("plain"), 4, policy, 2)
    assert dict(record.by) == {"exit": 4}
    assert (record.as_json()["rule"], record.as_json()["threshold"]) == ("confidence", 0.0)


def test_where_nobody_answers_payloads_are_measured(folder_of: FolderOf) -> None:
    answered, record = ran(folder_of("without exit"), 5, Policy(), 2)
    parts = np.split(inputs_of(5), [2, 4])
    expected = [len(LightCodec("fp32").encode(features_of(part))) for part in parts]
    assert [event.payload_bytes for event in answered] == expected
    assert record.payload_bytes == sum(expected)
    assert record.bytes_up == 0


def test_no_inputs_are_a_mistake(folder_of: FolderOf) -> None:
    folder = folder_of("plain")
    facts = read_facts(folder)
    empty = np.zeros((0, *INPUT_SHAPE), np.uint8)
    with pytest.raises(ConfigError, match="expected one input or more"):
        list(answer_all(LightEdge(folder, facts), facts, empty, None, Policy()))
