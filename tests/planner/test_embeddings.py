"""What a cut costs the device: the sums of the profile, one source with the plan, VGG by hand.

Dimension key:  B batch   C channels   H, W height and width
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from torch import nn

from eaves.codecs.base import parse_codec
from eaves.core.specs import LinkSpec
from eaves.errors import ConfigError
from eaves.nets.vgg import vgg16
from eaves.planner.analyse import analyse_chain
from eaves.planner.cost import inference_cost
from eaves.planner.embeddings import WIDTHS, DeviceCost, Projection, device_costs
from eaves.planner.phases import INFERENCE
from eaves.planner.profile import CodecCost, Profile, Seconds, Stage, numbers_at
from eaves.planner.scenario import Candidate, Choices, Power, Scenario

Total = Callable[[Profile, str], float]

BATCH = 4
POWER = Power(busy_w=8.0, idle_w=1.0)


def _numbers(cut: str, seconds: float = 0.5) -> dict[str, tuple[CodecCost, ...]]:
    taken = Seconds(seconds, 0.125)
    cost = CodecCost(codec="int8", bytes_per_sample=17.0, encode=taken, decode=Seconds(0.25))
    return {numbers_at(cut): (cost,)}


@pytest.fixture
def now(edge: Profile) -> Profile:
    """Return a profile that was taken with what there is now, but for the cut `c`."""
    codecs = {**edge.codecs, **_numbers("a"), **_numbers("b")}
    return replace(edge, codecs=codecs, infer_peak_bytes={"a": 5_000, "b": 6_000})


def _at(costs: list[DeviceCost], cut: str) -> tuple[DeviceCost, DeviceCost]:
    features, numbers = (cost for cost in costs if cost.cut == cut)
    return features, numbers


# Sums


def test_every_cut_has_a_row_for_each_embedding(now: Profile) -> None:
    rows = device_costs(now, components=8, power=None)
    assert [(row.cut, row.embedding, row.codec) for row in rows] == [
        (cut, embedding, "int8") for cut in "abc" for embedding in ("features", "8 numbers")
    ]
    assert {(row.batch_size, row.raw_bytes) for row in rows} == {(BATCH, 3 * 8 * 8)}


def test_all_features_cost_what_the_profile_says(now: Profile, total: Total) -> None:
    features, _ = _at(device_costs(now, components=8, power=POWER), "b")
    macs, params = 4096 + 8192 + 64, 10 + 100 + 50
    assert (features.macs, features.macs_share) == (4096, 4096 / macs)
    assert (features.params, features.params_share) == (10, 10 / params)
    assert features.time is not None
    assert features.time.median_s == total(now, "a.infer b.infer b:int8.encode")
    spreads = [stage.times.infer.spread_s for stage in now.stages[:2] if stage.times is not None]
    assert features.time.spread_s == sum(spreads) + now.codec("b", "int8").encode.spread_s
    assert (features.memory_bytes, features.memory_followed) == (6_000, True)
    assert features.bytes_per_input == 68
    assert features.energy_j == 8.0 * features.time.median_s / BATCH


def test_a_few_numbers_cost_a_projection_more_and_as_many_bytes(now: Profile, total: Total) -> None:
    features, numbers = _at(device_costs(now, components=8, power=POWER), "b")
    assert numbers.macs == features.macs + 8 * 64
    assert numbers.params == features.params + 8 * 64 + 64  # the basis, the mean
    assert numbers.time is not None
    assert numbers.time.median_s == total(now, "a.infer b.infer") + 0.5
    assert numbers.time_measured
    assert numbers.memory_bytes == features.memory_bytes + 4 * (9 * 64 + BATCH * 8)
    assert numbers.bytes_per_input == 17


@pytest.mark.parametrize(
    ("d", "seconds", "size_bytes"), [(4, 0.5, 13), (8, 0.5, 17), (24, 1.5, 33)]
)
def test_more_numbers_take_longer_and_fewer_no_less(
    now: Profile, total: Total, d: int, seconds: float, size_bytes: int
) -> None:
    _, numbers = _at(device_costs(now, components=d, power=None), "b")
    assert numbers.embedding == f"{d} numbers"
    assert numbers.time is not None
    assert numbers.time.median_s == total(now, "a.infer b.infer") + seconds
    assert numbers.bytes_per_input == size_bytes


def test_there_is_nothing_to_reduce_where_features_have_fewer_values(now: Profile) -> None:
    rows = device_costs(now, components=33, power=None)  # `c` has 32
    assert [row.cut for row in rows if row.embedding != "features"] == ["a", "b"]
    with pytest.raises(ConfigError, match=r"expected 1 to 32 components at 'c'.* got 33"):
        Projection(cut="c", values=32, components=33)


def test_a_profile_of_before_is_reckoned_with_by_formulas(edge: Profile, total: Total) -> None:
    features, numbers = _at(device_costs(edge, components=8, power=None), "b")
    # Weights, twice the widest output, inputs of a byte for each value.
    assert features.memory_bytes == 4 * 10 + 8 + 2 * (4 * BATCH * 256) + BATCH * 192
    assert features.time_measured
    assert [row.memory_followed for row in (features, numbers)] == [False, False]
    assert not numbers.time_measured
    assert numbers.time is not None
    through_s = total(edge, "a.infer b.infer")
    assert numbers.time.median_s == pytest.approx(through_s * (1 + 8 * 64 / 4096))
    assert numbers.bytes_per_input == 8 + 64 / BATCH


@pytest.mark.parametrize("codec", WIDTHS)
@pytest.mark.parametrize("size", [1, 128])
def test_the_envelope_of_before_holds_a_payload_s(edge: Profile, codec: str, size: int) -> None:
    sized = replace(edge, subject=replace(edge.subject, batch_size=size))
    reduced = Projection(cut="b", values=64, components=8)
    found = reduced.cost(sized, edge.stages[:2], codec).bytes_per_sample * size
    payload = len(parse_codec(codec).encode(torch.randn(size, 8)))
    assert payload <= found <= payload + 64


def test_without_times_and_watts_there_is_neither_time_nor_energy(now: Profile) -> None:
    stages = tuple(replace(stage, times=None) for stage in now.stages)
    for row in device_costs(replace(now, stages=stages), components=8, power=POWER):
        assert row.time is None
        assert row.energy_j is None
    assert all(row.energy_j is None for row in device_costs(now, components=8, power=None))


def test_a_net_without_products_has_no_share_of_them(now: Profile) -> None:
    stages = tuple(replace(stage, forward_macs=0.0, params=0) for stage in now.stages)
    for row in device_costs(replace(now, stages=stages), components=8, power=None):
        assert row.macs_share == row.params_share == 0


# One source with the plan


@pytest.mark.parametrize("cut", ["a", "b", "c"])
@pytest.mark.parametrize("d", [4, 8, 16])
def test_a_plan_says_the_same(now: Profile, cloud: Profile, cut: str, d: int) -> None:
    scenario = Scenario(
        edge=now, cloud=cloud, link=LinkSpec(), batches=5, choices=Choices(components=d)
    )
    features, numbers = _at(device_costs(now, components=d, power=None), cut)
    for row, way in (
        (features, Candidate(method="split", cut=cut, codec="int8")),
        (numbers, Candidate(method="siamese", cut=cut)),
    ):
        [phase], held = INFERENCE[way.method](scenario, way)
        assert row.time is not None
        assert phase.ahead_s == pytest.approx(row.time.median_s, rel=1e-12)
        assert phase.up_bytes == pytest.approx(BATCH * row.bytes_per_input, rel=1e-12)
        assert held.edge_bytes == row.memory_bytes == inference_cost(scenario, way).memory_bytes


# VGG-16 by hand

# Table 1, column D, of Simonyan and Zisserman 2015 at 224x224: side, channels in and out.
_VGG = {
    "pool1": [(224, 3, 64), (224, 64, 64)],
    "pool2": [(112, 64, 128), (112, 128, 128)],
    "pool3": [(56, 128, 256), (56, 256, 256), (56, 256, 256)],
    "pool4": [(28, 256, 512), (28, 512, 512), (28, 512, 512)],
    "pool5": [(14, 512, 512)] * 3,
}
_MACS = {cut: [9 * side**2 * i * o for side, i, o in convs] for cut, convs in _VGG.items()}
_WEIGHTS = {cut: [9 * i * o + o for _, i, o in convs] for cut, convs in _VGG.items()}
_LINEAR = [(7 * 7 * 512, 4096), (4096, 4096), (4096, 1000)]  # the paper's three


def _counted(stages: dict[str, nn.Module]) -> list[Stage]:
    """Count on shapes alone: no values, so it is soon over."""
    return analyse_chain(stages, torch.zeros(4, 3, 224, 224, device="meta"), nullcontext)


def _shares(figures: list[float]) -> list[float]:
    """Return the percentages up to each stage."""
    return [round(100 * n / sum(figures), 1) for n in accumulate(figures)]


def test_our_vgg16_at_224() -> None:
    """At pools; with one linear layer in the place of three, deep cuts have all the weights too."""
    with torch.device("meta"):
        net = vgg16(3, 2)
    *pools, head = found = _counted(dict(net.stages()))
    assert (head.forward_macs, head.params) == (512 * 2, 512 * 2 + 2)
    normed = {cut: [2 * o for *_, o in convs] for cut, convs in _VGG.items()}
    assert {s.name: s.forward_macs for s in pools} == {c: sum(n) for c, n in _MACS.items()}
    assert {s.name: s.params for s in pools} == {
        cut: sum(_WEIGHTS[cut]) + sum(normed[cut]) for cut in _VGG
    }
    assert _shares([s.forward_macs for s in found]) == [12.6, 30.7, 60.8, 91.0, 100.0, 100.0]
    assert _shares([float(s.params) for s in found]) == [0.3, 1.8, 11.8, 51.9, 100.0, 100.0]


def test_vgg16_as_it_was_published_cut_where_the_siamese_paper_cuts() -> None:
    """After conv5_1 to conv5_3: 93 to 99 % of the work, 7 to 11 % of the weights."""
    layers: list[nn.Module] = []
    with torch.device("meta"):
        for convs in _VGG.values():
            for _, i, o in convs:
                layers += [nn.Conv2d(i, o, 3, padding=1), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
        *fifth, pool = layers[-7:]
        stages: dict[str, nn.Module] = {"conv5_1": nn.Sequential(*layers[:-7], *fifth[:2])}
        stages |= {"conv5_2": nn.Sequential(*fifth[2:4]), "conv5_3": nn.Sequential(*fifth[4:])}
        linear = [layer for i, o in _LINEAR for layer in (nn.Linear(i, o), nn.ReLU())]
        stages["fc8"] = nn.Sequential(pool, nn.Flatten(), *linear[:-1])
    found = _counted(stages)
    assert sum(s.params for s in found) == 138_357_544  # as published, and torchvision's
    assert sum(s.forward_macs for s in found) == 15_470_264_320  # "15.5 G", as it is quoted
    assert [s.values for s in found[:3]] == [14 * 14 * 512] * 3  # 401 kB of float32
    assert _shares([s.forward_macs for s in found]) == [93.2, 96.2, 99.2, 100.0]
    assert _shares([float(s.params) for s in found]) == [7.2, 8.9, 10.6, 100.0]
