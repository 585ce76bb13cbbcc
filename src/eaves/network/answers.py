"""Answers to queries, many in one batch.

Dimension key:  B batch   K classes
"""

from time import perf_counter
from typing import final

import torch
from torch import Tensor

from eaves.codecs.base import decode
from eaves.errors import DivergedError, PayloadError
from eaves.network.counts import Counts
from eaves.network.half import Half
from eaves.network.workqueue import QueryWork


@final
class Answers:
    """Answers queries with the cloud half, ``most`` examples or one query in a batch.

    A bad query spoils no other.
    """

    def __init__(self, half: Half, counts: Counts, *, most: int):
        self._half, self._counts, self.most = half, counts, most

    def give(self, queries: list[QueryWork]) -> None:
        """Answer all of them."""
        opened: list[tuple[QueryWork, Tensor]] = []
        for query in queries:
            if (features := self._opened(query)) is None:
                continue
            if sum(len(x) for _, x in opened) + len(features) > self.most:
                self._answer(opened)
                opened = []
            opened.append((query, features))
        self._answer(opened)

    def _answer(self, opened: list[tuple[QueryWork, Tensor]]) -> None:
        if not opened:
            return
        started = perf_counter()
        try:
            logits_BK = self._half.predictor.answer(torch.cat([x for _, x in opened])).float()
        except (ValueError, RuntimeError) as error:
            for query, _ in opened:
                _refuse(query, error)
            return
        parts = torch.split(logits_BK, [len(x) for _, x in opened])
        for (query, _), part in zip(opened, parts, strict=True):
            try:
                query.answer.set_result(self._half.answer_codec.encode(part))
            except ValueError as error:  # features too large, or weights that are not finite
                _refuse(query, error)
        self._counts.queries += len(opened)
        self._counts.answered += len(logits_BK)
        self._counts.answer_batches += 1
        self._counts.answer_s += perf_counter() - started

    def _opened(self, query: QueryWork) -> Tensor | None:
        if not query.answer.set_running_or_notify_cancel():
            return None  # nobody waits for it any more
        try:
            features = decode(query.payload, limit_bytes=self._half.accepts.limit_bytes)
            self._half.accepts.check(features)
        except PayloadError as error:
            query.answer.set_exception(error)
            return None
        return features


def _refuse(query: QueryWork, error: Exception) -> None:
    query.answer.set_exception(DivergedError(f"the cloud cannot answer: {error}"))
