"""A profile of this machine: complete, exact where nothing is timed, by steps that truly train.

Dimension key:  B batch   C channels   H, W height and width
"""

import sys
import threading
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import astuple, replace
from functools import partial
from math import prod
from statistics import mean
from time import sleep
from typing import Any, final

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from eaves.codecs.base import parse_codec
from eaves.codecs.upload import pack_upload
from eaves.core.exits import exit_head
from eaves.core.memory import peak_of_tensors
from eaves.core.net import Normalise, StagedNet, staged
from eaves.core.optimise import OneCycle, Optimised
from eaves.core.roles import Batch
from eaves.errors import ConfigError
from eaves.nets.build import build_net
from eaves.planner.embeddings import WIDTHS, edge_bytes
from eaves.planner.embeddings import Projection as Reduced
from eaves.planner.measure import Conditions, measure
from eaves.planner.profile import (
    INPUT,
    NUMBERS,
    Profile,
    Stage,
    numbers_at,
    parse_profile,
    reply_to,
    structure_digest,
)
from eaves.privacy.projection import Project, Projection

CPU = torch.device("cpu")
FLOAT, B, CLASSES, SHAPE = 4, 8, 4, (1, 8, 8)
CONDITIONS = Conditions(
    net="small",
    stem=None,
    classes=CLASSES,
    exit="conv",
    schedule=OneCycle(total_steps=20, lr=0.1),
    device=CPU,
    codecs=("fp32", "int8"),
    input_codecs=("raw",),
    reply_codec="fp16",
    version="0.0",
    machine={"cpu": "ours"},
    payloads_from="noise",
    samples=100,
    together=False,
    budget_s=0.0,
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors are slower on several threads, and much slower beside other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _small() -> StagedNet:
    torch.manual_seed(0)
    return build_net("small", classes=CLASSES, input_shape=SHAPE)


def _between(*layers: nn.Module) -> StagedNet:
    """Return a convolution, ``layers`` as one stage on (4, 6, 6), and a linear layer."""
    torch.manual_seed(0)
    stages: list[tuple[str, nn.Module]] = [
        ("first", nn.Conv2d(1, 4, 3)),
        ("between", nn.Sequential(*layers)),
        ("last", nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, CLASSES))),
    ]
    return StagedNet(stages)


@final
class _Batches(Iterator[Batch]):
    """Noise without end, the same each time; ``taken`` holds what was asked for."""

    def __init__(self, size: int = B):
        self._generator = torch.Generator().manual_seed(0)
        self._size = size
        self.taken: list[Batch] = []

    def __next__(self) -> Batch:
        shape = (self._size, *SHAPE)
        x_BCHW = torch.randint(0, 256, shape, generator=self._generator, dtype=torch.uint8)
        labels_B = torch.randint(CLASSES, (self._size,), generator=self._generator)
        self.taken.append(Batch(x_BCHW, labels_B))
        return self.taken[-1]


def _normalise() -> nn.Module:
    return Normalise([127.0], [70.0])


def _measured(
    net: StagedNet, batches: Iterator[Batch] | None = None, **changes: Any
) -> tuple[list[str], Profile]:
    """Return what was said meanwhile, and the profile."""
    conditions = replace(CONDITIONS, **changes)
    *words, profile = measure(net, _normalise(), batches or _Batches(), conditions)
    assert isinstance(profile, Profile)
    assert all(isinstance(word, str) for word in words)
    return [str(word) for word in words], profile


@pytest.fixture(scope="module")
def profile() -> Profile:
    return _measured(_small())[1]


@pytest.fixture(scope="module")
def untimed() -> Profile:
    return _measured(_small(), timed=False)[1]


def _all_stages(profile: Profile) -> list[Stage]:
    return [*profile.stages, *profile.exits.values()]


# What is in it


def test_every_stage_and_every_exit_is_timed(profile: Profile) -> None:
    assert [stage.name for stage in profile.stages] == ["conv1", "conv2", "conv3", "head"]
    assert list(profile.exits) == ["conv1", "conv2", "conv3"] == list(profile.cuts)
    assert profile.measured
    for stage in _all_stages(profile):
        assert stage.times is not None
        for median_s, spread_s in astuple(stage.times):
            assert 0 < median_s < 5
            assert 0 <= spread_s < 5
    assert profile.fetch.median_s > 0


def test_the_stages_are_those_of_the_net(profile: Profile) -> None:
    net = _small()
    for (name, module), stage in zip(net.stages(), profile.stages, strict=True):
        assert stage.name == name
        assert stage.params == sum(p.numel() for p in module.parameters())
    # 3x3 convolutions and a linear layer; the first has no gradient to pass on
    macs = [64 * 32 * 9, 16 * 64 * 32 * 9, 4 * 128 * 64 * 9, 128 * CLASSES]
    assert [stage.forward_macs for stage in profile.stages] == macs
    assert [stage.backward_macs for stage in profile.stages] == [
        macs[0],
        *(2 * n for n in macs[1:]),
    ]
    assert [stage.output_shape for stage in profile.stages] == [
        (32, 8, 8),
        (64, 4, 4),
        (128, 2, 2),
        (CLASSES,),
    ]


@pytest.mark.parametrize("kind", ["conv", "linear", "mlp"])
def test_the_exits_are_those_of_their_kind(kind: str) -> None:
    _, found = _measured(_small(), exit=kind, timed=False)
    for stage in found.stages[:-1]:
        head, exit_ = exit_head(kind, stage.output_shape, CLASSES), found.exits[stage.name]
        assert exit_.params == sum(p.numel() for p in head.parameters())
        assert exit_.output_shape == (CLASSES,)
        # Its gradient goes on into the edge part.
        assert exit_.backward_macs == 2 * exit_.forward_macs > 0


def test_the_subject_says_what_was_measured(profile: Profile) -> None:
    subject = profile.subject
    assert (subject.net, subject.stem, subject.exit, subject.version) == (
        "small",
        None,
        "conv",
        "0.0",
    )
    assert (subject.input_shape, subject.classes, subject.batch_size) == (SHAPE, CLASSES, B)
    assert subject.precision == "fp32"
    assert subject.structure == structure_digest(profile.stages)
    assert (profile.machine, profile.payloads_from, profile.samples) == (
        {"cpu": "ours"},
        "noise",
        100,
    )


def test_a_profile_survives_its_file(profile: Profile, untimed: Profile) -> None:
    assert parse_profile(profile.to_json(), "ours") == profile
    assert parse_profile(untimed.to_json(), "ours") == untimed


def test_an_untimed_profile_has_everything_but_times(profile: Profile, untimed: Profile) -> None:
    assert [stage.times for stage in _all_stages(untimed)] == [None] * 7
    assert not untimed.measured
    assert [replace(stage, times=None) for stage in profile.stages] == list(untimed.stages)
    assert untimed.peak_bytes == profile.peak_bytes
    assert untimed.contention == 1.0
    assert untimed.subject == profile.subject
    assert {where: len(costs) for where, costs in untimed.codecs.items()} == {
        where: len(costs) for where, costs in profile.codecs.items()
    }


def test_it_says_what_it_does() -> None:
    counting, coding, memory = "counting work and memory", "coding features", "measuring memory"
    assert _measured(_small(), timed=False)[0] == [counting, coding, memory]
    assert _measured(_small(), timed=False, together=True)[0] == [counting, coding, memory]
    words, _ = _measured(_small(), together=True)
    assert words == [
        counting,
        "timing stages",
        "timing stages: warming up",
        "timing stages: repeat 1, 0.0 of 0 s",
        "timing two at once",
        memory,
    ]


@final
class _SlowAtFirst(nn.Module):
    """Takes half a second the first time, as what has to be loaded or chosen does."""

    def __init__(self) -> None:
        super().__init__()
        self._slow = True

    def forward(self, x: Tensor) -> Tensor:
        if self._slow and torch.is_grad_enabled():
            sleep(0.5)
        self._slow = False
        return x


def test_a_warm_up_does_not_count() -> None:
    _, found = _measured(_between(_SlowAtFirst()))
    times = found.stages[1].times
    assert times is not None
    assert times.forward.median_s < 0.1
    assert times.forward.spread_s < 0.1


# Codecs


def _zero_based(*shape: int) -> Tensor:
    """Return features as after a ReLU: some are 0."""
    return torch.rand(B, *shape, generator=torch.Generator().manual_seed(0)) - 0.5


def test_bytes_are_those_of_the_uploads(profile: Profile) -> None:
    labels_B = torch.zeros(B, dtype=torch.int64)
    assert list(profile.codecs) == [
        INPUT,
        *(where for cut in profile.cuts for where in (cut, numbers_at(cut), reply_to(cut))),
    ]
    inputs = pack_upload(torch.zeros(B, *SHAPE, dtype=torch.uint8), labels_B, parse_codec("raw"))
    assert profile.codec(INPUT, "raw").bytes_per_sample == len(inputs) / B
    for stage in profile.stages[:-1]:
        z = _zero_based(*stage.output_shape).relu()
        assert [cost.codec for cost in profile.codecs[stage.name]] == ["fp32", "int8"]
        for cost in profile.codecs[stage.name]:
            assert (
                cost.bytes_per_sample == len(pack_upload(z, labels_B, parse_codec(cost.codec))) / B
            )
        [reply] = profile.codecs[reply_to(stage.name)]
        assert reply.codec == "fp16"
        assert reply.bytes_per_sample == len(parse_codec("fp16").encode(z)) / B


def test_a_few_numbers_are_projected_coded_and_mapped_back(profile: Profile) -> None:
    """Their bytes are those of a query: no labels."""
    z_BD = _zero_based(NUMBERS)
    for cut in profile.cuts:
        found = {cost.codec: cost for cost in profile.codecs[numbers_at(cut)]}
        assert set(found) == {"int8", "fp16"} == set(WIDTHS)
        for name, cost in found.items():
            assert cost.bytes_per_sample == len(parse_codec(name).encode(z_BD)) / B
            assert 0 < cost.encode.median_s < 5
            assert 0 < cost.decode.median_s < 5


def test_few_features_are_not_reduced() -> None:
    stages: list[tuple[str, nn.Module]] = [
        ("wide", nn.Sequential(nn.Flatten(), nn.Linear(64, NUMBERS))),
        ("narrow", nn.Linear(NUMBERS, NUMBERS - 1)),
        ("last", nn.Linear(NUMBERS - 1, CLASSES)),
    ]
    _, found = _measured(StagedNet(stages), timed=False)
    assert numbers_at("wide") in found.codecs
    assert numbers_at("narrow") not in found.codecs


def test_codecs_are_timed_even_where_nothing_else_is(untimed: Profile) -> None:
    for costs in untimed.codecs.values():
        for cost in costs:
            assert 0 < cost.encode.median_s < 5
            assert 0 < cost.decode.median_s < 5


def test_an_entropy_coder_codes_the_features_themselves() -> None:
    pytest.importorskip("constriction")
    _, found = _measured(_small(), timed=False, codecs=("int8", "int8+range", "int8+zstd"))
    for cut in found.cuts:
        plain = found.codec(cut, "int8").bytes_per_sample
        assert 1 < found.codec(cut, "int8+range").bytes_per_sample < plain


def test_what_is_coded_are_the_features_and_gradients_of_the_steps() -> None:
    """zstd is given other bytes for other values; so it tells what it was given."""
    net, batches, codec = _small(), _Batches(), parse_codec("int8+zstd")
    stages = dict(deepcopy(net).stages())
    part = Optimised(stages, CONDITIONS.schedule, CPU)
    _, found = _measured(net, batches, timed=False, codecs=(codec.name,), reply_codec=codec.name)
    features, replies = [], []
    for batch in batches.taken[1:]:
        z = _normalise()(batch.inputs)
        for name in found.cuts[:2]:
            z = stages[name](z)
        z.retain_grad()
        loss = cross_entropy(stages["head"](stages["conv3"](z)), batch.labels)
        part.descend(loss)
        assert z.grad is not None
        features.append(len(pack_upload(z.detach(), batch.labels, codec)) / B)
        replies.append(len(codec.encode(z.grad)) / B)
    # To a thousandth: bits may differ where sums are taken in another order.
    assert found.codec("conv2", codec.name).bytes_per_sample == pytest.approx(
        mean(features), rel=1e-3
    )
    assert found.codec("conv2/reply", codec.name).bytes_per_sample == pytest.approx(
        mean(replies), rel=1e-3
    )


def test_a_codec_goes_by_its_canonical_name() -> None:
    _, found = _measured(_small(), timed=False, codecs=("INT8:tensor",), input_codecs=())
    assert [cost.codec for cost in found.codecs["conv1"]] == ["int8"]
    assert INPUT not in found.codecs


def test_an_unknown_codec_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown codec stage 'int9'"):
        _measured(_small(), timed=False, codecs=("int9",))


# Steps of real training


def _trained(net: StagedNet, batches: list[Batch], schedule: OneCycle) -> StagedNet:
    """Train a copy of ``net`` as one piece."""
    copy = deepcopy(net)
    part = Optimised({"net": nn.Sequential(_normalise(), copy)}, schedule, CPU)
    part.modules.train()
    for batch in batches:
        with part.forward():
            loss = cross_entropy(part.modules["net"](batch.inputs), batch.labels)
        part.descend(loss)
    return copy


# The first batch is for counting. Untimed, there is a step for each of two batches to be coded;
# timed, there are a warm-up and one where the budget is spent.
@pytest.mark.parametrize(("timed", "steps"), [(False, 2), (True, 2)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_steps_are_those_of_training_the_whole(timed: bool, steps: int, precision: str) -> None:
    net, batches = _small(), _Batches()
    schedule = replace(CONDITIONS.schedule, precision=precision)
    before = deepcopy(net)
    _measured(net, batches, timed=timed, schedule=schedule)
    assert len(batches.taken) == 1 + steps
    expected = _trained(before, batches.taken[1:], schedule)
    for (name, ours), theirs, old in zip(
        net.named_parameters(), expected.parameters(), before.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=name)
        assert not torch.equal(ours, old)


def test_the_statistics_of_a_net_are_those_of_its_steps() -> None:
    net, batches = _small(), _Batches()
    before = deepcopy(net)
    _measured(net, batches, timed=False)
    expected = _trained(before, batches.taken[1:], CONDITIONS.schedule)
    for ours, theirs in zip(net.buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_larger_budget_buys_more_steps() -> None:
    batches = _Batches()
    _measured(_small(), batches, budget_s=3.0)
    assert len(batches.taken) > 8
    batches = _Batches()
    _measured(_small(), batches, budget_s=0.5, timed=False)
    assert len(batches.taken) == 3  # more would tell nothing


def test_bfloat16_sends_as_many_bytes(profile: Profile) -> None:
    schedule = replace(CONDITIONS.schedule, precision="bf16")
    _, found = _measured(_small(), schedule=schedule)
    assert found.subject.precision == "bf16"
    assert found.measured
    for where, costs in profile.codecs.items():
        sizes = [cost.bytes_per_sample for cost in found.codecs[where]]
        assert sizes == [cost.bytes_per_sample for cost in costs]
    pairs = zip(found.stages[:-1], profile.stages[:-1], strict=True)
    assert all(ours.kept_bytes < 0.6 * theirs.kept_bytes for ours, theirs in pairs)


# Nets of all kinds


@final
class _Constant(nn.Module):
    """Holds a tensor that is neither a weight nor a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.full((1,), 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


@pytest.mark.parametrize(
    "layers",
    [
        [nn.ReLU(inplace=True)],
        [nn.Dropout(0.5)],
        [nn.Dropout(0.5, inplace=True), nn.ReLU(inplace=True)],
        [nn.Identity()],
        [nn.MaxPool2d(1)],
        [_Constant()],
        [nn.BatchNorm2d(4).requires_grad_(False)],
        [nn.Flatten(), nn.Linear(144, 144), nn.Unflatten(1, (4, 6, 6))],
    ],
    ids=lambda layers: "+".join(type(layer).__name__ for layer in layers),
)
def test_stages_may_be_of_any_kind(layers: list[nn.Module]) -> None:
    _, found = _measured(_between(*layers))
    assert found.cuts == ("first", "between")
    assert found.measured
    assert set(found.peak_bytes) == {"first", "between", "last"}
    assert parse_profile(found.to_json(), "ours") == found


def test_a_net_of_ones_own_in_place_and_flat() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(inplace=True),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(144, 12),
        nn.ReLU(inplace=True),
        nn.Linear(12, CLASSES),
    )
    words, found = _measured(staged(plain), together=True, exit="conv")
    assert len(words) == 6
    assert found.cuts == ("0", "1", "2", "3", "4", "5")
    assert set(found.peak_bytes) == {*found.cuts, "6"}
    assert found.contention >= 1
    # int8 of 12 flat features after a ReLU
    z_BD = _zero_based(12).relu()
    data = pack_upload(z_BD, torch.zeros(B, dtype=torch.int64), parse_codec("int8"))
    assert found.codec("5", "int8").bytes_per_sample == len(data) / B


@pytest.mark.parametrize("inplace", [False, True])
def test_work_in_place_trains_the_same(inplace: bool) -> None:
    net, batches = _between(nn.ReLU(inplace=inplace), nn.Conv2d(4, 4, 1)), _Batches()
    before = deepcopy(net)
    _measured(net, batches)
    expected = _trained(before, batches.taken[1:], CONDITIONS.schedule)
    for ours, theirs in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_an_error_that_is_not_about_work_in_place_comes_through() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        _measured(_between(nn.Flatten(), nn.Linear(7, 4)))


# Memory


@pytest.mark.parametrize("kind", ["conv", "mlp"])
def test_the_peak_holds_the_state_and_what_is_kept(kind: str) -> None:
    _, found = _measured(_small(), timed=False, exit=kind)
    assert list(found.peak_bytes) == ["conv1", "conv2", "conv3", "head"]
    for i, stage in enumerate(found.stages):
        part = [
            *found.stages[: i + 1],
            *([found.exits[stage.name]] if stage.name in found.exits else []),
        ]
        state = sum(3 * FLOAT * s.params + s.buffer_bytes for s in part)
        kept = sum(B * s.kept_bytes + s.kept_fixed_bytes for s in part)
        # Going forward there are weights, momentum and old gradients, and what is kept; going
        # backward the new gradients come as what is kept goes.
        assert state + kept <= found.peak_bytes[stage.name] < state + 2 * kept


def test_the_peak_of_linear_layers_counted_by_hand() -> None:
    torch.manual_seed(0)
    stages: list[tuple[str, nn.Module]] = [
        ("a", nn.Sequential(nn.Flatten(), nn.Linear(64, 1000, bias=False))),
        ("b", nn.Linear(1000, CLASSES, bias=False)),
    ]
    _, found = _measured(StagedNet(stages), timed=False, exit="linear")
    # Most is there at the end of the forward pass: three copies of the weights; the raw and the
    # normalised input; mean and deviation; the features; logits and their logarithms; the loss
    # and what it is divided by.
    weights = FLOAT * (64 * 1000 + 1000 * CLASSES)
    inputs = B * 64 + FLOAT * B * 64 + 2 * FLOAT
    after = FLOAT * B * (1000 + 2 * CLASSES) + 2 * FLOAT
    assert found.peak_bytes["b"] == 3 * weights + inputs + after


@final
class _Needing(nn.Module):
    """Its output's size depends on values: on how many of them are positive."""

    def forward(self, x: Tensor) -> Tensor:
        return x + x[x > 0].sum()


@final
class _Asking(nn.Module):
    """Asks for a value."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (2.0 if float(x.detach().sum()) > 0 else 1.0)


@pytest.mark.parametrize("module", [_Needing(), _Asking()], ids=["size", "value"])
def test_parts_that_need_values_are_left_out_of_the_peaks(module: nn.Module) -> None:
    _, found = _measured(_between(module))
    assert set(found.peak_bytes) == set(found.infer_peak_bytes) == {"first"}
    assert found.measured


# Memory in inference


def _followed_bytes(part: nn.Module) -> int:
    """Return the peak of all tensors of a true forward pass on one batch, by core/memory.py."""
    part = part.eval()
    with torch.no_grad(), peak_of_tensors(CPU) as peak:
        x = torch.randint(0, 256, (B, *SHAPE), dtype=torch.uint8)
        for tensor in (*part.parameters(), *part.buffers()):
            peak.add(tensor)
        part(x)
    return peak.total


@pytest.mark.parametrize(
    "net", [_small, partial(build_net, "resnet20", classes=CLASSES, input_shape=SHAPE)]
)
def test_the_peak_of_answering_is_that_of_a_true_forward_pass(
    net: Callable[[], StagedNet],
) -> None:
    _, found = _measured(net(), timed=False)
    stages = dict(net().stages())
    assert list(found.infer_peak_bytes) == list(stages)
    for i, name in enumerate(stages, start=1):
        part = nn.Sequential(_normalise(), *list(stages.values())[:i])
        true_bytes = _followed_bytes(part)
        assert found.infer_peak_bytes[name] == true_bytes
        assert found.infer_peak_bytes[name] < found.peak_bytes[name]


def test_the_peak_of_answering_counted_by_hand() -> None:
    torch.manual_seed(0)
    stages: list[tuple[str, nn.Module]] = [
        ("a", nn.Sequential(nn.Flatten(), nn.Linear(64, 1000, bias=False))),
        ("b", nn.Linear(1000, CLASSES, bias=False)),
    ]
    _, found = _measured(StagedNet(stages), timed=False)
    # Weights; mean and deviation; the raw input, which its owner still holds; the normalised one,
    # and what comes of it.
    held = FLOAT * 64 * 1000 + 2 * FLOAT + B * 64
    assert found.infer_peak_bytes["a"] == held + FLOAT * B * (64 + 1000)
    # The logits are less than the input was: the peak is at the same place.
    assert found.infer_peak_bytes["b"] == found.infer_peak_bytes["a"] + FLOAT * 1000 * CLASSES


@pytest.mark.parametrize("cut", ["conv1", "conv2", "conv3"])
def test_a_projection_adds_what_the_plan_says_at_the_most(cut: str) -> None:
    _, found = _measured(_small(), timed=False)
    net = _small()
    stages = dict(net.stages())
    part = list(stages.values())[: list(stages).index(cut) + 1]
    shape = found.stages[len(part) - 1].output_shape
    reduced = Reduced(cut=cut, values=prod(shape), components=NUMBERS)
    planned = edge_bytes(found, cut) + reduced.held_bytes(B)
    project = Project(Projection(shape, NUMBERS))
    true_bytes = _followed_bytes(nn.Sequential(_normalise(), *part, project))
    assert 0.95 * planned <= true_bytes <= planned


# One example


def test_a_batch_of_one_is_measured_where_it_can_train() -> None:
    _, found = _measured(_small(), _Batches(1))
    assert found.subject.batch_size == 1
    assert found.measured
    _, eight = _measured(_small(), timed=False)
    assert found.infer_peak_bytes["conv1"] < eight.infer_peak_bytes["conv1"]


def test_a_batch_of_one_that_cannot_train_is_explained() -> None:
    narrow = (nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Upsample(6))
    for exit_ in ("conv", "linear"):
        with pytest.raises(ConfigError, match="take --batch-size 2, a larger --input or --exit"):
            _measured(_between(*narrow), _Batches(1), exit=exit_)
    assert _measured(_between(*narrow), _Batches(2))[1].measured
    # An exit alone, on a map of 1x1, is what --exit linear is for.
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Upsample(6))
    stages = dict(_between(*pooled).stages())
    halves: list[tuple[str, nn.Module]] = [
        ("first", nn.Sequential(stages["first"], pooled[0])),
        ("last", nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES))),
    ]
    with pytest.raises(ConfigError, match="batch of one example cannot train here"):
        _measured(StagedNet(halves), _Batches(1), exit="conv")
    assert _measured(StagedNet(halves), _Batches(1), exit="linear")[1].measured


# Two at once


@final
class _SlowBeside(nn.Module):
    """Takes 20 ms in the thread that made it, and 60 ms in others."""

    def __init__(self) -> None:
        super().__init__()
        self._home = threading.get_ident()

    def forward(self, x: Tensor) -> Tensor:
        sleep(0.02 if threading.get_ident() == self._home else 0.06)
        return x


def test_contention_is_how_much_longer_a_step_takes(profile: Profile) -> None:
    _, found = _measured(_between(_SlowBeside()), together=True)
    assert 1.7 < found.contention < 3.1
    assert profile.contention == 1.0  # one at a time contends with nothing


# What is left behind


@pytest.mark.parametrize("together", [False, True])
def test_the_state_of_interpreter_and_torch_is_as_before(together: bool) -> None:
    interval, threads = sys.getswitchinterval(), threading.active_count()
    net, workers = _small(), torch.get_num_threads()
    _measured(net, together=together)
    assert sys.getswitchinterval() == interval
    assert threading.active_count() == threads
    assert torch.get_num_threads() == workers
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
    assert type(torch.zeros(1) + 1) is Tensor
    assert all(module.training for module in net.modules())
    assert all(type(tensor) is torch.nn.Parameter for tensor in net.parameters())
    assert all(type(tensor) is Tensor for tensor in net.buffers())
    assert net(torch.zeros(2, *SHAPE)).shape == (2, CLASSES)


def test_the_batches_stay_as_they_were() -> None:
    batches = _Batches()
    _measured(_between(nn.ReLU(inplace=True)), batches)
    again = _Batches()
    for taken in batches.taken:
        expected = next(again)
        assert torch.equal(taken.inputs, expected.inputs)
        assert torch.equal(taken.labels, expected.labels)


class _SlowByExample(nn.Module):
    """Takes 20 ms for each example, and says how many came."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:  # not while memory is followed or answers are timed
            self.sizes.append(len(x))
            sleep(0.02 * len(x))
        return x

    def __deepcopy__(self, memo: object) -> "_SlowByExample":
        return _SlowByExample(self.sizes)


def test_a_long_step_is_timed_once_and_compared_on_a_part_of_the_batch() -> None:
    sizes: list[int] = []
    net = StagedNet(
        [
            ("first", nn.Conv2d(1, 2, 3)),
            ("slow", _SlowByExample(sizes)),
            ("last", nn.Sequential(nn.Flatten(), nn.Linear(2 * 36, CLASSES))),
        ]
    )
    batches = _Batches(size=40)
    words, found = _measured(net, batches, together=True, budget_s=0.1)
    assert sum("repeat" in word for word in words) == 1
    assert found.measured
    assert found.contention >= 1
    # Of 0.8 s a step the part that takes about 0.25 s: alone twice, then twice by each of two.
    assert sum(8 <= size < 20 for size in sizes) == 6
