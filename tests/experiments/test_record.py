import json
from dataclasses import replace
from pathlib import Path

import pytest

from eaves.core.rates import Rate
from eaves.errors import StateError
from eaves.experiments.build import build_job
from eaves.experiments.config import TrainConfig
from eaves.experiments.record import RunRecord, better_of, read_record, record_of
from eaves.experiments.run import run
from eaves.runtime.meters import Meter, Totals
from eaves.runtime.sealed import unsealed_json

TOTALS = Totals(
    wall_s=10.0,
    edge=Meter(4.0, 0.5, 1.0),
    link=Meter(5.0, 2.0, 0.0),
    cloud=Meter(3.00004, 6.0, 0.0),
    bytes_up=6400,
    bytes_down=128,
    samples=128,
    sent_samples=64,
    edge_peak_bytes=1000,
    cloud_peak_bytes=2000,
)
TINY = TrainConfig(train_samples=64, batch_size=16)


def test_a_record_says_what_the_totals_say() -> None:
    rates = {"cloud": Rate.of(90, 100), "exit": None}
    record = record_of(build_job(TINY), TOTALS, 8, rates, complete=True)
    assert record.time["wall_s"] == 10.0
    assert record.time["edge_busy_s"] == 4.0
    assert record.time["edge_blocked_s"] == 1.0
    assert record.time["link_waiting_s"] == 2.0
    assert record.time["cloud_busy_s"] == 3.0
    assert record.bytes == {"up": 6400, "down": 128, "per_sample_up": 100.0}
    assert record.memory == {"edge_peak_bytes": 1000, "cloud_peak_bytes": 2000}
    assert record.accuracy["exit"] is None
    assert record.accuracy["cloud"] == Rate.of(90, 100).as_json()
    assert (record.samples, record.train_size, record.steps) == (128, 64, 8)


def test_a_record_is_one_line_of_strict_json() -> None:
    record = record_of(build_job(TINY), TOTALS, 8, {"cloud": None, "exit": None}, complete=False)
    line = record.to_line()
    assert "\n" not in line
    assert json.loads(line) == json.loads(json.dumps(record.as_json()))
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(record, time={"wall_s": float("nan")}).to_line()


@pytest.mark.parametrize(("method", "codec"), [("full-edge", None), ("full-cloud", "raw")])
def test_the_codec_is_the_one_that_was_used(method: str, codec: str | None) -> None:
    job = build_job(replace(TINY, method=method))
    record = record_of(job, Totals(), 0, {}, complete=True)
    assert record.codec == codec
    assert record.cut is None
    assert record.bytes["per_sample_up"] is None


def test_a_record_is_read_back_and_a_newer_one_is_refused(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    record = next(
        event
        for event in run(TrainConfig(train_samples=32, epochs=1, out=tmp_path))
        if isinstance(event, RunRecord)
    )
    path = tmp_path / "record.json"
    assert read_record(tmp_path) == record
    written = unsealed_json(path.read_bytes())
    assert written["format"] == 1
    later = ("format", "identity", "better")
    older = {k: v for k, v in written.items() if k not in later}
    path.write_text(json.dumps(older))  # as older versions wrote it
    found = read_record(tmp_path)
    assert found is not None
    assert found.as_json() == written | {"identity": None, "better": None}
    for content in ("", "[]", '{"complete": true}'):
        path.write_text(content)
        assert read_record(tmp_path) is None
    path.write_text(json.dumps(written | {"format": 99, "of_the_future": 1}))
    with pytest.raises(StateError, match="a record of format 1, got 99: a newer Eaves"):
        read_record(tmp_path)
    for resume in (False, True):
        with pytest.raises(StateError, match="a newer Eaves"):
            list(run(TrainConfig(train_samples=32, epochs=1, out=tmp_path), resume=resume))


@pytest.mark.parametrize(
    ("cloud", "early", "half"),
    [
        (7020, 7340, "exit"),
        (8330, 8080, "cloud"),
        (7020, 7040, "equal within the interval"),
        (0, 0, "equal within the interval"),
        (10_000, 10_000, "equal within the interval"),
    ],
)
def test_it_is_said_which_half_is_better(cloud: int, early: int, half: str) -> None:
    rates: dict[str, Rate | None] = {
        "cloud": Rate.of(cloud, 10_000),
        "exit": Rate.of(early, 10_000),
    }
    better = record_of(build_job(TINY), TOTALS, 8, rates, complete=True).better
    assert better is not None
    assert better["half"] == half
    assert better["by"] == pytest.approx((early - cloud) / 10_000)
    assert (better["low"] > 0, better["high"] < 0) == (half == "exit", half == "cloud")
    assert better["n"] == 10_000


@pytest.mark.parametrize("missing", ["cloud", "exit"])
def test_with_one_half_there_is_no_better_one(missing: str) -> None:
    rates: dict[str, Rate | None] = {"cloud": Rate.of(9, 10), "exit": Rate.of(9, 10)}
    assert better_of(rates) is not None
    assert better_of({**rates, missing: None}) is None
