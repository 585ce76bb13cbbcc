"""Which steps a run is made of.  Dimension key:  B batch."""

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import pytest
import torch
from torch import Tensor

from eaves.core.roles import CloudLearner, Losses, Upload
from eaves.experiments.build import build_job
from eaves.experiments.config import TrainConfig
from eaves.experiments.phases import AugmentedInputs, phases_of
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.runtime.meters import Totals
from eaves.runtime.store import Store

TINY = TrainConfig(train_samples=64, batch_size=16, epochs=3)  # 4 steps in an epoch
HIDDEN: dict[str, Any] = {
    "method": "priphit",
    "data": "digits:parity",
    "privacy": PrivacyConfig(private="high"),
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path / "store")) as opened:
        yield opened


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [("train", 12)]),
        ({"method": "split"}, [("train", 12)]),
        ({"max_steps": 5}, [("train", 5)]),
        ({"send": "once"}, [("edge", 12), ("send", 4), ("cloud", 8)]),
        ({"send": "once", "copies": 2}, [("edge", 12), ("send", 8), ("cloud", 4)]),
        ({"send": "once", "copies": 3}, [("edge", 12), ("send", 12)]),
        ({"send": "once", "cloud_epochs": 9}, [("edge", 12), ("send", 4), ("cloud", 32)]),
        ({"send": "once", "max_steps": 3}, [("edge", 3), ("send", 3)]),
        ({"send": "once", "method": "full-cloud"}, [("send", 4), ("cloud", 8)]),
        (HIDDEN, [("edge", 12), ("send", 4), ("cloud", 8)]),
        ({**HIDDEN, "copies": 2, "cloud_epochs": 5}, [("edge", 12), ("send", 8), ("cloud", 12)]),
        ({**HIDDEN, "cloud_epochs": 1}, [("edge", 12), ("send", 4)]),
        ({**HIDDEN, "send": "every-epoch"}, [("edge", 12), ("train", 12)]),
        ({**HIDDEN, "send": "every-epoch", "cloud_epochs": 5}, [("edge", 12), ("train", 20)]),
        ({**HIDDEN, "send": "every-epoch", "max_steps": 5}, [("edge", 5), ("train", 5)]),
        ({**HIDDEN, "method": "nopeek"}, [("edge", 12), ("send", 4), ("cloud", 8)]),
    ],
)
def test_phases(store: Store, changes: dict[str, Any], expected: list[tuple[str, int]]) -> None:
    config = replace(TINY, **changes)
    job = build_job(config)
    phases = phases_of(job, store if config.sends_once else None)
    assert [(phase.name, phase.steps) for phase in phases] == expected


def test_sending_once_stores_every_example_and_the_edge_learns_nothing_from_it(
    store: Store,
) -> None:
    job = build_job(replace(TINY, send="once"))
    phases = {phase.name: phase for phase in phases_of(job, store)}
    before = job.method.edge.state()
    totals = Totals()
    list(phases["send"].start(0, totals, threading.Event()))
    assert len(store) == 4
    assert totals.sent_samples == 64
    after = job.method.edge.state()
    assert all(torch.equal(after.tensors[k], v) for k, v in before.tensors.items())
    labels_B = torch.cat([store.read(i).labels for i in range(4)])
    expected_B = job.dataset.train.fetch(torch.arange(64)).labels
    assert sorted(labels_B.tolist()) == sorted(expected_B.tolist())


@pytest.mark.parametrize("keeps", [False, True])
def test_an_edge_that_hides_learns_alone_and_sends_no_byte(keeps: bool) -> None:
    privacy = PrivacyConfig(private="high", keep_training=keeps)
    job = build_job(replace(TINY, **{**HIDDEN, "send": "every-epoch", "privacy": privacy}))
    phases = {phase.name: phase for phase in phases_of(job, None)}

    def weights() -> dict[str, Tensor]:
        return {
            name: tensor.clone()
            for module in job.method.edge_modules.values()
            for name, tensor in module.state_dict().items()
        }

    untrained, totals = weights(), Totals()
    list(phases["edge"].start(0, totals, threading.Event()))
    assert (totals.bytes_up, totals.sent_samples, totals.samples) == (0, 0, 12 * 16)
    learnt = weights()
    assert any(not torch.equal(untrained[k], v) for k, v in learnt.items())
    list(phases["train"].start(0, totals, threading.Event()))
    assert totals.bytes_up > 0
    assert totals.sent_samples == 12 * 16
    after = weights()
    assert all(torch.equal(learnt[k], v) for k, v in after.items()) == (not keeps)


@final
class Noting(CloudLearner):
    """Note the features that it is given; after so many set an event."""

    def __init__(self, stop: threading.Event | None = None, at: int = 0):
        self.given: list[Tensor] = []
        self._stop, self._at = stop or threading.Event(), at

    @property
    def part(self) -> None:
        return

    def step(self, upload: Upload) -> tuple[Tensor | None, Losses]:
        self.given.append(upload.features)
        if len(self.given) == self._at:
            self._stop.set()
        return None, {}


def test_inputs_sent_once_are_augmented_in_the_cloud() -> None:
    x = torch.randint(256, (8, 1, 8, 8), dtype=torch.uint8)
    upload = Upload(x, torch.zeros(8, dtype=torch.int64))
    given: dict[tuple[str, int], list[Tensor]] = {}
    for name in ("none", "crop"):
        for seed in (0, 0, 1):
            inner = Noting()
            AugmentedInputs(inner, name, seed).step(upload)
            given.setdefault((name, seed), []).extend(inner.given)
    assert all(torch.equal(image, x) for image in given["none", 0])
    first, again = given["crop", 0]
    assert torch.equal(first, again)  # a function of seed and step
    assert not torch.equal(first, x)
    assert not torch.equal(first, given["crop", 1][0])
    assert first.shape == x.shape


def learnt(config: TrainConfig, store: Store, first: int, last: int) -> list[Tensor]:
    """Return the features that a cloud learns from again in these steps."""
    job, stop = build_job(config), threading.Event()
    cloud = Noting(stop, last - first)
    job = replace(job, method=replace(job.method, cloud=cloud))
    again = phases_of(job, store)[-1]
    assert again.name == "cloud"
    list(again.start(first, Totals(), stop))
    return cloud.given


def test_features_learnt_from_again_are_augmented_by_seed_and_step(store: Store) -> None:
    plain = replace(TINY, send="once")
    job = build_job(plain)
    sends = {phase.name: phase for phase in phases_of(job, store)}["send"]
    list(sends.start(0, Totals(), threading.Event()))
    changed = replace(plain, feature_augment="crop-flip")
    as_they_came, whole = learnt(plain, store, 0, 8), learnt(changed, store, 0, 8)
    assert len(whole) == len(as_they_came) == 8
    assert not any(torch.equal(a, b) for a, b in zip(whole, as_they_came, strict=True))
    assert [x.shape for x in whole] == [x.shape for x in as_they_came]
    for cut in (1, 4, 5):  # interrupted and resumed, within an epoch and between two
        resumed = learnt(changed, store, 0, cut) + learnt(changed, store, cut, 8)
        assert all(torch.equal(a, b) for a, b in zip(resumed, whole, strict=True))
    other = learnt(replace(changed, feature_augment="flip"), store, 0, 8)
    pairs = zip(other, as_they_came, strict=True)
    for flipped, x in pairs:  # each image is as it was, or a mirror image
        mirrored = x.flip(3)
        same = [
            torch.equal(f, a) or torch.equal(f, b)
            for f, a, b in zip(flipped, x, mirrored, strict=True)
        ]
        assert all(same)
