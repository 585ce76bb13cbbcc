"""What tests of more than one folder share: the command, and figures of a net written by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, final

import pytest

from eaves.cli import main
from eaves.planner.profile import (
    INPUT,
    CodecCost,
    Profile,
    Seconds,
    Stage,
    StageTimes,
    Subject,
    reply_to,
)


@final
class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def eaves(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ended]:
    """Return the command as a function in this process; no data root is set."""
    monkeypatch.delenv("EAVES_DATA", raising=False)

    def run(*words: str | Path) -> Ended:
        try:
            code = main([str(word) for word in words])
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Ended(code, *capsys.readouterr())

    return run


# The small net on the digits, in batches of 128: names, output shapes, weights, MACs, times in ms.
_STAGES = (
    ("conv1", (32, 8, 8), 352, 18_432.0, 1.0),
    ("conv2", (64, 4, 4), 18_560, 294_912.0, 2.0),
    ("conv3", (128, 2, 2), 73_984, 294_912.0, 4.0),
    ("head", (10,), 1_290, 1_280.0, 0.25),
)
_BYTES = {
    INPUT: {"raw": 65.0, "png": 80.0},
    "conv1": {"int8": 2_049.0, "int4+zstd": 580.0},
    "conv2": {"int8": 1_025.0, "int4+zstd": 260.0},
    "conv3": {"int8": 513.0, "int4+zstd": 135.0},
    reply_to("conv1"): {"fp16": 4_096.0},
    reply_to("conv2"): {"fp16": 2_048.0},
    reply_to("conv3"): {"fp16": 1_024.0},
}


def _stage(name: str, shape: tuple[int, ...], params: int, macs: float, ms: float) -> Stage:
    def times(factor: float) -> Seconds:
        return Seconds(ms * factor * 1e-3, 1e-5)

    return Stage(
        name=name,
        output_shape=shape,
        params=params,
        buffer_bytes=64,
        forward_macs=macs,
        backward_macs=2 * macs,
        backward_leaf_macs=macs,
        kept_bytes=4_096.0,
        kept_fixed_bytes=256.0,
        moved_bytes=16_384.0,
        operations=4,
        times=StageTimes(times(1), times(2), times(1.5), times(0.25), times(0.5)),
    )


@pytest.fixture(scope="session")
def figures() -> Profile:
    """Return a profile of ``small`` on the digits, as if this machine had been measured."""
    stages = tuple(_stage(*facts) for facts in _STAGES)
    coded = {
        where: tuple(
            CodecCost(codec=name, bytes_per_sample=n, encode=Seconds(1e-3), decode=Seconds(5e-4))
            for name, n in sizes.items()
        )
        for where, sizes in _BYTES.items()
    }
    return Profile(
        subject=Subject(
            net="small",
            stem=None,
            input_shape=(1, 8, 8),
            classes=10,
            batch_size=128,
            precision="fp32",
            exit="conv",
            version="0",
            structure="0",
        ),
        machine={"cpu": "Some CPU", "gpu": None},
        payloads_from="digits",
        samples=1_437,
        fetch=Seconds(5e-4),
        contention=1.5,
        stages=stages,
        exits={s.name: _stage("exit", (10,), 1_290, 1_280.0, 0.5) for s in stages[:-1]},
        codecs=coded,
        peak_bytes={"conv1": 9_000_000, "conv2": 8_000_000, "conv3": 7_000_000, "head": 5_000_000},
    )


@pytest.fixture
def profile_file(figures: Profile, tmp_path: Path) -> Path:
    """Return a file of :func:`figures`."""
    path = tmp_path / "edge.json"
    path.write_text(figures.to_json())
    return path
