"""A profile as tables: every figure is where it belongs."""

from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from eaves.planner.profile import Profile
from eaves.report.profiles import codecs_table, stages_table


def printed(table: Table) -> list[str]:
    out = StringIO()
    Console(file=out, width=250).print(table)
    return out.getvalue().splitlines()


def line(lines: list[str], first: str) -> str:
    return next(text for text in lines if text.strip().startswith(first))


def test_each_stage_and_exit_is_a_line(figures: Profile) -> None:
    lines = printed(stages_table(figures))
    assert "small, 1x8x8, batch 128, fp32, on Some CPU" in lines[0]
    # 294,912 MACs; forward, backward, update and inference of 2 ms by 1, 2, 0.25 and 0.5.
    cells = line(lines, "conv2 ")
    for text in ("0.29", "18,560", "1,024", "4.1 kB x B", "8.0 MB"):
        assert text in cells.split("  ") or f" {text} " in f"{cells} ", text
    times = [text.split()[-1] for text in cells.split(" ±0.01")[:-1]]
    assert times == ["2.00", "4.00", "0.50", "1.00"]
    assert "5.0 MB" in line(lines, "head ")
    for cut in figures.cuts:
        assert "0.50 ±0.01" in line(lines, f"exit at {cut}")


def test_a_stage_without_times_or_peak_has_dashes(figures: Profile) -> None:
    untimed = replace(
        figures,
        stages=tuple(replace(stage, times=None) for stage in figures.stages),
        peak_bytes={"conv2": 8_000_000},
    )
    lines = printed(stages_table(untimed))
    assert line(lines, "conv1 ").split()[-5:] == ["-", "-", "-", "-", "-"]
    assert line(lines, "conv2 ").split()[-6:] == ["-", "-", "-", "-", "8.0", "MB"]


def test_a_gpu_is_the_machine_where_it_was_measured(figures: Profile) -> None:
    title = {
        "Some GPU": {"cpu": "Some CPU", "gpu": "Some GPU"},
        "Some CPU": {"cpu": "Some CPU"},
        "an unnamed machine": {},
    }
    for name, machine in title.items():
        assert printed(stages_table(replace(figures, machine=machine)))[0].strip().endswith(name)


def test_codecs_of_inputs_features_and_gradients(figures: Profile) -> None:
    lines = printed(codecs_table(figures))
    assert "Payloads: digits, net untrained" in lines[0]
    cells = [text.split() for text in lines if "±" in text]
    found = {(where, codec): size for where, codec, size, *_ in cells}
    assert found[("input", "raw")] == "65"
    assert found[("conv1", "int8")] == "2,049"
    assert found[("conv3", "int4+zstd")] == "135"
    assert found[("conv2/reply", "fp16")] == "2,048"
    assert len(found) == sum(map(len, figures.codecs.values()))
    assert {tuple(row[3:]) for row in cells} == {("1.00", "±0.00", "0.50", "±0.00")}


@pytest.mark.parametrize("net", ["[b]x[/i].py:Net", "own[1].py:Net"])
def test_brackets_in_names_are_no_markup(figures: Profile, net: str) -> None:
    changes: dict[str, Any] = {"net": net}
    stages = (replace(figures.stages[0], name="[/s]"), *figures.stages[1:])
    renamed = replace(
        figures,
        subject=replace(figures.subject, **changes),
        stages=stages,
        exits={"[/s]": figures.exits["conv1"]},
        codecs={"[/s]": figures.codecs["conv1"]},
        payloads_from="images:[/d]",
    )
    lines = printed(stages_table(renamed))
    assert net in lines[0]
    assert line(lines, "[/s] ")
    assert line(lines, "exit at [/s] ")
    lines = printed(codecs_table(renamed))
    assert "images:[/d]" in lines[0]
    assert line(lines, "[/s] ")
