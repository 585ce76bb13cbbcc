"""Queries to a cloud: features up, logits down, within a deadline. Imports no torch."""

import os
from dataclasses import replace
from typing import Any, Final, final

import grpc
from google.protobuf.message import Message

from eaves.errors import PayloadError
from eaves.network.channel import Target, connect
from eaves.network.eaves_pb2 import Answer, Query, StatusReply, StatusRequest
from eaves.network.failures import explain
from eaves.network.refusals import FATAL, RefusedError, plain_words
from eaves.network.wire import INFER, PROTOCOL, STATUS, pack, unpack

LARGEST_ANSWER_BYTES: Final = 64 * 2**20
"""What a decoder of an answer may allocate."""
_STATUS_BYTES: Final = 2 * 2**20  # of a reply to a question for the status: it holds the terms
_MOST_STEPS: Final = 2**48
_TICKET_BYTES: Final = 16


def answer_bytes(rows: int, classes: int) -> int:
    """Return the most that the answer to a batch of so many takes: logits, and what is around them.

    >>> answer_bytes(256, 10)
    11264
    """
    return 4 * rows * classes + 1024


@final
class NoAnswerError(Exception):
    """The cloud has not answered in time, or cannot be reached; the message says which."""


@final
class CloudClient:
    """A connection for queries; it is made when it is first used, and again when it breaks.

    ``session`` is that of the edge's bundle: another cloud's answers would be noise.
    ``answer_bytes`` is the most that one answer takes: of what is longer, nothing is read.
    """

    def __init__(self, target: Target, session: str, *, answer_bytes: int = LARGEST_ANSWER_BYTES):
        self._target, self._session = target, session
        receives = max(answer_bytes, _STATUS_BYTES)
        self._channel = connect(replace(target, receive_bytes=receives))
        self._infer = self._channel.unary_unary(INFER, pack, unpack(Answer))
        self._status = self._channel.unary_unary(STATUS, pack, unpack(StatusReply))

    def ask(self, payload: bytes, *, timeout_s: float) -> bytes:
        """Return the payload of the cloud's logits (B, K) for encoded features; not decoded yet.

        Raises:
            NoAnswerError: there is no answer in time.
            PayloadError: what came is no message of a cloud, or the answer to another query.
            RefusedError: the cloud refuses this edge or its bundle.
        """
        # The answer to another query would have the right shape, and be taken apart into nonsense.
        ticket = os.urandom(_TICKET_BYTES)
        query = Query(protocol=PROTOCOL, session=self._session, payload=payload, ticket=ticket)
        answer = self._called(self._infer, query, timeout_s)
        if answer.ticket != ticket:
            raise PayloadError(
                f"expected the answer to this query from {self._target.address}, got that to "
                "another one: something between mixes answers up, or the cloud is of an older Eaves"
            )
        return bytes(answer.payload)

    def steps_left(self, *, timeout_s: float) -> int:
        """Return how many steps the cloud still learns from uploads that it keeps.

        0 before all edges have sent their last. Raises as :meth:`ask` does.
        """
        left = int(self._called(self._status, StatusRequest(), timeout_s).steps_left)
        if left > _MOST_STEPS:
            raise PayloadError(
                f"the cloud at {self._target.address} says that {left} steps are left, which no "
                "training takes"
            )
        return left

    def _called(self, method: Any, request: Message, timeout_s: float) -> Any:
        try:
            reply = method(request, timeout=timeout_s, metadata=self._target.metadata)
        except grpc.RpcError as error:
            about = explain(error, self._target.address)
            details = plain_words(about or error.details() or error.code().name)
            if error.code() in FATAL:
                raise RefusedError(
                    f"the cloud at {self._target.address} refuses: {details}"
                ) from error
            raise NoAnswerError(details) from error
        if reply is None:
            raise PayloadError(f"what came from {self._target.address} is no answer")
        return reply

    def close(self) -> None:
        """End the connection."""
        self._channel.close()
