"""What a page says about one run: its lines in the tables of all, its point, its own section."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from eaves.core.units import bytes_text, seconds_text
from eaves.report.gallery import gallery_parts, mixture_parts
from eaves.report.markup import Html, element, listed, table, text, words
from eaves.report.runs import PLACES, Run, audit_command, train_command
from eaves.report.tables import rate_text
from eaves.report.tradeoff import Point
from eaves.report.verdicts import (
    ATTACK_CAPTION,
    ATTACK_HEADS,
    RANK_CAPTION,
    RANK_HEADS,
    REBUILT_HEADS,
    UNMIXED_CAPTION,
    UNMIXED_HEADS,
    Record,
    Row,
    accuracy_text,
    attack_rows,
    control_text,
    faults_text,
    known_text,
    rank_controls_text,
    rank_rows,
    rank_text,
    rebuilt_rows,
    statement_of,
    subject_text,
    unmixed_rows,
    verdict_text,
)

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

    cells: Sequence[str]
    """Under :data:`RUN_HEADS`."""
    costs: Sequence[str]
    """Under :data:`COST_HEADS`."""
    points: Mapping[str, Point]
    """Where it lies in the trade-off with each private attribute."""
    parts: Sequence[Html]
    """Its own section."""


def view_of(run: Run, *, gallery: bool) -> View:
    """Return what a page says about ``run``; without ``gallery``, no images.

    Raises:
        ConfigError: pillow is not installed.
        KeyError, IndexError, TypeError, ValueError, AttributeError: its record or audit is damaged.
    """
    return View(
        cells=_run_cells(run),
        costs=_cost_cells(run),
        points=_points(run),
        parts=[
            words("h2", f"{run.number}. {run.name}"),
            *_audit_parts(run, gallery=gallery),
            words("h3", "What the noise proves, and what it does not"),
            listed(statement_of(run.record["method"], run.record.get("privacy"))),
            *_repeat_parts(run),
        ],
    )


def _run_cells(run: Run) -> list[str]:
    record = run.record
    best = {name: v["best"] for name, v in _verdicts(run).items()}
    return [
        str(run.number),
        run.name,
        *(str(record[name] or "-") for name in ("method", "net", "cut", "data")),
        *(rate_text(record["accuracy"][side]) for side in ("cloud", "exit")),
        *(
            ", ".join(f"{name} {rate_text(found[kind])}" for name, found in best.items()) or "-"
            for kind in ("rate", "balanced")
        ),
        *(_epsilons(record.get("privacy"), unit) for unit in ("element", "tensor")),
    ]


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


def _cost_cells(run: Run) -> list[str]:
    record = run.record
    sent, time = record["bytes"], record["time"]
    edge_s, cloud_s = time["edge_busy_s"], time["cloud_busy_s"]
    per_sample = sent["per_sample_up"]
    return [
        str(run.number),
        run.name,
        "-" if per_sample is None else bytes_text(per_sample),
        bytes_text(sent["up"]),
        bytes_text(record["memory"]["edge_peak_bytes"]),
        seconds_text(edge_s),
        seconds_text(cloud_s),
        f"{100 * edge_s / (edge_s + cloud_s):.0f} %" if edge_s + cloud_s else "-",
        seconds_text(time["wall_s"]),
    ]


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


def _audit_parts(run: Run, *, gallery: bool) -> list[Html]:
    if run.audit is None:
        hint = f"Nobody has attacked this run. Do: eaves audit {run.name}"
        return [words("p", hint)]
    subject = run.audit["subject"]
    parts = [words("p", f"{subject_text(subject)}. {accuracy_text(subject)}")]
    if not run.audit["complete"]:
        parts.append(words("p", "The audit was interrupted: attacks are missing.", "warning"))
    if doubts := faults_text(run.audit):
        parts.append(words("p", doubts, "warning"))
    if mixtures := run.audit.get("mixtures"):
        parts += [
            words("h3", "Who takes mixtures apart"),
            words("p", UNMIXED_CAPTION),
            _table(UNMIXED_HEADS, unmixed_rows(mixtures)),
        ]
        parts += mixture_parts(run) if gallery else []
    parts += _whose(run.audit.get("identity"), subject["method"])
    if controls := rank_controls_text(run.audit):
        parts.append(words("p", controls))
    for attribute, found in run.audit["attributes"].items():
        sound = found["control"] is None or found["control"]["sound"]
        parts += [
            words("h3", f"Who reads {attribute}"),
            words("p", verdict_text(attribute, found), "verdict"),
            words("p", control_text(found), "" if sound else "warning"),
            _table(ATTACK_HEADS, attack_rows(found)),
            words("p", f"{known_text(found)} {ATTACK_CAPTION}".strip()),
        ]
        if found["reconstructions"]:
            parts += [
                words("h3", f"Who rebuilds the inputs, and reads {attribute} from them"),
                _table(REBUILT_HEADS, rebuilt_rows(found)),
            ]
            parts += gallery_parts(run, attribute, found) if gallery else []
    return parts


def _whose(identity: Record | None, method: str) -> list[Html]:
    """Return the rank measure; nothing where it was not asked for, as in earlier audits."""
    said = rank_text(identity, method)
    parts = [words("h3", "Whose it is"), words("p", said, "verdict")] if said else []
    if identity is not None:
        parts += [_table(RANK_HEADS, rank_rows(identity)), words("p", RANK_CAPTION)]
    return parts


def _table(heads: Sequence[str], rows: Sequence[Row]) -> Html:
    kinds = ("best" if row.best else "beside" if row.beside else "" for row in rows)
    return table(heads, list(zip(kinds, (row.cells for row in rows), strict=True)))


def _repeat_parts(run: Run) -> list[Html]:
    """Return all that is needed to do it again."""
    record, audit = run.record, run.audit
    commands = [train_command(record["config"])]
    machines = [f"Training: {_machine(record)}, configuration {record['config_hash']}."]
    if audit is not None:
        commands.append(audit_command(audit["settings"]))
        machines.append(f"Audit: {_machine(audit)}, {seconds_text(audit['time_s'])}.")
    if record.get("network"):
        machines.append("The halves were trained over a network, with these settings.")
    machines.append("Data are found by --data-root or the environment variable EAVES_DATA.")
    config = {name: value for name, value in record["config"].items() if name not in PLACES}
    return [
        words("h3", "How to repeat it"),
        element("pre", words("code", "\n".join(commands))),
        listed(machines),
        element(
            "details",
            [
                words("summary", "All settings"),
                element("pre", text(json.dumps(config, indent=1, ensure_ascii=False))),
            ],
        ),
    ]


def _machine(record: Record) -> str:
    """Return the versions and the machine of a record."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    hardware = record["hardware"]
    gpu = f", {hardware['gpu']}" if hardware["gpu"] else ""
    return (
        f"{versions}; {hardware['cpu']}, {hardware['cores']} cores{gpu}, "
        f"{hardware['threads_per_side']} thread(s) for each side"
    )
