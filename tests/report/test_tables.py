import copy
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from eaves.core.rates import Rate
from eaves.experiments.record import better_of
from eaves.report.tables import better_text, comparison_table, epochs_of, seconds_per_epoch

RATE = {"value": 0.95, "low": 0.92, "high": 0.97, "n": 360}
RECORD: dict[str, Any] = {
    "data": "digits",
    "net": "small",
    "link": "3g",
    "seed": 0,
    "send": "every-epoch",
    "epochs": 10,
    "samples": 5120,
    "train_size": 1437,
    "config": {"batch_size": 128},
    "accuracy": {"cloud": RATE, "exit": None},
    "time": {"wall_s": 20.0, "edge_busy_s": 10.0, "link_busy_s": 19.0, "cloud_busy_s": 1.0},
    "bytes": {"up": 4_000_000, "down": 0, "per_sample_up": 1234.4},
    "memory": {"edge_peak_bytes": 2_500_000, "cloud_peak_bytes": 1},
}


def record(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(RECORD), **changes}


def printed(records: dict[str, dict[str, Any]]) -> str:
    out = StringIO()
    Console(file=out, width=160).print(comparison_table(records))
    return out.getvalue()


def test_an_epoch_is_its_whole_batches() -> None:
    assert epochs_of(record(samples=11 * 128)) == 1
    assert epochs_of(RECORD) == 5120 / 1408
    assert epochs_of(record(samples=100, train_size=100)) == 1  # one short batch
    assert epochs_of(record(samples=64 * 3, train_size=64, config={"batch_size": 64})) == 3


def test_sending_once_is_worth_the_epochs_asked_for() -> None:
    assert epochs_of(record(send="once")) == 10
    assert seconds_per_epoch(record(send="once")) == 2.0


def test_seconds_per_epoch() -> None:
    assert seconds_per_epoch(record(samples=2 * 1408)) == 10.0
    assert seconds_per_epoch(record(samples=704)) == 40.0


def test_the_table_shows_the_figures() -> None:
    baseline = record(samples=1408, accuracy={"cloud": RATE, "exit": RATE})
    ours = record(samples=1408 * 4)
    text = printed({"hierarchical": ours, "full-cloud": baseline})
    row = next(line for line in text.splitlines() if line.strip().startswith("hierarchical"))
    for figure in (
        "95.0 ±2.5",
        "5.00 s",
        "+75.0%",
        "1.0 MB",
        "0 B",
        "1,234",
        "50  95   5",
        "2.5 MB",
    ):
        assert figure in row, figure
    other = next(line for line in text.splitlines() if line.strip().startswith("full-cloud"))
    assert "20.00 s" in other
    assert "%" not in other  # nothing is saved against itself
    assert "n = 360" in text
    assert "link 3g" in text


def test_what_there_is_not_is_a_dash() -> None:
    nothing = record(
        accuracy={"cloud": None, "exit": RATE},
        bytes={"up": 0, "down": 0, "per_sample_up": None},
    )
    row = next(line for line in printed({"full-edge": nothing}).splitlines() if "full-edge" in line)
    assert row.split()[1] == "-"
    assert " - " in row.split("0 B")[-1]
    assert "%" not in row  # no baseline to save against


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_340_000, "2.3 MB"), (5e9, "5.0 GB")],
)
def test_bytes_are_readable(size_bytes: float, text: str) -> None:
    found = printed({"split": record(samples=1408, bytes=RECORD["bytes"] | {"down": size_bytes})})
    assert text in found


def said(cloud: int, early: int, **changes: Any) -> str:
    rates = {"cloud": Rate.of(cloud, 10_000), "exit": Rate.of(early, 10_000)}
    return better_text(record(better=better_of(rates), **changes))


def test_an_exit_that_is_better_is_said_with_what_to_do() -> None:
    once = said(7020, 7340, send="once")
    assert once.startswith("the exit is better than the cloud by 3.2 points (95 % interval 2.0 to")
    for advice in ("--cloud None", "eaves calibrate", "--send every-epoch"):
        assert advice in once
    assert "--send every-epoch" not in said(7020, 7340, send="every-epoch")


def test_a_cloud_that_is_better_or_equal_is_said_too() -> None:
    assert said(8330, 8080).startswith("the cloud is better than the exit by 2.5 points (95 % int")
    assert said(7020, 7040).startswith("cloud and exit are equal within the interval")
    assert better_text(record(better=None)) == better_text(RECORD) == ""
