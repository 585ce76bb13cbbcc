"""The trade-off of a table as one figure: task accuracy against the best attack, with intervals.

    python -m benchmarks.privacy.curve FACTS.json FIGURE.png

FACTS.json is what benchmarks/privacy/measure.py leaves. Upper left is better.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#999999")
MARKERS = "os^DvPX*"


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    rows = [row for row in json.loads(source.read_text(encoding="utf-8")) if row["audit"]]
    families = list(dict.fromkeys(family(row) for row in rows))
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    for number, name in enumerate(families):
        points = [point(row) for row in rows if family(row) == name]
        attacks, tasks = zip(*points, strict=True)
        axes.errorbar(
            [100 * rate["value"] for rate in attacks],
            [100 * rate["value"] for rate in tasks],
            xerr=[50 * (rate["high"] - rate["low"]) for rate in attacks],
            yerr=[50 * (rate["high"] - rate["low"]) for rate in tasks],
            fmt=MARKERS[number % len(MARKERS)],
            color=COLOURS[number % len(COLOURS)],
            elinewidth=0.6,
            label=name,
        )
    axes.axvline(100 * best(rows[0])["majority"], color="#777777", linestyle="--", label="chance")
    axes.set_xlabel("best of all fresh attackers: private attribute read right, %")
    axes.set_ylabel("task accuracy of the cloud, %")
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(target, dpi=110)


def family(row: dict[str, Any]) -> str:
    """Return the name of a row without its strength."""
    return re.split(r"[,\d]", row["name"])[0].strip()


def best(row: dict[str, Any]) -> dict[str, Any]:
    (attribute,) = row["audit"]["attributes"].values()
    found: dict[str, Any] = attribute["verdict"]["best"]
    return found


def point(row: dict[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the rates of the best attack and of the task."""
    return best(row)["rate"], row["record"]["accuracy"]["cloud"]


if __name__ == "__main__":
    main()
