"""Take a profile of a net on this machine: what is counted, timed, coded and held.

Dimension key:  B batch   K classes
"""

from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from statistics import mean
from time import perf_counter
from typing import Any, final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
)
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from eaves.codecs.base import Codec, decode, parse_codec
from eaves.codecs.upload import pack_upload, unpack_upload
from eaves.core.exits import exit_head
from eaves.core.memory import peak_of_tensors
from eaves.core.net import StagedNet
from eaves.core.optimise import OneCycle, precision_of
from eaves.core.roles import Batch
from eaves.errors import ConfigError
from eaves.planner.analyse import analyse_chain
from eaves.planner.embeddings import WIDTHS
from eaves.planner.profile import (
    INPUT,
    NUMBERS,
    CodecCost,
    Profile,
    Stage,
    Subject,
    numbers_at,
    reply_to,
    structure_digest,
)
from eaves.planner.timing import Chain, Clock, Piece, contention, step_exit
from eaves.privacy.projection import Projection

_NEEDS_VALUES = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
)
_CODED_BATCHES = 2  # at most
_PART_S = 0.25  # of a step that is compared with two at once
_LEAST_PART = 8
_REDUCED = 3


@final
@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Under which conditions a profile is taken, beside the net itself."""

    net: str
    """How the net is called: it goes into the profile."""
    stem: str | None
    classes: int
    exit: str
    schedule: OneCycle
    device: torch.device
    codecs: tuple[str, ...]
    input_codecs: tuple[str, ...]
    reply_codec: str
    version: str
    machine: Mapping[str, Any]
    payloads_from: str
    samples: int | None
    timed: bool = True
    """False: count everything and time the codecs alone, for plans on other devices only."""
    together: bool = True
    """Also time two steps at once, for plans with both sides on this machine."""
    budget_s: float = 10.0
    """Seconds after which no repeat of the timing begins, the warm-up counted in. There is one
    repeat at least: a step that takes longer than the budget is timed once, and has no spread."""


def measure(
    net: StagedNet, normalise: nn.Module, batches: Iterator[Batch], conditions: Conditions
) -> Iterator[str | Profile]:
    """Take the profile of ``net`` on raw inputs: yield what is being done, then the profile.

    ``batches`` yields as many as are asked for. The weights of ``net`` change: it takes steps.
    """
    yield "counting work and memory"
    stages = dict(net.stages())
    first = net.names[0]
    stages[first] = nn.Sequential(normalise, stages[first])
    schedule, device = conditions.schedule, conditions.device
    batch, clock = next(batches), Clock(device)
    facts, exit_facts, heads = _counted(stages, batch, conditions)
    yield "timing stages" if conditions.timed else "coding features"
    chain = Chain(stages, schedule, device)
    exits = {cut: Piece(head, schedule, device) for cut, head in heads.items()}
    coded = yield from _repeat(chain, exits, batches, clock, conditions)
    beside = 1.0
    if conditions.timed:
        facts = [replace(fact, times=clock.times(fact.name)) for fact in facts]
        exit_facts = {
            cut: replace(fact, times=clock.exit_times(f"{cut}/exit"))
            for cut, fact in exit_facts.items()
        }
    if conditions.timed and conditions.together:
        yield "timing two at once"
        pair = (chain, Chain(deepcopy(stages), schedule, device))
        beside = _contention(pair, batch, device, sum(map(_step_s, facts)))
    yield "measuring memory"
    peaks = _peaks(stages, heads, batch, conditions)
    yield Profile(
        subject=_subject(facts, batch, conditions),
        machine=conditions.machine,
        payloads_from=conditions.payloads_from,
        samples=conditions.samples,
        fetch=clock.seconds("batch", "fetch"),
        contention=beside,
        stages=tuple(facts),
        exits=exit_facts,
        codecs=coded,
        peak_bytes=peaks,
        infer_peak_bytes=_answering_peaks(stages, batch, conditions),
    )


def _counted(
    stages: Mapping[str, nn.Module], batch: Batch, conditions: Conditions
) -> tuple[list[Stage], dict[str, Stage], dict[str, nn.Module]]:
    """Return the facts of every stage and exit, without times, and the exits themselves."""
    forward = partial(precision_of, conditions.schedule, torch.device("cpu"))
    facts = analyse_chain(stages, batch.inputs, forward)
    heads, found = {}, {}
    for stage in facts[:-1]:
        heads[stage.name] = exit_head(conditions.exit, stage.output_shape, conditions.classes)
        z = torch.zeros(()).expand(len(batch.labels), *stage.output_shape)
        found[stage.name] = analyse_chain({"exit": heads[stage.name]}, z, forward)[0]
    return facts, found, heads


def _contention(pair: tuple[Chain, Chain], batch: Batch, device: torch.device, s: float) -> float:
    """Return how much longer a step takes beside another, where one of ``batch`` takes ``s``.

    A long one is compared on a part of the batch: the ratio is what matters.
    """
    part = max(_LEAST_PART, int(len(batch.labels) * _PART_S / max(s, _PART_S)))
    if part < len(batch.labels):
        batch, clock = Batch(batch.inputs[:part], batch.labels[:part]), Clock(device)
        for _ in range(2):  # a warm-up first
            clock.forget()
            with clock.time("step", "alone"):
                pair[0].step(batch, Clock(device))
        s = clock.seconds("step", "alone").median_s
    return contention(pair, batch, Clock(device), s)


def _step_s(stage: Stage) -> float:
    times = stage.times
    assert times is not None
    return times.forward.median_s + times.backward.median_s + times.update.median_s


def _subject(facts: Sequence[Stage], batch: Batch, conditions: Conditions) -> Subject:
    return Subject(
        net=conditions.net,
        stem=conditions.stem,
        input_shape=tuple(batch.inputs.shape[1:]),
        classes=conditions.classes,
        batch_size=len(batch.labels),
        precision=conditions.schedule.precision,
        exit=conditions.exit,
        version=conditions.version,
        structure=structure_digest(facts),
    )


@final
class _Coding:
    """Codes what crosses at each cut, and adds up sizes and times."""

    def __init__(self, conditions: Conditions, cuts: Sequence[str]):
        self._clock = Clock(torch.device("cpu"))
        self._bytes: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._conditions, self._cuts = conditions, cuts

    def add(self, chain: Chain, outputs: Mapping[str, Tensor], batch: Batch) -> None:
        """Code one batch of inputs, features and gradients."""
        for text in self._conditions.input_codecs:
            self._upload(INPUT, text, batch.inputs, batch.labels)
        for cut in self._cuts:
            features = outputs[cut].detach()
            for text in self._conditions.codecs:
                self._upload(cut, text, features, batch.labels)
            if features[0].numel() >= NUMBERS:
                self._reduce(cut, features)
            codec, gradient = parse_codec(self._conditions.reply_codec), chain.gradient(cut)
            encode = partial(codec.encode, gradient)
            self._code(reply_to(cut), codec.name, len(gradient), encode, decode)

    def _upload(self, cut: str, text: str, x: Tensor, labels_B: Tensor) -> None:
        codec = parse_codec(text)
        encode = partial(pack_upload, x, labels_B, codec)
        self._code(cut, codec.name, len(labels_B), encode, unpack_upload)

    def _reduce(self, cut: str, features: Tensor) -> None:
        """Map features to a few numbers, code them, and all of it back.

        As a query, so without labels. That is over soon, so it is done more than once.
        """
        reduced = Projection(features.shape[1:], NUMBERS).to(features.device)
        reduced.mean.fill_(0.5)  # not the zeros that it begins with, which lie nowhere in memory
        reduced.basis.fill_(1 / features[0].numel())
        reduced.scale.copy_(1 + features.abs().max())  # so that fp16 holds what comes
        for codec in map(parse_codec, WIDTHS):

            def encode(codec: Codec = codec) -> bytes:
                return codec.encode(reduced.project(features))

            def decode(data: bytes, codec: Codec = codec) -> Tensor:
                return reduced.restore(codec.decode(data).to(features.device))

            for _ in range(_REDUCED):
                self._code(numbers_at(cut), codec.name, len(features), encode, decode)

    def _code(
        self,
        where: str,
        name: str,
        examples: int,
        encode: Callable[[], bytes],
        decode: Callable[[bytes], object],
    ) -> None:
        with self._clock.time(f"{where} {name}", "encode"):
            data = encode()
        with self._clock.time(f"{where} {name}", "decode"):
            decode(data)
        self._bytes[where, name].append(len(data) / examples)

    def costs(self) -> dict[str, tuple[CodecCost, ...]]:
        """Return the figures by cut."""
        found: dict[str, tuple[CodecCost, ...]] = {}
        for (cut, name), sizes in self._bytes.items():
            cost = CodecCost(
                codec=name,
                bytes_per_sample=mean(sizes),
                encode=self._clock.seconds(f"{cut} {name}", "encode"),
                decode=self._clock.seconds(f"{cut} {name}", "decode"),
            )
            found[cut] = (*found.get(cut, ()), cost)
        return found


@contextmanager
def _one_example_explained(size: int) -> Iterator[None]:
    """Say what to do where a batch of one has nothing to take a variance of, in training."""
    try:
        yield
    except ValueError as error:
        if size > 1 or "more than 1 value per channel" not in str(error):
            raise
        raise ConfigError(
            "a batch of one example cannot train here: a batch normalisation on a map of 1x1 has "
            "one value for each channel; take --batch-size 2, a larger --input or --exit linear"
        ) from error


def _repeat(
    chain: Chain,
    exits: Mapping[str, Piece],
    batches: Iterator[Batch],
    clock: Clock,
    conditions: Conditions,
) -> Generator[str, None, dict[str, tuple[CodecCost, ...]]]:
    """Take steps until the budget is spent, the first as a warm-up; return the codecs' figures.

    Yield how far it is. Where nothing is timed, as many as are coded.
    """
    coding, started = _Coding(conditions, list(exits)), perf_counter()
    warmups, timed = int(conditions.timed), conditions.timed
    least = warmups + (1 if timed else _CODED_BATCHES)
    for repeat in count():
        spent_s = perf_counter() - started
        if repeat >= least and not (timed and spent_s < conditions.budget_s):
            break
        if timed:
            yield _timing_text(repeat, spent_s, conditions.budget_s)
        with clock.time("batch", "fetch"):
            batch = next(batches)
        with _one_example_explained(len(batch.labels)):
            outputs = chain.step(batch, clock)
            # What follows has been warmed up by the step itself where that took its time.
            if timed and (repeat or perf_counter() - started < conditions.budget_s / 2):
                chain.step(batch, clock, linked=False)
                chain.infer(batch, clock)
                for cut, piece in exits.items():
                    step_exit(piece, f"{cut}/exit", outputs[cut].detach(), batch.labels, clock)
        if repeat < warmups:
            clock.forget()
        elif repeat < warmups + _CODED_BATCHES:
            coding.add(chain, outputs, batch)
    return coding.costs()


def _timing_text(repeat: int, spent_s: float, budget_s: float) -> str:
    """Return how far the timing is.

    >>> _timing_text(0, 0.0, 2.0), _timing_text(3, 1.25, 2.0)
    ('timing stages: warming up', 'timing stages: repeat 3, 1.2 of 2 s')
    """
    if not repeat:
        return "timing stages: warming up"
    return f"timing stages: repeat {repeat}, {spent_s:.1f} of {budget_s:g} s"


def _peaks(
    stages: Mapping[str, nn.Module],
    exits: Mapping[str, nn.Module],
    batch: Batch,
    conditions: Conditions,
) -> dict[str, int]:
    """Return the peak of all tensors while each edge part learns by its exit, and the whole net.

    On a CPU the step is gone through without computing it: every tensor is there but its values.
    Parts that need values to know their shapes are left out.
    """
    found = {}
    for i, name in enumerate(stages):
        part = [*list(stages.values())[: i + 1], *([exits[name]] if name in exits else [])]
        with suppress(*_NEEDS_VALUES):
            found[name] = _peak_bytes(nn.Sequential(*part), batch, conditions, learns=True)
    return found


def _answering_peaks(
    stages: Mapping[str, nn.Module], batch: Batch, conditions: Conditions
) -> dict[str, int]:
    """Return the peak of all tensors while each edge part answers, and the whole net.

    It is followed as that of a training step is, through a forward pass in evaluation mode.
    """
    found = {}
    for i, name in enumerate(stages):
        part = nn.Sequential(*list(stages.values())[: i + 1]).eval()
        with suppress(*_NEEDS_VALUES):
            found[name] = _peak_bytes(part, batch, conditions, learns=False)
        part.train()
    return found


def _peak_bytes(part: nn.Module, batch: Batch, conditions: Conditions, *, learns: bool) -> int:
    device = conditions.device
    # Tensors without values: the peak equals that of a real step, in a fifth of its time.
    # A module may hold tensors that are neither weights nor buffers: they stay what they are.
    mode = FakeTensorMode(allow_non_fake_inputs=True) if device.type == "cpu" else nullcontext()

    def stand_in(x: Tensor) -> Tensor:
        if isinstance(mode, FakeTensorMode):
            return mode.from_tensor(x)
        return x.detach().to(device, copy=True)

    with mode, peak_of_tensors(device) as peak:
        weights = {k: stand_in(w.detach()) for k, w in part.named_parameters()}
        buffers = {k: stand_in(b) for k, b in part.named_buffers()}
        x, labels_B = stand_in(batch.inputs), stand_in(batch.labels)
        for tensor in (*weights.values(), *buffers.values(), x):
            peak.add(tensor)
        forward = partial(functional_call, part, {**weights, **buffers}, (x,))
        precision = precision_of(conditions.schedule, device)
        if learns:
            _learn([w.requires_grad_() for w in weights.values()], forward, labels_B, precision)
        else:
            with torch.no_grad(), precision:
                forward()
    return peak.total


def _learn(
    weights: Sequence[Tensor],
    forward: Callable[[], Tensor],
    labels_B: Tensor,
    precision: AbstractContextManager[None],
) -> None:
    """Take a step as every one but the first: with momentum, and gradients until the next ones."""
    momentum, before = ([torch.empty_like(w) for w in weights] for _ in range(2))
    with precision:
        loss = cross_entropy(forward(), labels_B)
    del before
    torch.autograd.grad(loss, weights, allow_unused=True)
    del momentum
