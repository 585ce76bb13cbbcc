"""Train and attack every row of a table; print Markdown, keep JSON.

    python -m benchmarks.privacy.measure TABLE --data-root DIR --out DIR [--only NAME] [--threads 1]

TABLE is one of seeds, pairs, nets, baselines, epsilons, against_noise, images (rows.py). A row
that is already in OUT is not run again; without its facts.json its bundle is attacked again. Faces,
and what is rebuilt of them, stay in OUT: keep it outside of anything that is published.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.privacy.rows import TABLES, Row, rows_of

from eaves.audit.findings import Stage
from eaves.experiments.auditconfig import AuditConfig
from eaves.experiments.auditing import AuditRecord, run_audit
from eaves.experiments.compare import finished
from eaves.experiments.record import RunRecord
from eaves.experiments.run import run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--data-root", type=Path, required=True, help="holds celeba/")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and figures")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    rows = [r for r in rows_of(options.table, options.data_root) if options.only in r.name]
    facts = [facts_of(row, options.out, options.threads) for row in rows]
    print(table(facts))
    path = options.out / f"{options.table}.json"
    path.write_text(json.dumps(facts, indent=1), encoding="utf-8")


def facts_of(row: Row, out: Path, threads: int) -> dict[str, Any]:
    """Return the figures of a row, from its folder or by running it."""
    folder = out / row.name.replace(" ", "-").replace(",", "").replace("|", "-")
    done = folder / "facts.json"
    if done.exists():
        found: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        return found
    config = replace(row.config, out=folder, threads=threads)
    record = finished(config)  # trained before, to be attacked again
    if record is None:
        records = [event for event in run(config) if isinstance(event, RunRecord)]
        record = records[-1].as_json()
    audit = audit_of(row, folder, threads) if row.attacks else None
    facts = {"name": row.name, "record": record, "audit": audit}
    done.write_text(json.dumps(facts), encoding="utf-8")
    print(table([facts]), file=sys.stderr, flush=True)
    return facts


def audit_of(row: Row, folder: Path, threads: int) -> dict[str, Any]:
    settings = AuditConfig(attacks=row.attacks, threads=threads, effort=row.effort)
    for event in run_audit(folder, settings):
        if isinstance(event, Stage):
            print(f"{row.name}: {event.what}", file=sys.stderr, flush=True)
        if isinstance(event, AuditRecord):
            record = event
    return record.as_json()


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    head = (
        "| run | task, cloud % | task, exit % | best attack % | attacker | balanced % | chance % "
        "| labels alone % | no shield % |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    return "\n".join([head, *(line(row) for row in rows)])


def line(row: dict[str, Any]) -> str:
    accuracy = row["record"]["accuracy"]
    cells = [row["name"], share(accuracy["cloud"]), share(accuracy["exit"])]
    return f"| {' | '.join([*cells, *read(row['audit'])])} |"


def read(audit: dict[str, Any] | None) -> list[str]:
    """Return how well the private attribute was read, cell by cell."""
    if audit is None:
        return [""] * 6
    (attribute,) = audit["attributes"].values()
    best = attribute["verdict"]["best"]
    alone = [f for f in attribute["findings"] if f["attack"] == "labels"]
    upper = [f["rate"]["value"] for f in attribute["unshielded"]]
    return [
        share(best["rate"]),
        f"{best['attack']}: {best['attacker']}",
        share(best["balanced"]),
        f"{100 * best['majority']:.1f}",
        share(alone[0]["rate"]) if alone else "",
        f"{100 * max(upper):.1f}" if upper else "",
    ]


def share(rate: dict[str, float]) -> str:
    return f"{100 * rate['value']:.1f} ±{50 * (rate['high'] - rate['low']):.1f}"


if __name__ == "__main__":
    main()
