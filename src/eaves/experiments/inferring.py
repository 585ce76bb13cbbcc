"""Answers to the test set of a device: a generator of answers, then what they were worth."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, final

import torch

from eaves.core.rates import Rate
from eaves.core.rules import ExitRule, name_of
from eaves.data.batches import batches
from eaves.errors import ConfigError
from eaves.experiments.answering import Answerer, Cloud, far_cloud
from eaves.experiments.bundle import refuse_dependent
from eaves.experiments.calibrating import NAME, read_rule
from eaves.experiments.config import TrainConfig
from eaves.experiments.halves import Origin, edge_job
from eaves.experiments.netconfig import InferConfig, given_rule
from eaves.network.channel import Target
from eaves.network.waiting import Answers, Policy
from eaves.runtime.process import set_up

_log = logging.getLogger(__name__)


@final
@dataclass(frozen=True)
class Answered:
    """The answers for one batch, and the labels that they should have had."""

    first: int
    """Number of the batch's first example."""
    labels: tuple[int, ...]
    answers: Answers


@final
@dataclass
class InferRecord:
    """What all answers together were worth."""

    examples: int = 0
    by: Counter[str] = field(default_factory=Counter)
    """Examples by who answered: exit, cloud, exit-late (the cloud did not come in time), none."""
    right: Counter[str] = field(default_factory=Counter)
    bytes_up: int = 0
    latencies_s: list[float] = field(default_factory=list)
    asked: dict[str, int] = field(default_factory=dict)
    shield: dict[str, int] = field(default_factory=dict)
    """What the shield did, as groups and dummies; empty where there is none."""
    rule: str | None = None
    threshold: float | None = None

    def add(self, answered: Answered) -> None:
        """Take in a batch."""
        answers = answered.answers
        for label, answer in zip(answered.labels, answers.answers, strict=True):
            self.by[answer.answered_by] += 1
            self.right[answer.answered_by] += answer.label == label
        self.examples += len(answered.labels)
        self.bytes_up += answers.bytes_up
        self.latencies_s.append(answers.latency_s)

    def latency_s(self, share: float) -> float:
        """Return the latency of a batch that this share of all batches stays below."""
        return float(torch.tensor(self.latencies_s, dtype=torch.float64).quantile(share))

    def accuracy(self, who: str | None = None) -> Rate:
        """Return the share of right answers of one who answered, or of all."""
        right = self.right.total() if who is None else self.right[who]
        return Rate.of(right, self.examples if who is None else self.by[who])

    def as_json(self) -> dict[str, Any]:
        """Return everything by name."""
        return {
            "examples": self.examples,
            "answered_by": dict(self.by),
            "accuracy": {
                "all": self.accuracy().as_json(),
                **{who: self.accuracy(who).as_json() for who in sorted(self.by)},
            },
            "latency_s": {"p50": self.latency_s(0.5), "p99": self.latency_s(0.99)},
            "bytes_up": self.bytes_up,
            "queries": self.asked,
            "shield": self.shield,
            "rule": self.rule,
            "threshold": self.threshold,
        }


def infer(
    origin: Origin, config: InferConfig, target: Target | None
) -> Iterator[Answered | InferRecord]:
    """Answer the test examples one batch after the other; yield each, and at last the record.

    Raises:
        ConfigError: no bundle, or one that does not fit the data or the settings.
        RefusedError: the cloud refuses this edge or its bundle.
        StateError: the bundle or its rule is damaged.
    """
    if origin.bundle is None:
        raise ConfigError("expected a bundle to answer with, got a configuration: train it first")
    refuse_dependent(origin.bundle)
    set_up(origin.config.threads)
    if origin.unfinished:
        _log.warning("the bundle is of a training that was not finished: %s", origin.unfinished)
    rule = rule_of(config, origin.bundle)
    job, _ = edge_job(origin, trains=False)
    record = InferRecord(
        rule=None if rule is None else name_of(rule),
        threshold=None if rule is None else rule.threshold,
    )
    with ExitStack() as stack:
        cloud: Cloud | None = None
        size = config.batch_size or _together(job.config)
        if target is not None:
            classes = len(job.dataset.interface.classes)
            asked = far_cloud(target, origin.session, job.config, classes=classes, rows=size)
            cloud = stack.enter_context(asked)
        policy = Policy(rule=rule, deadline_s=config.deadline_ms / 1000)
        method = job.method
        answerer = Answerer(
            method.edge_predictor, cloud, job.wire.codec, policy, shield=method.shield
        )
        source = job.dataset.test
        wanted = min(len(source), config.samples or len(source))
        stream = batches(source, batch_size=size, seed=0, epoch=0, shuffle=False)
        for i, batch in enumerate(islice(stream, -(-wanted // size))):
            labels = tuple(batch.labels[: wanted - i * size].tolist())
            answered = Answered(i * size, labels, answerer.answer(batch.inputs[: len(labels)]))
            record.add(answered)
            yield answered
        record.asked, record.shield = answerer.counts.as_json(), dict(method.shield.counts)
    yield record


def _together(config: TrainConfig) -> int:
    """Return how many examples are answered together where nothing is said."""
    return config.mixing.group if config.mixes else 1


def rule_of(config: InferConfig, bundle: Path) -> ExitRule | None:
    """Return the rule that decides whether the exit is final: that of the flags, else the bundle's.

    None where neither has one: then every example is sent.

    Raises:
        ConfigError: a rule without a threshold, or the reverse.
        StateError: the bundle's rule is damaged, or of another bundle.
    """
    if (rule := given_rule(config)) is not None:
        return rule
    return read_rule(bundle).rule if (bundle / NAME).exists() else None
