"""What a run leaves behind: one flat record with everything needed to repeat it."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import torch

from eaves import __version__
from eaves.core.rates import Rate
from eaves.experiments.build import Job
from eaves.experiments.config import without_places
from eaves.runtime.files import expect_format, write_atomically
from eaves.runtime.meters import Totals
from eaves.runtime.sealed import CHECKSUM, sealed_json, unsealed_json

FORMAT: Final = 1


@final
@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run in figures. Times are in seconds; ``bytes`` counts real payloads, labels included."""

    method: str
    net: str
    cut: str | None
    data: str
    """As the set calls itself: one that is synthetic says so."""
    codec: str | None
    link: str
    send: str
    epochs: int
    steps: int
    samples: int
    """Examples that training took, each as often as it did."""
    train_size: int
    seed: int
    config_hash: str
    config: dict[str, Any]
    versions: dict[str, str]
    hardware: dict[str, Any]
    accuracy: dict[str, dict[str, float | int] | None]
    time: dict[str, float]
    bytes: dict[str, float | None]
    memory: dict[str, int]
    complete: bool
    privacy: dict[str, Any] | None = None
    """What was hidden, by which noise, and what that proves; None where nothing was."""
    network: dict[str, Any] | None = None
    """How the run went over a network; None where the link was emulated."""
    better: dict[str, Any] | None = None
    """Which half answers the test set better (see :func:`better_of`); None: there is one only."""
    notices: list[str] = field(default_factory=list)
    """What was left out of the data, which classes lack examples, and what makes the accuracy
    another one in use: sentences for people."""
    checksum: str = field(default="", compare=False)
    """Of all other fields, as ``record.json`` has it; empty before it was written."""
    identity: dict[str, Any] | None = None
    """What it learnt from, and the net: digests that tell whether another run is of the same."""
    format: int = FORMAT

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name, without the checksum."""
        return {name: value for name, value in asdict(self).items() if name != CHECKSUM}

    def to_line(self) -> str:
        """Return the record as one line of JSON."""
        return json.dumps(self.as_json(), allow_nan=False)


def record_of(
    job: Job,
    totals: Totals,
    steps: int,
    accuracy: dict[str, Rate | None],
    *,
    complete: bool,
    identity: str = "",
) -> RunRecord:
    """Put together the record of a run that took ``steps`` steps.

    ``identity`` is the SHA-256 of the fingerprint that the run left, if any.
    """
    config = job.config
    sends = config.spec.sends != "nothing"
    return RunRecord(
        method=config.method,
        net=without_places({"net": config.net})["net"],
        cut=job.cut,
        data=job.dataset.name,
        codec=job.wire.codec.name if sends else None,
        link=config.link,
        send="once" if config.sends_once else "every-epoch",
        epochs=config.epochs,
        steps=steps,
        samples=totals.samples,
        train_size=len(job.dataset.train),
        seed=config.seed,
        config_hash=config.hash(),
        config=config.to_dict(),
        versions=versions(),
        hardware=_hardware_of(job),
        accuracy={k: None if rate is None else rate.as_json() for k, rate in accuracy.items()},
        time=_times(totals),
        bytes=_bytes(totals),
        memory={name: getattr(totals, name) for name in ("edge_peak_bytes", "cloud_peak_bytes")},
        complete=complete,
        privacy=job.privacy,
        better=better_of(accuracy),
        notices=list(job.dataset.notices),
        identity={"sha256": identity, "net": job.net.as_json()} if identity else None,
    )


def _hardware_of(job: Job) -> dict[str, Any]:
    found = hardware(job.config.threads)
    return found if job.precision is None else found | {"precision_chosen": asdict(job.precision)}


def better_of(accuracy: Mapping[str, Rate | None]) -> dict[str, Any] | None:
    """Return which half answers better: ``half`` is exit, cloud, or equal within the interval.

    ``by`` is the accuracy of the exit less that of the cloud, ``low`` and ``high`` the ends of its
    95 % interval. None where one of them has no answers.

    >>> better_of({"cloud": Rate.of(702, 1000), "exit": Rate.of(704, 1000)})["half"]
    'equal within the interval'
    """
    cloud, early = accuracy.get("cloud"), accuracy.get("exit")
    if cloud is None or early is None:
        return None
    # The interval is for independent rates, and too wide where both halves are right together: a
    # difference is claimed too seldom rather than too often.
    gap, low, high = early.minus(cloud)
    half = "exit" if low > 0 else "cloud" if high < 0 else "equal within the interval"
    return {"half": half, "by": gap, "low": low, "high": high, "n": early.n}


def write_record(folder: Path, record: RunRecord) -> None:
    """Write ``record.json``; raises :class:`StorageError`."""
    write_atomically(folder / "record.json", sealed_json(record.as_json()))


def read_record(folder: Path) -> RunRecord | None:
    """Return the record that a run left; None where there is none, or only a part of one.

    Raises:
        StateError: a newer Eaves has written it.
    """
    path = folder / "record.json"
    try:
        content = path.read_bytes()
        written = json.loads(content).get("format", 1)
    except (OSError, ValueError, RecursionError, AttributeError):
        return None
    if type(written) is int and written > FORMAT:  # whatever checksums mean there
        expect_format(written, FORMAT, place=path, kind="a record")
    try:
        return RunRecord(**unsealed_json(content))
    except (TypeError, ValueError):  # of an older version, or none at all
        return None


def _bytes(totals: Totals) -> dict[str, float | None]:
    per_sample = totals.bytes_up / totals.sent_samples if totals.sent_samples else None
    return {"up": totals.bytes_up, "down": totals.bytes_down, "per_sample_up": per_sample}


def _times(totals: Totals) -> dict[str, float]:
    times = {"wall_s": totals.wall_s}
    for name in ("edge", "link", "cloud"):
        for kind, seconds in asdict(getattr(totals, name)).items():
            times[f"{name}_{kind}"] = seconds
    return {name: round(seconds, 4) for name, seconds in times.items()}


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {
        "eaves": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def hardware(threads: int) -> dict[str, Any]:
    """Return what this machine is."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": _cpu_name(), "cores": os.cpu_count(), "threads_per_side": threads, "gpu": gpu}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
