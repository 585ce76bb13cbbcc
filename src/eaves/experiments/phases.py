"""The phases of a run: which halves take part, on which batches, for how many steps.

=============  =======================================================================
every epoch    ``edge``: the edge trains alone (methods that hide);
               ``train``: edge and cloud at once
one place      the lessons of the method's course, such as ``train``, ``tune``, ``fit``, ``adapt``
once           ``edge``: the edge trains alone (not full-cloud);
               ``send``: every example travels, and the cloud learns from it as it comes;
               ``cloud``: the cloud learns on from its store
=============  =======================================================================
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import final

import torch
from torch import Tensor

from eaves.core.optimise import Optimised
from eaves.core.roles import Batch, CloudLearner, EdgeLearner, Losses, Upload
from eaves.data.augment import augment_named, crop_flip
from eaves.data.batches import batches
from eaves.experiments.build import Job
from eaves.experiments.config import TrainConfig
from eaves.methods.setup import Lesson
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


@final
@dataclass(frozen=True, kw_only=True)
class EdgePhase:
    """Steps of an edge learner, on one pass over the data for each of ``augments``."""

    name: str
    edge: EdgeLearner
    augments: list[str]
    steps: int

    def batches(self, job: Job, first: int = 0) -> Iterator[Batch]:
        """Return the batches of all steps from ``first`` on."""
        return _stream(job, self.augments, first, self.steps)


def edge_phases(job: Job) -> list[EdgePhase]:
    """Return the phases that an edge takes part in, in order; in the last it sends."""
    config, method = job.config, job.method
    if method.course:
        return [_of_course(job, lesson) for lesson in method.course]
    sender = method.sender or method.edge
    alone = EdgePhase(
        name="edge", edge=method.edge, augments=_augments(job, job.edge_steps), steps=job.edge_steps
    )
    if config.sends_once:
        whole = config.spec.sends == "inputs"
        copies = ["none"] + [job.augment] * (0 if whole else config.copies - 1)
        sent = min(len(copies) * job.epoch_steps, job.cloud_steps)
        sends = EdgePhase(name="send", edge=sender, augments=copies, steps=sent)
        return [sends] if whole else [alone, sends]
    edge = sender if method.edge_first else method.edge
    steps = job.cloud_steps
    sends = EdgePhase(name="train", edge=edge, augments=_augments(job, steps), steps=steps)
    return [alone, sends] if method.edge_first else [sends]


def _of_course(job: Job, lesson: Lesson) -> EdgePhase:
    augments = _augments(job, lesson.steps)
    return EdgePhase(
        name=lesson.name,
        edge=lesson.learner,
        augments=augments if lesson.augmented else ["none"] * len(augments),
        steps=lesson.steps,
    )


def phases_of(job: Job, store: Store | None) -> list[Phase]:
    """Return the phases of a run in order; ``store`` is needed where uploads are sent once."""
    *before, sends = edge_phases(job)
    cloud = job.method.cloud
    if store is not None and job.config.spec.sends == "inputs" and cloud is not None:
        cloud = AugmentedInputs(cloud, job.augment, job.config.seed)
    phases = [_pipelined(job, alone, None, None) for alone in before]
    phases.append(_pipelined(job, sends, cloud, store))
    if store is not None and cloud is not None and job.cloud_steps > sends.steps:
        phases.append(_replayed(job, job.cloud_steps - sends.steps, cloud, store))
    return phases


@final
class AugmentedInputs(CloudLearner):
    """A cloud that augments, in each of its steps, the raw inputs that it was sent once."""

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


def augmented_again(config: TrainConfig) -> Callable[[Upload, int], Upload] | None:
    """Return what is done to the uploads that a cloud learns from again, by (seed, step).

    ``step`` counts those steps from 0. None: they are taken as they came.
    """
    augment = augment_named(config.feature_augment)
    if config.feature_augment == "none":
        return None

    def change(upload: Upload, step: int) -> Upload:
        generator = torch.Generator().manual_seed((config.seed * 1_000_003 + step) % 2**32)
        features = crop_flip(upload.features, augment, generator=generator)
        return Upload(features, upload.labels)

    return change


def _pipelined(
    job: Job, phase: EdgePhase, cloud: CloudLearner | None, store: Store | None
) -> Phase:
    """Run a phase of the edge, and the cloud at once where one is given."""

    def start(first_step: int, totals: Totals, stop: threading.Event) -> Events:
        keep = store.append if store is not None else None
        pipeline = Pipeline(phase.edge, cloud, job.wire, totals, keep=keep)
        return pipeline.run(
            phase.batches(job, first_step),
            stop=stop,
            first_step=first_step,
            checkpoint_s=job.config.checkpoint_s,
        )

    return Phase(phase.name, phase.steps, start)


def _augments(job: Job, steps: int) -> list[str]:
    """Return the augmentation of every pass over the data, the last of which may be cut short."""
    return [job.augment] * (steps // job.epoch_steps + 1)


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
        uploads: Iterator[Upload] = islice(
            chain.from_iterable(epoch(k) for k in epochs), steps - first_step
        )
        if (change := augmented_again(job.config)) is not None:
            uploads = map(change, uploads, count(first_step))
        return replay(
            cloud,
            uploads,
            totals,
            stop=stop,
            first_step=first_step,
            checkpoint_s=job.config.checkpoint_s,
        )

    return Phase("cloud", steps, start)
