"""Presets against what was measured of the devices, the roofline, and machines made slower."""

import re
from dataclasses import fields, replace
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaves.errors import ConfigError
from eaves.planner.cost import training_cost
from eaves.planner.devices import DEVICES, DeviceSpec, preset, slowed
from eaves.planner.profile import Profile, Seconds, Stage, StageTimes
from eaves.planner.scenario import Candidate, Scenario

# 1 GFLOP/s that is reached, 100 MB/s, 1 ms to start an operation
PLAIN = DeviceSpec(
    about="made for tests",
    peak_flops=2e9,
    efficiency=0.5,
    bandwidth_bytes_s=1e8,
    memory_bytes=1e9,
    start_s=1e-3,
    cpu_slowdown=4.0,
    power=None,
    source="none",
)
KINDS = [field.name for field in fields(StageTimes)]


def _all_stages(profile: Profile) -> list[Stage]:
    return [*profile.stages, *profile.exits.values()]


def _medians(stage: Stage) -> dict[str, float]:
    assert stage.times is not None
    return {kind: getattr(stage.times, kind).median_s for kind in KINDS}


# Presets


@pytest.mark.parametrize("name", DEVICES)
def test_a_preset_is_a_device(name: str) -> None:
    spec = DEVICES[name]
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    assert spec.about
    assert len(spec.source) > 10
    assert 0 < spec.effective_flops <= spec.peak_flops
    # From a small board to the largest accelerator: a slip of a unit would leave these.
    assert 1e10 < spec.peak_flops < 1e15
    assert 5e9 < spec.bandwidth_bytes_s < 1e13
    assert 1e9 < spec.memory_bytes < 1e12
    assert 1e-6 < spec.start_s < 1e-3
    assert 1 <= spec.cpu_slowdown < 100
    if spec.power is not None:
        assert 0 < spec.power.idle_w < spec.power.busy_w < 1000


@pytest.mark.parametrize(
    ("name", "measured_flops"),
    [
        # Multiply-accumulates are two operations: 1.81 G for ResNet-18, 4.1 G for ResNet-50; a
        # training step is three passes.
        ("raspberry-pi-4", 2 * 1.81e9 / 0.234),
        ("rtx-2080-ti", 294 * 3 * 2 * 4.1e9),
        ("a100", 938 * 3 * 2 * 4.1e9),
        ("h200", 1.8 * 938 * 3 * 2 * 4.1e9),
    ],
)
def test_presets_reach_what_their_source_measured(name: str, measured_flops: float) -> None:
    assert DEVICES[name].effective_flops == pytest.approx(measured_flops, rel=0.03)


def test_presets_that_take_anothers_efficiency_have_it() -> None:
    found = []
    for name, spec in DEVICES.items():
        if relative := re.match(r"as ([\w-]+)", spec.source):
            theirs = DEVICES[relative[1]].efficiency
            assert spec.efficiency == pytest.approx(theirs, abs=0.011), name
            found.append(name)
    assert found == ["raspberry-pi-5", "jetson-nano", "jetson-orin-nano", "phone"]


def test_devices_have_the_order_of_their_kind() -> None:
    order = ["raspberry-pi-4", "raspberry-pi-5", "laptop", "rtx-2080-ti", "a100", "h200"]
    for figure in ("effective_flops", "bandwidth_bytes_s"):
        speeds = [getattr(DEVICES[name], figure) for name in order]
        assert speeds == sorted(set(speeds)), figure


# The roofline


def _stage(edge: Profile, *, macs: float, moved_bytes: float, **others: int) -> Stage:
    return replace(
        edge.stages[0],
        forward_macs=macs,
        backward_macs=2 * macs,
        backward_leaf_macs=macs,
        moved_bytes=moved_bytes,
        **{"operations": 0, "params": 1, **others},  # type: ignore[arg-type]  # all are integers
    )


def test_arithmetic_takes_two_operations_for_each_mac(edge: Profile) -> None:
    stage = _stage(edge, macs=1e6, moved_bytes=1.0)
    found = _medians(replace(stage, times=PLAIN.times(stage, 50)))
    expected = {"forward": 0.1, "backward": 0.2, "backward_leaf": 0.1, "infer": 0.1}
    assert found == pytest.approx({**expected, "update": 20 / 1e8})


def test_memory_takes_its_bandwidth_and_twice_as_much_going_backward(edge: Profile) -> None:
    stage = _stage(edge, macs=1.0, moved_bytes=1e6, params=10**6)
    found = _medians(replace(stage, times=PLAIN.times(stage, 50)))
    expected = {"forward": 0.5, "backward": 1.0, "backward_leaf": 1.0, "infer": 0.5}
    # SGD with momentum reads three numbers of 4 bytes for each weight and writes two.
    assert found == pytest.approx({**expected, "update": 0.2})


@given(macs=st.floats(0, 1e7), moved_bytes=st.floats(0, 1e7), operations=st.integers(0, 50))
def test_the_longer_of_both_counts_and_each_operation_has_a_start(
    edge: Profile, macs: float, moved_bytes: float, operations: int
) -> None:
    stage = _stage(edge, macs=macs, moved_bytes=moved_bytes, operations=operations)
    found = _medians(replace(stage, times=PLAIN.times(stage, 8)))
    longer_s = max(8 * 2 * macs / 1e9, 8 * moved_bytes / 1e8)
    assert found["forward"] == pytest.approx(longer_s + operations * 1e-3)
    assert found["infer"] == found["forward"]
    back_s = max(8 * 2 * 2 * macs / 1e9, 8 * 2 * moved_bytes / 1e8)
    assert found["backward"] == pytest.approx(back_s + 2 * operations * 1e-3)
    assert found["backward_leaf"] <= found["backward"]


def test_no_weights_no_update_and_nothing_for_a_gradient_that_ends(edge: Profile) -> None:
    stage = _stage(edge, macs=0.0, moved_bytes=1e6, operations=3, params=0)
    found = _medians(replace(stage, times=PLAIN.times(stage, 50)))
    assert (found["update"], found["backward_leaf"]) == (0, 0)
    assert found["backward"] == pytest.approx(1.006)


def test_a_preset_keeps_work_memory_and_payloads(edge: Profile) -> None:
    found = preset(edge, PLAIN)
    assert found.subject == edge.subject
    assert found.peak_bytes == edge.peak_bytes
    assert (found.contention, found.fetch) == (1.0, Seconds(0.0))
    for ours, theirs in zip(_all_stages(found), _all_stages(edge), strict=True):
        assert replace(ours, times=None) == replace(theirs, times=None)
        assert ours.times == PLAIN.times(theirs, 4)
    for where, costs in edge.codecs.items():
        for made, taken in zip(found.codecs[where], costs, strict=True):
            assert (made.codec, made.bytes_per_sample) == (taken.codec, taken.bytes_per_sample)
            assert made.encode.median_s == 4 * taken.encode.median_s
            assert made.decode.median_s == 4 * taken.decode.median_s


def test_a_preset_needs_no_times_of_the_machine_that_counted(edge: Profile) -> None:
    stages = tuple(replace(stage, times=None) for stage in edge.stages)
    exits = {cut: replace(stage, times=None) for cut, stage in edge.exits.items()}
    blind = replace(edge, stages=stages, exits=exits)
    assert not blind.measured
    assert preset(blind, PLAIN) == preset(edge, PLAIN)
    assert preset(blind, PLAIN).measured


def test_faster_devices_train_faster(scenario: Scenario) -> None:
    epochs_s = [
        training_cost(
            replace(scenario, edge=preset(scenario.edge, DEVICES[name])),
            Candidate(method="full-edge"),
        ).epoch_s
        for name in ("raspberry-pi-4", "raspberry-pi-5", "rtx-2080-ti")
    ]
    assert epochs_s == sorted(set(epochs_s), reverse=True)


@pytest.mark.parametrize("value", [0.0, -1.0, inf, nan])
@pytest.mark.parametrize(
    "name", ["peak_flops", "bandwidth_bytes_s", "memory_bytes", "cpu_slowdown"]
)
def test_a_device_has_figures(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"expected {name} above 0, got {value}"):
        replace(PLAIN, **{name: value})  # type: ignore[arg-type]  # all are numbers


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, nan])
def test_nobody_beats_the_peak(share: float) -> None:
    with pytest.raises(ConfigError, match=rf"expected an efficiency in \(0, 1\], got {share}"):
        replace(PLAIN, efficiency=share)
    assert replace(PLAIN, efficiency=1.0).effective_flops == PLAIN.peak_flops


@pytest.mark.parametrize("start_s", [-1e-9, inf, nan])
def test_starting_takes_no_time_or_some(start_s: float) -> None:
    with pytest.raises(ConfigError, match=f"expected start_s of 0 or more, got {start_s}"):
        replace(PLAIN, start_s=start_s)
    assert replace(PLAIN, start_s=0.0).start_s == 0


# The same machine, slower


@given(factor=st.sampled_from([0.25, 0.5, 2.0, 4.0, 1024.0]))
def test_slower_means_all_times_and_nothing_else(edge: Profile, factor: float) -> None:
    found = slowed(edge, factor)
    for ours, theirs in zip(_all_stages(found), _all_stages(edge), strict=True):
        assert ours.times is not None
        assert theirs.times is not None
        for kind in KINDS:
            mine, measured = getattr(ours.times, kind), getattr(theirs.times, kind)
            assert mine == Seconds(factor * measured.median_s, factor * measured.spread_s)
    for where, costs in edge.codecs.items():
        for made, taken in zip(found.codecs[where], costs, strict=True):
            assert made.bytes_per_sample == taken.bytes_per_sample
            assert made.encode.median_s == factor * taken.encode.median_s
            assert made.decode.median_s == factor * taken.decode.median_s
    assert found.fetch.median_s == factor * edge.fetch.median_s
    assert (found.subject, found.peak_bytes) == (edge.subject, edge.peak_bytes)
    assert found.contention == edge.contention
    assert slowed(found, 1 / factor) == edge


def test_once_as_slow_is_the_same(edge: Profile) -> None:
    assert slowed(edge, 1.0) == edge


def test_a_net_that_was_only_counted_has_no_times_to_slow(edge: Profile) -> None:
    blind = replace(edge, stages=tuple(replace(s, times=None) for s in edge.stages))
    assert slowed(blind, 3.0).stages == blind.stages


@pytest.mark.parametrize("factor", [0.0, -1.0, inf, nan])
def test_no_such_slowness(edge: Profile, factor: float) -> None:
    with pytest.raises(ConfigError, match=f"expected a slowdown above 0, got {factor}"):
        slowed(edge, factor)
