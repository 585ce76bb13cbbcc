"""Edge, link and cloud of one process as concurrent stages with bounded queues between them.

::

    edge thread ──► Channel ──► link thread ──► Channel ──► cloud thread
    step, encode    payloads    holds each       payloads    decode, step
                                for its time

The link and the speed of the device are emulated on the wall clock; the payloads are real bytes.

A checkpoint needs no pause. The edge copies its state between two steps and sends a mark down the
same queues; when the mark reaches the cloud, the cloud has applied exactly the uploads that the
edge had sent, and its state then belongs to the edge's copy (Chandy and Lamport, 1985).
"""

import queue
import random
import sys
import threading
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from time import perf_counter
from typing import final

from eaves.codecs.base import Codec, decode
from eaves.codecs.upload import pack_upload, unpack_upload
from eaves.core.memory import kept_for_backward
from eaves.core.roles import Batch, CloudLearner, EdgeLearner, Upload
from eaves.core.specs import LinkSpec
from eaves.core.state import State
from eaves.runtime.channel import Channel, Closed
from eaves.runtime.meters import Meter, Smoothed, Totals

_POLL_S = 0.2
_SWITCH_S = 0.0005  # how long a thread may keep the interpreter; 5 ms would stall the other side


@final
@dataclass(frozen=True, kw_only=True)
class Wire:
    """What lies between the two halves: the codecs, the link, and how slow the device is."""

    codec: Codec
    reply_codec: Codec
    link: LinkSpec
    edge_slowdown: float = 1.0
    """The edge takes this many times as long as this machine does."""
    depth: int = 4
    """Payloads that may wait in each queue."""
    seed: int = 0
    """Of the link's jitter and loss."""


@final
@dataclass(frozen=True)
class Progress:
    """How far a run is, for display."""

    edge_steps: int
    cloud_steps: int
    edge: dict[str, float]
    cloud: dict[str, float]
    queued: int
    totals: Totals


@final
@dataclass(frozen=True)
class Snapshot:
    """States of both halves that belong together, after ``steps`` steps.

    None stands for a half that took no part.
    """

    steps: int
    edge: State | None
    cloud: State | None
    totals: Totals


@final
@dataclass(frozen=True, slots=True)
class _Parcel:
    data: bytes
    samples: int
    queued_at: float
    ready_at: float = 0.0


@final
@dataclass(slots=True)
class _Mark:
    snapshot: Snapshot
    last: bool


@final
class Pipeline:
    """Run ``edge`` and, unless it is None, ``cloud`` on batches, with ``wire`` between them."""

    def __init__(
        self,
        edge: EdgeLearner,
        cloud: CloudLearner | None,
        wire: Wire,
        totals: Totals,
        *,
        keep: Callable[[bytes], None] | None = None,
    ):
        """``keep`` is given every payload as it arrives, before the cloud learns from it."""
        self._edge, self._cloud, self._wire, self._totals = edge, cloud, wire, totals
        self._keep = keep
        self._up: Channel[_Parcel | _Mark] = Channel(wire.depth)
        self._arrived: Channel[_Parcel | _Mark] = Channel(wire.depth)
        self._replies: Channel[_Parcel] = Channel(1)
        self._events: queue.SimpleQueue[Snapshot | BaseException] = queue.SimpleQueue()
        self._hurry = threading.Event()  # set when emulated waits no longer matter
        self._edge_figures, self._cloud_figures = Smoothed(), Smoothed()
        self._rng = random.Random(wire.seed)

    def run(
        self,
        batches: Iterator[Batch],
        *,
        stop: threading.Event,
        first_step: int = 0,
        checkpoint_s: float = 60.0,
    ) -> Iterator[Progress | Snapshot]:
        """Yield progress several times a second, a snapshot every ``checkpoint_s`` and at the end.

        When ``stop`` is set, the edge ends after its current step, what is on the way is delivered
        at once, and the last snapshot is that of the last step.

        Raises:
            EavesError: whatever a learner or a codec raised, after both sides have stopped.
        """
        started, before = perf_counter(), self._totals.wall_s
        threads = [
            self._thread("edge", lambda: self._run_edge(batches, stop, first_step, checkpoint_s))
        ]
        if self._cloud is not None:
            threads += [
                self._thread("link", self._run_link),
                self._thread("cloud", self._run_cloud),
            ]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_S)
        try:
            for thread in threads:
                thread.start()
            alive = True
            while alive or not self._events.empty():
                alive = any(thread.is_alive() for thread in threads)
                if stop.is_set():
                    self._hurry.set()
                self._totals.wall_s = before + perf_counter() - started
                yield from self._next_event(timeout_s=_POLL_S if alive else 0.0)
        finally:
            self._abort()
            for thread in threads:
                thread.join()
            sys.setswitchinterval(interval)

    def _next_event(self, timeout_s: float) -> Iterator[Progress | Snapshot]:
        try:
            event = self._events.get(timeout=timeout_s) if timeout_s else self._events.get_nowait()
        except queue.Empty:
            yield self._progress()
            return
        if isinstance(event, BaseException):
            raise event
        event.totals.wall_s = self._totals.wall_s
        yield event

    def _progress(self) -> Progress:
        return Progress(
            self._edge_figures.steps,
            self._cloud_figures.steps,
            dict(self._edge_figures.means),
            dict(self._cloud_figures.means),
            len(self._up) + len(self._arrived),
            deepcopy(self._totals),
        )

    def _thread(self, name: str, body: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                body()
            except Closed:
                pass  # another stage has already said why
            except BaseException as error:  # handed to the caller's thread
                self._events.put(error)
                self._abort()

        return threading.Thread(target=guarded, name=f"eaves-{name}", daemon=True)

    def _abort(self) -> None:
        self._hurry.set()
        for channel in (self._up, self._arrived, self._replies):
            channel.close()

    # The edge's thread

    def _run_edge(
        self, batches: Iterator[Batch], stop: threading.Event, first_step: int, checkpoint_s: float
    ) -> None:
        steps, marked_at = first_step, perf_counter()
        while not stop.is_set():
            started = perf_counter()
            batch = next(batches, None)
            if batch is None:
                break
            upload = self._edge_step(batch)
            self._spend(self._totals.edge, started)
            if upload is not None:
                self._send(upload)
            steps += 1
            if perf_counter() - marked_at >= checkpoint_s:
                self._mark(steps, last=False)
                marked_at = perf_counter()
        self._mark(steps, last=True)

    def _edge_step(self, batch: Batch) -> _Parcel | None:
        if self._edge_figures.steps == 0:
            with kept_for_backward() as kept:
                upload, losses = self._edge.step(batch)
            peak = self._edge.state_bytes() + kept.total + batch.inputs.nbytes
            self._totals.edge_peak_bytes = max(self._totals.edge_peak_bytes, peak)
        else:
            upload, losses = self._edge.step(batch)
        self._edge_figures.add(losses)
        self._totals.samples += len(batch.labels)
        if upload is None or self._cloud is None:
            return None
        data = pack_upload(upload.features, upload.labels, self._wire.codec)
        return _Parcel(data, len(batch.labels), perf_counter())

    def _send(self, parcel: _Parcel) -> None:
        parcel = _Parcel(parcel.data, parcel.samples, perf_counter())
        self._totals.edge.blocked_s += self._up.put(parcel)
        if self._edge.one_way:
            return
        asked = perf_counter()
        reply, _ = self._replies.get()
        self._sleep_until(reply.ready_at)
        self._totals.edge.waiting_s += perf_counter() - asked
        started = perf_counter()
        self._edge.receive(decode(reply.data))
        self._spend(self._totals.edge, started)

    def _spend(self, meter: Meter, started: float) -> None:
        """Book the time since ``started``, drawn out by the slowness of the device."""
        worked_s = perf_counter() - started
        if self._wire.edge_slowdown > 1:
            self._sleep_until(started + worked_s * self._wire.edge_slowdown)
        meter.busy_s += perf_counter() - started

    def _mark(self, steps: int, *, last: bool) -> None:
        snapshot = Snapshot(steps, self._edge.state(), None, deepcopy(self._totals))
        if self._cloud is None:
            self._events.put(snapshot)
        else:
            self._up.put(_Mark(snapshot, last))

    # The link's thread

    def _run_link(self) -> None:
        meter, free_at = self._totals.link, 0.0
        while True:
            item, waited_s = self._up.get()
            meter.waiting_s += waited_s
            if isinstance(item, _Mark):
                item.snapshot.totals.link = deepcopy(meter)
                self._arrived.put(item)
                if item.last:
                    return
                continue
            cost = self._wire.link.transfer(len(item.data), rng=self._rng)
            # From the end of the last transfer, not from now: waking late must not slow the link.
            free_at = max(free_at, item.queued_at) + cost.busy_s
            self._sleep_until(free_at)
            meter.busy_s += cost.busy_s
            self._totals.bytes_up += len(item.data)
            self._totals.sent_samples += item.samples
            parcel = _Parcel(item.data, item.samples, item.queued_at, free_at + cost.delay_s)
            blocked_s = self._arrived.put(parcel)
            meter.blocked_s += blocked_s
            free_at += blocked_s

    def _sleep_until(self, when: float) -> None:
        if (left := when - perf_counter()) > 0:
            self._hurry.wait(left)

    # The cloud's thread

    def _run_cloud(self) -> None:
        meter = self._totals.cloud
        while True:
            asked = perf_counter()
            item, _ = self._arrived.get()
            if isinstance(item, _Mark):
                self._events.put(self._completed(item.snapshot))
                if item.last:
                    return
                continue
            self._sleep_until(item.ready_at)
            started = perf_counter()
            meter.waiting_s += started - asked
            reply = self._cloud_step(item.data)
            meter.busy_s += perf_counter() - started
            if reply is not None:
                self._reply(reply)

    def _cloud_step(self, data: bytes) -> bytes | None:
        assert self._cloud is not None
        if self._keep is not None:
            self._keep(data)
        upload = Upload(*unpack_upload(data))
        if self._cloud_figures.steps == 0:
            with kept_for_backward() as kept:
                reply, losses = self._cloud.step(upload)
            peak = self._cloud.state_bytes() + kept.total + upload.features.nbytes
            self._totals.cloud_peak_bytes = max(self._totals.cloud_peak_bytes, peak)
        else:
            reply, losses = self._cloud.step(upload)
        self._cloud_figures.add(losses)
        return None if reply is None else self._wire.reply_codec.encode(reply)

    def _reply(self, data: bytes) -> None:
        cost = self._wire.link.transfer(len(data), up=False, rng=self._rng)
        self._totals.link.busy_s += cost.busy_s
        self._totals.bytes_down += len(data)
        sent_at = perf_counter()
        self._replies.put(_Parcel(data, 0, sent_at, sent_at + cost.busy_s + cost.delay_s))

    def _completed(self, snapshot: Snapshot) -> Snapshot:
        """Add the cloud's side to the edge's half of a snapshot."""
        assert self._cloud is not None
        totals = snapshot.totals
        totals.cloud = deepcopy(self._totals.cloud)
        totals.cloud_peak_bytes = self._totals.cloud_peak_bytes
        return Snapshot(snapshot.steps, snapshot.edge, self._cloud.state(), totals)
