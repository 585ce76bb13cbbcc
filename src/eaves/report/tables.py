"""The comparison of several runs, as a table."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

from eaves.core.methods import BASELINE
from eaves.core.units import bytes_text, percent_text

Record = Mapping[str, Any]


def comparison_table(records: Mapping[str, Record]) -> Table:
    """Return the records side by side; times and bytes are those of one epoch.

    ``saved`` is the training time saved against full-cloud with raw images, if it is there;
    ``busy`` the share of the time in which edge, link and cloud were at work.
    """
    table = Table(
        title="Training, per epoch",
        caption=_caption(records),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
    )
    table.add_column("run", no_wrap=True)
    for name in ("accuracy %", "exit %", "time", "saved", "up", "down", "B/sample"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("busy %: edge, link, cloud", justify="right")
    table.add_column("edge memory", justify="right")
    baseline = records.get(BASELINE)
    for name, record in records.items():
        table.add_row(name, *_row(record, baseline))
    return table


def _row(record: Record, baseline: Record | None) -> list[str]:
    epochs, time = epochs_of(record), record["time"]
    seconds = seconds_per_epoch(record)
    saved = "" if baseline is None else f"{1 - seconds / seconds_per_epoch(baseline):+.1%}"
    per_sample = record["bytes"]["per_sample_up"]
    busy = [time[f"{side}_busy_s"] / time["wall_s"] for side in ("edge", "link", "cloud")]
    return [
        rate_text(record["accuracy"]["cloud"]),
        rate_text(record["accuracy"]["exit"]),
        f"{seconds:.2f} s",
        "" if record is baseline else saved,
        bytes_text(record["bytes"]["up"] / epochs),
        bytes_text(record["bytes"]["down"] / epochs),
        "-" if per_sample is None else f"{per_sample:,.0f}",
        " ".join(f"{100 * share:>3.0f}" for share in busy),
        bytes_text(record["memory"]["edge_peak_bytes"]),
    ]


def epochs_of(record: Record) -> float:
    """Return how many epochs of training a record is worth, a fraction where it was cut short.

    Sending once is worth the epochs that its configuration asked for.
    """
    if record["send"] == "once":
        return float(record["epochs"])
    return float(max(record["samples"], 1) / _epoch_samples(record))


def seconds_per_epoch(record: Record) -> float:
    """Return the wall time of one epoch."""
    return float(record["time"]["wall_s"]) / epochs_of(record)


def _epoch_samples(record: Record) -> int:
    size, batch = int(record["train_size"]), int(record["config"]["batch_size"])
    return size // batch * batch if size >= batch else size


def _caption(records: Mapping[str, Record]) -> str:
    first = next(iter(records.values()))
    config = first["config"]
    intervals = [r["accuracy"][k] for r in records.values() for k in ("cloud", "exit")]
    n = next((rate["n"] for rate in intervals if rate), 0)
    return (
        f"{first['data']}, {first['net']}, link {first['link']}, seed {first['seed']}, batch "
        f"{config['batch_size']}; ± half a 95 % interval, n = {n}"
    )


def rate_text(rate: Mapping[str, float] | None) -> str:
    """Return a rate of a record in percent, with half its interval; a dash where there is none."""
    if rate is None:
        return "-"
    half = (rate["high"] - rate["low"]) / 2
    return f"{percent_text(rate['value'])} ±{100 * half:.1f}"


def better_text(record: Record) -> str:
    """Return which half answers better, and what to do then; empty where there is one only."""
    better = record.get("better")
    if better is None:
        return ""
    gap, low, high = (100 * better[name] for name in ("by", "low", "high"))
    interval = f"95 % interval {min(abs(low), abs(high)):.1f} to {max(abs(low), abs(high)):.1f}"
    if better["half"] == "exit":
        once = ", or send more often (--send every-epoch, or --copies)"
        return (
            f"the exit is better than the cloud by {gap:.1f} points ({interval}): answer by the "
            "exit alone (eaves infer --cloud None), or let `eaves calibrate` say which examples "
            f"are worth sending{once if record['send'] == 'once' else ''}"
        )
    if better["half"] == "cloud":
        return f"the cloud is better than the exit by {-gap:.1f} points ({interval})"
    return (
        f"cloud and exit are equal within the interval (exit less cloud: {gap:+.1f} points, "
        f"{low:+.1f} to {high:+.1f}): `eaves calibrate` says which examples are worth sending"
    )
