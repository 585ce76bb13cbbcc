"""The edge half on its device: it learns, its uploads go into the spool, the uplink empties it.

::

    EdgeStage ──► up ──► spooling ──► Spool ──► Uplink ══► cloud
    step, encode         a checkpoint makes     receipts let the
                         the spool durable      spool forget

The first stage is that of the pipeline. A checkpoint is its mark: when the mark has gone through
the spool, what the edge had sent before it is on disk, and the edge's state may follow.
"""

import queue
import threading
from collections.abc import Iterator
from copy import deepcopy
from time import perf_counter
from typing import Final, final

from eaves.core.roles import Batch, EdgeLearner
from eaves.core.switching import quick_switching
from eaves.errors import PayloadError, StateError
from eaves.network.claims import expect_reply
from eaves.network.spool import Spool, Stopped
from eaves.network.uplink import Uplink
from eaves.runtime.meters import Totals
from eaves.runtime.stages import EdgeStage, Lanes
from eaves.runtime.traffic import Mark, Parcel, Progress, Snapshot, Wire

_POLL_S: Final = 0.2


@final
class NetworkedEdge:
    """Run ``edge`` on batches; a pipeline whose link and cloud are elsewhere."""

    def __init__(self, edge: EdgeLearner, wire: Wire, totals: Totals, spool: Spool, uplink: Uplink):
        self._lanes, self._totals, self._before = Lanes(wire, totals), totals, deepcopy(totals)
        self._reply_codec = wire.reply_codec.name
        self._spool, self._uplink, self._one_way = spool, uplink, edge.one_way
        self._edge = EdgeStage(edge, self._lanes, sends=True)
        self._halt, self._first_step = threading.Event(), 0

    def run(
        self,
        batches: Iterator[Batch],
        *,
        stop: threading.Event,
        first_step: int = 0,
        checkpoint_s: float = 60.0,
    ) -> Iterator[Progress | Snapshot]:
        """Yield progress several times a second, a snapshot every ``checkpoint_s`` and at the end.

        After the last snapshot it goes on until the cloud has made everything durable. When
        ``stop`` is set, the edge ends after its current step; what is not delivered stays in the
        spool.

        Raises:
            EavesError: whatever the learner, the codec or the disk raised, or the cloud's refusal.
        """
        started, before_s = perf_counter(), self._totals.wall_s
        self._first_step = first_step
        threads = [
            self._lanes.thread(
                "edge", lambda: self._edge.run(batches, self._halt, first_step, checkpoint_s)
            ),
            self._lanes.thread("spooling", lambda: self._spool_all(first_step)),
        ]
        with quick_switching():
            self._uplink.start()
            try:
                for thread in threads:
                    thread.start()
                for event in self._events(stop):
                    self._totals.wall_s = before_s + perf_counter() - started
                    yield self._progress() if event is None else self._completed(event)
            finally:
                self._halt.set()  # a put may wait for room that no thread makes any more
                self._lanes.close()
                self._uplink.close()
                for thread in threads:
                    if thread.ident is not None:  # else starting it has failed, or was interrupted
                        thread.join()
                self._count()  # what was sent after the last snapshot

    def _events(self, stop: threading.Event) -> Iterator[Mark | None]:
        """Yield marks as they come, None in between; end when all is delivered or stopped."""
        mark: Mark | None = None
        while mark is None or not mark.last:
            if stop.is_set() or self._uplink.error is not None:
                self._halt.set()
            try:
                mark = self._lanes.next_mark(_POLL_S)
            except Stopped:  # within a step: the last checkpoint is what there is
                break
            yield mark
        else:
            if not self._halt.is_set():
                self._uplink.finish(mark.snapshot.steps)
            while not (self._uplink.done or self._halt.is_set() or stop.wait(_POLL_S)):
                yield None
        if self._uplink.error is not None:
            raise self._uplink.error

    def _spool_all(self, first_step: int) -> None:
        """Take everything up to the last mark; upload n is that of step n."""
        lanes, seq = self._lanes, first_step
        while True:
            item, waited_s = lanes.up.get()
            lanes.totals.link.waiting_s += waited_s
            if isinstance(item, Mark):
                self._spool.persist()
                lanes.events.put(item)
                if item.last:
                    return
                continue
            seq += 1
            lanes.totals.link.blocked_s += self._spool.put(
                seq, item.data, item.samples, stop=self._halt
            )
            if not self._one_way:
                reply = self._reply(seq, item.data)
                lanes.totals.bytes_down += len(reply)
                lanes.replies.put(Parcel(reply, item.samples, perf_counter()))

    def _reply(self, seq: int, upload: bytes) -> bytes:
        """Return the cloud's reply to an upload; one that came before a crash is on disk.

        Raises:
            PayloadError: it is no reply to this upload; it is not kept.
            StateError: it was on disk, and is gone.
            Stopped: the run is to end.
        """
        if (known := self._spool.reply(seq)) is not None:
            return known
        while not self._halt.is_set():
            try:
                answered, reply = self._uplink.replies.get(timeout=_POLL_S)
            except queue.Empty:
                self._expect_not_past(seq)
                continue
            if answered == seq:
                try:
                    expect_reply(reply, upload, codec=self._reply_codec)
                except PayloadError as error:
                    raise PayloadError(f"the cloud's reply does not fit: {error}") from error
                self._spool.keep_reply(seq, reply)
                return reply
        raise Stopped

    def _expect_not_past(self, seq: int) -> None:
        """Raise a :class:`StateError` where the cloud will never reply to ``seq`` again."""
        if (applied := self._uplink.status.applied) > seq:
            raise StateError(
                f"the cloud's reply to upload {seq} is not in the spool any more, and the cloud, "
                f"which has learnt from {applied} uploads, gives it only once: the spool was "
                "damaged or removed. Start the run over with --overwrite"
            )

    def _completed(self, mark: Mark) -> Snapshot:
        self._count()
        totals, now = mark.snapshot.totals, self._totals
        totals.wall_s, totals.link = now.wall_s, deepcopy(now.link)
        totals.bytes_up, totals.sent_samples = now.bytes_up, now.sent_samples
        return mark.snapshot

    def _count(self) -> None:
        status = self._uplink.status
        self._totals.bytes_up = self._before.bytes_up + status.sent_bytes
        self._totals.sent_samples = self._before.sent_samples + status.sent_samples

    def _progress(self) -> Progress:
        self._count()
        edge, status = self._edge.figures, self._uplink.status
        return Progress(
            edge.steps,
            max(0, status.applied - self._first_step),
            dict(edge.means),
            {},
            self._spool.status().waiting,
            deepcopy(self._totals),
        )
