"""What a page says about one run: its lines in the tables of all, its point, its own section."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from markupsafe import Markup

from eaves.core.units import bytes_text, seconds_text
from eaves.report import verdicts
from eaves.report.gallery import attribute_gallery, mixture_gallery
from eaves.report.markup import rendered
from eaves.report.runs import PLACES, Run, audit_command, train_command
from eaves.report.tables import rate_text
from eaves.report.tradeoff import Point
from eaves.report.verdicts import Record

RUN_HEADS = (
    *("#", "run", "method", "net", "cut", "data", "accuracy %", "exit %"),
    *("best attack %", "balanced %", "ε, one value: release, total", "ε, tensor: release, total"),
)
COST_HEADS = (
    *("#", "run", "sent, a sample", "sent, all", "edge memory", "edge busy", "cloud busy"),
    *("edge's share of computing time", "wall time"),
)


@final
@dataclass(frozen=True, kw_only=True)
class View:
    """One run as a page shows it."""

    cells: tuple[str, ...]
    """Under :data:`RUN_HEADS`."""
    costs: tuple[str, ...]
    """Under :data:`COST_HEADS`."""
    points: Mapping[str, Point]
    """Where it lies in the trade-off with each private attribute."""
    section: Markup
    """Its own section."""


def view_of(run: Run, *, gallery: bool) -> View:
    """Return what a page says about ``run``; without ``gallery``, no images.

    Raises:
        ConfigError: pillow is not installed.
        KeyError, IndexError, TypeError, ValueError, AttributeError, jinja2.UndefinedError: its
            record or audit is damaged.
    """
    return View(
        cells=_run_cells(run),
        costs=_cost_cells(run),
        points=_points(run),
        section=_section(run, gallery=gallery),
    )


def _run_cells(run: Run) -> tuple[str, ...]:
    record = run.record
    best = {name: v["best"] for name, v in _verdicts(run).items()}
    return (
        str(run.number),
        run.name,
        *(str(record[name] or "-") for name in ("method", "net", "cut", "data")),
        *(rate_text(record["accuracy"][side]) for side in ("cloud", "exit")),
        *(
            ", ".join(f"{name} {rate_text(found[kind])}" for name, found in best.items()) or "-"
            for kind in ("rate", "balanced")
        ),
        *(_epsilons(record.get("privacy"), unit) for unit in ("element", "tensor")),
    )


def _verdicts(run: Run) -> dict[str, Record]:
    """Return the verdict on each attribute that was attacked."""
    found = {} if run.audit is None else run.audit["attributes"]
    return {name: one["verdict"] for name, one in found.items() if one["verdict"] is not None}


def _epsilons(privacy: Record | None, unit: str) -> str:
    if privacy is None:
        return "-"
    costs = privacy["epsilon"][unit]
    both = (costs["per_release"], costs["total"])
    return ", ".join("infinite" if epsilon is None else f"{epsilon:.4g}" for epsilon in both)


def _cost_cells(run: Run) -> tuple[str, ...]:
    record = run.record
    sent, time = record["bytes"], record["time"]
    edge_s, cloud_s = time["edge_busy_s"], time["cloud_busy_s"]
    per_sample = sent["per_sample_up"]
    return (
        str(run.number),
        run.name,
        "-" if per_sample is None else bytes_text(per_sample),
        bytes_text(sent["up"]),
        bytes_text(record["memory"]["edge_peak_bytes"]),
        seconds_text(edge_s),
        seconds_text(cloud_s),
        f"{100 * edge_s / (edge_s + cloud_s):.0f} %" if edge_s + cloud_s else "-",
        seconds_text(time["wall_s"]),
    )


def _points(run: Run) -> dict[str, Point]:
    accuracy = run.record["accuracy"]["cloud"]
    if accuracy is None or run.audit is None:
        return {}
    points = {}
    for name, verdict in _verdicts(run).items():
        findings = run.audit["attributes"][name]["findings"]
        labels = [f["rate"]["value"] for f in findings if f["attack"] == "labels"]
        points[name] = Point(
            number=run.number,
            method=run.record["method"],
            accuracy=accuracy,
            attack=verdict["best"]["rate"],
            chance=verdict["best"]["majority"],
            label_alone=labels[0] if labels else None,
        )
    return points


def _section(run: Run, *, gallery: bool) -> Markup:
    record, audit = run.record, run.audit
    commands = [train_command(record["config"])]
    machines = [f"Training: {_machine(record)}, configuration {record['config_hash']}."]
    if audit is not None:
        commands.append(audit_command(audit["settings"]))
        machines.append(f"Audit: {_machine(audit)}, {seconds_text(audit['time_s'])}.")
    if record.get("network"):
        machines.append("The halves were trained over a network, with these settings.")
    machines.append("Data are found by --data-root or the environment variable EAVES_DATA.")
    galleries = {}
    if gallery and audit is not None:
        for name, found in audit["attributes"].items():
            if found["reconstructions"]:
                galleries[name] = attribute_gallery(run, name, found)
    return rendered(
        "run",
        run=run,
        verdicts=verdicts,
        galleries=galleries,
        mixture_gallery=mixture_gallery(run) if gallery and audit is not None else None,
        statement=verdicts.statement_of(record["method"], record.get("privacy")),
        commands="\n".join(commands),
        machines=machines,
        settings=_settings_text(record["config"]),
    )


def _settings_text(config: Record) -> str:
    kept = {name: value for name, value in config.items() if name not in PLACES}
    return json.dumps(kept, indent=1, ensure_ascii=False)


def _machine(record: Record) -> str:
    """Return the versions and the machine of a record."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    hardware = record["hardware"]
    gpu = f", {hardware['gpu']}" if hardware["gpu"] else ""
    return (
        f"{versions}; {hardware['cpu']}, {hardware['cores']} cores{gpu}, "
        f"{hardware['threads_per_side']} thread(s) for each side"
    )
