"""The way of one answer: the exit's where it is sure, the cloud's where it comes in time.

::

    inputs ─► edge ─► exit ─► rule ─► final: the exit's answer
               │                └──► not: features ─► shield ─► codec ─► cloud ─► shield: the answer
               └───────────────────────────────────────────────────► late: the exit's all the same

Dimension key:  B batch   S sent, of a batch   K classes
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import final

import torch
from torch import Tensor

from eaves.codecs.base import Codec, decode, parse_codec
from eaves.codecs.payload import Payload
from eaves.core.roles import CloudPredictor, EdgePredictor
from eaves.core.shield import Open, Reveal, Shield
from eaves.errors import PayloadError
from eaves.experiments.build import wire_of
from eaves.experiments.config import TrainConfig
from eaves.network.asking import (
    LARGEST_ANSWER_BYTES,
    CloudClient,
    NoAnswerError,
    answer_bytes,
)
from eaves.network.channel import Target
from eaves.network.claims import expect_answer
from eaves.network.waiting import Answers, Caller, CloudLate, Counts, Policy, Top, combined


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Release:
    """What leaves the edge for some inputs, and what reads the cloud's answers to it."""

    payload: bytes
    read: Reveal
    """Answers (Q, ...) -> logits (B, K), for this release only."""


def release(features: Tensor, codec: Codec, shield: Shield) -> Release:
    """Make what leaves for features (B, ...) in inference: the one place where that is done.

    Answers, evaluation and calibration all call it, so that none of them can leave the shield out.
    """
    queries, read = shield.protect(features)
    return Release(payload=codec.encode(queries), read=read)


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
    """A cloud half at the other end of a network.

    ``values`` is how many logits each answer has (None: not known), ``codec`` how answers are coded
    where they are no logits. What is not laid out so is refused before it is decoded, so that an
    answer takes no more time and memory than was agreed on. All questions together may take
    ``total_s``.
    """

    def __init__(
        self,
        client: CloudClient,
        *,
        values: int | None = None,
        codec: str = "fp32",
        total_s: float = float("inf"),
    ):
        self._client, self._values, self._left_s = client, values, total_s
        self._codecs = tuple(dict.fromkeys((codec, "fp32", "fp16")))

    def ask(self, payload: bytes, *, timeout_s: float) -> Tensor:
        """Return the logits.

        Raises:
            CloudLate: the cloud cannot be reached, or not in time.
            PayloadError: what came is no answer.
            RefusedError: the cloud refuses this edge or its bundle.
        """
        started_s = monotonic()
        try:
            answer = self._client.ask(payload, timeout_s=min(timeout_s, max(0.0, self._left_s)))
        except NoAnswerError as error:
            raise CloudLate(str(error)) from error
        finally:
            self._left_s -= monotonic() - started_s
        rows = Payload.shape_of(payload)[0]
        found = expect_answer(answer, rows=rows, values=self._values, codecs=self._codecs)
        return parse_codec(found.codec).decode(answer, limit_bytes=LARGEST_ANSWER_BYTES)


@contextmanager
def far_cloud(
    target: Target,
    session: str,
    config: TrainConfig,
    *,
    classes: int,
    rows: int,
    total_s: float = float("inf"),
) -> Iterator[FarCloud]:
    """Give the cloud at ``target`` for batches of at most ``rows`` inputs, until the context ends.

    What it answers in, and how much of it, follows from the configuration.
    """
    if not config.mixes:
        most = answer_bytes(rows, classes)
        with closing(CloudClient(target, session, answer_bytes=most)) as client:
            yield FarCloud(client, values=classes, total_s=total_s)
        return
    # Mixtures: the answers may be features, and there are as many as the groups need.
    codec = wire_of(config).reply_codec.name
    with closing(CloudClient(target, session)) as client:
        yield FarCloud(client, codec=codec, total_s=total_s)


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
        self._caller, self._clock = Caller(policy, clock=clock), clock

    @property
    def counts(self) -> Counts:
        """How often the cloud was asked."""
        return self._caller.counts

    def answer(self, inputs: Tensor) -> Answers:
        """Answer inputs (B, ...), B > 0.

        Where the cloud sends what are no logits for what it was asked, the exit answers, and
        :attr:`counts` says so.
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
            late_SK, bytes_up = self._ask(features, sent_B, early_BK, start_s)
        early_B, late_S = (None if x is None else _tops(x) for x in (early_BK, late_SK))
        answers = combined(sent_B.tolist(), early_B, late_S)
        return Answers(answers=answers, latency_s=self._clock() - start_s, bytes_up=bytes_up)

    def _sent(self, n: int, features: Tensor | None, early_BK: Tensor | None) -> Tensor:
        if features is None:
            return torch.zeros(n, dtype=torch.bool)
        if early_BK is None or self._policy.rule is None:
            return torch.ones(n, dtype=torch.bool)
        return ~self._policy.rule.accepts(early_BK).cpu()

    def _ask(
        self, features: Tensor, sent_B: Tensor, early_BK: Tensor | None, start_s: float
    ) -> tuple[Tensor | None, int]:
        """Return the cloud's logits (S, K), or None, and the bytes of the query."""
        cloud = self._cloud
        if cloud is None or not self._caller.allows():
            return None, 0
        sent = release(features[sent_B.to(features.device)], self._codec, self._shield)

        def asked(left_s: float) -> Tensor:
            answers = cloud.ask(sent.payload, timeout_s=left_s).detach()
            logits_SK = sent.read(answers).cpu()
            _expect_logits(logits_SK, int(sent_B.sum()), early_BK)
            return logits_SK

        return self._caller.ask(sent.payload, asked, start_s)


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


def _tops(logits_BK: Tensor) -> list[Top]:
    top = logits_BK.detach().cpu().double().softmax(dim=1).max(dim=1)
    return list(zip(top.indices.tolist(), top.values.tolist(), strict=True))
