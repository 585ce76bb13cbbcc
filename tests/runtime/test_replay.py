"""Dimension key:  B batch   F inputs   K classes."""

import threading
from collections.abc import Iterator
from time import sleep
from typing import final

import pytest
import torch
from torch import Tensor, nn

from eaves.core.optimise import OneCycle, Optimised
from eaves.core.roles import CloudLearner, Losses, Upload
from eaves.core.state import State
from eaves.errors import DivergedError, PayloadError
from eaves.methods.hierarchical import Classifier
from eaves.runtime.meters import Totals
from eaves.runtime.replay import replay
from eaves.runtime.traffic import Progress, Snapshot

B, F, K, STEPS = 8, 5, 3, 6


def learner() -> Classifier:
    torch.manual_seed(0)
    part = Optimised({"cloud": nn.Linear(F, K)}, OneCycle(total_steps=STEPS), torch.device("cpu"))
    return Classifier(part)


def uploads(first: int = 0, last: int = STEPS) -> Iterator[Upload]:
    for i in range(first, last):
        generator = torch.Generator().manual_seed(i)
        labels_B = torch.randint(K, (B,), generator=generator)
        yield Upload(torch.randn(B, F, generator=generator), labels_B)


def equal(left: State | None, right: State | None) -> bool:
    assert left is not None
    assert right is not None
    pairs = [(v, right.tensors[k]) for k, v in left.tensors.items()]
    return left.facts == right.facts and all(torch.equal(a, b) for a, b in pairs)


def test_it_learns_what_the_learner_learns_from_the_same_uploads() -> None:
    cloud, totals = learner(), Totals()
    events = list(replay(cloud, uploads(), totals, stop=threading.Event(), checkpoint_s=0.0))
    snapshots = [event for event in events if isinstance(event, Snapshot)]
    assert [snapshot.steps for snapshot in snapshots] == [1, 2, 3, 4, 5, 6, 6]
    alone = learner()
    for upload, snapshot in zip(uploads(), snapshots, strict=False):
        alone.step(upload)
        assert equal(snapshot.cloud, alone.state())
        assert snapshot.edge is None
    assert totals.wall_s >= totals.cloud.busy_s > 0
    assert totals.cloud_peak_bytes > cloud.state_bytes()
    assert totals.samples == totals.bytes_up == 0  # nothing travels again


def test_it_goes_on_where_it_stood() -> None:
    first, second, whole = learner(), learner(), learner()
    ends = []
    for cloud, begin, end in [(first, 0, 2), (second, 2, STEPS), (whole, 0, STEPS)]:
        if cloud is second:
            second.load_state(first.state())
        stop = threading.Event()
        events = replay(cloud, uploads(begin, end), Totals(wall_s=5), stop=stop, first_step=begin)
        *_, last = events
        assert isinstance(last, Snapshot)
        assert last.totals.wall_s > 5
        ends.append(last)
    assert [end.steps for end in ends] == [2, STEPS, STEPS]
    assert equal(ends[1].cloud, ends[2].cloud)


@final
class Slow(CloudLearner):
    """Sleep, and set an event at the third step."""

    def __init__(self, stop: threading.Event):
        self.steps, self._stop = 0, stop

    @property
    def part(self) -> None:
        return

    def step(self, upload: Upload) -> tuple[Tensor | None, Losses]:
        sleep(0.12)
        self.steps += 1
        if self.steps == 3:
            self._stop.set()
        return None, {"loss": float(self.steps)}


def test_it_stops_after_the_step_at_work_and_says_how_far_it_is() -> None:
    stop = threading.Event()
    *before, last = replay(Slow(stop), uploads(), Totals(), stop=stop, first_step=10)
    assert isinstance(last, Snapshot)
    assert last.steps == 13
    (progress,) = before
    assert isinstance(progress, Progress)
    assert (progress.edge_steps, progress.cloud_steps) == (0, 2)
    assert progress.cloud == {"loss": 1.5}


def _damaged() -> Iterator[Upload]:
    yield from uploads(0, 2)
    raise PayloadError("cut short")


def _infinite() -> Iterator[Upload]:
    yield Upload(torch.full((B, F), float("inf")), torch.zeros(B, dtype=torch.int64))


def test_what_goes_wrong_is_raised() -> None:
    with pytest.raises(PayloadError, match="cut short"):
        list(replay(learner(), _damaged(), Totals(), stop=threading.Event()))
    with pytest.raises(DivergedError, match="the loss is nan"):
        list(replay(learner(), _infinite(), Totals(), stop=threading.Event()))
