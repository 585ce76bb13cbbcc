"""Eaves as a peer: the real `eaves serve` and `eaves agent`, two processes on loopback.

    EAVES_DATA=... python -m benchmarks.peers.eaves_run plain|tls [--batches 1000] [--warm-up 100]

Hierarchical training, fp32 features, with everything that a user gets: the durable spool,
checkpoints, metrics. The images are those of CIFAR-10, in 8 bits from memory. The rate is that
between two readings of the cloud's own metrics, after the warm-up and before the end.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.peers.workload import BATCH, LEARNING_RATE, loopback_bytes, options

EAVES = (sys.executable, "-m", "eaves")
CONFIG = """
data = "cifar10"
net = "{net}:PeerNet"
cut = "edge"
exit = "linear"
codec = "fp32"
augment = "none"
batch_size = {batch}
epochs = {epochs}
max_steps = {steps}
lr = {lr}
"""
NET = """
from benchmarks.peers.workload import cloud_part, edge_part
from torch import nn

class PeerNet(nn.Sequential):
    def __init__(self, classes, input_shape):
        super().__init__()
        self.edge = edge_part()
        self.cloud = cloud_part()
"""
EVERY_S = 0.25
Reading = tuple[float, int, int]


def main() -> None:
    wanted = options(__doc__, "plain", "tls")
    steps = wanted.warm_up + wanted.batches + 100  # the end is not counted
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "peernet.py").write_text(NET)
        config = CONFIG.format(
            net=folder / "peernet.py",
            batch=BATCH,
            steps=steps,
            epochs=-(-steps * BATCH // 50_000) + 1,
            lr=LEARNING_RATE,
        )
        (folder / "run.toml").write_text(config)
        readings = measured(folder, wanted.mode == "plain", steps)
    inside = [r for r in readings if wanted.warm_up <= r[1] <= steps - 50]
    (began_s, first, before), (ended_s, last, after) = inside[0], inside[-1]
    found = {
        "name": f"eaves {wanted.mode}",
        "samples_per_s": round((last - first) * BATCH / (ended_s - began_s), 1),
        "bytes_per_sample": round((after - before) / ((last - first) * BATCH), 1),
        "batches": last - first,
        "note": "one-way, durable, " + ("no TLS" if wanted.mode == "plain" else "mutual TLS"),
    }
    print(json.dumps(found), flush=True)


def measured(folder: Path, plain: bool, steps: int) -> list[Reading]:
    """Train, and return (time, uploads applied, bytes on loopback), read now and then."""
    cloud_at, metrics_at = (f"127.0.0.1:{free_port()}" for _ in range(2))
    how = ("--insecure",) if plain else ()
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path[1:]])}
    cloud_words = ("--listen", cloud_at, "--metrics", metrics_at, *how)
    edge_words = ("--cloud", cloud_at, "--spool-mb", "256", "--spool-memory-mb", "256", *how)
    with (folder / "log").open("wb") as log:
        cloud = subprocess.Popen(
            (*EAVES, "serve", "run.toml", *cloud_words), cwd=folder, env=environ, stderr=log
        )
        try:
            wait_for(metrics_at, folder / "log", cloud)
            edge = subprocess.Popen(
                (*EAVES, "agent", "run.toml", *edge_words),
                cwd=folder,
                env=environ,
                stdout=log,
                stderr=log,
            )
            readings = [reading(metrics_at)]
            while edge.poll() is None and readings[-1][1] < steps:
                time.sleep(EVERY_S)
                readings.append(reading(metrics_at))
            edge.send_signal(signal.SIGTERM)  # what comes after training does not count
            edge.wait()
            if readings[-1][1] < steps:
                raise SystemExit((folder / "log").read_text()[-2000:])
        finally:
            cloud.kill()
            cloud.wait()
    return readings


def reading(metrics_at: str) -> Reading:
    with urllib.request.urlopen(f"http://{metrics_at}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    (uploads,) = (line.split()[1] for line in lines if line.startswith("eaves_uploads_total"))
    return time.perf_counter(), int(float(uploads)), loopback_bytes()


def wait_for(metrics_at: str, log: Path, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(600):
        try:
            reading(metrics_at)
            return
        except (urllib.error.URLError, ConnectionError):
            if process.poll() is not None:
                break
            time.sleep(0.1)
    raise SystemExit(log.read_text()[-2000:])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
