"""Figures: of a plan, time and memory of each way and the Pareto front; of the rank measure."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eaves.errors import ConfigError
from eaves.planner.search import Plan, Verdict, held_bytes
from eaves.report.plans import shown
from eaves.runtime.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FORMATS = (".png", ".pdf", ".svg")
_SHOWN_TIMES = 15  # an epoch that takes more than so many of the best leaves the picture
# Okabe and Ito's colours, which the colour-blind can tell apart.
_EDGE, _LINK, _CLOUD, _OTHER = "#0072B2", "#E69F00", "#009E73", "#999999"


def draw_plan(plan: Plan, path: Path) -> None:
    """Draw ``plan`` into ``path``, whose ending chooses the format: .png, .pdf or .svg.

    Left: what each way keeps edge, link and cloud busy with, stacked, and how long an epoch takes
    when they overlap. Middle: memory of edge and cloud. Right: time against upload, with the Pareto
    front of the two.

    Raises:
        ConfigError: another ending, or matplotlib is not installed.
        StorageError: the disk is full or refuses.
    """
    expect_figure(path)
    from matplotlib.figure import Figure

    verdicts = shown(plan, everything=False)
    figure = Figure(figsize=(15, 1.6 + 0.32 * max(8, len(verdicts))), layout="constrained")
    times, memory, front = figure.subplots(1, 3, width_ratios=(5, 3, 5))
    _draw_times(times, verdicts)
    _draw_memory(memory, verdicts)
    _draw_front(front, plan.verdicts)
    subject = plan.scenario.edge.subject
    figure.suptitle(f"{subject.net}, {'x'.join(map(str, subject.input_shape))}")
    save_figure(figure, path)


def expect_figure(path: Path) -> None:
    """Raise a :class:`ConfigError` where no figure can be drawn into ``path``."""
    if path.suffix not in _FORMATS:
        raise ConfigError(f"expected a figure in {', '.join(_FORMATS)}, got {path}")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ConfigError('figures need matplotlib: pip install "eaves[lab]"') from error


def _draw_times(axes: "Axes", verdicts: Sequence[Verdict]) -> None:
    rows = list(range(len(verdicts)))
    longest_s = _SHOWN_TIMES * min(verdict.row.cost.epoch_s for verdict in verdicts)
    left = [0.0] * len(verdicts)
    for name, colour in (("edge", _EDGE), ("link", _LINK), ("cloud", _CLOUD)):
        busy_s = [getattr(verdict.row.cost, f"{name}_s") for verdict in verdicts]
        axes.barh(rows, busy_s, left=left, color=colour, label=name)
        left = [a + b for a, b in zip(left, busy_s, strict=True)]
    epochs_s = [verdict.row.cost.epoch_s for verdict in verdicts]
    axes.plot(epochs_s, rows, "k|", markersize=14, label="epoch, overlapped")
    for row, epoch_s in zip(rows, epochs_s, strict=True):
        if epoch_s > longest_s:
            axes.annotate(
                f"{epoch_s:,.0f} s", (longest_s, row), fontsize=7, ha="right", va="center"
            )
    axes.set_xlim(0, min(longest_s, 1.05 * max(*left, *epochs_s)))
    axes.set_yticks(rows, [_label(verdict) for verdict in verdicts], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("seconds per epoch")
    axes.legend(fontsize=8)


def _label(verdict: Verdict) -> str:
    mark = "best: " if verdict.best else "refused: " if verdict.refused else ""
    return f"{mark}{verdict.row.candidate}"


def _draw_memory(axes: "Axes", verdicts: Sequence[Verdict]) -> None:
    rows = list(range(len(verdicts)))
    edge_mb = [held_bytes(verdict.row.cost) / 1e6 for verdict in verdicts]
    cloud_mb = [verdict.row.cost.cloud_memory_bytes / 1e6 for verdict in verdicts]
    axes.barh(rows, edge_mb, color=_EDGE, label="edge")
    axes.barh(rows, cloud_mb, left=edge_mb, color=_CLOUD, label="cloud")
    axes.set_yticks(rows, [""] * len(rows))
    axes.invert_yaxis()
    axes.set_xlabel("memory, MB")
    axes.legend(fontsize=8)


def _draw_front(axes: "Axes", verdicts: Sequence[Verdict]) -> None:
    points = [
        (v.row.cost.epoch_s, v.row.cost.bytes_per_sample, v) for v in verdicts if not v.refused
    ]
    for time_s, size_bytes, verdict in points:
        colour = _LINK if verdict.best else _EDGE if verdict.front else _OTHER
        axes.plot(time_s, size_bytes, "o", color=colour, markersize=8 if verdict.best else 5)
    edge = pareto([(time_s, size_bytes) for time_s, size_bytes, _ in points])
    axes.plot(*zip(*edge, strict=True), color=_EDGE, linewidth=1, drawstyle="steps-post")
    marked = [point for point in points if point[:2] in edge]
    for i, (time_s, size_bytes, verdict) in enumerate(marked):
        above = 5 if i % 2 else -11  # in turns, so that neighbours do not cover each other
        axes.annotate(
            str(verdict.row.candidate),
            (time_s, size_bytes),
            fontsize=7,
            xytext=(4, above),
            textcoords="offset points",
        )
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=10)
    axes.set_ylim(-1, 2 * max(1.0, *(size_bytes for _, size_bytes, _ in points)))
    axes.set_xlabel("seconds per epoch")
    axes.set_ylabel("bytes up per sample")


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other beats in both, in order of the first.

    >>> pareto([(1, 5), (2, 6), (3, 1), (1, 7)])
    [(1, 5), (3, 1)]
    """
    found: list[tuple[float, float]] = []
    for point in sorted(set(points)):
        if not found or point[1] < found[-1][1]:
            found.append(point)
    return found


def rank_curve(rows: Sequence[Mapping[str, Any]], path: Path, *, title: str = "") -> None:
    """Draw accuracy, and whose it is, against the noise into ``path``: .png, .pdf or .svg.

    Each row has the variance of the noise on each value as ``noise``, the signal-to-noise ratio
    ``snr_db`` (None without noise), ``accuracy``, ``privacy`` (the mean rank over the number of
    candidates), ``log_rank`` and ``at_rank_1``, each a number or a value with its interval as in a
    record, and ``chance``, that of ``privacy``.

    Raises:
        ConfigError: no rows, another ending, or matplotlib is not installed.
        StorageError: the disk is full or refuses.
    """
    expect_figure(path)
    if not rows:
        raise ConfigError("expected rows to draw, got none; measure at one noise at least")
    from matplotlib.figure import Figure

    rows = sorted(rows, key=lambda row: float(row["noise"]))
    figure = Figure(figsize=(7, 6.5), layout="constrained")
    accuracy, rank = figure.subplots(2, 1, sharex=True)
    _draw_measured(accuracy, rows, "accuracy", _EDGE, "task accuracy")
    _draw_measured(rank, rows, "privacy", _LINK, "mean rank / candidates")
    _draw_measured(rank, rows, "log_rank", _CLOUD, "mean log rank / log of the last")
    _draw_measured(rank, rows, "at_rank_1", _OTHER, "found first, share")
    chances = [float(row["chance"]) for row in rows]
    rank.plot(_noises(rows), chances, "k--", linewidth=1, label="mean rank by chance")
    rank.set_ylim(-0.02, 1.02)
    rank.set_xlabel("variance of the noise on each value")
    _mark_ratios(accuracy, rows)
    for axes in (accuracy, rank):
        axes.legend(fontsize=8)
    figure.suptitle(title)
    save_figure(figure, path)


def _noises(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    return [float(row["noise"]) for row in rows]


def _draw_measured(
    axes: "Axes", rows: Sequence[Mapping[str, Any]], name: str, colour: str, label: str
) -> None:
    """Draw a line through one figure of all rows, with a band where they have intervals."""
    found = [row[name] for row in rows]
    ends = [
        (one["value"], one["low"], one["high"]) if isinstance(one, Mapping) else (one, one, one)
        for one in found
    ]
    values, lows, highs = zip(*ends, strict=True)
    axes.plot(_noises(rows), values, "o-", color=colour, markersize=4, label=label)
    axes.fill_between(_noises(rows), lows, highs, color=colour, alpha=0.2, linewidth=0)


def _mark_ratios(axes: "Axes", rows: Sequence[Mapping[str, Any]]) -> None:
    """Let the axis below be logarithmic, 0 included, and write the ratios above."""
    noises = _noises(rows)
    least = min((noise for noise in noises if noise), default=1.0)
    axes.set_xscale("symlog", linthresh=least)
    axes.set_xlim(least / 1.5 if noises[0] else -least / 5, 1.5 * max(*noises, least))
    above = axes.twiny()
    above.set_xscale("symlog", linthresh=least)
    above.set_xlim(axes.get_xlim())
    ratios = ["none" if row["snr_db"] is None else f"{row['snr_db']:.1f}" for row in rows]
    above.set_xticks(noises, ratios, fontsize=7, rotation=45)
    above.minorticks_off()
    above.set_xlabel("signal-to-noise ratio, dB")


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure in the format of its ending; raises :class:`StorageError`."""
    write_atomically(path, figure_bytes(figure, path.suffix[1:]))


def figure_bytes(figure: "Figure", kind: str) -> bytes:
    """Return a figure as a file of that kind: png, pdf or svg."""
    buffer = BytesIO()
    figure.savefig(buffer, format=kind, dpi=120)
    return buffer.getvalue()
