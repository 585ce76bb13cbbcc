"""Golden runs: what one short run of everything leaves, as digests that a restructuring must keep.

    python -m tests.golden.runs                   print the digests of all runs, as JSON
    python -m tests.golden.runs --only split      of some
    python -m tests.golden.runs --freeze          write them to frozen.json, of all or of some

A digest of weights says nothing about how well anything works: it says that nothing has changed.
Where a commit means to change what it covers, it freezes that run again, and says so.

Weights depend on the last bit of every operation, and a processor with wider registers adds in
another order. So these runs are made in a process of their own, in PORTABLE: kernels that all
x86-64 processors run alike, in one thread.
"""

import argparse
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy
import torch
import zstandard

from eaves.codecs.upload import pack_upload
from eaves.experiments.agent import run_agent
from eaves.experiments.auditconfig import AuditConfig
from eaves.experiments.auditing import AuditRecord, run_audit
from eaves.experiments.build import build_job
from eaves.experiments.config import TrainConfig
from eaves.experiments.halves import Origin, open_origin, write_untrained
from eaves.experiments.mixingconfig import MixingConfig
from eaves.experiments.netconfig import AgentConfig, ServeConfig
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.record import RunRecord
from eaves.experiments.run import run
from eaves.experiments.serve import serve
from eaves.experiments.siameseconfig import SiameseConfig
from eaves.network.channel import insecure_target
from eaves.network.credentials import Gate

FROZEN: Final = Path(__file__).with_name("frozen.json")
PORTABLE: Final = {
    "ATEN_CPU_CAPABILITY": "default",
    "DNNL_MAX_CPU_ISA": "SSE41",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4,-AVX512F",
    "MKL_CBWR": "COMPATIBLE",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_CORETYPE": "Nehalem",
    "OPENBLAS_NUM_THREADS": "1",
}
"""The environment of a golden run."""

BASE: Final = TrainConfig(
    train_samples=192, batch_size=32, epochs=2, bottleneck=8, codec="int4+zstd", seed=5
)  # 6 steps an epoch
ONCE: Final[Mapping[str, Any]] = {"send": "once", "copies": 2, "cloud_epochs": 4}
HIDDEN: Final[Mapping[str, Any]] = {
    "data": "digits:parity",
    "bottleneck": "2x2x2",
    "privacy": PrivacyConfig(private="high", adversary_steps=2, restarts=1),
}
EVERY_EPOCH: Final[Mapping[str, Any]] = {
    **HIDDEN,
    "send": "every-epoch",
    "privacy": PrivacyConfig(private="high", keep_training=True, noise="laplace"),
}
TUNED: Final = SiameseConfig(components=4, tune_epochs=1, adapt_epochs=1)

TRAININGS: Final[Mapping[str, Mapping[str, Any]]] = {
    "hierarchical": {},
    "hierarchical-once": {**ONCE, "feature_augment": "flip"},
    "full-cloud": {"method": "full-cloud", "input_codec": "png"},
    "full-cloud-once": {"method": "full-cloud", "send": "once", "augment": "crop"},
    "full-edge": {"method": "full-edge"},
    "split": {"method": "split", "codec": "int8+zstd"},
    "priphit": {**HIDDEN, "method": "priphit", "copies": 2, "cloud_epochs": 4},
    "priphit-every-epoch": {**EVERY_EPOCH, "method": "priphit"},
    "nopeek": {**HIDDEN, "method": "nopeek"},
    "disco": {**HIDDEN, "method": "disco"},
    "deepobfuscator": {**HIDDEN, "method": "deepobfuscator"},
    "datamix": {"method": "datamix", "bottleneck": None},
    "datamix-hardened": {
        "method": "datamix",
        "mixing": MixingConfig(hardened=True),
        "privacy": PrivacyConfig(noise_scale=0.1),
    },
    "siamese": {"method": "siamese", "bottleneck": None, "siamese": TUNED},
}
INTERRUPTED: Final = ("hierarchical-once", "split", "priphit", "siamese")
"""Trainings that are killed on their way, too, and must end all the same."""
NETWORKED: Final[Mapping[str, set[str]]] = {
    "hierarchical": set(),
    "hierarchical-once": set(),
    "full-cloud-once": {"identity"},  # it starts from a bundle, whose session has a random name
    "split": set(),
    # The key of its noise is another one each time, and so is what the cloud learns from.
    "priphit": {"accuracy", "better", "bytes", "cloud"},
}
"""Trainings over gRPC, and what is not the same each time."""
AUDITED: Final[Mapping[str, AuditConfig]] = {
    "priphit": AuditConfig(
        attacks="all", known=400, searched=4, effort=0.02, patience=1e3, seeds=1, gallery=0
    ),
    "datamix": AuditConfig(private="high", data="digits:parity", known=400, effort=0.02,
                           patience=1e3, seeds=1, gallery=0),
    "siamese": AuditConfig(attacks="rank", known=400, gallery=0),
}  # fmt: skip

Digests = dict[str, Any]


def config_of(name: str, out: Path) -> TrainConfig:
    """Return the configuration of a training, in a folder."""
    return replace(BASE, out=out, **TRAININGS[name])


def trained(name: str, folder: Path) -> Digests:
    """Train over the emulated link; return digests of all that is left, and of what travels."""
    out = folder / name
    *_, record = run(config_of(name, out))
    assert isinstance(record, RunRecord)
    assert record.complete
    return {
        "weights": weights_of(out),
        "record": of_record(record),
        "payloads": payloads_of(config_of(name, folder / "unused")),
    }


def interrupted(name: str, folder: Path) -> Digests:
    """Train in a process that is killed again and again; return digests of the weights."""
    out = folder / name
    command = [sys.executable, "-m", "tests.golden.runs", "--killed", name, str(out)]
    for kills in range(40):
        code = subprocess.run(command, check=False).returncode
        if code == 0:
            assert kills, "no process was killed"
            return {"weights": weights_of(out)}
        assert code == -signal.SIGKILL, f"a process that goes on ended with {code}"
    raise AssertionError("40 kills, and no end")


def killed_on_the_way(name: str, out: Path) -> None:
    """Go on with a training, and kill this process at its eighth new checkpoint."""
    checkpoint = out / "checkpoint" / "checkpoint.json"

    def saved() -> int:
        return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0

    def watch() -> None:
        seen, changes = saved(), 0
        while changes < 8:
            if (now := saved()) != seen:
                seen, changes = now, changes + 1
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    for _ in run(replace(config_of(name, out), checkpoint_s=0.0), resume=True):
        pass


def networked(name: str, folder: Path) -> Digests:
    """Train over gRPC on loopback; return digests of both sides' weights, and of the record."""
    config, stop = config_of(name, folder / "unused"), threading.Event()
    origin = Origin(config=config)
    if config.method == "full-cloud":  # whose cloud has to be told the mean of the inputs
        write_untrained(config, folder / "untrained")
        origin = open_origin(folder / "untrained")
    cloud = ServeConfig(
        listen="127.0.0.1:0", insecure=True, out=folder / "cloud", exit_when_done=True
    )
    events = serve(origin, cloud, Gate(None), None, stop=stop)
    port = next(events).port
    ended = threading.Thread(target=lambda: [*events])
    ended.start()
    agent = AgentConfig(insecure=True, out=folder / "agent")
    target = insecure_target(f"127.0.0.1:{port}", "edge-1")
    *_, record = run_agent(origin, agent, target, stop=threading.Event())
    ended.join(60)
    assert isinstance(record, RunRecord)
    assert record.complete
    weights, fields = weights_of(folder / "agent") | weights_of(folder / "cloud"), of_record(record)
    varies = NETWORKED[name]
    return {
        "weights": {side: value for side, value in weights.items() if side not in varies},
        "record": {key: value for key, value in fields.items() if key not in varies},
    }


def audited(name: str, folder: Path) -> Digests:
    """Audit a training's bundle; return the digest of all figures."""
    for _ in run(config_of(name, folder / name)):
        pass
    *_, record = run_audit(folder / name, AUDITED[name])
    assert isinstance(record, AuditRecord)
    assert record.complete
    assert not record.ended_by_time
    found = without(
        record.as_json(), {"folder", "session", "versions", "hardware", "out", "time_s"}
    )
    return {key: digest(value) for key, value in sorted(found.items())}


KINDS: Final[Mapping[str, tuple[Callable[[str, Path], Digests], tuple[str, ...]]]] = {
    "trained": (trained, tuple(TRAININGS)),
    "interrupted": (interrupted, INTERRUPTED),
    "networked": (networked, tuple(NETWORKED)),
    "audited": (audited, tuple(AUDITED)),
}
"""What is done, and of which trainings."""
RUNS: Final = tuple(f"{kind}:{name}" for kind, (_, names) in KINDS.items() for name in names)


def weights_of(out: Path) -> dict[str, str]:
    """Return the SHA-256 of the weights of each side in a bundle."""
    paths = sorted((out / "bundle").glob("*/weights.safetensors"))
    return {path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def of_record(record: RunRecord) -> dict[str, str]:
    """Return a digest of each field that does not depend on time, place or machine."""
    dropped = {"time", "memory", "hardware", "versions", "out", "run", "session", "cloud"}
    found = without(record.as_json(), dropped | {"connections"})
    return {key: digest(value) for key, value in sorted(found.items())}


def without(found: Any, names: set[str]) -> Any:
    """Return JSON without the fields of these names, at any depth.

    >>> without({"time_s": 1, "rows": [{"n": 2, "time_s": 3}]}, {"time_s"})
    {'rows': [{'n': 2}]}
    """
    if isinstance(found, dict):
        kept = {key: value for key, value in found.items() if key not in names or key == "better"}
        return {key: without(value, names) for key, value in kept.items()}
    return [without(one, names) for one in found] if isinstance(found, list | tuple) else found


def digest(value: object) -> str:
    """Return the SHA-256 of JSON, in 16 digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def payloads_of(config: TrainConfig) -> dict[str, str]:
    """Return the SHA-256 of the bytes of one upload and one query, of nets that learnt nothing."""
    job, found = build_job(config), {}
    batch, codec = job.dataset.test.fetch(torch.arange(32)), job.wire.codec
    features, _ = job.method.edge_predictor.predict(batch.inputs)
    if features is not None:
        queries, _ = job.method.shield.protect(features)
        found["query"] = hashlib.sha256(codec.encode(queries)).hexdigest()
    upload, _ = (job.method.sender or job.method.edge).step(batch)
    if upload is not None:
        packed = pack_upload(upload.features, upload.labels, codec)
        found["upload"] = hashlib.sha256(packed).hexdigest()
    return found


def portable() -> None:
    """Leave out what PORTABLE cannot: kernels that are chosen by the size of caches."""
    torch.set_num_threads(1)
    torch.backends.mkldnn.set_flags(_enabled=False)  # type: ignore[no-untyped-call]  # torch has no types here


def made(runs: tuple[str, ...]) -> dict[str, Digests]:
    """Make golden runs in this process, which has to be in PORTABLE."""
    portable()
    found = {}
    for run_name in runs:
        kind, _, name = run_name.partition(":")
        with tempfile.TemporaryDirectory() as folder:
            found[run_name] = KINDS[kind][0](name, Path(folder))
    return found


def made_apart(runs: tuple[str, ...]) -> dict[str, Digests]:
    """Make golden runs in a process of their own, in PORTABLE."""
    command = [sys.executable, "-m", "tests.golden.runs", "--here", "--only", *runs]
    done = subprocess.run(
        command, env=os.environ | PORTABLE, stdout=subprocess.PIPE, check=True, text=True
    )
    found: dict[str, Digests] = json.loads(done.stdout.splitlines()[-1])
    return found


def versions() -> dict[str, str]:
    """Return what the frozen digests hold for."""
    return {
        "machine": platform.machine(),
        "torch": torch.__version__.partition("+")[0],
        "numpy": numpy.__version__,
        "zstandard": zstandard.__version__,
    }


def frozen() -> dict[str, Any]:
    """Return what is in frozen.json: ``versions`` and ``runs``."""
    content: dict[str, Any] = json.loads(FROZEN.read_text())
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", default=RUNS, choices=RUNS, help="by default all")
    parser.add_argument("--freeze", action="store_true", help="write frozen.json")
    parser.add_argument("--here", action="store_true", help="in this process and environment")
    parser.add_argument("--killed", nargs=2, metavar=("NAME", "OUT"), help="of interrupted runs")
    options = parser.parse_args()
    if options.killed:
        portable()
        killed_on_the_way(options.killed[0], Path(options.killed[1]))
        return
    runs = tuple(options.only)
    found = made(runs) if options.here else made_apart(runs)
    print(json.dumps(found, indent=None if options.here else 1))  # noqa: T201  # a script
    if options.freeze:
        before = frozen()["runs"] if FROZEN.exists() else {}
        kept = {name: (before | found)[name] for name in RUNS if name in before | found}
        content = json.dumps({"versions": versions(), "runs": kept}, indent=1)
        FROZEN.write_text(content + "\n")


if __name__ == "__main__":
    main()
