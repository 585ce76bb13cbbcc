"""What holds for every method that runs in the pipeline.

Dimension key:  B batch   F inputs   K classes
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from time import sleep
from typing import Final, final

import pytest
import torch
from torch import Tensor, nn

from eaves.codecs.base import parse_codec
from eaves.core.methods import METHODS, PROTECTING
from eaves.core.net import StagedNet
from eaves.core.optimise import OneCycle, Optimised
from eaves.core.roles import Batch, CloudLearner, Losses, PrivateLabels, Upload
from eaves.core.specs import LinkSpec
from eaves.core.state import State
from eaves.errors import DivergedError
from eaves.experiments.build import builder_of
from eaves.methods.setup import Hiding, Method, Mixed, Setup, Tuning
from eaves.privacy.bounds import Tanh
from eaves.privacy.mechanisms import Mechanism
from eaves.privacy.mixing import MixingLaw
from eaves.privacy.sources import Keyed
from eaves.runtime.meters import Totals
from eaves.runtime.pipeline import Pipeline
from eaves.runtime.traffic import Progress, Snapshot, Wire

F, K, B, STEPS = 6, 3, 8, 8
# DeepObfuscator rebuilds images, and these inputs are none; its halves are those of the others.
NAMES: Final = tuple(name for name in METHODS if name != "deepobfuscator")
ONE_WAY: Final = tuple(name for name in NAMES if name != "split")
FP32, FP16 = parse_codec("fp32"), parse_codec("fp16")
INSTANT = Wire(codec=FP32, reply_codec=FP16, link=LinkSpec())


def tiny(name: str) -> Method:
    """Return a method on a net of three linear layers, always with the same weights."""
    torch.manual_seed(0)
    layers = [nn.Linear(F, 8), nn.Linear(8, 8), nn.Linear(8, K)]
    schedule = OneCycle(total_steps=STEPS)
    setup = Setup(
        net=StagedNet(list(zip("abc", layers, strict=True))),
        normalise=nn.Identity(),
        input_shape=(F,),
        classes=K,
        cut="b",
        bottleneck=None,
        exit="linear",
        edge_schedule=schedule,
        cloud_schedule=schedule,
        device=torch.device("cpu"),
    )
    if name == "datamix":
        mixed = Mixed(law=MixingLaw(group=2), source=Keyed.from_seed(3))
        return builder_of(METHODS[name])(replace(setup, mixed=mixed))
    if name == "siamese":
        steps = {"train": STEPS, "tune": 1, "fit": 1, "adapt": 1}
        setup = replace(setup, tuning=Tuning(steps=steps, components=2))
    if name not in PROTECTING:
        return builder_of(METHODS[name])(setup)
    hiding = Hiding(
        mechanism=Mechanism(bound=Tanh(1.0), law="gaussian", scale=0.1),
        source=Keyed.from_seed(1),
        answer_source=Keyed.from_seed(2),
        attributes={"p": 2},
        keeps_training=True,
    )
    method = builder_of(METHODS[name])(replace(setup, hiding=hiding))
    assert method.sender is not None
    return replace(method, edge=method.sender)  # the second stage: it learns and sends


def examples(count: int = STEPS) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        x_BF = torch.randn(B, F, generator=generator)
        labels_B = torch.randint(K, (B,), generator=generator)
        private_BA = torch.randint(2, (B, 1), generator=generator)
        yield Batch(x_BF, labels_B, PrivateLabels(private_BA, ("p",)))


def weights(states: Sequence[State | None]) -> list[tuple[str, Tensor]]:
    return [(k, v) for state in states if state is not None for k, v in state.tensors.items()]


def same(left: Sequence[State | None], right: Sequence[State | None]) -> bool:
    a, b = weights(left), weights(right)
    return [k for k, _ in a] == [k for k, _ in b] and all(
        torch.equal(x, y) for (_, x), (_, y) in zip(a, b, strict=True)
    )


def snapshots(events: Iterator[Progress | Snapshot]) -> list[Snapshot]:
    return [event for event in events if isinstance(event, Snapshot)]


def trained(
    method: Method,
    wire: Wire = INSTANT,
    *,
    cloud: bool = True,
    count: int = STEPS,
    checkpoint_s: float = 60.0,
) -> list[Snapshot]:
    pipeline = Pipeline(method.edge, method.cloud if cloud else None, wire, Totals())
    stop = threading.Event()
    return snapshots(pipeline.run(examples(count), stop=stop, checkpoint_s=checkpoint_s))


# Contracts over all methods


@pytest.mark.parametrize("name", NAMES)
def test_every_step_is_taken_and_every_byte_counted(name: str) -> None:
    method, kept, totals = tiny(name), list[bytes](), Totals()
    pipeline = Pipeline(method.edge, method.cloud, INSTANT, totals, keep=kept.append)
    (last,) = snapshots(pipeline.run(examples(), stop=threading.Event()))
    sends, answers = method.cloud is not None, not method.edge.one_way
    reply_bytes = len(FP16.encode(torch.zeros(B, 8)))
    for counted in (totals, last.totals):
        assert counted.samples == B * STEPS
        assert counted.bytes_up == sum(map(len, kept))
        assert counted.bytes_down == (STEPS * reply_bytes if answers else 0)
        assert counted.sent_samples == (B * STEPS if sends else 0)
    assert last.steps == STEPS
    assert len(kept) == (STEPS if sends else 0)
    assert (last.cloud is not None) == sends
    assert last.totals.wall_s >= last.totals.edge.busy_s > 0


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_more_than_what_training_holds_throughout(name: str) -> None:
    method = tiny(name)
    totals = trained(method)[-1].totals
    assert totals.edge_peak_bytes > method.edge.state_bytes()
    held = method.cloud.state_bytes() if method.cloud else 0
    assert totals.cloud_peak_bytes > held or (method.cloud is None and not totals.cloud_peak_bytes)


@pytest.mark.parametrize("name", NAMES)
def test_a_mark_cuts_the_run_where_the_edge_stood(name: str) -> None:
    """The state of both halves at mark k is that of a run of exactly k steps."""
    marks = trained(tiny(name), checkpoint_s=0.0)
    assert [mark.steps for mark in marks] == [*range(1, STEPS + 1), STEPS]
    for mark in marks[:-1]:
        short = trained(tiny(name), count=mark.steps)[-1]
        assert same([mark.edge, mark.cloud], [short.edge, short.cloud])
        assert mark.totals.samples == B * mark.steps
        assert mark.totals.bytes_up == short.totals.bytes_up
        assert mark.totals.sent_samples == short.totals.sent_samples
    assert not same([marks[0].edge, marks[0].cloud], [marks[-1].edge, marks[-1].cloud])


@pytest.mark.parametrize("name", NAMES)
def test_a_run_taken_up_from_a_snapshot_ends_as_the_whole_one(name: str) -> None:
    whole = trained(tiny(name))[-1]
    first = trained(tiny(name), count=3)[-1]
    method = tiny(name)
    assert first.edge is not None
    method.edge.load_state(first.edge)
    if method.cloud is not None and first.cloud is not None:
        method.cloud.load_state(first.cloud)
    pipeline = Pipeline(method.edge, method.cloud, INSTANT, first.totals)
    rest = (batch for i, batch in enumerate(examples()) if i >= 3)
    last = snapshots(pipeline.run(rest, stop=threading.Event(), first_step=3))[-1]
    assert last.steps == STEPS
    assert same([last.edge, last.cloud], [whole.edge, whole.cloud])
    assert last.totals.bytes_up == whole.totals.bytes_up
    assert last.totals.samples == whole.totals.samples


@final
class Slowly(CloudLearner):
    """A cloud that rests before every step."""

    def __init__(self, inner: CloudLearner):
        self._inner = inner

    @property
    def part(self) -> Optimised | None:
        return self._inner.part

    def step(self, upload: Upload) -> tuple[Tensor | None, Losses]:
        sleep(0.02)
        return self._inner.step(upload)


@pytest.mark.parametrize("name", ONE_WAY)
def test_nothing_behind_the_edge_changes_what_it_learns(name: str) -> None:
    alone = trained(tiny(name), cloud=False)[-1].edge
    slow_link = Wire(codec=parse_codec("int4+zstd"), reply_codec=FP16, link=LinkSpec(up_bps=2e5))
    bad_link = LinkSpec(up_bps=1e6, delay_s=0.01, jitter_s=0.01, loss=0.5, packet_bytes=100)
    lossy = Wire(codec=FP32, reply_codec=FP16, link=bad_link, edge_slowdown=2.0, depth=1)
    for wire in (INSTANT, slow_link, lossy):
        assert same([trained(tiny(name), wire)[-1].edge], [alone])
    method = tiny(name)
    cloud = None if method.cloud is None else Slowly(method.cloud)
    pipeline = Pipeline(method.edge, cloud, INSTANT, Totals())
    last = snapshots(pipeline.run(examples(), stop=threading.Event()))[-1]
    assert same([last.edge], [alone])


@pytest.mark.parametrize("name", NAMES)
def test_a_lossy_link_costs_time_but_no_step(name: str) -> None:
    link = LinkSpec(up_bps=1e6, delay_s=0.005, jitter_s=0.005, loss=0.3, packet_bytes=100)
    lossy = trained(tiny(name), Wire(codec=FP32, reply_codec=FP16, link=link))[-1]
    clean = trained(tiny(name))[-1]
    assert same([lossy.edge, lossy.cloud], [clean.edge, clean.cloud])
    assert lossy.totals.bytes_up == clean.totals.bytes_up


@pytest.mark.parametrize("name", NAMES)
def test_a_learner_that_diverges_ends_the_run(name: str) -> None:
    method = tiny(name)
    first, second = examples(2)
    # Bounded features stay bounded, whatever overflows before them.
    broken = float("nan") if name in PROTECTING else 1e38
    batches = [first, second, replace(second, inputs=torch.full((B, F), broken))] * 9
    pipeline = Pipeline(method.edge, method.cloud, INSTANT, Totals())
    with pytest.raises(DivergedError, match=r"the loss is|learning rate"):
        list(pipeline.run(iter(batches), stop=threading.Event()))
