"""The way of one answer: the exit's where it is sure, the cloud's where it comes in time.

::

    inputs ─► edge ─► exit ─► rule ─► final: the exit's answer
               │                └──► not: features ─► shield ─► codec ─► cloud ─► shield: the answer
               └───────────────────────────────────────────────────► late: the exit's all the same

Dimension key:  B batch   S sent, of a batch   K classes
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from time import monotonic
from typing import Any, Literal, final

import torch
from torch import Tensor

from eaves.codecs.base import Codec, decode
from eaves.core.exits import ExitRule
from eaves.core.roles import CloudPredictor, EdgePredictor
from eaves.core.shield import Open, Shield
from eaves.errors import ConfigError, PayloadError
from eaves.network.asking import CloudClient, NoAnswerError

AnsweredBy = Literal["exit", "cloud", "exit-late", "none"]


@final
class CloudLate(Exception):  # noqa: N818  # no error: an event that every caller provides for
    """There is no answer in time; the message says why."""


class Cloud(ABC):
    """Whoever answers features."""

    @abstractmethod
    def ask(self, payload: bytes, *, timeout_s: float) -> Tensor:
        """Return logits (S, K) for an encoded batch of S.

        Raises:
            CloudLate: there is no answer within ``timeout_s``.
        """


@final
class Beside(Cloud):
    """A cloud half in the same process. It is never late: nothing is between."""

    def __init__(self, predictor: CloudPredictor):
        self._predictor = predictor

    def ask(self, payload: bytes, *, timeout_s: float) -> Tensor:
        """Return the logits, however long they take."""
        return self._predictor.answer(decode(payload))


@final
class FarCloud(Cloud):
    """A cloud half at the other end of a network."""

    def __init__(self, client: CloudClient):
        self._client = client

    def ask(self, payload: bytes, *, timeout_s: float) -> Tensor:
        """Return the logits.

        Raises:
            CloudLate: the cloud cannot be reached, or not in time.
            PayloadError: what came is no answer.
            RefusedError: the cloud refuses this edge or its bundle.
        """
        try:
            return self._client.ask(payload, timeout_s=timeout_s)
        except NoAnswerError as error:
            raise CloudLate(str(error)) from error


@final
@dataclass(frozen=True, kw_only=True)
class Patience:
    """How soon a cloud that did not answer is asked again: a back-off that doubles."""

    first_s: float = 0.25
    longest_s: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.first_s <= self.longest_s < float("inf"):
            raise ConfigError(
                f"expected 0 < first_s <= longest_s, got {self.first_s} and {self.longest_s}"
            )

    def backoff_s(self, failures: int) -> float:
        """Return the wait after so many failures in a row.

        >>> [Patience().backoff_s(n) for n in (1, 2, 3, 100)]
        [0.25, 0.5, 1.0, 5.0]
        """
        return min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 64))


@final
class Breaker:
    """Opens when the cloud fails, and then lets one question through after each back-off.

    Times are those of one monotonic clock, given by the caller.
    """

    def __init__(self, patience: Patience):
        self._patience = patience
        self._failures, self._again_s = 0, float("-inf")

    def allows(self, now_s: float) -> bool:
        """Return whether the cloud may be asked now."""
        return now_s >= self._again_s

    def failed(self, now_s: float) -> None:
        """Take note that the cloud did not answer."""
        self._failures += 1
        self._again_s = now_s + self._patience.backoff_s(self._failures)

    def succeeded(self) -> None:
        """Take note that it did."""
        self._failures, self._again_s = 0, float("-inf")


@final
@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer for one example; without a class where nobody answered.

    ``confidence`` is the top softmax probability of whoever answered, whatever the rule.
    """

    label: int | None
    confidence: float | None
    answered_by: AnsweredBy

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name; the label is called ``class``."""
        return {
            "class": self.label,
            "confidence": self.confidence,
            "answered_by": self.answered_by,
        }


@final
@dataclass(frozen=True, kw_only=True)
class Answers:
    """The answers for a batch, the time they took, and the bytes handed to the cloud for them."""

    answers: tuple[Answer, ...]
    latency_s: float
    bytes_up: int
    """Of the payload, whether it was answered or not."""

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return {
            "answers": [answer.as_json() for answer in self.answers],
            "latency_s": self.latency_s,
            "bytes_up": self.bytes_up,
        }


@final
@dataclass(frozen=True, kw_only=True)
class Counts:
    """How often, in batches, the cloud was asked, and why it did not answer."""

    asked: int = 0
    late: int = 0
    """Asked, but without an answer in time."""
    skipped: int = 0
    """Not asked, because it had just failed."""
    overdue: int = 0
    """Not asked, because the deadline was over before the edge was done."""

    def as_json(self) -> dict[str, int]:
        """Return the fields by name."""
        return asdict(self)


@final
@dataclass(frozen=True, kw_only=True)
class Policy:
    """When an exit is final, and how long an answer may take.

    Without a ``rule`` no exit is final while the cloud answers. ``deadline_s`` counts from the
    moment that the inputs are there.
    """

    rule: ExitRule | None = None
    deadline_s: float = 1.0
    patience: Patience = field(default_factory=Patience)

    def __post_init__(self) -> None:
        if not 0 < self.deadline_s < float("inf"):
            raise ConfigError(f"expected a deadline above 0 s, got {self.deadline_s}")


@final
class Answerer:
    """Answers batches on the edge, with the help of a cloud (None: there is none).

    It is for one thread: what it learns about the cloud is not guarded. ``clock`` is monotonic.
    """

    def __init__(
        self,
        edge: EdgePredictor,
        cloud: Cloud | None,
        codec: Codec,
        policy: Policy,
        *,
        shield: Shield | None = None,
        clock: Callable[[], float] = monotonic,
    ):
        self._edge, self._cloud, self._codec, self._policy = edge, cloud, codec, policy
        self._shield = shield or Open()
        self._breaker, self._clock = Breaker(policy.patience), clock
        self.counts = Counts()

    def answer(self, inputs: Tensor) -> Answers:
        """Answer inputs (B, ...), B > 0.

        Raises:
            PayloadError: what the cloud sent are no logits for what it was asked.
        """
        start_s = self._clock()
        features, early_BK = self._edge.predict(inputs)
        if early_BK is None and features is None:
            raise ValueError(
                "expected an edge that sends features or answers, got one with neither"
            )
        sent_B = self._sent(len(inputs), features, early_BK)
        late_SK, bytes_up = None, 0
        if features is not None and sent_B.any():
            late_SK, bytes_up = self._ask(features, sent_B, start_s)
        if late_SK is not None:
            _expect_logits(late_SK, int(sent_B.sum()), early_BK)
        answers = _combined(sent_B, early_BK, late_SK)
        return Answers(answers=answers, latency_s=self._clock() - start_s, bytes_up=bytes_up)

    def _sent(self, n: int, features: Tensor | None, early_BK: Tensor | None) -> Tensor:
        if features is None:
            return torch.zeros(n, dtype=torch.bool)
        if early_BK is None or self._policy.rule is None:
            return torch.ones(n, dtype=torch.bool)
        return ~self._policy.rule.accepts(early_BK).cpu()

    def _ask(self, features: Tensor, sent_B: Tensor, start_s: float) -> tuple[Tensor | None, int]:
        """Return the cloud's logits (S, K), or None, and the bytes of the query."""
        if self._cloud is None:
            return None, 0
        if not self._breaker.allows(self._clock()):
            self._count(skipped=1)
            return None, 0
        queries, reveal = self._shield.protect(features[sent_B.to(features.device)])
        payload = self._codec.encode(queries)
        left_s = self._policy.deadline_s - (self._clock() - start_s)
        if left_s <= 0:  # which is not the cloud's fault
            self._count(overdue=1)
            return None, 0
        try:
            answers = self._cloud.ask(payload, timeout_s=left_s)
        except CloudLate:
            self._breaker.failed(self._clock())
            self._count(asked=1, late=1)
            return None, len(payload)
        self._breaker.succeeded()
        self._count(asked=1)
        return reveal(answers.detach()).cpu(), len(payload)

    def _count(self, *, asked: int = 0, late: int = 0, skipped: int = 0, overdue: int = 0) -> None:
        old = self.counts
        self.counts = replace(
            old,
            asked=old.asked + asked,
            late=old.late + late,
            skipped=old.skipped + skipped,
            overdue=old.overdue + overdue,
        )


def _expect_logits(logits_SK: Tensor, sent: int, early_BK: Tensor | None) -> None:
    classes = None if early_BK is None else early_BK.shape[1]
    shape = tuple(logits_SK.shape)
    fits = len(shape) == 2 and shape[0] == sent and shape[1] > 0 and classes in (None, shape[1])
    if not (fits and logits_SK.is_floating_point()):
        raise PayloadError(
            f"expected float logits of shape ({sent}, {classes or 'K'}) from the cloud, "
            f"got {logits_SK.dtype} of shape {shape}"
        )
    if not bool(torch.isfinite(logits_SK).all()):
        raise PayloadError("expected finite logits from the cloud, got NaN or infinity")


def _combined(
    sent_B: Tensor, early_BK: Tensor | None, late_SK: Tensor | None
) -> tuple[Answer, ...]:
    """Return who answers what: ``late_SK`` is None where the cloud was not there in time."""
    answers = [Answer(label=None, confidence=None, answered_by="none")] * len(sent_B)
    if early_BK is not None:
        names: list[AnsweredBy] = ["exit-late" if sent else "exit" for sent in sent_B.tolist()]
        answers = _answers(early_BK, names)
    if late_SK is not None:
        places = sent_B.nonzero()[:, 0].tolist()
        for i, answer in zip(places, _answers(late_SK, ["cloud"] * len(places)), strict=True):
            answers[i] = answer
    return tuple(answers)


def _answers(logits_BK: Tensor, names: list[AnsweredBy]) -> list[Answer]:
    top = logits_BK.detach().cpu().double().softmax(dim=1).max(dim=1)
    return [
        Answer(label=label, confidence=confidence, answered_by=name)
        for label, confidence, name in zip(
            top.indices.tolist(), top.values.tolist(), names, strict=True
        )
    ]
