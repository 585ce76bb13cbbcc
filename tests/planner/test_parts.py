"""What a cut makes of a profile: which stage's figures go where."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from eaves.errors import ConfigError
from eaves.planner.parts import ADAM, Parts, answering_bytes, part_of
from eaves.planner.profile import Profile
from eaves.planner.scenario import Scenario

Total = Callable[[Profile, str], float]


def _at(scenario: Scenario, side: str, profile: Profile) -> Scenario:
    """Put ``profile`` in the place of the ``edge`` or the ``cloud``."""
    return replace(scenario, edge=profile) if side == "edge" else replace(scenario, cloud=profile)


# Sums


def test_a_part_is_the_sum_of_its_stages(edge: Profile, total: Total) -> None:
    part = part_of(edge.stages[2:], 4, linked=True)
    assert part.forward_s == total(edge, "c.forward head.forward")
    assert part.backward_s == total(edge, "c.backward head.backward")
    assert part.update_s == total(edge, "c.update head.update")
    assert part.infer_s == total(edge, "c.infer head.infer")
    assert part.step_s == part.forward_s + part.backward_s + part.update_s
    assert part.infer_macs == 4 * (8192 + 64)


def test_bytes_of_a_part(edge: Profile) -> None:
    part = part_of(edge.stages[2:], 4)
    assert part.state_bytes == 3 * 4 * (100 + 50) + 16  # running statistics have no gradient
    by_adam = part_of(edge.stages[2:], 4, copies=ADAM)
    assert by_adam == replace(part, state_bytes=4 * 4 * (100 + 50) + 16)
    assert part.kept_bytes == (4.0 + 8.0) + 4 * (30.0 + 4.0)
    # Weights; c's output is the widest, and is one operation's output and another's input.
    assert part.answering_bytes == 4 * (100 + 50) + 16 + 2 * (4 * 4 * 32)
    assert part.answering_bytes == answering_bytes(edge.stages[2:], 4)


@pytest.mark.parametrize(
    ("stages", "names"),
    [
        (slice(0, 1), "a.backward_leaf"),
        (slice(0, 2), "a.backward_leaf b.backward"),
        (slice(2, 4), "c.backward_leaf head.backward"),
        # The pool has no weights: what it gets no gradient for, the next stage need not make.
        (slice(1, 4), "b.backward_leaf c.backward_leaf head.backward"),
        (slice(1, 2), "b.backward_leaf"),
    ],
)
def test_a_gradient_ends_at_the_first_weights(
    edge: Profile, total: Total, stages: slice, names: str
) -> None:
    assert part_of(edge.stages[stages], 4).backward_s == total(edge, names)
    linked = names.replace("_leaf", "")
    assert part_of(edge.stages[stages], 4, linked=True).backward_s == total(edge, linked)


def test_no_stage_costs_nothing() -> None:
    part = part_of([], 4)
    assert (part.step_s, part.infer_s, part.state_bytes, part.answering_bytes) == (0, 0, 0, 0)
    assert part.extra_s(1000) == 0


def test_more_work_takes_as_long_as_that_of_the_part(edge: Profile, total: Total) -> None:
    part = part_of(edge.stages[:2], 4)
    assert part.extra_s(4 * 4096) == total(edge, "a.infer b.infer")
    assert part.extra_s(0) == 0


def test_a_part_without_times_is_refused(edge: Profile) -> None:
    stages = [edge.stages[0], replace(edge.stages[1], times=None)]
    with pytest.raises(ConfigError, match="the profile holds no times; take it with: eaves prof"):
        part_of(stages, 4)


# Where the figures come from


@pytest.mark.parametrize(
    ("cut", "ours", "theirs"),
    [("a", "a", "b c head"), ("b", "a b", "c head"), ("c", "a b c", "head")],
)
def test_edge_and_cloud_have_what_is_theirs(
    scenario: Scenario, total: Total, cut: str, ours: str, theirs: str
) -> None:
    parts = Parts(scenario, cut)
    forward, infer = (
        [" ".join(f"{name}.{kind}" for name in names.split()) for names in (ours, theirs)]
        for kind in ("forward", "infer")
    )
    assert parts.edge().forward_s == total(scenario.edge, forward[0])
    assert parts.cloud().forward_s == total(scenario.cloud, forward[1])
    assert parts.edge().infer_s == total(scenario.edge, infer[0])
    assert parts.cloud().infer_s == total(scenario.cloud, infer[1])
    assert parts.exit().forward_s == total(scenario.edge, f"exit-{cut}.forward")


def test_all_parts_hold_the_copies_that_an_optimiser_needs(scenario: Scenario) -> None:
    plain, adam = Parts(scenario, "b"), Parts(scenario, "b", copies=ADAM)
    kinds = ("edge", "exit", "cloud", "whole_edge")
    more = {
        kind: getattr(adam, kind)().state_bytes - getattr(plain, kind)().state_bytes
        for kind in kinds
    }
    assert more == {"edge": 4 * 10, "exit": 4 * 5, "cloud": 4 * 150, "whole_edge": 4 * 160}


def test_without_a_cut_each_side_has_the_whole_net(scenario: Scenario, total: Total) -> None:
    parts, forward = Parts(scenario, None), "a.forward b.forward c.forward head.forward"
    assert parts.whole_edge().forward_s == total(scenario.edge, forward)
    assert parts.cloud().forward_s == total(scenario.cloud, forward)
    assert parts.whole_edge().backward_s == total(
        scenario.edge, "a.backward_leaf b.backward c.backward head.backward"
    )
    assert parts.fetch_s == total(scenario.edge, "fetch")


def test_an_exit_passes_its_gradient_on_unless_it_learns_alone(
    scenario: Scenario, total: Total
) -> None:
    parts = Parts(scenario, "b")
    assert parts.exit().backward_s == total(scenario.edge, "exit-b.backward")
    assert parts.exit(linked=False).backward_s == total(scenario.edge, "exit-b.backward_leaf")


def test_the_cloud_makes_a_gradient_for_the_features_where_it_is_wanted(
    scenario: Scenario, total: Total
) -> None:
    parts = Parts(scenario, "b")
    assert parts.cloud().backward_s == total(scenario.cloud, "c.backward_leaf head.backward")
    assert parts.cloud(linked=True).backward_s == total(scenario.cloud, "c.backward head.backward")


@pytest.mark.parametrize(("cut", "values"), [("a", 256), ("b", 64), ("c", 32)])
def test_what_crosses_a_cut(scenario: Scenario, cut: str, values: int) -> None:
    parts = Parts(scenario, cut)
    assert parts.values == values
    assert parts.feature_bytes == 4 * 4 * values
    assert parts.input_bytes == 4 * 3 * 8 * 8  # a byte for each pixel


def test_each_side_codes_at_its_own_speed(scenario: Scenario) -> None:
    for parts, where in ((Parts(scenario, "b"), "b"), (Parts(scenario, None), "input")):
        name = scenario.edge.codecs[where][1].codec
        ours, theirs = parts.codec(name)
        assert ours is scenario.edge.codecs[where][1]
        assert theirs is scenario.cloud.codecs[where][1]
    ours, theirs = Parts(scenario, "b").reply()
    assert ours is scenario.edge.codecs["b/reply"][0]
    assert theirs is scenario.cloud.codecs["b/reply"][0]


# What is not there


@pytest.mark.parametrize("cut", ["d", "head"])
def test_a_net_is_cut_between_its_stages(scenario: Scenario, cut: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"unknown cut '{cut}'; choose from: [abc], [abc], [abc]$"
    ):
        Parts(scenario, cut)


@pytest.mark.parametrize("side", ["edge", "cloud"])
def test_a_codec_that_one_side_was_not_measured_with(scenario: Scenario, side: str) -> None:
    profile = scenario.edge if side == "edge" else scenario.cloud
    fewer = replace(profile, codecs={**profile.codecs, "b": profile.codecs["b"][:1]})
    parts = Parts(_at(scenario, side, fewer), "b")
    assert [cost.codec for cost in parts.codec("int8")] == ["int8", "int8"]
    message = "the profile has no figures for the codec 'int4' at 'b', only for: int8"
    with pytest.raises(ConfigError, match=message):
        parts.codec("int4")
    with pytest.raises(ConfigError, match="this method sends something: name a codec"):
        parts.codec(None)


@pytest.mark.parametrize("side", ["edge", "cloud"])
def test_a_profile_without_figures_for_gradients(scenario: Scenario, side: str) -> None:
    profile = scenario.edge if side == "edge" else scenario.cloud
    codecs = {where: costs for where, costs in profile.codecs.items() if where != "b/reply"}
    parts = Parts(_at(scenario, side, replace(profile, codecs=codecs)), "b")
    with pytest.raises(ConfigError, match="no figures for gradients that go back to 'b'"):
        parts.reply()
