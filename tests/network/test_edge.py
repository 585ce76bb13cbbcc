"""The edge half on its device: it trains whatever the cloud does, and all is delivered once."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from time import monotonic, sleep
from typing import Any, ClassVar, final

import pytest
import torch
from tests.network.conftest import FP32, TERMS, VALUES, Cloud, Proxy, payload
from torch import Tensor

from eaves.codecs.base import parse_codec
from eaves.core.roles import Batch, EdgeLearner, Losses, Upload
from eaves.core.specs import LinkSpec
from eaves.core.state import State
from eaves.errors import DivergedError, PayloadError, StateError, StorageError
from eaves.network import trainer
from eaves.network.channel import insecure_target
from eaves.network.edge import NetworkedEdge
from eaves.network.refusals import RefusedError
from eaves.network.spool import Spool
from eaves.network.uplink import Enrolment, Uplink
from eaves.network.wire import pack_terms
from eaves.runtime.meters import Totals
from eaves.runtime.traffic import Progress, Snapshot, Wire

WIRE = Wire(codec=FP32, reply_codec=FP32, link=LinkSpec())
NOWHERE = "127.0.0.1:1"
FP16 = parse_codec("fp16")


@final
class OneWay(EdgeLearner):
    """Sends each batch as it is."""

    one_way: ClassVar[bool] = True

    def __init__(self, step_s: float = 0.0, *, fails_at: int = -1):
        self.steps, self._step_s, self._fails_at = 0, step_s, fails_at

    @property
    def part(self) -> None:
        return

    def step(self, batch: Batch) -> tuple[Upload, Losses]:
        sleep(self._step_s)
        self.steps += 1
        if self.steps == self._fails_at:
            raise DivergedError("the loss is nan at the edge")
        return Upload(batch.inputs, batch.labels), {"loss": 1.0}

    def state(self) -> State:
        return State({}, {"steps": self.steps})


@final
class TwoWay(EdgeLearner):
    """Remembers the replies, which tell the number of the upload."""

    one_way: ClassVar[bool] = False

    def __init__(self) -> None:
        self.replies: list[int] = []

    @property
    def part(self) -> None:
        return

    def step(self, batch: Batch) -> tuple[Upload, Losses]:
        return Upload(batch.inputs, batch.labels), {}

    def receive(self, reply: Tensor) -> None:
        self.replies.append(int(reply[0, 0]))

    def state(self) -> State:
        return State({}, {"replies": list(self.replies)})


def batches(first: int, last: int | None) -> Iterator[Batch]:
    """Yield batches of one example, labelled with their number."""
    numbers = itertools.count(first) if last is None else range(first, last + 1)
    return (Batch(torch.ones(1, VALUES), torch.tensor([n])) for n in numbers)


@final
class Device:
    """What an agent holds beside its learner: a spool in a folder, and the way to the cloud."""

    def __init__(self, address: str, path: Path, *, keep: int = 0, **sizes: Any):
        usual = {"limit_bytes": 2**24, "memory_bytes": 2**24, "when_full": "block"}
        self.spool = Spool(path, **{**usual, **sizes}, keep_through=keep)
        enrolment = Enrolment(
            version="1",
            terms=pack_terms(TERMS),
            run="run1",
            session="",
            steps=10**6,
            memory_bytes=2**20,
        )
        target = insecure_target(address, "edge-1")
        self.uplink = Uplink(
            target,
            self.spool,
            enrolment,
            max_backoff_s=0.2,
            welcome_s=2.0,
            reply_bytes=2**16,
        )
        self.totals, self.stop = Totals(), threading.Event()

    def run(
        self, learner: EdgeLearner, given: Iterator[Batch], first_step: int = 0
    ) -> Iterator[Progress | Snapshot]:
        edge = NetworkedEdge(learner, WIRE, self.totals, self.spool, self.uplink)
        return edge.run(given, stop=self.stop, first_step=first_step, checkpoint_s=3600.0)

    def close(self) -> None:
        self.uplink.close()
        self.spool.close()


@pytest.fixture
def device_of(opened: ExitStack, tmp_path: Path) -> Callable[..., Device]:
    def make(address: str, **sizes: Any) -> Device:
        return opened.enter_context(closing(Device(address, tmp_path / "spool.db", **sizes)))

    return make


DeviceOf = Callable[..., Device]
CloudOf = Callable[..., Cloud]


def snapshots(events: Iterator[Progress | Snapshot]) -> list[Snapshot]:
    return [event for event in events if isinstance(event, Snapshot)]


def test_all_steps_are_delivered_once_and_counted(cloud_of: CloudOf, device_of: DeviceOf) -> None:
    cloud = cloud_of()
    device = device_of(cloud.address)
    (last,) = snapshots(device.run(OneWay(), batches(1, 50)))
    assert (last.steps, last.edge) == (50, State({}, {"steps": 50}))
    assert cloud.seen == list(range(1, 51))
    assert device.uplink.delivered
    assert device.totals.sent_samples == 50
    assert device.totals.bytes_up == 50 * len(payload(1))


def test_with_the_cloud_off_it_trains_to_the_end_and_waits_for_delivery(
    cloud_of: CloudOf, device_of: DeviceOf
) -> None:
    cloud = cloud_of()
    cloud.stop()
    device = device_of(cloud.address)
    events = device.run(OneWay(), batches(1, 50))
    last = next(event for event in events if isinstance(event, Snapshot))
    assert last.steps == 50
    progress = next(events)
    assert isinstance(progress, Progress)
    assert (progress.edge_steps, progress.cloud_steps, progress.queued) == (50, 0, 50)
    cloud.start()
    for _ in events:
        pass
    assert cloud.seen == list(range(1, 51))


def test_the_cloud_takes_no_time_of_a_one_way_edge(device_of: DeviceOf) -> None:
    device = device_of(NOWHERE)
    started = monotonic()
    events = device.run(OneWay(0.002), batches(1, 200))
    next(event for event in events if isinstance(event, Snapshot))
    assert monotonic() - started < 200 * 0.002 + 1.0
    assert device.totals.edge.blocked_s < 0.2
    device.stop.set()
    for _ in events:
        pass


@pytest.mark.parametrize("there", [True, False])
def test_a_stop_ends_promptly_with_a_snapshot_and_the_run_goes_on_from_there(
    cloud_of: CloudOf, device_of: DeviceOf, there: bool
) -> None:
    cloud = cloud_of()
    device = device_of(cloud.address if there else NOWHERE)
    events = device.run(OneWay(0.002), batches(1, None))
    for _ in range(2):
        next(events)
    device.stop.set()
    started = monotonic()
    (last,) = snapshots(events)
    assert monotonic() - started < 1.0
    assert last.steps > 0
    device.close()
    again = device_of(cloud.address, keep=last.steps)
    (end,) = snapshots(again.run(OneWay(), batches(last.steps + 1, last.steps + 5), last.steps))
    assert end.steps == last.steps + 5
    assert cloud.seen == list(range(1, end.steps + 1))


def test_a_stop_while_it_waits_for_delivery_ends_promptly(device_of: DeviceOf) -> None:
    device = device_of(NOWHERE)
    events = device.run(OneWay(), batches(1, 3))
    assert next(event for event in events if isinstance(event, Snapshot)).steps == 3
    device.stop.set()
    started = monotonic()
    assert snapshots(events) == []
    assert monotonic() - started < 1.0
    assert not device.uplink.delivered
    assert device.spool.status().waiting == 3


@pytest.mark.parametrize("end", ["stop", "close", "error"])
def test_it_ends_promptly_also_where_the_spool_is_full(device_of: DeviceOf, end: str) -> None:
    device = device_of(NOWHERE, limit_bytes=3 * len(payload(1)))
    # 3 in the spool, 1 that waits for room, 4 in the queue: the 9th step is the last one that fits.
    learner = OneWay(fails_at=9 if end == "error" else -1)
    events = device.run(learner, batches(1, None))
    started = monotonic()
    if end == "error":
        with pytest.raises(DivergedError):
            snapshots(events)
    else:
        for _ in range(2):
            next(events)
        started = monotonic()
        if end == "stop":
            device.stop.set()
            assert snapshots(events) == []  # the last checkpoint is what there is
        else:
            events.close()  # type: ignore[attr-defined]
    assert monotonic() - started < 1.5


def test_a_full_disk_is_an_error_of_the_main_thread(
    device_of: DeviceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = device_of(NOWHERE, memory_bytes=0)

    def full(*args: object, **kinds: object) -> None:
        raise StorageError("no space left")

    monkeypatch.setattr(device.spool._file, "write", full)
    with pytest.raises(StorageError, match="no space left"):
        snapshots(device.run(OneWay(), batches(1, 10)))
    monkeypatch.undo()


def test_a_really_full_disk_is_one_too(
    device_of: DeviceOf, files_end_at: Callable[[int], AbstractContextManager[None]]
) -> None:
    device = device_of(NOWHERE, memory_bytes=0)
    with files_end_at(60_000), pytest.raises(StorageError):
        snapshots(device.run(OneWay(), batches(1, None)))


def test_a_refusal_ends_the_training_in_words(cloud_of: CloudOf, device_of: DeviceOf) -> None:
    cloud = cloud_of()
    device = device_of(cloud.address)
    device.uplink._enrolment = Enrolment(
        version="1", terms="{}", run="run1", session="", steps=1, memory_bytes=1
    )
    events: list[Snapshot] = []
    with pytest.raises(RefusedError, match="edge and cloud do not fit"):
        events.extend(snapshots(device.run(OneWay(0.01), batches(1, None))))
    assert cloud.seen == []


def test_a_two_way_edge_gets_its_replies_over_a_link_that_fails(
    cloud_of: CloudOf, device_of: DeviceOf, proxy_of: Callable[[Cloud], Proxy]
) -> None:
    cloud = cloud_of(reply_values=VALUES)
    proxy = proxy_of(cloud)
    device = device_of(proxy.address)
    learner = TwoWay()
    done = threading.Event()

    def cut() -> None:
        for _ in range(8):  # not for ever: a busy machine may need longer than that to connect
            if not done.wait(0.15):
                proxy.hang_up()

    cutter = threading.Thread(target=cut)
    cutter.start()
    try:
        snapshots(device.run(learner, batches(1, 200)))
    finally:
        done.set()
        cutter.join()
    assert learner.replies == cloud.seen == list(range(1, 201))


def test_a_two_way_edge_that_restarts_replays_the_replies_it_had(
    cloud_of: CloudOf, device_of: DeviceOf, tmp_path: Path
) -> None:
    cloud = cloud_of(reply_values=VALUES)
    device = device_of(cloud.address)
    snapshots(device.run(TwoWay(), batches(1, 10)))
    device.close()
    # Its last checkpoint was after step 4: all later steps are made again, with the same replies.
    again = device_of(cloud.address, keep=4)
    learner = TwoWay()
    snapshots(again.run(learner, batches(5, 15), 4))
    assert learner.replies == list(range(5, 16))
    assert cloud.seen == list(range(1, 16))


def test_a_two_way_edge_that_waits_for_a_reply_can_be_stopped(device_of: DeviceOf) -> None:
    device = device_of(NOWHERE)
    events = device.run(TwoWay(), batches(1, 10))
    next(events)
    device.stop.set()
    started = monotonic()
    assert snapshots(events) == []
    assert monotonic() - started < 1.0


def test_a_two_way_edge_can_be_let_go_of_while_it_waits(device_of: DeviceOf) -> None:
    device = device_of(NOWHERE)
    events = device.run(TwoWay(), batches(1, 10))
    next(events)
    started = monotonic()
    events.close()  # type: ignore[attr-defined]
    assert monotonic() - started < 1.0


@pytest.mark.parametrize("reply", ["garbage", "another shape", "another codec"])
def test_a_reply_that_does_not_fit_ends_the_run_and_is_not_kept(
    cloud_of: CloudOf, device_of: DeviceOf, monkeypatch: pytest.MonkeyPatch, reply: str
) -> None:
    cloud = cloud_of(reply_values=VALUES + (reply == "another shape"))
    device = device_of(cloud.address)
    if reply != "another shape":
        wrong = b"garbage" if reply == "garbage" else FP16.encode(torch.zeros(1, VALUES))
        monkeypatch.setattr(trainer, "_packed", lambda *_: (wrong, ""))
    learner = TwoWay()
    with pytest.raises(PayloadError, match="the cloud's reply does not fit"):
        snapshots(device.run(learner, batches(1, 10)))
    assert (learner.replies, device.spool.reply(1)) == ([], None)


def test_a_reply_that_the_disk_has_lost_is_said_and_not_waited_for(
    cloud_of: CloudOf, device_of: DeviceOf, tmp_path: Path
) -> None:
    cloud = cloud_of(reply_values=VALUES)
    device = device_of(cloud.address)
    snapshots(device.run(TwoWay(), batches(1, 10)))
    device.close()
    (tmp_path / "spool.db").unlink()
    again = device_of(cloud.address, keep=4)
    again.spool.past.expect_anything()
    with pytest.raises(StateError, match="the cloud's reply to upload 5 is not in the spool"):
        snapshots(again.run(TwoWay(), batches(5, 15), 4))
