import importlib.util
import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from eaves.commands.main import main
from eaves.core.rates import Rate
from eaves.experiments.sweep import SweepRecord
from eaves.report.sweeping import print_sweep
from eaves.runtime.sealed import unsealed_json

WORDS = ["train", "--method", "priphit", "--data", "digits:parity", "--private", "high"]


def row(setting: str, attribute: str, accuracy: int, attack: int) -> dict[str, Any]:
    return {
        "setting": setting,
        "attribute": attribute,
        "folder": "folder",
        "method": "priphit",
        "accuracy": Rate.of(accuracy, 1000).as_json(),
        "attacker": "deep",
        "attack": Rate.of(attack, 1000).as_json(),
        "balanced": Rate.of(attack - 30, 1000).as_json(),
        "majority": 0.614,
        "label_alone": None if attribute == "Young" else Rate.of(620, 1000).as_json(),
        "ended_by_time": ["cloud"] if setting == "noise=2" else [],
    }


def test_the_table_has_a_row_for_each_setting_and_says_what_was_left_out() -> None:
    rows = [row("noise=1", "Male", 891, 652), row("noise=2", "Male", 856, 631)]
    rows.append(row("noise=1", "Young", 891, 777))
    out = StringIO()
    record = SweepRecord(sweep="noise=1,2", rows=rows, faults=["noise=1: Male: broken"])
    print_sweep(record, Console(file=out, width=160))
    printed = out.getvalue()
    assert printed.count("What hiding") == 2
    for cell in ("89.1 ±1.9", "65.2 ±2.9", "62.2 ±3.0", "61.4", "77.7 ±2.6", "62.0 ±3.0"):
        assert cell in printed
    assert "do not believe the audit of noise=1: Male: broken" in printed
    assert "time ended attackers of noise=2: cloud" in printed
    assert "noise=1: \n" not in printed
    assert "at 0.25 of the effort of an audit" in printed
    assert "Audit the setting that you choose in full: eaves audit FOLDER" in printed


def test_the_command_prints_a_table_and_draws_the_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("EFFORT", 0.02), ("ATTACKS", "labels")):  # what is found does not count
        monkeypatch.setattr(f"eaves.experiments.sweep.{name}", value)
    few = ["--train-samples", "200", "--epochs", "1", "--out", str(tmp_path)]
    assert main([*WORDS, *few, "--sweep", "noise=0.5,2"]) == 0
    printed = capsys.readouterr()
    assert "What hiding high costs" in printed.out
    assert "setting 2 of 2: noise=2" in printed.err
    drawn = importlib.util.find_spec("matplotlib") is not None
    assert (tmp_path / "sweep.svg").exists() == drawn == ("no figure" not in printed.err)
    assert main(["train", "--resume", str(tmp_path), "--json"]) == 0  # all of it is there
    line = json.loads(capsys.readouterr().out)
    assert line == unsealed_json((tmp_path / "sweep.json").read_bytes())
    assert [found["setting"] for found in line["rows"]] == ["noise=0.5", "noise=2"]


def test_a_mistake_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "--out", str(tmp_path), "--sweep", "nois=1"]) == 2
    assert "unknown key in --sweep 'nois'; choose from: noise" in capsys.readouterr().err
