"""A profile in the terminal: what each stage costs, what crosses at a cut, what a cut costs."""

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from eaves.core.units import bytes_text
from eaves.planner.embeddings import DeviceCost
from eaves.planner.profile import CodecCost, Profile, Seconds, Stage


def stages_table(profile: Profile) -> Table:
    """Return the stages and exits, with their work, memory and times."""
    subject = profile.subject
    machine = profile.machine.get("gpu") or profile.machine.get("cpu", "an unnamed machine")
    shape = "x".join(map(str, subject.input_shape))
    title = f"{subject.net}, {shape}, batch {subject.batch_size}, {subject.precision}, on {machine}"
    table = _table(title, "stage")
    for name in ("MMAC", "weights", "values out", "kept for backward", "forward ms"):
        table.add_column(name, justify="right")
    for name in ("backward ms", "update ms", "inference ms", "training peak"):
        table.add_column(name, justify="right")
    for stage in profile.stages:
        table.add_row(escape(stage.name), *_cells(stage), _peak(profile, stage.name))
    for cut, stage in profile.exits.items():
        table.add_row(escape(f"exit at {cut}"), *_cells(stage), "", style="dim")
    table.caption = (
        "MMAC, values: of one example. Kept: of a batch. Times: median and half of the "
        "interquartile range of a batch. Training peak: of the edge part that ends there, with its "
        "exit; of the whole net in the last line of stages."
    )
    return table


def _cells(stage: Stage) -> list[str]:
    times = stage.times
    clock = [] if times is None else [times.forward, times.backward, times.update, times.infer]
    return [
        f"{stage.forward_macs / 1e6:.2f}",
        f"{stage.params:,}",
        f"{stage.values:,}",
        f"{bytes_text(stage.kept_bytes)} x B",
        *(map(_ms, clock) if clock else "----"),
    ]


def _peak(profile: Profile, name: str) -> str:
    return bytes_text(profile.peak_bytes[name]) if name in profile.peak_bytes else "-"


def _ms(time: Seconds) -> str:
    return f"{1e3 * time.median_s:.2f} ±{1e3 * time.spread_s:.2f}"


def codecs_table(profile: Profile) -> Table:
    """Return what the codecs make of the features at each cut."""
    table = _table(f"Payloads: {profile.payloads_from}, net untrained", "at")
    for name in ("codec", "B/sample", "encode ms", "decode ms"):
        table.add_column(name, justify="right")
    for where, costs in profile.codecs.items():
        for cost in costs:
            table.add_row(escape(where), *map(escape, _codec_cells(cost)))
    return table


def _codec_cells(cost: CodecCost) -> list[str]:
    return [cost.codec, f"{cost.bytes_per_sample:,.0f}", _ms(cost.encode), _ms(cost.decode)]


_ESTIMATED = (
    " ~: too low as a rule, of a profile that did not measure it: memory by a formula that does "
    "not know what is wider inside of a stage, projections as so many products more."
)


def device_table(costs: Sequence[DeviceCost]) -> Table:
    """Return what each cut costs the device in inference, for each embedding."""
    size = costs[0].batch_size if costs else 1
    table = _table(f"On the device, in inference, batch {size}", "cut")
    table.add_column("leaves", no_wrap=True)
    names = ("MACs", "weights", "ms of a batch", "ms/input", "memory", "B/input", "of raw")
    for name in (*names, "mJ/input"):
        table.add_column(name, justify="right", no_wrap=True)
    for cost in costs:
        table.add_row(*map(escape, _device_cells(cost)))
    table.caption = _device_caption(costs)
    return table


def _device_cells(cost: DeviceCost) -> list[str]:
    each_ms = None if cost.time is None else 1e3 * cost.time.median_s / cost.batch_size
    about = "" if cost.time_measured else "~"
    return [
        cost.cut,
        f"{cost.embedding}, {cost.codec}",
        f"{cost.macs_share:.1%}",
        f"{cost.params_share:.1%}",
        "-" if cost.time is None else about + _ms(cost.time),
        "-" if each_ms is None else _digits(each_ms),
        ("" if cost.memory_followed else "~") + bytes_text(cost.memory_bytes),
        f"{cost.bytes_per_input:,.1f}",
        _times_text(cost.bytes_per_input / cost.raw_bytes),
        "-" if cost.energy_j is None else _digits(1e3 * cost.energy_j),
    ]


def _device_caption(costs: Sequence[DeviceCost]) -> str:
    raw = f" ({costs[0].raw_bytes:,} B: one for each value)" if costs else ""
    estimated = not all(cost.memory_followed and cost.time_measured for cost in costs)
    return (
        "MACs, weights: share of the whole net's; a projection counts with them. Times: medians "
        "of the edge part, projection and coding, without noise and link; ± sums half of the "
        "interquartile ranges. Memory: weights, inputs, activations, projection: the peak of all "
        "tensors, followed through a forward pass; Python and torch come on top. B/input: with "
        f"headers, and features with labels; beside it their share of the raw input{raw}. Energy: "
        "watts at work times time, no radio; - without --watts." + (_ESTIMATED if estimated else "")
    )


def _digits(value: float) -> str:
    """Return three digits, or all before the point.

    >>> _digits(1437.6), _digits(0.012345)
    ('1,438', '0.0123')
    """
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _times_text(ratio: float) -> str:
    """Return a ratio in words.

    >>> _times_text(0.002), _times_text(1.5)
    ('1/500', '1.5x')
    """
    return f"{ratio:.2g}x" if ratio >= 0.1 else f"1/{1 / ratio:,.0f}"


def _table(title: str, first: str) -> Table:
    table = Table(
        title=escape(title),  # a net may be called after a folder with [brackets]
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
    )
    table.add_column(first, no_wrap=True)
    return table
