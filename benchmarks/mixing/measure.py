"""Train and attack every row of a table; print Markdown, keep JSON.

    python -m benchmarks.mixing.measure TABLE --data-root DIR --out DIR [--only NAME] [--threads 1]

TABLE is one of words, attacked_words (benchmarks/mixing/rows.py). A row that is already in OUT is
not run again; without its facts.json its bundle is attacked again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.mixing.rows import TABLES, rows_of
from benchmarks.privacy.measure import facts_of, share

BESIDE = ("nothing", "oracle")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and figures")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    rows = [r for r in rows_of(options.table, options.data_root) if options.only in r.name]
    facts = [facts_of(row, options.out, options.threads) for row in rows]
    print(table(facts))
    path = options.out / f"{options.table}.json"
    path.write_text(json.dumps(facts, indent=1), encoding="utf-8")


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    head = (
        "| run | task % | recovered % | by | correlation (chance) | true coefficients | "
        "attribute %, taken apart | from single mixtures % | chance % |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    return "\n".join([head, *(line(row) for row in rows)])


def line(row: dict[str, Any]) -> str:
    accuracy = row["record"]["accuracy"]
    cells = [row["name"], share(accuracy["cloud"] or accuracy["exit"])]
    audit = row["audit"]
    return f"| {' | '.join([*cells, *(taken_apart(audit) + read(audit) if audit else [])])} |"


def taken_apart(audit: dict[str, Any]) -> list[str]:
    """Return how much the best attack on mixtures got back, and who knows the coefficients."""
    tried = [m for m in audit["mixtures"] if m["attack"] not in BESIDE]
    best = max(tried, key=lambda m: m["correlation"]["value"])
    (oracle,) = [m for m in audit["mixtures"] if m["attack"] == "oracle"]
    return [
        share(best["recovered"]),
        best["attack"],
        f"{best['correlation']['value']:.3f} ({best['chance']['value']:.3f})",
        f"{share(oracle['recovered'])}, {oracle['correlation']['value']:.3f}",
    ]


def read(audit: dict[str, Any]) -> list[str]:
    """Return how well the private attribute was read: at best, and from single mixtures."""
    (attribute,) = audit["attributes"].values()
    found = attribute["findings"]
    single = [f for f in found if f["attack"] == "single mixture"]
    apart = [f for f in found if f["attack"] != "single mixture"]
    return [
        *(share(max(some, key=lambda f: f["rate"]["value"])["rate"]) for some in (apart, single)),
        f"{100 * found[0]['majority']:.1f}",
    ]


if __name__ == "__main__":
    main()
