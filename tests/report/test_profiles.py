"""A profile as tables: every figure is where it belongs."""

from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from eaves.planner.embeddings import device_costs
from eaves.planner.profile import CodecCost, Profile, Seconds, numbers_at
from eaves.planner.scenario import Power
from eaves.report.profiles import codecs_table, device_table, stages_table


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


# On the device


def test_each_cut_and_embedding_is_a_line(figures: Profile) -> None:
    codecs = {
        **figures.codecs,
        **{
            numbers_at(cut): (
                CodecCost(
                    codec="int8",
                    bytes_per_sample=8.25,
                    encode=Seconds(0.001, 0.0005),
                    decode=Seconds(0.001),
                ),
            )
            for cut in figures.cuts
        },
    }
    peaks = {stage.name: 3_000_000 for stage in figures.stages}
    now = replace(figures, codecs=codecs, infer_peak_bytes=peaks)
    power = Power(busy_w=6.4, idle_w=1.0)
    costs = device_costs(now, components=8, power=power)
    lines = printed(device_table(costs))
    assert "On the device, in inference, batch 128" in lines[0]
    rows = [text.split() for text in lines if "int8" in text]
    assert [(row[0], row[1].strip(",")) for row in rows] == [
        (cut, what) for cut in figures.cuts for what in ("features", "8")
    ]
    for row, cost in zip(rows, costs, strict=True):
        assert cost.time is not None
        each_ms = 1e3 * cost.time.median_s / 128
        i = row.index("int8")
        assert row[i + 1 : i + 3] == [f"{cost.macs_share:.1%}", f"{cost.params_share:.1%}"]
        assert row[i + 3] == f"{1e3 * cost.time.median_s:.2f}"
        assert row[i + 5] == f"{each_ms:.3g}"
        assert row[i + 8] == f"{cost.bytes_per_input:,.1f}"
        assert row[-1] == f"{6.4 * each_ms:.3g}"  # watts by milliseconds
    # Raw inputs have 64 bytes: the features more, the numbers an eighth; 3 MB, and a projection.
    assert rows[0][-2] == f"{2049 / 64:.2g}x"
    assert rows[1][-3:-1] == ["8.2", "0.13x"]
    assert rows[0][8:10] == ["3.0", "MB"]
    assert not any("~" in text for text in lines)
    assert "64 B" in " ".join(lines)


def test_what_was_not_measured_is_marked(figures: Profile) -> None:
    lines = printed(device_table(device_costs(figures, components=8, power=None)))
    features, numbers = (text for text in lines if text.strip().startswith("conv1 "))
    assert features.count("~") == 1  # memory
    assert numbers.count("~") == 2  # time, too
    assert "~: too low as a rule" in " ".join(lines)
    assert features.split()[-1] == numbers.split()[-1] == "-"  # no watts
    untimed = tuple(replace(stage, times=None) for stage in figures.stages)
    lines = printed(
        device_table(device_costs(replace(figures, stages=untimed), components=8, power=None))
    )
    assert "±" not in line(lines, "conv1 ")


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
    assert line(printed(device_table(device_costs(renamed, components=8, power=None))), "[/s] ")
    lines = printed(codecs_table(renamed))
    assert "images:[/d]" in lines[0]
    assert line(lines, "[/s] ")
