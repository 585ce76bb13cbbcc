"""Tables of training runs whose bundles are attacked: a row is one run, its figures are kept."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eaves.audit.findings import Stage
from eaves.experiments.auditconfig import AuditConfig
from eaves.experiments.auditing import AuditRecord, run_audit
from eaves.experiments.compare import finished
from eaves.experiments.config import TrainConfig
from eaves.experiments.record import RunRecord
from eaves.experiments.run import run

Facts = dict[str, Any]
"""Of one row: its name, the training's record, and the audit's (None: not attacked)."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A training run and how its bundle is attacked."""

    name: str
    config: TrainConfig
    attacks: str = "labels,attribute"
    """Empty: the bundle is not attacked, only its accuracy is wanted."""
    effort: float = 1.0


def main(
    description: str,
    tables: Mapping[str, Callable[[], list[Row]]],
    table: Callable[[list[Facts]], str],
) -> None:
    """Measure the rows of the table that the command line names; print Markdown, keep JSON."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=tables)
    parser.add_argument("--data-root", type=Path, required=True, help="holds the data's folders")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and figures")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    facts = []
    for row in tables[options.table]():
        if options.only in row.name:
            at_root = replace(row, config=replace(row.config, data_root=options.data_root))
            facts.append(facts_of(at_root, options.out, options.threads))
            print(table(facts[-1:]), file=sys.stderr, flush=True)
    print(table(facts))
    path = options.out / f"{options.table}.json"
    path.write_text(json.dumps(facts, indent=1), encoding="utf-8")


def facts_of(row: Row, out: Path, threads: int) -> Facts:
    """Return the figures of a row, from its folder or by running it."""
    folder = out / row.name.replace(" ", "-").replace(",", "").replace("|", "-")
    done = folder / "facts.json"
    if done.exists():
        found: Facts = json.loads(done.read_text(encoding="utf-8"))
        return found
    config = replace(row.config, out=folder, threads=threads)
    record = finished(config)  # trained before, to be attacked again
    if record is None:
        records = [event for event in run(config, overwrite=True) if isinstance(event, RunRecord)]
        record = records[-1].as_json()
    audit = audit_of(row, folder, threads) if row.attacks else None
    facts = {"name": row.name, "record": record, "audit": audit}
    done.write_text(json.dumps(facts), encoding="utf-8")
    return facts


def audit_of(row: Row, folder: Path, threads: int) -> Facts:
    settings = AuditConfig(attacks=row.attacks, threads=threads, effort=row.effort)
    for event in run_audit(folder, settings):
        if isinstance(event, Stage):
            print(f"{row.name}: {event.what}", file=sys.stderr, flush=True)
        if isinstance(event, AuditRecord):
            record = event
    return record.as_json()


def share(rate: dict[str, float]) -> str:
    """Return a rate in % with half its interval's width."""
    return f"{100 * rate['value']:.1f} ±{50 * (rate['high'] - rate['low']):.1f}"
