"""Train and attack every row of a table; print Markdown, keep JSON.

    python -m benchmarks.privacy.measure TABLE --data-root DIR --out DIR [--only NAME] [--threads 1]

TABLE is one of seeds, pairs, nets, baselines, epsilons, against_noise, images (rows.py). A row
that is already in OUT is not run again; without its facts.json its bundle is attacked again. Faces,
and what is rebuilt of them, stay in OUT: keep it outside of anything that is published.
"""

from typing import Any

from benchmarks.privacy.rows import TABLES
from benchmarks.rows import Facts, main, share


def table(rows: list[Facts]) -> str:
    """Return the rows as Markdown."""
    head = (
        "| run | task, cloud % | task, exit % | best attack % | attacker | balanced % | chance % "
        "| labels alone % | no shield % |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    return "\n".join([head, *(line(row) for row in rows)])


def line(row: Facts) -> str:
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


if __name__ == "__main__":
    main(__doc__, TABLES, table)
