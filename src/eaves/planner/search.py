"""Every way that there is, what it costs, what limits leave, which is best, why not the rest."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from math import isfinite
from typing import final

from eaves.core.methods import BASELINE, METHODS
from eaves.core.rates import Rate
from eaves.core.units import bytes_text, joules_text, seconds_text
from eaves.errors import ConfigError, unknown
from eaves.planner.cost import Cost, inference_cost, training_cost
from eaves.planner.phases import INFERENCE, ONCE, TRAINING
from eaves.planner.scenario import Candidate, Scenario

_NEARLY = 1.02  # a plan is not good to 2 %: what is closer than that is called as good
_ROUNDING = 1e-9  # of a difference of two rates


@final
@dataclass(frozen=True, kw_only=True)
class Row:
    """A candidate and what it costs."""

    candidate: Candidate
    cost: Cost
    """Of training, or of inference where that is what is planned."""
    latency_s: float
    """Until one batch is answered, in inference."""
    accuracy: Rate | None = None
    """After a short probe; None where none was made."""


@final
@dataclass(frozen=True, kw_only=True)
class Objective:
    """What the best is best in."""

    name: str
    value: Callable[[Row], float | None]
    """The less the better; None: not known."""
    text: Callable[[float], str]


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective(name="time", value=lambda row: row.cost.epoch_s, text=seconds_text),
        Objective(name="bytes", value=lambda row: row.cost.bytes_per_sample, text=bytes_text),
        Objective(name="memory", value=lambda row: held_bytes(row.cost), text=bytes_text),
        Objective(name="energy", value=lambda row: row.cost.energy_j, text=joules_text),
        Objective(name="latency", value=lambda row: row.latency_s, text=seconds_text),
    )
}


def held_bytes(cost: Cost) -> float:
    """Return the edge memory to reckon with: the larger of formula and measured peak."""
    return max(cost.memory_bytes, cost.peak_bytes or 0)


@final
@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a candidate may cost at most; None: as much as it likes."""

    edge_memory_bytes: float | None = None
    bytes_per_sample: float | None = None
    epoch_s: float | None = None
    latency_s: float | None = None
    energy_j: float | None = None
    accuracy: float | None = None
    """What a probe reaches at least."""
    accuracy_drop: float | None = None
    """How far a probe may stay below full-cloud's."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not (isfinite(value) and value >= 0):
                raise ConfigError(f"expected a limit of {field.name} of 0 or more, got {value}")

    def broken_by(self, row: Row, full_cloud: float | None) -> list[str]:
        """Return in words which limits ``row`` does not keep; ``full_cloud`` is its accuracy.

        A limit of something that is not known for the row is broken: it is not known to hold.
        """
        cost, accuracy = row.cost, row.accuracy and row.accuracy.value
        checks = (
            ("edge memory", held_bytes(cost), self.edge_memory_bytes, bytes_text),
            ("upload per sample", cost.bytes_per_sample, self.bytes_per_sample, bytes_text),
            ("time per epoch", cost.epoch_s, self.epoch_s, seconds_text),
            ("latency", row.latency_s, self.latency_s, seconds_text),
            ("energy", cost.energy_j, self.energy_j, joules_text),
        )
        found = [_above(*check) for check in checks]
        if self.accuracy is not None and (accuracy is None or accuracy < self.accuracy):
            found.append(f"accuracy {_share(accuracy)} below {self.accuracy:.1%}")
        if self.accuracy_drop is not None:
            drop = None if accuracy is None or full_cloud is None else full_cloud - accuracy
            if drop is None or drop > self.accuracy_drop + _ROUNDING:
                below = _share(drop)
                found.append(f"accuracy {below} below full-cloud, above {self.accuracy_drop:.1%}")
        return [text for text in found if text]


def _above(
    name: str, value: float | None, limit: float | None, text: Callable[[float], str]
) -> str:
    if limit is None or (value is not None and value <= limit):
        return ""
    return f"{name} {'not known' if value is None else text(value)} above {text(limit)}"


def _share(value: float | None) -> str:
    return "not known" if value is None else f"{value:.1%}"


@final
@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a row is worth: ``refused`` by limits, ``best``, on the Pareto ``front``, and why."""

    row: Row
    refused: tuple[str, ...]
    best: bool
    front: bool
    why: str


@final
@dataclass(frozen=True, kw_only=True)
class Plan:
    """All rows with their verdicts, the best first and the refused last."""

    scenario: Scenario
    objective: str
    inference: bool
    verdicts: tuple[Verdict, ...]

    @property
    def best(self) -> Row:
        """The row that the objective chooses."""
        return self.verdicts[0].row


def candidates(
    scenario: Scenario,
    *,
    methods: Sequence[str],
    cuts: Sequence[str],
    codecs: Sequence[str],
    input_codecs: Sequence[str],
    inference: bool = False,
) -> list[Candidate]:
    """Return every combination that makes sense.

    Raises:
        ConfigError: an unknown method or cut, or nothing to choose from.
    """
    known = INFERENCE if inference else TRAINING
    for method in methods:
        if method not in known:
            raise unknown("method to plan", method, known)
    for cut in cuts:
        if cut not in scenario.edge.cuts:
            raise unknown("cut", cut, scenario.edge.cuts)
    found = []
    for method, spec in ((method, METHODS[method]) for method in methods):
        places: Sequence[str | None] = cuts if spec.cuts else (None,)
        texts: Sequence[str | None] = input_codecs if spec.sends == "inputs" else codecs
        if spec.sends == "nothing" or spec.tunes:
            texts = (None,)
        if spec.tunes:
            places = [cut for cut in cuts if _has_components(scenario, cut)]
        sends = _sends(method, inference=inference)
        found += [
            Candidate(method=method, cut=cut, codec=codec, send=send)
            for cut, codec, send in product(places, texts, sends)
        ]
    if not found:
        raise ConfigError("there is nothing to choose from: name methods, cuts and codecs")
    return found


def _has_components(scenario: Scenario, cut: str) -> bool:
    """Return whether the features at ``cut`` have as many values as numbers are wanted of them."""
    values = {stage.name: stage.values for stage in scenario.edge.stages}
    return scenario.choices.components <= values[cut]


def _sends(method: str, *, inference: bool) -> Sequence[str]:
    return ("every-epoch",) if inference or method not in ONCE else ("every-epoch", "once")


def rows_of(
    scenario: Scenario,
    found: Sequence[Candidate],
    *,
    inference: bool = False,
    accuracy: Mapping[Candidate, Rate] | None = None,
) -> list[Row]:
    """Return what each candidate costs."""
    probes = accuracy or {}
    rows = []
    for candidate in found:
        answer = inference_cost(scenario, candidate)
        cost = answer if inference else training_cost(scenario, candidate)
        row = Row(
            candidate=candidate,
            cost=cost,
            latency_s=answer.latency_s,
            accuracy=probes.get(candidate),
        )
        rows.append(row)
    return rows


def choose(
    scenario: Scenario,
    rows: Sequence[Row],
    limits: Limits,
    *,
    objective: str = "time",
    inference: bool = False,
) -> Plan:
    """Return the plan: who keeps the limits, who is best, who is on the Pareto front, and why.

    The front is that of time, upload, edge memory and energy: no point on it is beaten in one of
    them without being better in another.

    Raises:
        ConfigError: an unknown objective, one that is not known for any row, or limits that leave
            nothing; the message says which limit refuses which cut.
    """
    if objective not in OBJECTIVES:
        raise unknown("objective", objective, OBJECTIVES)
    goal = OBJECTIVES[objective]
    probed = (r.accuracy.value for r in rows if r.accuracy and r.candidate.method == BASELINE)
    full_cloud = next(probed, None)
    refused = {row.candidate: tuple(limits.broken_by(row, full_cloud)) for row in rows}
    kept = [row for row in rows if not refused[row.candidate]]
    if not kept:
        raise ConfigError(_nothing_left(rows, refused))
    judged = [row for row in kept if goal.value(row) is not None]
    if not judged:
        raise ConfigError(
            f"the {objective} is not known for any candidate: it needs devices and a link with "
            "watts and joules per bit (presets have them), or choose another objective"
        )
    best = min(judged, key=lambda row: _sorting(goal, row))
    front = _front(kept)
    verdicts = [
        Verdict(
            row=row,
            refused=refused[row.candidate],
            best=row is best,
            front=row in front,
            why=_why(row, best, goal, refused[row.candidate], inference=inference),
        )
        for row in rows
    ]
    verdicts.sort(key=lambda v: (not v.best, bool(v.refused), _sorting(goal, v.row)))
    return Plan(
        scenario=scenario, objective=objective, inference=inference, verdicts=tuple(verdicts)
    )


def _sorting(goal: Objective, row: Row) -> tuple[float, ...]:
    """Return what rows are sorted by; of two as good, none comes before one that beats it."""
    value = goal.value(row)
    return (float("inf") if value is None else value, *_figures(row))


def _figures(row: Row) -> tuple[float, ...]:
    energy = row.cost.energy_j
    energy_j = float("inf") if energy is None else energy
    return (row.cost.epoch_s, row.cost.bytes_per_sample, held_bytes(row.cost), energy_j)


def _front(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that no other beats: as good in everything and better in something."""

    def beaten(row: Row) -> bool:
        own = _figures(row)
        return any(_beats(_figures(other), own) for other in rows)

    return [row for row in rows if not beaten(row)]


def _beats(theirs: Sequence[float], ours: Sequence[float]) -> bool:
    pairs = list(zip(theirs, ours, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _why(row: Row, best: Row, goal: Objective, refused: Sequence[str], *, inference: bool) -> str:
    if refused:
        return f"refused: {'; '.join(refused)}"
    if row is best:
        return f"the best in {goal.name}"
    ours, least = goal.value(row), goal.value(best)
    if ours is None or least is None:
        return f"its {goal.name} is not known"
    if ours <= least * _NEARLY:
        return f"as good in {goal.name}, to the accuracy of a plan"
    times = f"{ours / least:.3g} times the {goal.name}" if least else f"more {goal.name}"
    return f"{times}: {_spent_on(row, best, inference)}" if goal.name == "time" else times


def _spent_on(row: Row, best: Row, inference: bool) -> str:
    """Return in words what an epoch of ``row`` is spent on."""
    cost = row.cost
    if METHODS[row.candidate.method].waits and not inference:
        return f"every batch waits for its gradient, {bytes_text(cost.bytes_down)} in an epoch"
    if cost.bound == "link":
        theirs = bytes_text(best.cost.bytes_per_sample)
        return f"the link carries {bytes_text(cost.bytes_per_sample)} a sample, the best {theirs}"
    side_s = cost.edge_s if cost.bound == "edge" else cost.cloud_s
    return f"the {cost.bound} works for {seconds_text(side_s)}"


def _nothing_left(rows: Sequence[Row], refused: Mapping[Candidate, tuple[str, ...]]) -> str:
    """Return the message that says which limit refuses which cut, by the row that comes closest."""
    lines = ["no cut is left by these limits:"]
    by_place: dict[str, list[Row]] = {}
    for row in rows:
        place = " ".join(filter(None, (row.candidate.method, row.candidate.cut)))
        by_place.setdefault(place, []).append(row)
    for place, group in by_place.items():
        closest = min(group, key=lambda row: (len(refused[row.candidate]), _figures(row)))
        tried = f" (closest of {len(group)}: {closest.candidate})" if len(group) > 1 else ""
        lines.append(f"  {place}: {'; '.join(refused[closest.candidate])}{tried}")
    return "\n".join([*lines, "Raise a limit, or try another net, device, link or codec."])
