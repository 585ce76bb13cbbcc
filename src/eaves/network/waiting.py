"""How long an edge waits for its cloud, and who answers in the end. Imports no torch.

Dimension key:  B batch   S sent, of a batch
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from time import monotonic
from typing import Any, Literal, TypeVar, final

from eaves.core.rules import ExitRule
from eaves.errors import ConfigError, PayloadError

_log = logging.getLogger(__name__)
AnsweredBy = Literal["exit", "cloud", "exit-late", "none"]
T = TypeVar("T")


@final
class CloudLate(Exception):  # noqa: N818  # no error: an event that every caller provides for
    """There is no answer in time; the message says why."""


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
    """The answer for one example; without a class where no answer came.

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
    unusable: int = 0
    """Asked, and what came was no answer to the question."""

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
class Caller:
    """Asks a cloud within the deadline of a policy, and not at all while it has just failed.

    It is for one thread: what it learns about the cloud is not guarded. ``clock`` is monotonic.
    """

    def __init__(self, policy: Policy, *, clock: Callable[[], float] = monotonic):
        self._deadline_s, self._breaker, self._clock = (
            policy.deadline_s,
            Breaker(policy.patience),
            clock,
        )
        self.counts = Counts()

    def allows(self) -> bool:
        """Return whether the cloud may be asked now; where it may not, that is counted."""
        if self._breaker.allows(self._clock()):
            return True
        self._count(skipped=1)
        return False

    def ask(
        self, payload: bytes, send: Callable[[float], T], start_s: float
    ) -> tuple[T | None, int]:
        """Return what ``send`` returns for the seconds that are left, and the bytes handed over.

        None where there is no answer in time, or none that can be used: a cloud that is broken
        must not end an edge that answers without it. ``start_s`` is when the inputs were there, by
        the clock; ``payload`` is what ``send`` hands over.
        """
        left_s = self._deadline_s - (self._clock() - start_s)
        if left_s <= 0:  # which is not the cloud's fault
            self._count(overdue=1)
            return None, 0
        try:
            answer = send(left_s)
        except CloudLate:
            self._breaker.failed(self._clock())
            self._count(asked=1, late=1)
            return None, len(payload)
        except PayloadError as error:
            self._breaker.failed(self._clock())
            self._count(asked=1, unusable=1)
            _log.warning("an answer of the cloud cannot be used", extra={"why": str(error)})
            return None, len(payload)
        self._breaker.succeeded()
        self._count(asked=1)
        return answer, len(payload)

    def _count(self, **more: int) -> None:
        old = asdict(self.counts)
        self.counts = replace(self.counts, **{name: old[name] + n for name, n in more.items()})


Top = tuple[int, float]
"""The class that somebody answers, and its softmax probability."""


def combined(
    sent_B: Sequence[bool], early_B: Sequence[Top] | None, late_S: Sequence[Top] | None
) -> tuple[Answer, ...]:
    """Return who answers what: ``late_S`` is None where the cloud was not there in time.

    >>> answers = combined([False, True], [(3, 0.9), (1, 0.4)], [(2, 0.8)])
    >>> [(answer.label, answer.answered_by) for answer in answers]
    [(3, 'exit'), (2, 'cloud')]
    """
    answers = [Answer(label=None, confidence=None, answered_by="none")] * len(sent_B)
    if early_B is not None:
        names: list[AnsweredBy] = ["exit-late" if sent else "exit" for sent in sent_B]
        answers = [_answer(top, name) for top, name in zip(early_B, names, strict=True)]
    if late_S is not None:
        places = [i for i, sent in enumerate(sent_B) if sent]
        for i, top in zip(places, late_S, strict=True):
            answers[i] = _answer(top, "cloud")
    return tuple(answers)


def _answer(top: Top, name: AnsweredBy) -> Answer:
    return Answer(label=top[0], confidence=top[1], answered_by=name)
