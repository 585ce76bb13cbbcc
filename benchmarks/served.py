"""A real `eaves serve` on loopback, for the benchmarks of the network: start, watch, stop."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from eaves.network.certificates import initialise

LOOPBACK = "127.0.0.1"
_START_S, _STOP_S = 60.0, 120.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Served:
    """One `eaves serve` (or several, started by torchrun) with a folder of its own.

    The certificates are in ``folder/certs``; the log is ``folder/NAME.log``.
    """

    def __init__(
        self,
        folder: Path,
        config: str,
        *options: str,
        insecure: bool = False,
        processes: int = 1,
        name: str = "cloud",
    ):
        """``config`` is the TOML of the training; ``options`` are those of `eaves serve`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.certs, self.log = folder / "certs", folder / f"{name}.log"
        if not (insecure or self.certs.exists()):
            initialise(self.certs, ("localhost", LOOPBACK))
        access = ("--insecure",) if insecure else ("--credentials", str(self.certs / "server"))
        run = folder / f"{name}.toml"
        run.write_text(config)
        port, metrics = free_ports(processes), free_ports(processes)
        self.address, self._metrics = f"{LOOPBACK}:{port}", f"{LOOPBACK}:{metrics}"
        self._stdout = folder / f"{name}.json"
        # fmt: off
        self._command = (
            *starter(processes), "-m", "eaves", "serve", str(run), "--listen", self.address,
            "--metrics", self._metrics, "--out", str(folder / name), "--json", *access, *options,
        )
        # fmt: on
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Served":
        with self.log.open("wb") as log, self._stdout.open("wb") as stdout:
            # Not as a flag: torchrun takes --log for one of its own, wherever it stands.
            environ = {**os.environ, "EAVES_SERVE_LOG": "json"}
            self._process = subprocess.Popen(self._command, stdout=stdout, stderr=log, env=environ)
        deadline = time.monotonic() + _START_S
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                raise SystemExit(f"the cloud did not start:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self) -> dict[str, Any]:
        """End it with SIGTERM; return what it printed: its counts, and the account of each edge."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(_STOP_S)
        return self.printed()

    def wait(self, timeout_s: float) -> dict[str, Any]:
        """Wait until it ends by itself (--exit-when-done); return what it printed."""
        assert self._process is not None
        self._process.wait(timeout_s)
        return self.printed()

    def printed(self) -> dict[str, Any]:
        lines = self._stdout.read_text().splitlines()
        if not lines:
            raise SystemExit(f"the cloud printed nothing:\n{self.log.read_text()[-3000:]}")
        found: dict[str, Any] = json.loads(lines[-1])
        return found

    def figures(self) -> dict[str, float]:
        """Return what Prometheus would read now, by name."""
        with urllib.request.urlopen(f"http://{self._metrics}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.split() for line in lines if not line.startswith("#"))
        return {name.removeprefix("eaves_").removesuffix("_total"): float(v) for name, v in pairs}

    def _listens(self) -> bool:
        host, port = self.address.split(":")
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            return False
        return True


def starter(processes: int) -> tuple[str, ...]:
    """Return the command that starts Python, so many times."""
    if processes == 1:
        return (sys.executable,)
    run = (sys.executable, "-m", "torch.distributed.run")
    return (*run, "--nproc-per-node", str(processes), "--master-port", str(free_ports(1)))


def free_ports(count: int) -> int:
    """Return the first of so many neighbouring ports that nobody listens on."""
    while True:
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            first: int = probe.getsockname()[1]
        if all(_free(first + i) for i in range(count)):
            return first


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except (OSError, OverflowError):
            return False
    return True


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process (Linux)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def cpu_s(pid: int) -> float:
    """Return the seconds of CPU that a process has used (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def facts() -> dict[str, Any]:
    """Return what a measurement was made with."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {"command": sys.argv, "cores": os.cpu_count(), "commit": commit}


def write_json(path: Path | None, results: dict[str, Any]) -> None:
    """Write results with the facts beside them, if a file was asked for."""
    if path is not None:
        path.write_text(json.dumps({**facts(), "results": results}, indent=1) + "\n")
