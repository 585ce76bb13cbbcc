"""The trade-off of every embedding as one figure: task accuracy against the best attack.

    python -m benchmarks.siamese.tradeoff FACTS.json FIGURE.png

FACTS.json is what benchmarks/siamese/measure.py leaves. A point is the mean over the seeds, with
the lowest and highest; a number beside it is how many numbers are sent. Upper left is better.
"""

import json
import sys
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOOKS = {
    "simple": ("#000000", "X"),
    "reduced": ("#E69F00", "s"),
    "Siamese": ("#999999", "P"),
    "reduced Siamese": ("#009E73", "^"),
    "noisy reduced Siamese": ("#0072B2", "o"),
    "noise alone": ("#D55E00", "v"),
    "noisy reduced": ("#CC79A7", "D"),
}


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    facts = json.loads(source.read_text(encoding="utf-8"))
    subjects = list(dict.fromkeys(fact["subject"] for fact in facts))
    figure = Figure(figsize=(6 * len(subjects), 5), layout="constrained")
    for axes, subject in zip(
        figure.subplots(1, len(subjects), squeeze=False)[0], subjects, strict=True
    ):
        draw(axes, [fact for fact in facts if fact["subject"] == subject], subject)
    figure.savefig(target, dpi=110)


def draw(axes: "Axes", facts: list[dict[str, Any]], title: str) -> None:
    attribute = next(iter(facts[0]["attributes"]))
    alone = facts[0]["attributes"][attribute]["label_alone"]["rate"]["value"]
    axes.axvline(100 * alone, color="#777777", linestyle=":", label="the answer alone")
    for name, (colour, marker) in LOOKS.items():
        for size in sorted({f["components"] for f in facts if f["embedding"] == name}):
            group = [f for f in facts if (f["embedding"], f["components"]) == (name, size)]
            attack = [f["attributes"][attribute]["best"]["rate"]["value"] for f in group]
            task = [f["task"]["value"] for f in group]
            axes.errorbar(
                [100 * mean(attack)],
                [100 * mean(task)],
                xerr=bar(attack),
                yerr=bar(task),
                fmt=marker,
                color=colour,
                elinewidth=0.8,
                label=name if size in (0, 4) else None,
            )
            place = (100 * mean(attack), 100 * mean(task))
            axes.annotate(str(size or ""), place, (4, 4), textcoords="offset points", fontsize=8)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(f"best of all fresh attackers: {attribute} read right, %")
    axes.set_ylabel("task accuracy of the cloud, %")
    axes.legend(fontsize=8, loc="lower right")


def bar(values: list[float]) -> list[list[float]]:
    """Return how far the lowest and the highest are from the mean, in percent."""
    middle = mean(values)
    return [[100 * (middle - min(values))], [100 * (max(values) - middle)]]


if __name__ == "__main__":
    main()
