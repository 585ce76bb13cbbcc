"""The way of one answer without torch, as :mod:`eaves.experiments.answering` draws it.

Dimension key:  B batch   S sent, of a batch   K classes
"""

from collections.abc import Callable
from math import log
from time import monotonic
from typing import final

import numpy as np
import numpy.typing as npt

from eaves.core.rules import ConfidenceAbove, ExitRule
from eaves.errors import DivergedError
from eaves.light.codec import LightCodec, decode_floats
from eaves.light.model import Inputs, LightEdge
from eaves.light.noise import Features
from eaves.network.asking import CloudClient, NoAnswerError
from eaves.network.waiting import Answers, Caller, CloudLate, Counts, Policy, Top, combined
from eaves.privacy.stream import Floats

Mask = npt.NDArray[np.bool_]


@final
class LightAnswerer:
    """Answers batches on the device, with the help of a cloud (None: there is none).

    It is for one thread. ``clock`` is monotonic.
    """

    def __init__(
        self,
        edge: LightEdge,
        client: CloudClient | None,
        codec: LightCodec,
        policy: Policy,
        *,
        classes: int,
        clock: Callable[[], float] = monotonic,
    ):
        self._edge, self._client, self._codec, self._rule = edge, client, codec, policy.rule
        self._classes = classes
        self._caller, self._clock = Caller(policy, clock=clock), clock

    @property
    def counts(self) -> Counts:
        """How often the cloud was asked."""
        return self._caller.counts

    def answer(self, inputs: Inputs) -> Answers:
        """Answer uint8 inputs (B, ...), B > 0.

        Where the cloud sends what are no logits for what it was asked, the exit answers, and
        :attr:`counts` says so.

        Raises:
            ConfigError: inputs that the net does not take.
            DivergedError: features that may not or cannot be sent.
            RefusedError: the cloud refuses this device or its bundle.
        """
        start_s = self._clock()
        features, early_BK = self._edge.predict(inputs)
        sent_B = self._sent(len(inputs), early_BK)
        late_SK, bytes_up = None, 0
        if sent_B.any():
            late_SK, bytes_up = self._ask(features[sent_B], start_s)
        early_B, late_S = (None if x is None else _tops(x) for x in (early_BK, late_SK))
        answers = combined(sent_B.tolist(), early_B, late_S)
        return Answers(answers=answers, latency_s=self._clock() - start_s, bytes_up=bytes_up)

    def payload_bytes(self, inputs: Inputs) -> int:
        """Return how long the payload of inputs (B, ...) is; it is made, and goes nowhere."""
        return len(self._encoded(self._edge.predict(inputs)[0]))

    def _sent(self, n: int, early_BK: Features | None) -> Mask:
        if early_BK is None or self._rule is None:
            return np.ones(n, dtype=np.bool_)
        return ~np.asarray(_taken(self._rule, early_BK))

    def _ask(self, z_sent: Features, start_s: float) -> tuple[Features | None, int]:
        """Return the cloud's logits (S, K), or None, and the bytes of the query."""
        client = self._client
        if client is None or not self._caller.allows():
            return None, 0
        payload = self._encoded(z_sent)
        shape = (len(z_sent), self._classes)
        return self._caller.ask(
            payload, lambda left_s: _asked(client, payload, shape, left_s), start_s
        )

    def _encoded(self, z_sent: Features) -> bytes:
        try:
            return self._codec.encode(z_sent)
        except ValueError as error:
            raise DivergedError(f"the features cannot be sent: {error}") from error


def _asked(
    client: CloudClient, payload: bytes, shape: tuple[int, int], timeout_s: float
) -> Features:
    try:
        answer = client.ask(payload, timeout_s=timeout_s)
    except NoAnswerError as error:
        raise CloudLate(str(error)) from error
    return decode_floats(answer, shape=shape)


def _taken(rule: ExitRule, logits_BK: Features) -> Mask:
    """Return where an early answer is final: the scores of ``rule``, in numpy."""
    p_BK = softmax(logits_BK)
    if isinstance(rule, ConfidenceAbove):
        return np.asarray(p_BK.max(axis=1) > rule.threshold)
    logp_BK = np.log(np.where(p_BK > 0, p_BK, 1.0))  # p log p is 0 at 0
    entropy_B = -(p_BK * logp_BK).sum(axis=1) / log(p_BK.shape[1])
    return np.asarray(entropy_B.clip(0, 1) < rule.threshold)


def softmax(logits_BK: Features) -> Floats:
    """Return probabilities (B, K) in float64.

    >>> softmax(np.zeros((1, 4), np.float32)).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """
    powers_BK = np.exp(logits_BK.astype(np.float64) - logits_BK.max(axis=1, keepdims=True))
    found: Floats = powers_BK / powers_BK.sum(axis=1, keepdims=True)
    return found


def _tops(logits_BK: Features) -> list[Top]:
    p_BK = softmax(logits_BK)
    labels_B = p_BK.argmax(axis=1)
    return [(int(k), float(p_K[k])) for k, p_K in zip(labels_B, p_BK, strict=True)]
