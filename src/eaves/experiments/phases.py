"""The phases of a run: which halves take part, on which batches, for how many steps.

=============  =======================================================================
every epoch    ``train``: edge and cloud at once
once           ``edge``: the edge trains alone (hierarchical only);
               ``send``: every example travels, and the cloud learns from it as it comes;
               ``cloud``: the cloud learns on from its store
=============  =======================================================================
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import final

import torch
from torch import Tensor

from eaves.core.optimise import Optimised
from eaves.core.roles import Batch, CloudLearner, Losses, Upload
from eaves.data.augment import augment_named, crop_flip
from eaves.data.batches import batches
from eaves.experiments.build import Job
from eaves.runtime.meters import Totals
from eaves.runtime.pipeline import Pipeline
from eaves.runtime.replay import replay
from eaves.runtime.store import Store
from eaves.runtime.traffic import Progress, Snapshot

Events = Iterator[Progress | Snapshot]


@final
@dataclass(frozen=True)
class Phase:
    """``start(first_step, totals, stop)`` runs it from a step on."""

    name: str
    steps: int
    start: Callable[[int, Totals, threading.Event], Events]


def phases_of(job: Job, store: Store | None) -> list[Phase]:
    """Return the phases of a run in order; ``store`` is needed where uploads are sent once."""
    method, augment = job.method, job.augment
    every = _augments(job)
    if store is None:
        return [_pipelined(job, "train", every, job.edge_steps, method.cloud, None)]
    assert method.cloud is not None
    cloud, phases = method.cloud, []
    if job.config.method == "full-cloud":
        cloud = AugmentedInputs(cloud, augment, job.config.seed)
        copies = ["none"]
    else:
        phases = [_pipelined(job, "edge", every, job.edge_steps, None, None)]
        copies = ["none"] + [augment] * (job.config.copies - 1)
    sent = min(len(copies) * job.epoch_steps, job.cloud_steps)
    phases.append(_pipelined(job, "send", copies, sent, cloud, store))
    if job.cloud_steps > sent:
        phases.append(_replayed(job, job.cloud_steps - sent, cloud, store))
    return phases


@final
class AugmentedInputs(CloudLearner):
    """A cloud that augments the raw inputs it was sent once, anew in each of its steps."""

    def __init__(self, inner: CloudLearner, augment: str, seed: int):
        self._inner, self._augment, self._seed = inner, augment_named(augment), seed

    @property
    def part(self) -> Optimised | None:
        """What the inner learner trains."""
        return self._inner.part

    def step(self, upload: Upload) -> tuple[Tensor | None, Losses]:
        """Augment by (seed, step), then learn."""
        step = self.part.steps if self.part else 0
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + step) % 2**32)
        inputs = crop_flip(upload.features, self._augment, generator=generator)
        return self._inner.step(Upload(inputs, upload.labels))


def _pipelined(
    job: Job,
    name: str,
    augments: list[str],
    steps: int,
    cloud: CloudLearner | None,
    store: Store | None,
) -> Phase:
    """Run the edge on one pass over the data for each of ``augments``, ``steps`` at most."""
    sends_only = name == "send"
    edge = job.method.sender if sends_only and job.method.sender else job.method.edge

    def start(first_step: int, totals: Totals, stop: threading.Event) -> Events:
        keep = store.append if store is not None else None
        pipeline = Pipeline(edge, cloud, job.wire, totals, keep=keep)
        stream = _stream(job, augments, first_step, steps)
        return pipeline.run(
            stream, stop=stop, first_step=first_step, checkpoint_s=job.config.checkpoint_s
        )

    return Phase(name, steps, start)


def training_batches(job: Job, first: int) -> Iterator[Batch]:
    """Return the batches that training takes from step ``first`` on."""
    return _stream(job, _augments(job), first, job.edge_steps)


def _augments(job: Job) -> list[str]:
    """Return the augmentation of every pass over the data, the last of which may be cut short."""
    return [job.augment] * (job.edge_steps // job.epoch_steps + 1)


def _stream(job: Job, augments: list[str], first: int, last: int) -> Iterator[Batch]:
    """Return batches ``first`` to ``last`` of the run, counted over its epochs."""

    def epoch(number: int) -> Iterator[Batch]:
        return batches(
            job.dataset.train,
            batch_size=job.config.batch_size,
            seed=job.config.seed,
            epoch=number,
            augment=augments[number],
            start=first % job.epoch_steps if number == first // job.epoch_steps else 0,
        )

    rest = chain.from_iterable(epoch(k) for k in range(first // job.epoch_steps, len(augments)))
    return islice(rest, last - first)


def _replayed(job: Job, steps: int, cloud: CloudLearner, store: Store) -> Phase:
    def start(first_step: int, totals: Totals, stop: threading.Event) -> Events:
        per_epoch = min(job.epoch_steps, len(store))

        def epoch(number: int) -> Iterator[Upload]:
            start_at = first_step % per_epoch if number == first_step // per_epoch else 0
            return store.epoch(seed=job.config.seed, epoch=number, steps=per_epoch, start=start_at)

        epochs = range(first_step // per_epoch, -(-steps // per_epoch))
        uploads = islice(chain.from_iterable(epoch(k) for k in epochs), steps - first_step)
        return replay(
            cloud,
            uploads,
            totals,
            stop=stop,
            first_step=first_step,
            checkpoint_s=job.config.checkpoint_s,
        )

    return Phase("cloud", steps, start)
