"""Choosing: every way there is, limits, the best, the front, and the reasons in words."""

from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import count
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaves.core.rates import Rate
from eaves.errors import ConfigError
from eaves.planner.cost import Cost, inference_cost, training_cost
from eaves.planner.phases import INFERENCE, TRAINING
from eaves.planner.profile import Profile
from eaves.planner.scenario import Candidate, Choices, Power, Scenario
from eaves.planner.search import (
    OBJECTIVES,
    Limits,
    Plan,
    Row,
    Verdict,
    candidates,
    choose,
    held_bytes,
    rows_of,
)

CUTS, CODECS, INPUTS = ("a", "b", "c"), ("int8", "int4"), ("raw", "png")
COST = Cost(
    epoch_s=10.0,
    sequential_s=20.0,
    edge_s=1.0,
    link_s=2.0,
    cloud_s=3.0,
    bytes_up=4000.0,
    bytes_down=0.0,
    samples=4,
    latency_s=5.0,
    memory_bytes=6e6,
    cloud_memory_bytes=0.0,
    peak_bytes=None,
    energy_j=7.0,
)
ROW = Row(
    candidate=Candidate(method="hierarchical", cut="a", codec="int8"), cost=COST, latency_s=0.5
)


def _row(cut: str, **figures: float | None) -> Row:
    """Return a row at ``cut`` that costs what ``ROW`` does but for ``figures``."""
    cost = replace(COST, **figures)  # type: ignore[arg-type]  # of several fields
    return replace(ROW, candidate=replace(ROW.candidate, cut=cut), cost=cost)


def _of(method: str, row: Row) -> Row:
    return replace(row, candidate=replace(row.candidate, method=method))


def _probed(row: Row, right: int, *, of: int = 1000) -> Row:
    return replace(row, accuracy=Rate.of(right, of))


def _cuts(verdicts: Sequence[Verdict]) -> list[str | None]:
    return [verdict.row.candidate.cut for verdict in verdicts]


def _why(plan: Plan, cut: str) -> str:
    return next(v.why for v in plan.verdicts if v.row.candidate.cut == cut)


# What there is to choose from


def _found(scenario: Scenario, methods: Sequence[str], *, inference: bool = False) -> list[str]:
    found = candidates(
        scenario,
        methods=methods,
        cuts=CUTS,
        codecs=CODECS,
        input_codecs=INPUTS,
        inference=inference,
    )
    return [str(candidate) for candidate in found]


@pytest.mark.parametrize(
    ("method", "training", "inference"),
    [
        ("hierarchical", 3 * 2 * 2, 3 * 2),  # cuts, codecs, every epoch or once
        ("full-cloud", 2 * 2, 2),
        ("full-edge", 1, 1),
        ("split", 3 * 2, 3 * 2),
        ("priphit", 3 * 2 * 2, 3 * 2),
        ("datamix", None, 3 * 2),
        ("siamese", None, 3),
    ],
)
def test_every_combination_that_makes_sense(
    scenario: Scenario, method: str, training: int | None, inference: int
) -> None:
    found = _found(scenario, [method], inference=True)
    assert len(found) == len(set(found)) == inference
    if training is None:
        with pytest.raises(ConfigError, match=f"unknown method to plan '{method}'"):
            _found(scenario, [method])
    else:
        found = _found(scenario, [method])
        assert len(found) == len(set(found)) == training


def test_candidates_by_name(scenario: Scenario) -> None:
    assert _found(scenario, ["full-cloud", "full-edge"]) == [
        *("full-cloud raw", "full-cloud raw once", "full-cloud png", "full-cloud png once"),
        "full-edge",
    ]
    assert _found(scenario, ["priphit"])[:2] == ["priphit a int8", "priphit a int8 once"]
    assert _found(scenario, ["siamese"], inference=True) == ["siamese a", "siamese b", "siamese c"]
    # Of features of 256, 64 and 32 values.
    for d, cuts in ((32, "abc"), (33, "ab"), (256, "a")):
        asked = replace(scenario, choices=Choices(components=d))
        assert _found(asked, ["siamese"], inference=True) == [f"siamese {cut}" for cut in cuts]
    assert _found(scenario, ["split"])[-1] == "split c int4"


@pytest.mark.parametrize("inference", [False, True])
def test_every_candidate_has_a_cost(scenario: Scenario, inference: bool) -> None:
    table = INFERENCE if inference else TRAINING
    found = candidates(
        scenario,
        methods=list(table),
        cuts=CUTS,
        codecs=CODECS,
        input_codecs=INPUTS,
        inference=inference,
    )
    assert {candidate.method for candidate in found} == set(table)
    probe = Rate.of(3, 4)
    rows = rows_of(scenario, found, inference=inference, accuracy={found[1]: probe})
    assert [row.candidate for row in rows] == found
    cost = inference_cost if inference else training_cost
    assert [row.cost for row in rows] == [cost(scenario, candidate) for candidate in found]
    answers = [inference_cost(scenario, candidate).latency_s for candidate in found]
    assert [row.latency_s for row in rows] == answers
    assert [row.accuracy for row in rows] == [None, probe] + [None] * (len(found) - 2)


@pytest.mark.parametrize(
    ("methods", "cuts", "message"),
    [
        (["magic"], CUTS, "unknown method to plan 'magic'; choose from: .*hierarchical"),
        (["split"], ["a", "layer1"], "unknown cut 'layer1'; choose from: .*a"),
        (["split"], ["head"], "unknown cut 'head'"),
        ([], CUTS, "there is nothing to choose from"),
        (["split"], [], "there is nothing to choose from"),
    ],
)
def test_nothing_of_that_name(
    scenario: Scenario, methods: list[str], cuts: Sequence[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        candidates(scenario, methods=methods, cuts=cuts, codecs=CODECS, input_codecs=INPUTS)


# Limits


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(edge_memory_bytes=5.9e6), "edge memory 6.0 MB above 5.9 MB"),
        (Limits(bytes_per_sample=999), "upload per sample 1.0 kB above 999 B"),
        (Limits(epoch_s=9.0), "time per epoch 10 s above 9.00 s"),
        (Limits(latency_s=0.25), "latency 500 ms above 250 ms"),
        (Limits(energy_j=6.5), "energy 7 J above 6.5 J"),
        (Limits(accuracy=0.81), "accuracy 80.0% below 81.0%"),
        (Limits(accuracy_drop=0.09), "accuracy 10.0% below full-cloud, above 9.0%"),
    ],
)
def test_a_broken_limit_is_named_with_its_figure(limits: Limits, words: str) -> None:
    assert limits.broken_by(_probed(ROW, 800), 0.9) == [words]


@pytest.mark.parametrize(
    "limits",
    [
        Limits(edge_memory_bytes=6e6),
        Limits(bytes_per_sample=1000),
        Limits(epoch_s=10.0),
        Limits(latency_s=0.5),
        Limits(energy_j=7.0),
        Limits(accuracy=0.8),
        Limits(accuracy_drop=0.1),  # although 0.9 - 0.8 > 0.1 in binary
        Limits(),
    ],
)
def test_a_limit_that_is_just_reached_is_kept(limits: Limits) -> None:
    assert limits.broken_by(_probed(ROW, 800), 0.9) == []


def test_all_broken_limits_are_named() -> None:
    limits = Limits(edge_memory_bytes=0, epoch_s=0, latency_s=0, accuracy=1)
    broken = limits.broken_by(ROW, None)
    assert [text.split(" ")[0] for text in broken] == ["edge", "time", "latency", "accuracy"]


def test_what_is_not_known_breaks_a_limit() -> None:
    unknown_energy = _row("a", energy_j=None)
    assert Limits(energy_j=1e9).broken_by(unknown_energy, None) == [
        "energy not known above 1000.0 MJ"
    ]
    assert Limits(accuracy=0.0).broken_by(ROW, None) == ["accuracy not known below 0.0%"]
    drop = Limits(accuracy_drop=1.0)
    assert len(drop.broken_by(ROW, 0.9)) == 1  # its own accuracy is not known
    assert len(drop.broken_by(_probed(ROW, 800), None)) == 1  # full-cloud's is not
    assert drop.broken_by(_probed(ROW, 800), 0.9) == []
    assert Limits(accuracy=0.0).broken_by(_probed(ROW, 0), None) == []  # all wrong, but known


@pytest.mark.parametrize(("peak", "held"), [(None, 6e6), (5_000_000, 6e6), (7_000_000, 7e6)])
def test_memory_is_the_larger_of_formula_and_peak(peak: int | None, held: float) -> None:
    cost = replace(COST, peak_bytes=peak)
    assert held_bytes(cost) == held
    kept = Limits(edge_memory_bytes=6.5e6).broken_by(replace(ROW, cost=cost), None)
    assert bool(kept) == (held > 6.5e6)


@pytest.mark.parametrize("name", [field.name for field in fields(Limits)])
@pytest.mark.parametrize("value", [-1.0, inf, nan])
def test_no_such_limit(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"expected a limit of {name} of 0 or more, got {value}"):
        Limits(**{name: value})


def test_accuracy_is_compared_with_that_of_full_cloud(scenario: Scenario) -> None:
    rows = [
        _probed(_row("near"), 870),
        _probed(_row("far", epoch_s=1.0), 830),
        _probed(_of("full-cloud", _row("all", epoch_s=20.0)), 900),
        _row("unknown"),
    ]
    plan = choose(scenario, rows, Limits(accuracy_drop=0.05))
    assert _cuts(plan.verdicts) == ["near", "all", "far", "unknown"]
    assert _why(plan, "far") == "refused: accuracy 7.0% below full-cloud, above 5.0%"
    with pytest.raises(ConfigError, match="accuracy not known below full-cloud"):
        choose(scenario, rows[:2], Limits(accuracy_drop=0.05))


def test_limits_that_leave_nothing_are_named_for_every_place(scenario: Scenario) -> None:
    limits = Limits(epoch_s=9.0, edge_memory_bytes=5e6)
    other = _of("split", _row("b"))
    poorer = replace(ROW, candidate=replace(ROW.candidate, codec="int4"))
    near = _row("a", memory_bytes=1e6)
    with pytest.raises(ConfigError) as caught:
        choose(scenario, [poorer, near, other], limits)
    assert str(caught.value).splitlines() == [
        "no cut is left by these limits:",
        "  hierarchical a: time per epoch 10 s above 9.00 s (closest of 2: hierarchical a int8)",
        "  split b: edge memory 6.0 MB above 5.0 MB; time per epoch 10 s above 9.00 s",
        "Raise a limit, or try another net, device, link or codec.",
    ]


# The best


@pytest.mark.parametrize(
    ("objective", "figure"),
    [
        ("time", "epoch_s"),
        ("bytes", "bytes_up"),
        ("memory", "memory_bytes"),
        ("energy", "energy_j"),
    ],
)
def test_the_best_is_that_of_the_objective(scenario: Scenario, objective: str, figure: str) -> None:
    half = {figure: getattr(COST, figure) / 2}
    rows = [_row("plain"), _row("quarter", **{figure: half[figure] / 2}), _row("half", **half)]
    plan = choose(scenario, rows, Limits(), objective=objective)
    assert _cuts(plan.verdicts) == ["quarter", "half", "plain"]
    assert [verdict.best for verdict in plan.verdicts] == [True, False, False]
    assert plan.best == rows[1]
    assert plan.verdicts[0].why == f"the best in {objective}"
    assert _why(plan, "half").startswith(f"2 times the {objective}")
    assert (plan.objective, plan.scenario, plan.inference) == (objective, scenario, False)


def test_the_best_in_latency_answers_first(scenario: Scenario) -> None:
    quick = replace(_row("quick", latency_s=99.0, epoch_s=99.0), latency_s=0.25)
    plan = choose(scenario, [ROW, quick], Limits(), objective="latency")
    assert plan.best == quick  # by the time of an answer, not by that of a training step


def test_the_best_is_among_what_limits_leave(scenario: Scenario) -> None:
    rows = [_row("fast", epoch_s=1.0, bytes_up=9e6), _row("thin", epoch_s=5.0), _row("slow")]
    plan = choose(scenario, rows, Limits(bytes_per_sample=1e6))
    assert _cuts(plan.verdicts) == ["thin", "slow", "fast"]
    assert plan.best == rows[1]
    assert plan.verdicts[2].refused == ("upload per sample 2.2 MB above 1.0 MB",)
    assert not plan.verdicts[2].front
    assert plan.verdicts[0].refused == ()


def test_of_two_as_good_the_one_that_costs_less_otherwise_is_best(scenario: Scenario) -> None:
    rows = [_row("a"), _row("b", bytes_up=3000.0), _row("c", memory_bytes=1e6)]
    plan = choose(scenario, rows, Limits())
    assert _cuts(plan.verdicts) == ["b", "c", "a"]
    assert _why(plan, "a") == "as good in time, to the accuracy of a plan"


def test_of_two_equals_the_first_is_best(scenario: Scenario) -> None:
    plan = choose(scenario, [_row("a"), _row("b")], Limits())
    assert _cuts(plan.verdicts) == ["a", "b"]
    assert [(v.best, v.front) for v in plan.verdicts] == [(True, True), (False, True)]


@pytest.mark.parametrize(("epoch_s", "as_good"), [(10.19, True), (10.21, False)])
def test_two_percent_are_no_difference(scenario: Scenario, epoch_s: float, as_good: bool) -> None:
    plan = choose(scenario, [_row("a"), _row("b", epoch_s=epoch_s)], Limits())
    assert ("as good in time" in _why(plan, "b")) == as_good


def test_an_objective_that_is_known_of_some(scenario: Scenario) -> None:
    rows = [_row("blind", energy_j=None, epoch_s=1.0), _row("known")]
    plan = choose(scenario, rows, Limits(), objective="energy")
    assert _cuts(plan.verdicts) == ["known", "blind"]
    assert _why(plan, "blind") == "its energy is not known"


def test_an_objective_that_is_known_of_none(scenario: Scenario) -> None:
    with pytest.raises(ConfigError, match="the energy is not known for any candidate: it needs"):
        choose(scenario, [_row("a", energy_j=None)], Limits(), objective="energy")


def test_an_unknown_objective(scenario: Scenario) -> None:
    with pytest.raises(ConfigError, match=r"unknown objective 'speed'; choose from: .*time"):
        choose(scenario, [ROW], Limits(), objective="speed")


# Reasons


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"edge_s": 15.0}, "2 times the time: the edge works for 15 s"),
        ({"cloud_s": 16.0}, "2 times the time: the cloud works for 16 s"),
        ({"link_s": 17.0}, "2 times the time: the link carries 1.0 kB a sample, the best 500 B"),
    ],
)
def test_a_slow_row_says_what_it_waits_for(
    scenario: Scenario, figures: dict[str, float], words: str
) -> None:
    rows = [_row("best", bytes_up=2000.0), _row("slow", epoch_s=20.0, **figures)]
    assert _why(choose(scenario, rows, Limits()), "slow") == words


def test_split_waits_for_its_gradient_in_training_alone(scenario: Scenario) -> None:
    slow = _of("split", _row("slow", epoch_s=30.0, bytes_down=8e6))
    training, answering = (
        choose(scenario, [ROW, slow], Limits(), inference=on) for on in (False, True)
    )
    gradient = "3 times the time: every batch waits for its gradient, 8.0 MB in an epoch"
    assert _why(training, "slow") == gradient
    assert _why(answering, "slow") == "3 times the time: the cloud works for 3.00 s"
    assert (training.inference, answering.inference) == (False, True)


def test_nothing_sent_cannot_be_multiplied(scenario: Scenario) -> None:
    rows = [_row("silent", bytes_up=0.0), _row("other"), _row("mute", bytes_up=0.0)]
    plan = choose(scenario, rows, Limits(), objective="bytes")
    assert _why(plan, "other") == "more bytes"
    assert _why(plan, "mute") == "as good in bytes, to the accuracy of a plan"


# The front

FIGURES = ("epoch_s", "bytes_up", "memory_bytes", "energy_j")
LEVELS = st.integers(1, 4).map(float)  # few, so that rows tie and beat each other


@st.composite
def tables(draw: st.DrawFn) -> list[Row]:
    numbers = draw(
        st.lists(st.tuples(LEVELS, LEVELS, LEVELS, LEVELS | st.none()), min_size=1, max_size=12)
    )
    names = count()
    return [
        _row(f"cut{next(names)}", **dict(zip(FIGURES, figures, strict=True))) for figures in numbers
    ]


def _worse(row: Row, figure: str, than: Row) -> bool:
    """Return whether ``row`` costs more in ``figure``; what is not known costs the most."""
    ours, theirs = getattr(row.cost, figure), getattr(than.cost, figure)
    return bool(theirs is not None and (ours is None or ours > theirs))


@given(tables())
def test_the_front_is_what_nobody_beats(scenario: Scenario, rows: list[Row]) -> None:
    plan = choose(scenario, rows, Limits())
    assert sorted(map(str, _cuts(plan.verdicts))) == sorted(str(r.candidate.cut) for r in rows)
    for verdict in plan.verdicts:
        row = verdict.row
        beaten = any(
            any(_worse(row, figure, other) for figure in FIGURES)
            and not any(_worse(other, figure, row) for figure in FIGURES)
            for other in rows
        )
        assert verdict.front == (not beaten)


@given(tables(), st.sampled_from(["time", "bytes", "memory", "energy"]), LEVELS)
def test_the_best_keeps_limits_and_is_on_the_front(
    scenario: Scenario, rows: list[Row], objective: str, limit: float
) -> None:
    value = OBJECTIVES[objective].value
    left = [row for row in rows if row.cost.memory_bytes <= limit]
    known = [v for row in left if (v := value(row)) is not None]
    limits = Limits(edge_memory_bytes=limit)
    if not known:
        message = "is not known for any" if left else "no cut is left"
        with pytest.raises(ConfigError, match=message):
            choose(scenario, rows, limits, objective=objective)
        return
    plan = choose(scenario, rows, limits, objective=objective)
    assert value(plan.best) == min(known)
    assert plan.best in left
    assert plan.verdicts[0].front
    assert [v.best for v in plan.verdicts] == [True] + [False] * (len(rows) - 1)
    # Kept before refused, and sorted within.
    refused = [bool(verdict.refused) for verdict in plan.verdicts]
    assert refused == sorted(refused)
    assert sum(refused) == len(rows) - len(left)
    kept = [value(v.row) for v in plan.verdicts if not v.refused]
    numbers = [inf if v is None else v for v in kept]
    assert numbers == sorted(numbers)


def test_a_plan_from_profile_to_verdict(scenario: Scenario, edge: Profile) -> None:
    link = replace(scenario.link, up_j_per_bit=1e-6, down_j_per_bit=1e-6)
    known = replace(scenario, link=link, power=Power(busy_w=5.0, idle_w=1.0))
    found = candidates(
        known, methods=list(TRAINING), cuts=edge.cuts, codecs=CODECS, input_codecs=INPUTS
    )
    plan = choose(known, rows_of(known, found), Limits(edge_memory_bytes=20_000), objective="bytes")
    silent = [v for v in plan.verdicts if v.row.candidate.method == "full-edge"]
    assert silent[0].refused == ("edge memory 50.0 kB above 20.0 kB",)  # its measured peak
    # The smallest payload of the net is at `c`, but the measured peak there is too large, and
    # PriPHiT's adversaries come on top of it.
    assert str(plan.best.candidate) == "full-cloud png once"
    assert plan.best.cost.bytes_per_sample == 97 / 8
