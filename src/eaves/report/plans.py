"""A plan in the terminal: the table, the words, the lines of JSON. Imports no torch."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from eaves.core.methods import BASELINE
from eaves.core.rates import Rate
from eaves.core.units import bytes_text, joules_text, percent_text, seconds_text
from eaves.experiments.planconfig import PlanConfig
from eaves.planner.cost import Cost, inference_cost, training_cost
from eaves.planner.devices import DEVICES
from eaves.planner.profile import INPUT
from eaves.planner.scenario import Candidate, Scenario
from eaves.planner.search import Plan, Verdict, held_bytes
from eaves.planner.simulate import Outcome
from eaves.report.stdout import console, plain_table, print_lines


def plan_table(plan: Plan, *, everything: bool) -> Table:
    """Return the plan as a table; unless ``everything``, the best of each method at each cut.

    ``saved`` is against full-cloud with raw inputs sent every epoch; memory and energy of the edge
    stand beside their share of full-edge's.
    """
    whole, baseline = references(plan)
    table = Table(
        title=escape(_title(plan)),  # a net may be called after a folder with [brackets]
        caption=escape(_caption(plan)),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
    )
    table.add_column("way", no_wrap=True)
    names = ("queries" if plan.inference else "epoch", "saved", "edge", "link", "cloud", "up")
    for name in (*names, "edge memory", "energy", "answer"):
        table.add_column(name, justify="right", no_wrap=True)
    if any(v.row.accuracy is not None for v in plan.verdicts):
        table.add_column("probe", justify="right", no_wrap=True)
    for verdict in shown(plan, everything=everything):
        style = "bold" if verdict.best else "dim" if verdict.refused else ""
        cells = _cells(verdict, whole, baseline)
        table.add_row(*map(escape, cells[: len(table.columns)]), style=style)
    return table


def words_text(plan: Plan, *, everything: bool) -> str:
    """Return which is best, and why each of the others is not, a line each."""
    best, *others = shown(plan, everything=everything)
    found = f"Best in {plan.objective}: {best.row.candidate}."
    lines = [f"{found} The others:" if others else found]
    return "\n".join([*lines, *(f"  {v.row.candidate}: {v.why}" for v in others)])


def shown(plan: Plan, *, everything: bool) -> list[Verdict]:
    """Return all verdicts, or the first of each method at each cut, sent once or every epoch."""
    if everything:
        return list(plan.verdicts)
    found: dict[tuple[str, str | None, str], Verdict] = {}
    for verdict in plan.verdicts:
        way = verdict.row.candidate
        found.setdefault((way.method, way.cut, way.send), verdict)
    return list(found.values())


def references(plan: Plan) -> tuple[Cost, Cost | None]:
    """Return the costs of full-edge, and of full-cloud with raw inputs every epoch if known."""
    cost = inference_cost if plan.inference else training_cost
    sides = (plan.scenario.edge, plan.scenario.cloud)
    raw = all(any(c.codec == "raw" for c in side.codecs.get(INPUT, ())) for side in sides)
    whole = cost(plan.scenario, Candidate(method="full-edge"))
    if not raw:
        return whole, None
    return whole, cost(plan.scenario, Candidate(method=BASELINE, codec="raw"))


def _cells(verdict: Verdict, whole: Cost, baseline: Cost | None) -> list[str]:
    row, cost = verdict.row, verdict.row.cost
    saved = "" if baseline is None else f"{1 - _ratio(cost.epoch_s, baseline.epoch_s):+.1%}"
    return [
        ("* " if verdict.front else "  ") + str(row.candidate),
        seconds_text(cost.epoch_s),
        saved,
        *(
            f"{percent_text(_ratio(s, cost.epoch_s), digits=0)}%"
            for s in (cost.edge_s, cost.link_s, cost.cloud_s)
        ),
        bytes_text(cost.bytes_per_sample) if cost.bytes_up else "-",
        f"{bytes_text(held_bytes(cost))} ({held_bytes(cost) / held_bytes(whole):.0%})",
        _energy(cost, whole),
        seconds_text(row.latency_s),
        _probe(row.accuracy),
    ]


def _ratio(part: float, whole: float) -> float:
    """Return ``part / whole``; 1 of nothing, as in a profile written by hand with no times."""
    return part / whole if whole else 1.0


def _probe(rate: Rate | None) -> str:
    if rate is None:
        return "-"
    return f"{percent_text(rate.value)}% ±{(rate.high - rate.low) / 2:.1%}"


def _energy(cost: Cost, whole: Cost) -> str:
    if cost.energy_j is None:
        return "-"
    share = f" ({cost.energy_j / whole.energy_j:.0%})" if whole.energy_j else ""
    return joules_text(cost.energy_j) + share


def _title(plan: Plan) -> str:
    subject, scenario = plan.scenario.edge.subject, plan.scenario
    shape = "x".join(map(str, subject.input_shape))
    what = "Answering" if plan.inference else "Training, per epoch of"
    samples = f"{scenario.batches * scenario.batch_size:,} samples"
    return (
        f"{what} {samples}: {subject.net}, {shape}, {subject.classes} classes, batch "
        f"{subject.batch_size}, {subject.precision}"
    )


def _caption(plan: Plan) -> str:
    profile = plan.scenario.edge
    probed = any(v.row.accuracy is not None for v in plan.verdicts)
    chance = 1 / profile.subject.classes
    probes = f"probe: accuracy on test data, chance {chance:.0%}."
    return (
        "Pipelined over the batches. saved: against full-cloud, raw, every epoch. edge, link, "
        "cloud: share of the time at work. up: bytes for a sample of an epoch. edge memory and "
        "energy: and of full-edge's. answer: of one batch, in inference. *: on the Pareto front of "
        f"time, upload, edge memory and energy. Payload sizes: {profile.payloads_from}, net "
        "untrained; a trained one's may be some per cent less. "
        + (probes if probed else "Accuracy is not considered without --probe.")
    )


def uncounted_text(names: Sequence[str]) -> str:
    """Return a warning that the work of these operations is not known."""
    return (
        f"WARNING: not counted as work: {', '.join(names)}. These operations use weights, and how "
        "much they multiply is not known: shares of the work, and times of preset devices, are too "
        "low where they are; measured times hold"
    )


def places_text(config: PlanConfig, scenario: Scenario) -> str:
    """Return in words what the machines are, and how far their times can be trusted."""
    sides = {"edge": (config.edge, scenario.edge), "cloud": (config.cloud, scenario.cloud)}
    lines = []
    for side, (place, profile) in sides.items():
        if place in DEVICES:
            spec = DEVICES[place]
            lines.append(f"{side}: {place}, scaled: good to a factor, not to a percent")
            lines.append(f"    {spec.about}. {spec.source}")
        else:
            machine = profile.machine.get("gpu") or profile.machine.get("cpu", "")
            lines.append(f"{side}: {place}, measured ({machine})")
    if uncounted := scenario.edge.uncounted:
        lines.append(uncounted_text(uncounted))
    slower = "" if config.edge_slowdown == 1 else f", edge {config.edge_slowdown:g} times slower"
    return "\n".join([*lines, f"link: {config.link}{slower}"])


def plan_facts(
    plan: Plan, config: PlanConfig, fleet: tuple[Candidate, Outcome] | None
) -> dict[str, Any]:
    """Return the plan as JSON takes it: every row, with its verdict."""
    scenario = plan.scenario
    return {
        "subject": asdict(scenario.edge.subject),
        "edge": config.edge,
        "cloud": config.cloud,
        "link": config.link,
        "edge_slowdown": config.edge_slowdown,
        "payloads_from": scenario.edge.payloads_from,
        "uncounted": scenario.edge.uncounted,
        "batches": scenario.batches,
        "epochs": scenario.epochs,
        "inference": plan.inference,
        "objective": plan.objective,
        "best": asdict(plan.best.candidate),
        "rows": [_row_facts(verdict) for verdict in plan.verdicts],
        "fleet": None if fleet is None else _fleet_facts(config, *fleet),
    }


def _row_facts(verdict: Verdict) -> dict[str, Any]:
    row = verdict.row
    return {
        **asdict(row.candidate),
        **asdict(row.cost),
        "bytes_per_sample": row.cost.bytes_per_sample,
        "bound": row.cost.bound,
        "answer_s": row.latency_s,
        "accuracy": row.accuracy and row.accuracy.as_json(),
        "refused": verdict.refused,
        "best": verdict.best,
        "front": verdict.front,
        "why": verdict.why,
    }


def _fleet_facts(config: PlanConfig, way: Candidate, outcome: Outcome) -> dict[str, Any]:
    asked = {"edges": config.fleet, "shared_link": config.shared_link}
    return {**asked, **asdict(way), **asdict(outcome)}


def fleet_text(edges: int, way: Candidate, outcome: Outcome) -> str:
    """Return in words what a simulated fleet came to."""
    return (
        f"{edges:,} edges, one cloud, {way}: "
        f"an epoch of all takes {seconds_text(outcome.duration_s)}; "
        f"edges work {outcome.edge_busy:.0%} and are blocked {outcome.blocked:.0%} of the time, "
        f"links carry {outcome.link_busy:.0%}, the cloud works {outcome.cloud_busy:.0%}; "
        f"from step to served: {seconds_text(outcome.latency_p50_s)} (median), "
        f"{seconds_text(outcome.latency_p99_s)} (99 %). "
        f"What holds them up: the {outcome.bottleneck}."
    )


def devices_table() -> Table:
    """Return the preset devices and where their figures come from."""
    names = ("GFLOP/s reached", "memory", "bandwidth", "watts, busy/idle", "what, source")
    table = plain_table("device", *names)
    for name, spec in DEVICES.items():
        power = spec.power
        table.add_row(
            name,
            f"{spec.effective_flops / 1e9:,.0f} of {spec.peak_flops / 1e9:,.0f}",
            bytes_text(spec.memory_bytes),
            f"{bytes_text(spec.bandwidth_bytes_s)}/s",
            "-" if power is None else f"{power.busy_w:g} / {power.idle_w:g}",
            f"{spec.about}. {spec.source}",
        )
    table.caption = "Good to a factor. Measure a device of your own: eaves profile --out FILE.json"
    return table


def show_devices(*, as_json: bool) -> int:
    """Print the preset devices."""
    if as_json:
        return print_lines({"device": name, **asdict(spec)} for name, spec in DEVICES.items())
    console().print(devices_table())
    return 0
