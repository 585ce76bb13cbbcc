"""From figures to a plan: which machine's figures go where, what to choose from, what is chosen."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from eaves.core.methods import PROTECTING
from eaves.core.rates import Rate
from eaves.errors import ConfigError, StateError
from eaves.experiments.config import CHOICES, TrainConfig, parse_config
from eaves.experiments.planconfig import PlanConfig, ProfileConfig
from eaves.experiments.planning import (
    Machines,
    candidates_of,
    fleet_of,
    plan,
    plan_of,
    scenario_of,
    train_config_of,
)
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.planner.devices import DEVICES, preset
from eaves.planner.phases import INFERENCE, TRAINING
from eaves.planner.profile import INPUT, Profile, StageTimes
from eaves.planner.scenario import Candidate, Power, Scenario
from eaves.planner.search import Row

ONE_EPOCH: dict[str, Any] = {"epochs": 1, "samples": 128 * 50}


def here(profile: Profile | None) -> Machines:
    return Machines(here=profile, files={})


def scenario(figures: Profile, **settings: Any) -> Scenario:
    return scenario_of(PlanConfig(**settings), here(figures))


# Machines


@pytest.mark.parametrize(
    ("edge", "cloud", "given", "needed"),
    [
        # No profile of this machine: is anything measured now, and do its times matter?
        ("this", "this", False, (True, True)),
        ("this", "a100", False, (True, True)),
        ("phone", "this", False, (True, True)),
        ("phone", "a100", False, (True, False)),  # a preset needs to know what it works on
        ("phone", "phone", False, (True, False)),
        ("F.json", "this", False, (True, True)),
        ("this", "F.json", False, (True, True)),
        ("F.json", "a100", False, (False, False)),
        ("phone", "F.json", False, (False, False)),
        ("F.json", "F.json", False, (False, False)),
        # With one.
        ("this", "this", True, (False, False)),
        ("this", "a100", True, (False, False)),
        ("phone", "a100", True, (False, False)),
        ("F.json", "this", True, (False, False)),
        ("F.json", "a100", True, (False, False)),
    ],
)
def test_what_must_be_measured_now(
    figures: Profile, tmp_path: Path, edge: str, cloud: str, given: bool, needed: tuple[bool, bool]
) -> None:
    file = tmp_path / "F.json"
    file.write_text(figures.to_json())
    places = [str(file) if place == "F.json" else place for place in (edge, cloud)]
    config = PlanConfig(edge=places[0], cloud=places[1], profile=file if given else None)
    machines = Machines.read(config)
    assert machines.need(config) == needed
    if needed[0]:
        machines = replace(machines, here=figures)  # as if it had been measured
    for place in places:
        assert machines.at(place).measured


def test_each_place_has_its_own_figures(figures: Profile, tmp_path: Path) -> None:
    other = replace(figures, contention=3.0)
    file = tmp_path / "other.json"
    file.write_text(other.to_json())
    machines = Machines.read(PlanConfig(edge=str(file), cloud="a100"))
    assert machines.at(str(file)) == other
    assert machines.at("a100") == preset(other, DEVICES["a100"])
    both = replace(machines, here=figures)
    assert both.at("this") == figures
    assert both.at(str(file)) == other
    assert both.known() == figures
    assert here(None).known() is None
    with pytest.raises(AssertionError):  # another machine's figures are not those of this one
        machines.at("this")


def test_files_that_are_no_profiles(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the profile .*none\.json"):
        Machines.read(PlanConfig(edge=str(tmp_path / "none.json")))
    with pytest.raises(ConfigError, match=r"cannot read the profile .*none"):
        Machines.read(PlanConfig(profile=tmp_path / "none"))
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(StateError, match="expected a profile of format"):
        Machines.read(PlanConfig(cloud=str(tmp_path / "bad.json")))


# The scenario


def seconds(profile: Profile) -> list[float]:
    """Return every time of a profile."""
    found = [profile.fetch]
    for stage in (*profile.stages, *profile.exits.values()):
        assert stage.times is not None
        found += [getattr(stage.times, name) for name in StageTimes.__dataclass_fields__]
    for costs in profile.codecs.values():
        found += [time for cost in costs for time in (cost.encode, cost.decode)]
    return [time.median_s for time in found]


def test_a_slower_edge_takes_longer_for_everything_and_the_cloud_does_not(figures: Profile) -> None:
    found = scenario(figures, edge_slowdown=4)
    assert seconds(found.edge) == [4 * s for s in seconds(figures)]
    assert found.cloud == figures
    faster = scenario(figures, edge_slowdown=0.5, edge="phone")
    assert seconds(faster.edge) == [s / 2 for s in seconds(preset(figures, DEVICES["phone"]))]


@pytest.mark.parametrize(
    ("edge", "cloud", "shared"),
    [("this", "this", True), ("this", "a100", False), ("phone", "phone", False)],
)
def test_only_this_machine_twice_is_one_process(
    figures: Profile, edge: str, cloud: str, shared: bool
) -> None:
    assert scenario(figures, edge=edge, cloud=cloud).one_process == shared


def test_two_halves_in_one_process_slow_each_other_down(
    figures: Profile, profile_file: Path
) -> None:
    """The same figures from a file are those of two machines: no contention."""
    file = str(profile_file)
    config = PlanConfig(methods="hierarchical", cuts="conv2", link="unlimited")
    one = plan(config, figures)
    two = plan(replace(config, edge=file, cloud=file))
    free = plan(config, replace(figures, contention=1.0))
    assert one.best.candidate == two.best.candidate == free.best.candidate
    assert one.best.cost.epoch_s > 1.05 * two.best.cost.epoch_s
    assert free.best.cost == two.best.cost


@pytest.mark.parametrize(
    ("asked", "edge_has", "cloud_has", "batches"),
    [
        (None, 1_437, None, 11),  # as the runtime: the last, if short, is dropped
        (None, None, 1_437, 11),
        (None, 1_437, 50_000, 11),
        (None, None, None, 390),
        (1_000, 1_437, 1_437, 7),
        (128, 1_437, None, 1),
        (5, None, None, 1),
    ],
)
def test_batches_of_an_epoch(
    figures: Profile,
    profile_file: Path,
    asked: int | None,
    edge_has: int | None,
    cloud_has: int | None,
    batches: int,
) -> None:
    profile_file.write_text(replace(figures, samples=cloud_has).to_json())
    config = PlanConfig(edge="this", cloud=str(profile_file), samples=asked)
    machines = replace(Machines.read(config), here=replace(figures, samples=edge_has))
    assert scenario_of(config, machines).batches == batches


def test_what_else_a_scenario_has(figures: Profile) -> None:
    found = scenario(figures, epochs=3, watts="9/1", link="4g", group=6)
    assert (found.epochs, found.choices.group) == (3, 6)
    assert found.power == Power(busy_w=9, idle_w=1)
    assert found.link == PlanConfig(link="4g").link_spec()


def test_profiles_that_do_not_belong_together(figures: Profile, profile_file: Path) -> None:
    config = PlanConfig(edge="this", cloud=str(profile_file))
    for name, value in (("version", "0.0"), ("batch_size", 64), ("structure", "1")):
        changes: dict[str, Any] = {name: value}
        other = replace(figures, subject=replace(figures.subject, **changes))
        machines = replace(Machines.read(config), here=other)
        with pytest.raises(ConfigError, match=f"do not belong together: {name} {value} and "):
            scenario_of(config, machines)


def test_a_profile_without_times_is_of_use_to_presets_only(figures: Profile) -> None:
    untimed = replace(figures, stages=tuple(replace(s, times=None) for s in figures.stages))
    with pytest.raises(ConfigError, match="the profile of 'this' holds no times"):
        scenario(untimed, edge="phone", cloud="this")
    assert scenario(untimed, edge="phone", cloud="a100").edge.measured


# What there is to choose from


def ways(found: list[Candidate], name: str) -> set[str | None]:
    return {getattr(way, name) for way in found}


def test_every_way_of_training(figures: Profile) -> None:
    found = candidates_of(PlanConfig(), scenario(figures))
    assert ways(found, "method") == {"hierarchical", "full-cloud", "full-edge", "split"}
    assert ways(found, "cut") == {"conv1", "conv2", "conv3", None}
    assert ways(found, "codec") == {"int8", "int4+zstd", "raw", "png", None}
    # 3 cuts x 2 codecs: twice for hierarchical, which can send once; 2 x 2 inputs; full-edge.
    assert len(found) == len(set(found)) == 12 + 6 + 4 + 1


def test_every_way_of_answering(figures: Profile) -> None:
    found = candidates_of(PlanConfig(inference=True), scenario(figures))
    methods = {"hierarchical", "full-cloud", "full-edge", "datamix", "siamese"}
    assert ways(found, "method") == methods
    assert ways(found, "send") == {"every-epoch"}
    assert len(found) == len(set(found)) == 6 + 2 + 1 + 6 + 3


@pytest.mark.parametrize("method", sorted({*TRAINING, *INFERENCE}))
@pytest.mark.parametrize("inference", [False, True])
def test_every_method_that_can_be_named_is_planned(
    figures: Profile, method: str, inference: bool
) -> None:
    if method not in (INFERENCE if inference else TRAINING):
        with pytest.raises(ConfigError, match=f"unknown method to plan '{method}'"):
            PlanConfig(methods=method, inference=inference)
        return
    found = plan(PlanConfig(methods=method, inference=inference), figures)
    assert {v.row.candidate.method for v in found.verdicts} == {method}
    assert all(v.row.cost.epoch_s > 0 for v in found.verdicts)


def test_fewer_ways(figures: Profile) -> None:
    config = PlanConfig(methods="split,full-cloud", cuts="conv3, conv1")
    settings = ProfileConfig(codecs="int4+zstd", input_codecs="png")
    found = candidates_of(config, scenario(figures), settings)
    assert [str(way) for way in found] == [
        "split conv3 int4+zstd",
        "split conv1 int4+zstd",
        "full-cloud png",
        "full-cloud png once",
    ]


def test_names_that_are_not_there(figures: Profile) -> None:
    found = scenario(figures)
    with pytest.raises(ConfigError, match="unknown cut 'conv4'; choose from: conv"):
        candidates_of(PlanConfig(cuts="conv4"), found)
    with pytest.raises(ConfigError, match="no figures for the codec 'int2' at 'conv1', only for: "):
        candidates_of(PlanConfig(), found, ProfileConfig(codecs="int8,int2"))
    with pytest.raises(ConfigError, match="no figures for the codec 'jpeg' at 'input', only for: "):
        candidates_of(PlanConfig(), found, ProfileConfig(input_codecs="jpeg"))


def test_a_profile_without_codecs_leaves_what_sends_nothing(figures: Profile) -> None:
    found = scenario(replace(figures, codecs={}))
    assert ways(candidates_of(PlanConfig(), found), "method") == {"full-edge"}
    with pytest.raises(ConfigError, match="nothing to choose from"):
        candidates_of(PlanConfig(methods="split,full-cloud"), found)
    assert INPUT in figures.codecs


# The plan


def test_the_best_is_the_least(figures: Profile) -> None:
    values: dict[str, Callable[[Row], Any]] = {
        "time": lambda row: row.cost.epoch_s,
        "bytes": lambda row: row.cost.bytes_per_sample,
        "memory": lambda row: max(row.cost.memory_bytes, row.cost.peak_bytes or 0),
        "energy": lambda row: row.cost.energy_j,
        "latency": lambda row: row.latency_s,
    }
    for objective, value in values.items():
        found = plan(PlanConfig(objective=objective, watts="9/1"), figures)
        assert value(found.best) == min(value(v.row) for v in found.verdicts)
        assert [v.best for v in found.verdicts] == [True] + [False] * 22


def test_more_of_anything_costs_no_less(figures: Profile) -> None:
    """A slower link or edge makes no way quicker, and the times are those of a run."""
    base = plan(PlanConfig(cloud="a100", link="wifi"), figures)
    for settings in ({"link": "3g"}, {"edge_slowdown": 3.0}, {"link": "wifi,loss=5%"}):
        other = plan(replace(PlanConfig(cloud="a100", link="wifi"), **settings), figures)
        costs = {v.row.candidate: v.row.cost.epoch_s for v in other.verdicts}
        assert all(v.row.cost.epoch_s <= costs[v.row.candidate] for v in base.verdicts)
        assert costs != {v.row.candidate: v.row.cost.epoch_s for v in base.verdicts}


def test_accuracy_is_a_limit_only_once_it_was_probed(figures: Profile) -> None:
    config = PlanConfig(probe=1, min_accuracy=0.9, methods="hierarchical,full-edge", cuts="conv3")
    found = scenario(figures)
    choices = candidates_of(config, found)
    before = plan_of(config, found, choices)
    assert not any(v.refused for v in before.verdicts)
    good, bad = Rate.of(95, 100), Rate.of(50, 100)
    codec = {"int8": good, "int4+zstd": bad, None: bad}
    after = plan_of(config, found, choices, {way: codec[way.codec] for way in choices})
    kept = [v.row.candidate.codec for v in after.verdicts if not v.refused]
    assert kept == ["int8", "int8"]
    with pytest.raises(ConfigError, match=r"accuracy not known below 90\.0%"):
        plan_of(config, found, choices, {})


def test_a_plan_of_files_and_presets_measures_nothing(figures: Profile, profile_file: Path) -> None:
    file = str(profile_file)
    both = plan(PlanConfig(edge=file, cloud=file))
    assert both == plan(PlanConfig(edge=file, cloud=file), figures)
    assert plan(PlanConfig(edge=file, cloud="a100")).scenario.edge == figures
    assert plan(PlanConfig(profile=profile_file)) == plan(PlanConfig(), figures)
    for edge, cloud in (("this", "this"), ("phone", "a100"), (file, "this")):
        with pytest.raises(ConfigError, match="no figures of the net on this machine: pass a prof"):
            plan(PlanConfig(edge=edge, cloud=cloud))


def test_python_does_not_probe(figures: Profile) -> None:
    with pytest.raises(ConfigError, match="trains nothing: leave probe out"):
        plan(PlanConfig(probe=5), figures)


# Many edges


@pytest.mark.parametrize("method", ["hierarchical", "full-cloud"])
@pytest.mark.parametrize("link", ["3g", "unlimited"])
def test_a_fleet_of_one_takes_as_long_as_the_plan_says(
    figures: Profile, method: str, link: str
) -> None:
    """The simulated clock and the formula are two ways to the same epoch."""
    config = PlanConfig(cloud="a100", methods=method, link=link, **ONE_EPOCH)
    found = plan(config, figures)
    way, outcome = fleet_of(config, found, 1)
    assert way == found.best.candidate
    assert outcome.uploads == 50
    assert outcome.duration_s == pytest.approx(found.best.cost.epoch_s, rel=0.01)


def test_a_shared_link_is_shared(figures: Profile) -> None:
    config = PlanConfig(cloud="a100", methods="hierarchical", link="3g", **ONE_EPOCH)
    found = plan(config, figures)
    _, own = fleet_of(replace(config, fleet=5), found, 5)
    _, shared = fleet_of(replace(config, fleet=5, shared_link=True), found, 5)
    assert shared.duration_s == pytest.approx(5 * own.duration_s, rel=0.1)
    assert shared.bottleneck == "link"


def test_a_fleet_trains_by_the_best_way_that_sends_and_does_not_wait(figures: Profile) -> None:
    config = PlanConfig(cloud="a100", link="3g", samples=256, objective="bytes")
    found = plan(config, figures)
    assert found.best.candidate.method == "full-edge"
    rows = [
        v.row for v in found.verdicts if v.row.candidate.method in ("hierarchical", "full-cloud")
    ]
    expected = min(rows, key=lambda row: row.cost.bytes_per_sample)
    way, _ = fleet_of(config, found, 2)
    assert way == expected.candidate
    limited = plan(replace(config, max_bytes=expected.cost.bytes_per_sample / 2), figures)
    with pytest.raises(ConfigError, match="a fleet needs a way that sends and does not wait"):
        fleet_of(config, limited, 2)
    for methods in ("full-edge", "split", "full-edge,split"):
        alone = plan(replace(config, methods=methods), figures)
        with pytest.raises(ConfigError, match="a fleet needs a way that sends and does not wait"):
            fleet_of(config, alone, 2)


# The run that a plan comes to


SETTINGS = ProfileConfig(data="digits", data_root=Path("root"), device="cpu", threads=2)


@pytest.mark.parametrize(
    ("way", "differs"),
    [
        (
            Candidate(method="hierarchical", cut="conv2", codec="int8", send="once"),
            {"cut": "conv2", "codec": "int8", "send": "once"},
        ),
        (Candidate(method="split", cut="conv1", codec="int4+zstd"), {"cut": "conv1"}),
        (Candidate(method="full-cloud", codec="png", send="once"), {"input_codec": "png"}),
        (Candidate(method="full-edge"), {"cut": None, "codec": TrainConfig().codec}),
    ],
)
def test_a_way_as_a_run(figures: Profile, way: Candidate, differs: dict[str, Any]) -> None:
    config = PlanConfig(link="4g,loss=1%", epochs=7, edge_slowdown=3)
    changes: dict[str, Any] = {"net": "resnet18", "stem": "cifar", "exit": "mlp"}
    changes |= {"precision": "bf16", "batch_size": 64}
    profile = replace(figures, subject=replace(figures.subject, **changes))
    found = train_config_of(SETTINGS, config, scenario(profile), way)
    values = asdict(found)
    assert {name: values[name] for name in differs} == differs
    assert {name: values[name] for name in changes} == changes
    assert (found.method, found.send) == (way.method, way.send)
    assert (found.epochs, found.link) == (7, "4g,loss=1%")
    assert (found.data, found.data_root) == ("digits", Path("root"))
    assert (found.device, found.threads, found.edge_slowdown) == ("cpu", 2, 3)
    assert parse_config(found.to_toml(), "-") == found


@pytest.mark.parametrize(("samples", "trained_on"), [(500, 500), (5_000, None), (None, None)])
def test_a_run_takes_no_more_examples_than_there_are(
    figures: Profile, samples: int | None, trained_on: int | None
) -> None:
    where, config = scenario(replace(figures, samples=1_000)), PlanConfig(samples=samples)
    found = train_config_of(SETTINGS, config, where, Candidate(method="full-edge"))
    assert found.train_samples == trained_on


def test_an_edge_that_is_faster_runs_at_full_speed(figures: Profile) -> None:
    config = PlanConfig(edge_slowdown=0.5)
    found = train_config_of(SETTINGS, config, scenario(figures), Candidate(method="full-edge"))
    assert found.edge_slowdown == 1


def test_what_cannot_be_run(figures: Profile) -> None:
    edge, where = Candidate(method="full-edge"), scenario(figures)
    with pytest.raises(ConfigError, match="training needs data: name them to the plan with --data"):
        train_config_of(ProfileConfig(), PlanConfig(), where, edge)
    with pytest.raises(ConfigError, match="plan without --inference"):
        train_config_of(SETTINGS, PlanConfig(inference=True), where, edge)
    private = Candidate(method="priphit", cut="conv1", codec="int8", send="once")
    with pytest.raises(ConfigError, match=r"^priphit hides private .* to the plan with --private"):
        train_config_of(SETTINGS, PlanConfig(methods="priphit"), where, private)


@pytest.mark.parametrize("send", ["once", "every-epoch"])
def test_a_run_hides_what_the_plan_was_told(figures: Profile, send: str) -> None:
    config = PlanConfig(methods="priphit,hierarchical", private="high", adversaries=3)
    where = scenario(figures)
    way = Candidate(method="priphit", cut="conv1", codec="int8", send=send)
    found = train_config_of(SETTINGS, config, where, way)
    assert (found.method, found.send, found.cut) == ("priphit", send, "conv1")
    assert found.privacy == PrivacyConfig(private="high", adversaries=3)
    assert parse_config(found.to_toml(), "-") == found
    plain = train_config_of(SETTINGS, config, where, replace(way, method="hierarchical"))
    assert plain.privacy == PrivacyConfig()  # it hides nothing, and must not seem to


def test_what_is_planned_by_default_can_be_trained(figures: Profile) -> None:
    found = candidates_of(PlanConfig(), scenario(figures))
    assert ways(found, "method") == set(CHOICES["method"]) - {*PROTECTING, "datamix", "siamese"}
