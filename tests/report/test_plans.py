"""A plan in words, in a table and as JSON; the preset devices."""

import json
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from eaves.core.rates import Rate
from eaves.experiments.planconfig import PlanConfig
from eaves.experiments.planning import Machines, candidates_of, fleet_of, plan, plan_of, scenario_of
from eaves.planner.devices import DEVICES
from eaves.planner.profile import INPUT, Profile, Seconds, StageTimes
from eaves.planner.search import Plan, held_bytes
from eaves.report.plans import (
    devices_table,
    fleet_text,
    places_text,
    plan_facts,
    plan_table,
    references,
    shown,
    words_text,
)

CONFIG = PlanConfig(cloud="a100", watts="9/1", samples=12_800)


def printed(table: Table) -> str:
    out = StringIO()
    Console(file=out, width=250).print(table)
    return out.getvalue()


def rows(table: Table) -> dict[str, dict[str, str]]:
    """Return the cells of each way by the heads of their columns; its mark is under ``mark``."""
    heads = [str(column.header) for column in table.columns]
    found = {}
    for line in zip(*(column.cells for column in table.columns), strict=True):
        cells = dict(zip(heads, map(str, line), strict=True))
        mark, way = cells["way"][:2], cells["way"][2:]
        found[way] = cells | {"mark": mark.strip()}
    return found


@pytest.fixture(scope="module")
def best(figures: Profile) -> Plan:
    return plan(CONFIG, figures)


# The table


def test_a_line_for_each_method_at_each_cut_or_for_all(best: Plan) -> None:
    few, every = (rows(plan_table(best, everything=e)) for e in (False, True))
    assert list(every) == [str(v.row.candidate) for v in best.verdicts]
    kinds = [(c.method, c.cut, c.send) for c in (v.row.candidate for v in best.verdicts)]
    assert len(few) == len(set(kinds)) == 6 + 3 + 2 + 1
    # Of those that differ in their codec alone, the one that comes first in the plan.
    assert list(few) == [
        str(v.row.candidate) for i, v in enumerate(best.verdicts) if kinds.index(kinds[i]) == i
    ]


def test_a_row_has_the_figures_of_its_way(best: Plan) -> None:
    verdict = next(v for v in best.verdicts if str(v.row.candidate) == "hierarchical conv2 int8")
    whole = next(v for v in best.verdicts if v.row.candidate.method == "full-edge")
    raw = next(v for v in best.verdicts if str(v.row.candidate) == "full-cloud raw")
    cost, other = verdict.row.cost, whole.row.cost
    cells = rows(plan_table(best, everything=True))["hierarchical conv2 int8"]
    assert (cells["mark"] == "*") == verdict.front
    assert float(cells["epoch"].removesuffix(" s")) == pytest.approx(cost.epoch_s, rel=0.01)
    saved = 100 * (1 - cost.epoch_s / raw.row.cost.epoch_s)
    assert float(cells["saved"].removesuffix("%")) == pytest.approx(saved, abs=0.1)
    for name, busy_s in (("edge", cost.edge_s), ("link", cost.link_s), ("cloud", cost.cloud_s)):
        share = float(cells[name].strip("<>%"))
        assert share == pytest.approx(100 * busy_s / cost.epoch_s, abs=1)
    assert cells["up"] == "1.0 kB"
    assert cells["edge memory"].startswith("8.0 MB (")  # the peak, which is above the formula
    assert f"({held_bytes(cost) / held_bytes(other):.0%})" in cells["edge memory"]
    assert cost.energy_j is not None
    assert other.energy_j is not None
    assert f"({cost.energy_j / other.energy_j:.0%})" in cells["energy"]
    answer = float(cells["answer"].removesuffix(" s"))
    assert answer == pytest.approx(verdict.row.latency_s, rel=0.01)


def test_what_is_nothing_against_itself(best: Plan) -> None:
    cells = rows(plan_table(best, everything=True))
    assert cells["full-cloud raw"]["saved"] == "+0.0%"
    assert cells["full-edge"]["up"] == "-"  # nothing is sent
    assert cells["full-edge"]["edge memory"].endswith("(100%)")
    assert cells["full-edge"]["energy"].endswith("(100%)")


def test_the_front_is_marked_and_the_title_says_of_what(best: Plan) -> None:
    table = plan_table(best, everything=True)
    text, cells = printed(table), rows(table)
    front = {str(v.row.candidate) for v in best.verdicts if v.front}
    assert {way for way, found in cells.items() if found["mark"] == "*"} == front
    assert 0 < len(front) < len(cells)
    assert "12,800 samples: small, 1x8x8, 10 classes, batch 128, fp32" in text
    assert "Payload sizes: digits" in text


def test_energy_that_is_not_known_is_a_dash(figures: Profile) -> None:
    found = plan(replace(CONFIG, watts=None), figures)
    cells = rows(plan_table(found, everything=True))
    assert {found["energy"] for found in cells.values()} == {"-"}


def test_a_probe_is_a_column_with_its_interval(figures: Profile) -> None:
    config = replace(CONFIG, methods="hierarchical,split", cuts="conv3", probe=1)
    where = scenario_of(config, Machines(here=figures, files={}))
    found = candidates_of(config, where)
    known = {way: Rate.of(90, 100) for way in found if way.method == "split"}
    probed, without = (plan_of(config, where, found, rates) for rates in (known, None))
    table = plan_table(probed, everything=True)
    text, cells = printed(table), rows(table)
    assert cells["split conv3 int8"]["probe"] == "90.0% ±6.0%"  # Wilson's: 82.6 % to 94.5 %
    assert cells["hierarchical conv3 int8"]["probe"] == "-"
    assert "chance 10%" in text
    assert "without --probe" not in text
    plain = plan_table(without, everything=True)
    assert "probe" not in rows(plain)["split conv3 int8"]
    assert "without --probe" in printed(plain)


def test_a_plan_of_answers(figures: Profile) -> None:
    found = plan(PlanConfig(inference=True, cloud="a100", samples=12_800), figures)
    table = plan_table(found, everything=False)
    assert printed(table).strip().startswith("Answering 12,800 samples")
    assert {"full-edge", "siamese conv1"} < set(rows(table))
    assert rows(table)["full-edge"]["queries"].endswith("s")


def test_brackets_in_names_are_no_markup(figures: Profile) -> None:
    """A net may lie in a folder such as nets[1] or [/b], and stages may be called anything."""
    name = "n[b]ets[/i]/own.py:Net"
    stages = tuple(replace(s, name=s.name.replace("conv", "[/c]")) for s in figures.stages)
    renamed = replace(
        figures,
        subject=replace(figures.subject, net=name),
        payloads_from="images:[/x]",
        stages=stages,
        exits={s.name: figures.exits["conv1"] for s in stages[:-1]},
        codecs={cut.replace("conv", "[/c]"): costs for cut, costs in figures.codecs.items()},
    )
    text = printed(plan_table(plan(CONFIG, renamed), everything=True))
    assert name in text
    assert "images:[/x]" in text
    assert "split [/c]2 int8" in text


def test_a_profile_of_no_times_is_still_printed(figures: Profile) -> None:
    """Nobody measures it, but anybody can write it."""
    nothing = Seconds(0.0)
    times = StageTimes(*[nothing] * 5)
    still = replace(
        figures,
        fetch=nothing,
        stages=tuple(replace(s, times=times) for s in figures.stages),
        exits={cut: replace(s, times=times) for cut, s in figures.exits.items()},
        codecs={
            where: tuple(replace(cost, encode=nothing, decode=nothing) for cost in costs)
            for where, costs in figures.codecs.items()
        },
    )
    found = plan(PlanConfig(link="unlimited"), still)
    assert found.best.cost.epoch_s == 0
    assert "full-edge" in printed(plan_table(found, everything=True))


# Without full-cloud on raw inputs there is nothing to compare with


@pytest.mark.parametrize("side", ["edge", "cloud"])
def test_raw_inputs_that_one_side_was_not_measured_with(figures: Profile, side: str) -> None:
    found = plan(replace(CONFIG, methods="hierarchical,full-edge"), figures)
    profile = getattr(found.scenario, side)
    fewer = replace(profile, codecs={**profile.codecs, INPUT: profile.codecs[INPUT][1:]})
    changes: dict[str, Any] = {side: fewer}
    without = replace(found, scenario=replace(found.scenario, **changes))
    assert references(found)[1] is not None
    assert references(without)[1] is None
    cells = rows(plan_table(without, everything=True))
    assert {found["saved"] for found in cells.values()} == {""}


# Words


def test_every_other_way_has_its_reason(best: Plan) -> None:
    first, *others = words_text(best, everything=True).splitlines()
    assert first == f"Best in time: {best.best.candidate}. The others:"
    assert others == [f"  {v.row.candidate}: {v.why}" for v in best.verdicts[1:]]
    assert all(v.why for v in best.verdicts)
    few = words_text(best, everything=False).splitlines()
    assert len(few) == len(shown(best, everything=False)) < 1 + len(others)


def test_a_lone_way_has_no_others(figures: Profile) -> None:
    alone = plan(PlanConfig(methods="full-edge", objective="memory"), figures)
    assert words_text(alone, everything=True) == "Best in memory: full-edge."


def test_places_say_how_far_they_can_be_trusted(figures: Profile) -> None:
    config = PlanConfig(edge="this", cloud="a100", link="4g,loss=1%", edge_slowdown=2.5)
    text = places_text(config, plan(config, figures).scenario)
    edge, cloud, about, link = text.splitlines()
    assert edge == "edge: this, measured (Some CPU)"
    assert cloud.startswith("cloud: a100, scaled: good to a factor, not to a percent")
    assert DEVICES["a100"].source in about
    assert link == "link: 4g,loss=1%, edge 2.5 times slower"
    same = replace(figures, machine={"cpu": "Some CPU", "gpu": "Some GPU"})
    config = PlanConfig()
    edge, cloud, link = places_text(config, plan(config, same).scenario).splitlines()
    assert (edge, link) == ("edge: this, measured (Some GPU)", "link: 3g")


# JSON


def test_facts_are_all_there_and_json_takes_them(best: Plan) -> None:
    fleet = fleet_of(replace(CONFIG, fleet=3), best, 3)
    facts = json.loads(json.dumps(plan_facts(best, CONFIG, fleet), allow_nan=False))
    assert len(facts["rows"]) == len(best.verdicts)
    least = min(facts["rows"], key=lambda row: row["epoch_s"])
    ours = {name: least[name] for name in ("method", "cut", "codec", "send")}
    assert facts["best"] == ours
    assert [row["best"] for row in facts["rows"]].count(True) == 1
    for row, verdict in zip(facts["rows"], best.verdicts, strict=True):
        cost = verdict.row.cost
        assert row["epoch_s"] == cost.epoch_s
        assert row["bytes_per_sample"] == cost.bytes_up / 12_800
        assert row["bound"] in ("edge", "link", "cloud")
        assert row["answer_s"] == verdict.row.latency_s
        assert (row["accuracy"], row["refused"]) == (None, [])
    assert facts["batches"] * facts["subject"]["batch_size"] == 12_800
    assert facts["fleet"]["uploads"] == 3 * 100
    assert facts["fleet"]["method"] == fleet[0].method
    assert plan_facts(best, CONFIG, None)["fleet"] is None


def test_names_of_the_facts(best: Plan) -> None:
    """Programs read these: a name that goes is a change to tell users of."""
    facts = plan_facts(best, CONFIG, None)
    assert set(facts) >= {
        *("subject", "edge", "cloud", "link", "edge_slowdown", "payloads_from", "batches"),
        *("epochs", "inference", "objective", "best", "rows", "fleet"),
    }
    assert set(facts["rows"][0]) >= {
        *("method", "cut", "codec", "send", "epoch_s", "sequential_s", "edge_s", "link_s"),
        *("cloud_s", "bytes_up", "bytes_down", "samples", "latency_s", "memory_bytes"),
        *("cloud_memory_bytes", "peak_bytes", "energy_j", "bytes_per_sample", "bound"),
        *("answer_s", "accuracy", "refused", "best", "front", "why"),
    }


def test_a_fleet_in_words(figures: Profile) -> None:
    config = PlanConfig(cloud="a100", methods="hierarchical", samples=1_280, fleet=1_000)
    way, outcome = fleet_of(config, plan(config, figures), 20)
    text = fleet_text(1_000, way, replace(outcome, duration_s=600.0, blocked=0.25))
    assert text.startswith(f"1,000 edges, one cloud, {way}: an epoch of all takes 10.0 min; ")
    assert "are blocked 25% of the time" in text
    assert text.endswith(f"What holds them up: the {outcome.bottleneck}.")


# Devices


def test_every_device_and_its_source_are_in_the_table() -> None:
    text = " ".join(printed(devices_table()).split())
    for name, spec in DEVICES.items():
        assert f" {name} " in f" {text} "
        for word in (*spec.source.split(), *spec.about.split()):
            assert word in text
        if spec.power is not None:
            assert f"{spec.power.busy_w:g} / {spec.power.idle_w:g}" in text


def test_operations_without_a_count_are_named_in_a_plan(best: Plan) -> None:
    edge = best.scenario.edge
    assert "WARNING" not in places_text(PlanConfig(), best.scenario)
    stages = (replace(edge.stages[0], uncounted=("own::mix",)), *edge.stages[1:])
    scenario = replace(best.scenario, edge=replace(edge, stages=stages))
    assert "WARNING: not counted as work: own::mix." in places_text(PlanConfig(), scenario)
