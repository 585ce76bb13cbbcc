"""A sweep in the terminal: how far it is, the table of its settings, and the figure."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eaves.audit.findings import Progress
from eaves.core.units import percent_text
from eaves.errors import ConfigError
from eaves.experiments.config import TrainConfig
from eaves.experiments.run import PhaseProgress
from eaves.experiments.sweep import At, SweepEvent, SweepRecord, sweep
from eaves.report.live import Line, Live
from eaves.report.signals import interruptible
from eaves.report.stdout import console, error_console
from eaves.report.tables import rate_text
from eaves.report.tradeoff import Point, draw_tradeoff
from eaves.runtime.files import write_atomically

_HEADS = ("setting", "task %", "best attack %", "balanced %", "majority %", "label alone %")


def show_sweep(config: TrainConfig, *, overwrite: bool, as_json: bool) -> int:
    """Train and audit what ``config.sweep`` says; print the table or one line of JSON.

    Raises:
        KeyboardInterrupt: Ctrl-C ended it, after a checkpoint was written.
    """
    err, record = error_console(), None
    with interruptible() as asked, Live(err, "sweep") as live:
        for event in sweep(config, stop=asked.stop, overwrite=overwrite):
            record = event if isinstance(event, SweepRecord) else record
            _show(event, live, err)
    if record is None:
        hint = "interrupted; the same command goes on, or: eaves train --resume"
        err.out(f"{hint} {config.out}", highlight=False)
        raise asked.interruption()
    figures = _drawn(record, config.out, err)
    if as_json:
        console().out(json.dumps(record.as_json(), allow_nan=False), highlight=False)
        return 0
    print_sweep(record, console())
    console().out(
        f"sweep.json{''.join(f', {name}' for name in figures)} and a folder for each setting are "
        f"in {config.out}",
        highlight=False,
    )
    return 0


def _show(event: SweepEvent, live: Live, err: Console) -> None:
    if isinstance(event, At):
        live.clear()
        err.out(f"setting {event.number} of {event.of}: {event.name}", highlight=False)
    elif isinstance(event, PhaseProgress):
        live.show(event)
    elif isinstance(event, Progress):
        live.draw([Line(f"audit: {event.attacker}", event.done, event.total, "")])


def print_sweep(record: SweepRecord, out: Console) -> None:
    """Print the table of each private attribute, and what it says and does not say."""
    for attribute, rows in _by_attribute(record).items():
        out.print(_table(attribute, rows))
    for fault in record.faults:
        out.out(f"do not believe the audit of {fault}", highlight=False)
    early = [f"{r['setting']}: {', '.join(r['ended_by_time'])}" for r in record.rows]
    for row, text in zip(record.rows, early, strict=True):
        if row["ended_by_time"]:
            out.out(f"time ended attackers of {text}", highlight=False)
    out.out(
        f"Each setting was attacked by {record.attacks} at {record.effort:g} of the effort of an "
        "audit, with one seed: a longer attack may read more. Audit the setting that you choose "
        "in full: eaves audit FOLDER",
        highlight=False,
    )


def _by_attribute(record: SweepRecord) -> dict[str, list[dict[str, Any]]]:
    names = dict.fromkeys(row["attribute"] for row in record.rows)
    return {name: [r for r in record.rows if r["attribute"] == name] for name in names}


def _table(attribute: str, rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(
        title=escape(f"What hiding {attribute} costs"),
        caption=(
            "± half a 95 % interval. best attack, balanced: the highest of all attackers on the "
            "victims. majority: the most frequent class. label alone: what the task label, which "
            "is sent in the clear, gives away."
        ),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
    )
    table.add_column("#", justify="right")
    for name in _HEADS:
        table.add_column(name, justify="left" if name == "setting" else "right", no_wrap=True)
    for number, row in enumerate(rows, start=1):
        label = row["label_alone"]
        table.add_row(
            str(number),
            escape(row["setting"]),
            rate_text(row["accuracy"]),
            rate_text(row["attack"]),
            rate_text(row["balanced"]),
            percent_text(row["majority"]),
            rate_text(label),
        )
    return table


def _drawn(record: SweepRecord, out: Path, err: Console) -> list[str]:
    """Draw a figure for each attribute; return the names of the files."""
    names = []
    for number, rows in enumerate(_by_attribute(record).values(), start=1):
        name = "sweep.svg" if number == 1 else f"sweep-{number}.svg"
        points = [_point(i, row) for i, row in enumerate(rows, start=1)]
        try:
            write_atomically(out / name, draw_tradeoff(points))
        except ConfigError as error:  # no matplotlib: the figures are in the table as well
            err.out(f"no figure was drawn: {error}", highlight=False)
            break
        names.append(name)
    return names


def _point(number: int, row: dict[str, Any]) -> Point:
    label = row["label_alone"]
    return Point(
        number=number,
        method=row["method"],
        accuracy=row["accuracy"],
        attack=row["attack"],
        chance=row["majority"],
        label_alone=None if label is None else label["value"],
    )
