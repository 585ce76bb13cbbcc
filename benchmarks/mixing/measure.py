"""Train and attack every row of a table; print Markdown, keep JSON.

    python -m benchmarks.mixing.measure TABLE --data-root DIR --out DIR [--only NAME] [--threads 1]

TABLE is one of images, words, attacked_words, attacked_faces (rows.py). A row that is already in
OUT is not run again; without its facts.json its bundle is attacked again.
"""

from typing import Any

from benchmarks.mixing.rows import TABLES
from benchmarks.rows import Facts, main, share

from eaves.audit.unmixing import BESIDE


def table(rows: list[Facts]) -> str:
    """Return the rows as Markdown."""
    head = (
        "| run | task % | recovered % | by | correlation (chance) | true coefficients | "
        "attribute %, taken apart | from single mixtures % | chance % |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    return "\n".join([head, *(line(row) for row in rows)])


def line(row: Facts) -> str:
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
    main(__doc__, TABLES, table)
