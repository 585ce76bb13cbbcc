"""Decodes what edges send in threads of their own, after it was compared with what was agreed.

What a payload says of itself (codec, shape, number of examples) is compared with what the cloud
half takes before anything is decoded, so that nothing costs more than what an honest edge sends.
"""

import logging
import threading
from functools import partial
from math import prod
from typing import Final, final

from torch import Tensor

from eaves.codecs.base import decode
from eaves.codecs.budget import time_limit
from eaves.codecs.contract import Buffer
from eaves.codecs.payload import Payload
from eaves.codecs.upload import unpack_upload
from eaves.core.roles import Upload
from eaves.errors import EavesError, PayloadError
from eaves.network.half import Accepts
from eaves.network.workqueue import QueryWork, UploadWork, WorkQueue

_THREADS: Final = 4  # one edge has one of them at most
_LONGEST_S: Final = 10.0  # a payload of what was agreed takes far less
_SMALL_BYTES: Final = 2**16  # decoded sooner than a thread could be asked to
_SLOW_STAGES: Final = frozenset(("range", "png", "jpeg"))
_log = logging.getLogger(__name__)


def open_upload(accepts: Accepts, payload: Buffer) -> Upload:
    """Return what an upload holds.

    Raises:
        PayloadError: it is damaged, or not what the cloud half takes.
    """
    with time_limit(_LONGEST_S):
        features, labels_B = unpack_upload(
            payload, limit_bytes=accepts.limit_bytes, expect=accepts.expect
        )
    accepts.check(features, labels_B)
    return Upload(features, labels_B)


def open_query(accepts: Accepts, payload: Buffer) -> Tensor:
    """Return the features of a query.

    Raises:
        PayloadError: it is damaged, or not what the cloud half takes.
    """
    with time_limit(_LONGEST_S):
        features = decode(
            payload,
            limit_bytes=accepts.limit_bytes,
            expect=partial(accepts.expect, most=accepts.query_batch),
        )
    accepts.check(features)
    return features


@final
class Opener:
    """The threads that open the work of a queue."""

    def __init__(self, accepts: Accepts, work: WorkQueue):
        self._accepts, self._work = accepts, work
        self._threads: list[threading.Thread] = []
        stages = {stage.partition(":")[0] for stage in accepts.codec.split("+")}
        self._small_bytes = 0 if stages & {"", *_SLOW_STAGES} else _SMALL_BYTES

    def start(self) -> None:
        """Begin to work."""
        for i in range(_THREADS):
            thread = threading.Thread(target=self._run, args=[i == 0], name=f"eaves-opener-{i}")
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """End the threads; what they have begun is done first."""
        self._work.end_opening()
        for thread in self._threads:
            thread.join()

    def ask(self, query: QueryWork) -> None:
        """Put a query into the queue; where it and what it holds are small, its answerer opens it.

        Not this thread, the server's: each operation of torch lets another thread take over, and
        the next call would wait for that.
        """
        self._work.put(query, ready=self._is_small(query))

    def _is_small(self, query: QueryWork) -> bool:
        if len(query.payload) > self._small_bytes:
            return False
        try:
            shape = Payload.shape_of(query.payload)
        except PayloadError:
            return True  # it takes no time to refuse
        return prod(shape) * self._accepts.dtype.itemsize <= self._small_bytes

    def _run(self, uploads_first: bool) -> None:
        while (work := self._work.next_to_open(uploads_first=uploads_first)) is not None:
            self._open(work)
            self._work.has_opened(work)
            del work  # or it would be kept until the next one comes

    def _open(self, work: UploadWork | QueryWork) -> None:
        try:
            if isinstance(work, UploadWork):
                work.opened.value = open_upload(self._accepts, work.payload)
            elif not work.answer.cancelled():
                work.opened.value = open_query(self._accepts, work.payload)
        except EavesError as error:
            fail(work, error)
        except Exception as error:
            _log.exception("a payload could not be opened", extra={"edge": work.edge})
            fail(work, PayloadError(f"what was sent cannot be decoded: {error!r:.200}"))


def fail(work: UploadWork | QueryWork, error: EavesError) -> None:
    """Say why work cannot be opened."""
    work.opened.error = error
    if isinstance(work, QueryWork) and work.answer.set_running_or_notify_cancel():
        work.answer.set_exception(error)
