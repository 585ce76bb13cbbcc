"""Answers to a file of inputs without torch: a generator of answers, then what came of them."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

from eaves.core.rules import ExitRule, name_of
from eaves.errors import ConfigError
from eaves.light.answering import LightAnswerer
from eaves.light.codec import LightCodec
from eaves.light.facts import DeviceFacts
from eaves.light.model import Inputs, LightEdge
from eaves.network.asking import CloudClient
from eaves.network.waiting import Answers, Policy


@final
@dataclass(frozen=True)
class LightAnswered:
    """The answers for one batch."""

    first: int
    """Number of the batch's first example."""
    answers: Answers
    payload_bytes: int | None
    """Of the whole batch, where there is neither a cloud nor an exit to answer it."""


@final
@dataclass
class LightRecord:
    """What came of all batches."""

    rule: ExitRule | None
    examples: int = 0
    by: Counter[str] = field(default_factory=Counter)
    """Examples by who answered: exit, cloud, exit-late (the cloud did not come in time), none."""
    bytes_up: int = 0
    payload_bytes: int = 0
    """Of payloads that were made to be measured, and went nowhere."""
    latencies_s: list[float] = field(default_factory=list)
    asked: dict[str, int] = field(default_factory=dict)

    def add(self, answered: LightAnswered) -> None:
        """Take in a batch."""
        answers = answered.answers
        self.by.update(answer.answered_by for answer in answers.answers)
        self.examples += len(answers.answers)
        self.bytes_up += answers.bytes_up
        self.payload_bytes += answered.payload_bytes or 0
        self.latencies_s.append(answers.latency_s)

    def latency_s(self, share: float) -> float:
        """Return the latency of a batch that this share of all batches stays below."""
        return float(np.quantile(self.latencies_s, share))

    def as_json(self) -> dict[str, Any]:
        """Return everything by name."""
        return {
            "examples": self.examples,
            "answered_by": dict(self.by),
            "latency_s": {"p50": self.latency_s(0.5), "p99": self.latency_s(0.99)},
            "bytes_up": self.bytes_up,
            "payload_bytes": self.payload_bytes,
            "queries": self.asked,
            "rule": None if self.rule is None else name_of(self.rule),
            "threshold": None if self.rule is None else self.rule.threshold,
        }


def answer_all(
    edge: LightEdge,
    facts: DeviceFacts,
    inputs: Inputs,
    client: CloudClient | None,
    policy: Policy,
    *,
    batch_size: int = 1,
) -> Iterator[LightAnswered | LightRecord]:
    """Answer uint8 inputs (N, ...) one batch after the other; yield each, and at last the record.

    With neither a cloud nor an exit there is no answer, and the payloads are measured alone.

    Raises:
        ConfigError: no inputs, or not those of this net.
        DivergedError: features that may not or cannot be sent.
        RefusedError: the cloud refuses this device or its bundle.
    """
    if not len(inputs):
        raise ConfigError("expected one input or more, got an empty file")
    codec = LightCodec(facts.codec)
    answerer = LightAnswerer(edge, client, codec, policy, classes=len(facts.classes))
    record = LightRecord(rule=policy.rule)
    measures = client is None and not edge.answers
    for first in range(0, len(inputs), batch_size):
        batch = inputs[first : first + batch_size]
        answers = answerer.answer(batch)
        size = answerer.payload_bytes(batch) if measures else None
        answered = LightAnswered(first, answers, size)
        record.add(answered)
        yield answered
    record.asked = answerer.counts.as_json()
    yield record
