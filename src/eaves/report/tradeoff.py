"""Task accuracy against the best attack, as a figure: upper left is where one wants to be."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from eaves.core.methods import METHODS
from eaves.report.figures import expect_figure, figure_bytes
from eaves.report.verdicts import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OTHER = ("#000000", "X")
_GREY = "#777777"


@final
@dataclass(frozen=True, kw_only=True)
class Point:
    """One run: its task accuracy and the best attack on one attribute, both rates of a record."""

    number: int
    method: str
    accuracy: Record
    attack: Record
    chance: float
    label_alone: float | None = None
    """How often the attribute is read from the task label, and nothing else; None: not tried."""


def draw_tradeoff(points: Sequence[Point]) -> bytes:
    """Return the figure as SVG, its letters as shapes: it needs no fonts.

    Points have the number of their run: names of folders may hold what no font has.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    expect_figure(Path("tradeoff.svg"))
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    _draw_line(axes, "chance", "--", [point.chance for point in points])
    _draw_line(axes, "label alone", ":", [point.label_alone for point in points])
    for method in dict.fromkeys(point.method for point in points):
        _draw_method(axes, method, [point for point in points if point.method == method])
    axes.set_xlabel("best attack: private attribute read right, %")
    axes.set_ylabel("task accuracy of the cloud, %")
    axes.legend(fontsize=8)
    return figure_bytes(figure, "svg")


def _draw_line(axes: "Axes", name: str, style: str, rates: Sequence[float | None]) -> None:
    """Draw a line for each rate that occurs, once for those that look the same."""
    for rate in sorted({round(rate, 3) for rate in rates if rate is not None}):
        axes.axvline(100 * rate, color=_GREY, linestyle=style, linewidth=1)
        axes.annotate(
            name,
            (100 * rate, 0.02),
            xycoords=axes.get_xaxis_transform(),
            fontsize=8,
            color=_GREY,
            rotation=90,
            ha="right",
        )


def _draw_method(axes: "Axes", method: str, points: Sequence[Point]) -> None:
    colour, marker = METHODS[method].look if method in METHODS else _OTHER
    attacks, accuracies = ([getattr(p, name) for p in points] for name in ("attack", "accuracy"))
    axes.errorbar(
        [100 * rate["value"] for rate in attacks],
        [100 * rate["value"] for rate in accuracies],
        xerr=_bars(attacks),
        yerr=_bars(accuracies),
        fmt=marker,
        color=colour,
        elinewidth=1,
        label=method if method in METHODS else "other",
    )
    for point in points:
        place = (100 * point.attack["value"], 100 * point.accuracy["value"])
        axes.annotate(
            str(point.number), place, xytext=(5, 5), textcoords="offset points", fontsize=9
        )


def _bars(rates: Sequence[Record]) -> list[list[float]]:
    """Return how far the intervals reach below and above, in percent."""
    return [
        [max(0.0, 100 * (rate["value"] - rate["low"])) for rate in rates],
        [max(0.0, 100 * (rate["high"] - rate["value"])) for rate in rates],
    ]
