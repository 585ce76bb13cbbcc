"""A profile in the terminal: what each stage costs, and what crosses at each cut."""

from rich import box
from rich.markup import escape
from rich.table import Table

from eaves.core.units import bytes_text
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
