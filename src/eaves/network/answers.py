"""Answers to queries, many in one batch.

Dimension key:  B batch   K classes
"""

import logging
from time import perf_counter
from typing import Final, final

import torch
from torch import Tensor

from eaves.errors import DivergedError, PayloadError
from eaves.network.counts import Counts
from eaves.network.half import Half
from eaves.network.opening import open_query
from eaves.network.workqueue import QueryWork, WorkQueue

_BATCHES: Final = 4  # in a turn
_log = logging.getLogger(__name__)


@final
class Answers:
    """Answers queries with the cloud half, ``most`` examples or one query in a batch.

    A bad query spoils no other.
    """

    def __init__(self, half: Half, counts: Counts, *, most: int):
        self._half, self._counts, self.most = half, counts, most

    def give_in_turn(self, work: WorkQueue) -> None:
        """Answer what waits, but let uploads have their turn where queries never end."""
        for _ in range(_BATCHES):
            if not (queries := work.take_queries(self.most)):
                break
            started = perf_counter()
            self.give(queries)
            work.charge(queries, perf_counter() - started)

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
        except Exception as error:  # of any kind: it may not end the thread
            if len(opened) > 1:  # one of them may be to blame
                for one in opened:
                    self._answer([one])
                return
            _log.warning("a query cannot be answered", extra={"why": repr(error)[:300]})
            _refuse(opened[0][0], error)
            return
        parts = torch.split(logits_BK, [len(x) for _, x in opened])
        for (query, _), part in zip(opened, parts, strict=True):
            try:
                query.answer.set_result(self._half.answer_codec.encode(part))
            except Exception as error:  # features too large, or weights that are not finite
                _refuse(query, error)
        self._counts.queries += len(opened)
        self._counts.answered += len(logits_BK)
        self._counts.answer_batches += 1
        self._counts.answer_s += perf_counter() - started

    def _opened(self, query: QueryWork) -> Tensor | None:
        if not query.answer.set_running_or_notify_cancel():
            return None  # no caller waits for it any more
        if (features := query.opened.value) is not None:
            return features
        try:
            query.opened.value = open_query(self._half.accepts, query.payload)
        except PayloadError as error:
            query.answer.set_exception(error)
        except Exception as error:  # of any kind: it may not end the thread
            _log.exception("a query could not be opened", extra={"edge": query.edge})
            query.answer.set_exception(PayloadError(f"it cannot be decoded: {error!r:.200}"))
        return query.opened.value


def _refuse(query: QueryWork, error: Exception) -> None:
    query.answer.set_exception(DivergedError(f"the cloud cannot answer: {error}"))
