"""The three stages of a pipeline, each the body of one thread.

::

    EdgeStage ──► up ──► LinkStage ──► arrived ──► CloudStage
    step, encode         holds each payload        decode, step
                         for its time

The link and the speed of the device are emulated on the wall clock; the payloads are real bytes.

A checkpoint needs no pause. The edge copies its state between two steps and sends a mark down the
same queues; when the mark reaches the cloud, the cloud has applied exactly the uploads that the
edge had sent, and its state then belongs to the edge's copy (Chandy and Lamport, 1985).
"""

import queue
import random
import threading
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final, final

from torch import Tensor

from eaves.codecs.base import decode
from eaves.codecs.upload import pack_upload, unpack_upload
from eaves.core.roles import Batch, CloudLearner, EdgeLearner, Upload
from eaves.errors import DivergedError, PayloadError
from eaves.runtime.channel import Channel, Closed
from eaves.runtime.meters import Smoothed, Totals
from eaves.runtime.traffic import Mark, Parcel, Snapshot, Wire

_LARGEST: Final = 65504.0  # of float16, the narrowest range that a codec has


def _is_there(item: Parcel | Mark) -> bool:
    """Return whether an item has arrived, so that it waits for the cloud and not for the link."""
    return isinstance(item, Mark) or item.ready_at <= perf_counter()


@final
@dataclass
class Lanes:
    """What the stages share: the queues between them, the sums, and the wish to be done."""

    wire: Wire
    totals: Totals
    up: Channel[Parcel | Mark] = field(init=False)
    arrived: Channel[Parcel | Mark] = field(init=False)
    replies: Channel[Parcel] = field(default_factory=lambda: Channel(1))
    events: "queue.SimpleQueue[Mark | BaseException]" = field(default_factory=queue.SimpleQueue)
    hurry: threading.Event = field(default_factory=threading.Event)
    """Set when emulated waits no longer matter."""
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.up = Channel(self.wire.depth)
        self.arrived = Channel(self.wire.depth, takes_room=_is_there)
        self.rng = random.Random(self.wire.seed)

    def sleep_until(self, when: float) -> None:
        """Wait until ``perf_counter`` reaches ``when``, unless there is a hurry."""
        if (left := when - perf_counter()) > 0:
            self.hurry.wait(left)

    def thread(self, name: str, body: Callable[[], None]) -> threading.Thread:
        """Return a thread for a stage; what goes wrong in it is an event, and closes all lanes."""
        return threading.Thread(
            target=self._guarded, args=(body,), name=f"eaves-{name}", daemon=True
        )

    def _guarded(self, body: Callable[[], None]) -> None:
        try:
            body()
        except Closed:
            pass  # another stage has already said why
        except BaseException as error:  # handed to the caller's thread
            self.events.put(error)
            self.close()

    def next_mark(self, timeout_s: float) -> Mark | None:
        """Return the mark that has gone through all stages; None where none has come in time.

        Raises:
            BaseException: whatever ended a stage.
        """
        try:
            event = self.events.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(event, BaseException):
            raise event
        return event

    def close(self) -> None:
        """Let every stage end at once."""
        self.hurry.set()
        for channel in (self.up, self.arrived, self.replies):
            channel.close()


@final
class EdgeStage:
    """Train the edge and, where there is a cloud, send."""

    def __init__(self, edge: EdgeLearner, lanes: Lanes, *, sends: bool):
        self._edge, self._lanes, self._sends = edge, lanes, sends
        self.figures = Smoothed()

    def run(
        self, batches: Iterator[Batch], stop: threading.Event, first_step: int, checkpoint_s: float
    ) -> None:
        """Take every batch until ``stop``; mark a checkpoint now and then, and at the end."""
        steps, marked_at = first_step, perf_counter()
        while not stop.is_set():
            started = perf_counter()
            batch = next(batches, None)
            if batch is None:
                break
            data = self._step(batch)
            self._spend(started)
            if data is not None:
                self._send(Parcel(data, len(batch.labels), perf_counter()))
            steps += 1
            if perf_counter() - marked_at >= checkpoint_s:
                self._mark(steps, last=False)
                marked_at = perf_counter()
        self._mark(steps, last=True)

    def _step(self, batch: Batch) -> bytes | None:
        totals = self._lanes.totals
        upload, peak_bytes = self.figures.step(
            self._edge, lambda: self._edge.step(batch), batch.inputs.nbytes
        )
        totals.edge_peak_bytes = max(totals.edge_peak_bytes, peak_bytes)
        totals.samples += len(batch.labels)
        if upload is None or not self._sends:
            return None
        codec = self._lanes.wire.codec
        return _encoded(lambda x: pack_upload(x, upload.labels, codec), upload.features)

    def _send(self, parcel: Parcel) -> None:
        lanes, meter = self._lanes, self._lanes.totals.edge
        meter.blocked_s += lanes.up.put(parcel)
        if self._edge.one_way:
            return
        asked = perf_counter()
        reply, _ = lanes.replies.get()
        lanes.sleep_until(reply.ready_at)
        meter.waiting_s += perf_counter() - asked
        started = perf_counter()
        gradient = decode(reply.data)
        try:
            self._edge.receive(gradient)
        except ValueError as error:  # it came from outside, and is not the caller's mistake
            raise PayloadError(f"the cloud's reply does not fit: {error}") from error
        self._spend(started)

    def _spend(self, started: float) -> None:
        """Book the time since ``started``, drawn out by the slowness of the device."""
        worked_s = perf_counter() - started
        if self._lanes.wire.edge_slowdown > 1:
            self._lanes.sleep_until(started + worked_s * self._lanes.wire.edge_slowdown)
        self._lanes.totals.edge.busy_s += perf_counter() - started

    def _mark(self, steps: int, *, last: bool) -> None:
        snapshot = Snapshot(steps, self._edge.state(), None, deepcopy(self._lanes.totals))
        mark = Mark(snapshot, last)
        if self._sends:
            self._lanes.up.put(mark)
        else:
            self._lanes.events.put(mark)


@final
class LinkStage:
    """Hold each payload for as long as the link would take."""

    def __init__(self, lanes: Lanes):
        self._lanes = lanes

    def run(self) -> None:
        """Carry everything up to the last mark."""
        lanes, totals, free_at = self._lanes, self._lanes.totals, 0.0
        while True:
            item, waited_s = lanes.up.get()
            totals.link.waiting_s += waited_s
            if isinstance(item, Mark):
                self._complete(item.snapshot.totals)
                lanes.arrived.put(item)
                if item.last:
                    return
                continue
            # On the wall clock: a simulated one would have to be told how the stages overlap, which
            # is what is measured.
            cost = lanes.wire.link.transfer(len(item.data), rng=lanes.rng)
            # From the end of the last transfer, not from now: waking late must not slow the link.
            free_at = max(free_at, item.queued_at) + cost.busy_s
            lanes.sleep_until(free_at)
            totals.link.busy_s += cost.busy_s
            totals.bytes_up += len(item.data)
            totals.sent_samples += item.samples
            ready_at = free_at + cost.delay_s
            blocked_s = lanes.arrived.put(Parcel(item.data, item.samples, free_at, ready_at))
            totals.link.blocked_s += blocked_s
            free_at += blocked_s

    def _complete(self, marked: Totals) -> None:
        """Add the link's sums at a mark: what was queued before it has been sent by now."""
        totals = self._lanes.totals
        marked.link, marked.bytes_up = deepcopy(totals.link), totals.bytes_up
        marked.sent_samples = totals.sent_samples


@final
class CloudStage:
    """Train the cloud on what arrives, and reply where the method does.

    ``keep`` is given every payload before the cloud learns from it.
    """

    def __init__(
        self, cloud: CloudLearner, lanes: Lanes, *, keep: Callable[[bytes], None] | None = None
    ):
        self._cloud, self._lanes, self._keep = cloud, lanes, keep
        self.figures = Smoothed()

    def run(self) -> None:
        """Take everything up to the last mark."""
        lanes, meter = self._lanes, self._lanes.totals.cloud
        while True:
            asked = perf_counter()
            item, _ = lanes.arrived.get()
            if isinstance(item, Mark):
                lanes.events.put(Mark(self._completed(item.snapshot), item.last))
                if item.last:
                    return
                continue
            lanes.sleep_until(item.ready_at)
            started = perf_counter()
            meter.waiting_s += started - asked
            reply = self._step(item.data)
            meter.busy_s += perf_counter() - started
            if reply is not None:
                self._reply(reply)

    def _step(self, data: bytes) -> bytes | None:
        if self._keep is not None:
            self._keep(data)
        totals, upload = self._lanes.totals, Upload(*unpack_upload(data))
        reply, peak_bytes = self.figures.step(
            self._cloud, lambda: self._cloud.step(upload), upload.features.nbytes
        )
        totals.cloud_peak_bytes = max(totals.cloud_peak_bytes, peak_bytes)
        return None if reply is None else _encoded(self._lanes.wire.reply_codec.encode, reply)

    def _reply(self, data: bytes) -> None:
        lanes, sent_at = self._lanes, perf_counter()
        cost = lanes.wire.link.transfer(len(data), up=False, rng=lanes.rng)
        lanes.totals.link.busy_s += cost.busy_s
        lanes.totals.bytes_down += len(data)
        lanes.replies.put(Parcel(data, 0, sent_at, sent_at + cost.busy_s + cost.delay_s))

    def _completed(self, snapshot: Snapshot) -> Snapshot:
        """Add the cloud's side to the edge's half of a snapshot."""
        totals = snapshot.totals
        totals.cloud = deepcopy(self._lanes.totals.cloud)
        totals.cloud_peak_bytes = self._lanes.totals.cloud_peak_bytes
        return Snapshot(snapshot.steps, snapshot.edge, self._cloud.state(), totals)


def _encoded(encode: Callable[[Tensor], bytes], x: Tensor) -> bytes:
    """Encode; raise :class:`DivergedError` where values out of bounds are why a codec refuses."""
    try:
        return encode(x)
    except ValueError as error:
        if x.numel() and not x.detach().abs().amax() <= _LARGEST:  # so that NaN is refused too
            raise DivergedError(f"{error}, or lower the learning rate") from error
        raise
