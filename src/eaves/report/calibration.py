"""A calibration as a table, a figure and a line of JSON."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from eaves.core.calibration import Curve, Point
from eaves.core.rates import Rate
from eaves.experiments.calibrating import Calibration
from eaves.report.figures import expect_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROWS = 12  # of the table, about
_JSON_POINTS = 200  # a curve may have as many as there are examples
# Okabe and Ito's colours, which the colour-blind can tell apart.
_EXIT, _CLOUD, _CHOICE, _CURVE = "#0072B2", "#009E73", "#E69F00", "#000000"


def calibration_table(calibration: Calibration) -> Table:
    """Return a dozen thresholds around the choice, then what the choice does to other examples."""
    found = calibration
    side = "above" if found.rule.surest_is_high else "below"
    table = Table(
        title=f"Final: {found.target.rule} {side} the threshold",
        caption=_caption(found),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
    )
    table.add_column("", no_wrap=True)
    for name in ("threshold", "sent %", "accuracy %"):
        table.add_column(name, justify="right", no_wrap=True)
    for point in shown(found.curve, found.chosen):
        chosen = point == found.chosen
        table.add_row("chosen" if chosen else "", *_cells(point), style="bold" if chosen else "")
    table.add_section()
    table.add_row("measured", *_cells(found.measured))
    table.add_row("exit alone", "", "0.0", _rate(found.exit_alone))
    table.add_row("cloud alone", "", "100.0", _rate(found.cloud_alone))
    return table


def shown(curve: Curve, chosen: Point) -> list[Point]:
    """Return the choice, its neighbours and the ends, and others at even steps of what is sent."""
    points = curve.points
    at = points.index(chosen)
    keep = {0, len(points) - 1, at, max(at - 1, 0), min(at + 1, len(points) - 1)}
    return [points[i] for i in sorted(keep | _even_steps(curve, _ROWS - len(keep) + 2))]


def _even_steps(curve: Curve, count: int) -> set[int]:
    """Return the places of ``count`` points, or fewer, about equally far apart in what is sent."""
    points, most, i = curve.points, curve.points[0].sent, 0
    found = set()
    for step in range(count):
        wanted = most * (1 - step / (count - 1))
        while i + 1 < len(points) and points[i].sent > wanted:
            i += 1
        found.add(i)
    return found


def _cells(point: Point) -> list[str]:
    return [f"{point.threshold:.6g}", f"{100 * point.share_sent:.1f}", _rate(point.accuracy)]


def _rate(rate: Rate) -> str:
    return f"{100 * rate.value:.1f} ±{50 * (rate.high - rate.low):.1f}"


def _caption(found: Calibration) -> str:
    return (
        f"Upper part: the {found.chosen.accuracy.n} examples that chose the threshold, so that its "
        f"accuracy is flattered. Lower part: the {found.measured.accuracy.n} others, which are to "
        "be believed. ± half a 95 % interval."
    )


def calibration_json(calibration: Calibration) -> dict[str, Any]:
    """Return the choice and the curve, which is thinned where it has more than 200 points."""
    curve, chosen = calibration.curve, calibration.chosen
    places = _even_steps(curve, _JSON_POINTS - 1) | {curve.points.index(chosen)}
    points = [curve.points[i].as_json() for i in sorted(places)]
    return {**calibration.as_json(), "curve": points}


def draw_calibration(calibration: Calibration, path: Path) -> None:
    """Draw accuracy against the share sent into ``path`` (.png, .pdf or .svg).

    Raises:
        ConfigError: another ending, or matplotlib is not installed.
        StorageError: the disk is full or refuses.
    """
    expect_figure(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    _draw_curve(axes, calibration.curve)
    _draw_choice(axes, calibration)
    axes.set_xlabel("sent to the cloud, %")
    axes.set_ylabel("accuracy, %")
    axes.legend(fontsize=8)
    save_figure(figure, path)


def _draw_curve(axes: "Axes", curve: Curve) -> None:
    sent = [100 * point.share_sent for point in curve.points]
    rates = [point.accuracy for point in curve.points]
    axes.fill_between(
        sent,
        [100 * rate.low for rate in rates],
        [100 * rate.high for rate in rates],
        color=_CURVE,
        alpha=0.15,
        linewidth=0,
    )
    values = [100 * rate.value for rate in rates]
    axes.plot(sent, values, color=_CURVE, linewidth=1, label="every threshold, examples that chose")


def _draw_choice(axes: "Axes", found: Calibration) -> None:
    for alone, name, colour in (
        (found.exit_alone, "exit alone, others", _EXIT),
        (found.cloud_alone, "cloud alone, others", _CLOUD),
    ):
        axes.axhline(100 * alone.value, color=colour, linestyle="--", linewidth=1, label=name)
    point = found.measured
    rate = point.accuracy
    value, low, high = (100 * share for share in (rate.value, rate.low, rate.high))
    axes.errorbar(
        [100 * point.share_sent],
        [value],
        yerr=[[max(0.0, value - low)], [max(0.0, high - value)]],
        fmt="o",
        color=_CHOICE,
        label=f"chosen, others: {found.target.rule} {found.rule.threshold:.4g}",
    )
