"""Kill cloud and edge at random moments, again and again: nothing may be lost.

    python benchmarks/crashes.py [--kills 20] [--seed 0] [--method hierarchical] [--out FOLDER]

Trains once undisturbed and once while a random side is killed with SIGKILL `--kills` times and
started again by the same command, with TLS. Both must end with the same weights, bit for bit: the
SHA-256 of the bundle's weights files of both sides are compared. The digits, 30 epochs of 22
batches; one edge. Exit code 0: equal.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

EAVES = (sys.executable, "-m", "eaves")
CONFIG = 'data = "digits"\nepochs = {epochs}\nbatch_size = 64\nmethod = "{method}"\n'


@dataclass
class Side:
    """One of the two processes, started by the same command every time."""

    name: str
    command: tuple[str, ...]
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.folder / f"{self.name}.log"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, cwd=self.folder, stdout=log, stderr=log)
        self.starts += 1

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--method", default="hierarchical")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with TemporaryDirectory() as temporary:
        folder = options.out or Path(temporary)
        config = CONFIG.format(epochs=options.epochs, method=options.method)
        undisturbed = train(folder / "undisturbed", config, kills=0, seed=options.seed)
        print(f"undisturbed: {undisturbed}", flush=True)
        disturbed = train(folder / "disturbed", config, kills=options.kills, seed=options.seed)
        print(f"killed:      {disturbed}")
    equal = undisturbed == disturbed
    print("equal, bit for bit" if equal else "NOT EQUAL")
    return 0 if equal else 1


def train(folder: Path, config: str, *, kills: int, seed: int) -> dict[str, str]:
    """Train with so many kills; return the digests of both sides' weights."""
    folder.mkdir(parents=True)
    (folder / "run.toml").write_text(config)
    listen = f"127.0.0.1:{free_port()}"
    cloud = Side(
        "cloud",
        (*EAVES, "serve", "run.toml", "--listen", listen, "--checkpoint-s", "0.5"),
        folder,
    )
    edge = Side(
        "edge",
        (
            *EAVES,
            "agent",
            "run.toml",
            "--cloud",
            listen,
            "--checkpoint-s",
            "0.7",
            "--max-backoff-s",
            "0.5",
        ),
        folder,
    )
    cloud.start()
    wait_for(folder / "certs" / "devices" / "edge-1" / "key.pem")
    edge.start()
    chance, killed = random.Random(seed), {"cloud": 0, "edge": 0}
    while edge.alive:
        if sum(killed.values()) < kills:
            time.sleep(chance.uniform(0.2, 5.0))
            victim = chance.choice((cloud, edge))
            if victim.alive:
                victim.kill()
                killed[victim.name] += 1
                victim.start()
        else:
            time.sleep(0.1)
    print(f"{sum(killed.values())} kills: {killed}", flush=True)
    assert edge.process is not None
    assert cloud.process is not None
    if edge.process.returncode != 0 or sum(killed.values()) < kills:
        raise SystemExit(
            f"the edge ended with {edge.process.returncode} after {sum(killed.values())} kills "
            f"(raise --epochs for more):\n{edge.log.read_text()[-2000:]}"
        )
    cloud.process.terminate()
    cloud.process.wait()
    bundles = {"cloud": folder / "runs/cloud/bundle", "edge": folder / "runs/agent/bundle"}
    return {
        side: json.loads((bundle / "manifest.json").read_text())["sha256"][side][:16]
        for side, bundle in bundles.items()
    }


def wait_for(path: Path) -> None:
    for _ in range(300):
        if path.exists():
            return
        time.sleep(0.1)
    raise SystemExit(f"{path} did not appear")


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
