"""What a cloud logs while it serves: what has happened, and nothing where nothing has."""

from dataclasses import replace
from pathlib import Path

import pytest

from eaves.core.rates import Rate
from eaves.experiments.build import build_job
from eaves.experiments.config import TrainConfig
from eaves.experiments.record import record_of
from eaves.experiments.serve import ServeProgress
from eaves.network.counts import Counts
from eaves.network.ledger import Ledger
from eaves.report.serving import _news, _print_record
from eaves.runtime.meters import Totals

IDLE = ServeProgress(
    port=7443,
    session="s",
    connected=0,
    finished=0,
    ledger=Ledger(),
    counts=Counts(),
    figures={},
    waiting=0,
)


def test_an_idle_cloud_says_nothing() -> None:
    assert _news(IDLE, IDLE) is None
    assert _news(replace(IDLE, counts=Counts()), IDLE) is None


def test_what_has_happened_is_said_without_the_zeros() -> None:
    busy = replace(IDLE, connected=1, counts=Counts(uploads=3, steps=3, step_s=0.1234567))
    assert _news(busy, IDLE) == {"connected": 1, "uploads": 3, "steps": 3, "step_s": 0.123}
    assert _news(busy, busy) is None
    gone = replace(busy, connected=0)
    assert _news(gone, busy) == {"uploads": 3, "steps": 3, "step_s": 0.123}


def test_an_agent_says_which_half_is_better(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = build_job(TrainConfig(train_samples=64, send="once"))
    network = {"dropped_uploads": 0, "uploads_sent": 4, "connections": 1}
    rates: dict[str, Rate | None] = {"cloud": Rate.of(702, 1000), "exit": Rate.of(834, 1000)}
    record = record_of(job, Totals(), 8, rates, complete=True)
    _print_record(replace(record, network=network), tmp_path)
    said = "the exit is better than the cloud by 13.2 points (95 % interval 9.5 to 16.8): answer by"
    assert said in capsys.readouterr().out
    alone = record_of(job, Totals(), 8, {**rates, "cloud": None}, complete=True)
    _print_record(replace(alone, network=network), tmp_path)
    assert "better" not in capsys.readouterr().out
