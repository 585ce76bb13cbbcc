"""The examples run as they stand, and the demo keeps its promise."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import eaves
from eaves.commands.main import parse
from eaves.commands.train import Train

_ROOT = Path(__file__).parents[1]
_EXAMPLES = sorted((_ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("example", _EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(example: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(example), "--smoke"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "NOT equal" not in done.stdout


def test_own_net_leaves_a_bundle_of_two_halves(tmp_path: Path) -> None:
    example = _ROOT / "examples" / "own_net.py"
    config = ["--net", f"{example}:OwnNet", "--cut", "join", "--max-steps", "1"]
    command = parse(["train", *config, "--out", str(tmp_path)])
    assert isinstance(command, Train)
    *_, record = eaves.run(command.settings)
    assert isinstance(record, eaves.RunRecord)
    assert record.cut == "join"
    weights = (tmp_path / "bundle").glob("*/weights.safetensors")
    assert {path.parent.name for path in weights} == {"edge", "cloud"}


def _demo_flags() -> list[str]:
    makefile = (_ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.search(r"^DEMO_FLAGS := (.+)$", makefile, re.MULTILINE)
    assert found, "the Makefile defines no DEMO_FLAGS"
    return shlex.split(found[1])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("send", ["every-epoch", "once"])
def test_demo_reaches_its_accuracy(send: str, seed: int, tmp_path: Path) -> None:
    flags = [*_demo_flags(), "--send", send, "--seed", str(seed), "--out", str(tmp_path)]
    command = parse(["train", *flags])
    assert isinstance(command, Train)
    *_, record = eaves.run(command.settings)
    assert isinstance(record, eaves.RunRecord)
    cloud, early = record.accuracy["cloud"], record.accuracy["exit"]
    assert cloud is not None
    assert early is not None
    assert cloud["value"] >= 0.97
    assert early["value"] >= 0.95
