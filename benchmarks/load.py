"""One cloud under the load of hundreds of edges: latency, memory, and that nothing is lost.

    python -m benchmarks.load [--edges 500] [--active 64] [--minutes 10] [--json FILE]

A real `eaves serve` with TLS on loopback, and E light edges in one process of their own
(swarm.py: gRPC without torch, uploads of a small net encoded beforehand), each with credentials of
its own. All are connected all the time; A of them are active at any moment, and every few seconds
one edge takes the place of another, so that all have their turns.

1. Every edge connects and sends one upload.
2. Closed loop for a while: each active edge keeps two uploads on their way. What the cloud applies
   in a second is its capacity, on this machine and with the swarm beside it.
3. Open loop for --minutes: uploads at random moments (Poisson) at 60 % of that.
4. All edges finish; the cloud is stopped by SIGTERM.

latency      from the moment an edge makes an upload to its receipt that says `applied`:
             median, 99th percentile, and their ratio                           (target: below 20)
lost         uploads made less applied, and less durable, summed over the edges    (target: 0, 0)
memory       resident memory of the cloud over step 3: slope with its 95 % interval, and the last
             tenth of the time over the second tenth (with 10 minutes: the last minute over the
             second)                                               (target: flat, 1.02 or less)
CPU          seconds of CPU by seconds of the clock in step 3, of cloud and swarm

`lag` says how late the swarm itself was with an upload: where its 99th percentile comes near the
latency's, the machine is too busy to judge the cloud. `kept` is the rate that the swarm really had.
The file of --json has the memory at every second. Exit code 0: all targets are met.

On a machine with two cores, 500 edges take about a minute to connect and measure, besides
--minutes.
"""

import argparse
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from benchmarks.served import Served, cpu_s, rss_bytes, write_json
from benchmarks.swarm import Spec
from scipy.stats import linregress, t

from eaves.codecs.upload import pack_upload
from eaves.experiments.halves import edge_job, open_origin
from eaves.experiments.phases import edge_phases
from eaves.network.certificates import make_device, make_token
from eaves.network.wire import pack_terms

STEPS = 10_000  # of each edge: more than it makes
CONFIG = """
data = "digits"
net = "small"
cut = "{cut}"
batch_size = {batch}
codec = "int8+zstd"
lr = 0.01
epochs = 1
"""
PAYLOADS, SHARE, DEPTH = 16, 0.6, 2
RATIO, GROWTH, BLOCK_S = 20.0, 1.02, 10.0


class Swarms:
    """The processes with the edges; each command goes to all of them at once."""

    def __init__(self, specs: Sequence[Spec]):
        command = (sys.executable, "-m", "benchmarks.swarm")
        pipe = subprocess.PIPE
        self._running = [
            subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in specs
        ]
        for process, spec in zip(self._running, specs, strict=True):
            self._say(process, asdict(spec))

    def all(self, do: str, **arguments: float) -> list[dict[str, Any]]:
        """Give a command; return the answers when all are there."""
        for process in self._running:
            self._say(process, {"do": do, **arguments})
        return [self._hear(process) for process in self._running]

    def cpu_s(self) -> float:
        return sum(cpu_s(process.pid) for process in self._running)

    def close(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()

    def _say(self, process: "subprocess.Popen[str]", what: dict[str, Any]) -> None:
        assert process.stdin is not None
        process.stdin.write(json.dumps(what) + "\n")
        process.stdin.flush()

    def _hear(self, process: "subprocess.Popen[str]") -> dict[str, Any]:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit("the swarm has ended; its error is above")
        found: dict[str, Any] = json.loads(line)
        return found


class Sampler(threading.Thread):
    """The memory of a process, every second."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self._pid, self._over = pid, threading.Event()
        self.samples: list[tuple[float, int]] = []

    def run(self) -> None:
        started = time.monotonic()
        while not self._over.wait(1.0):
            self.samples.append((time.monotonic() - started, rss_bytes(self._pid)))

    def end(self) -> None:
        self._over.set()
        self.join()


def main() -> int:
    options = parse()
    torch.set_num_threads(1)
    with TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        config = CONFIG.format(cut=options.cut, batch=options.batch)
        served = Served(
            folder, config, "--edges", str(options.edges), "--auth", options.auth,
            "--max-edges", str(options.edges), "--total-steps", str(STEPS * options.edges),
        )  # fmt: skip
        specs = prepare(options, folder, served)
        with served:
            swarms = Swarms(specs)
            try:
                results = measure(options, served, swarms)
            finally:
                swarms.close()
    good = show(results)
    write_json(options.json, results)
    return 0 if good else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--edges", type=int, default=500)
    parser.add_argument("--active", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--auth", choices=("certificates", "tokens"), default="certificates")
    parser.add_argument("--swarms", type=int, default=1, help="processes with edges")
    parser.add_argument("--turn-s", type=float, default=5.0, help="how long an edge is active")
    parser.add_argument("--capacity-s", type=float, default=20.0, help="length of step 2")
    parser.add_argument("--rate", type=float, help="uploads a second in step 3; by default 60 %%")
    parser.add_argument("--cut", default="conv2")
    parser.add_argument("--batch", type=int, default=16, help="examples in an upload")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="work in this folder, and leave it")
    parser.add_argument("--json", type=Path, help="write JSON here")
    return parser.parse_args()


def prepare(options: argparse.Namespace, folder: Path, served: Served) -> list[Spec]:
    """Make credentials for every edge, and the payloads; return what the swarms are told."""
    make = make_token if options.auth == "tokens" else make_device
    homes = [str(make(served.certs, f"edge-{i}")) for i in range(options.edges)]
    job, terms = edge_job(open_origin(folder / "cloud.toml"))
    payloads = []
    for number, batch in enumerate(islice(edge_phases(job)[0].batches(job), PAYLOADS)):
        upload, _ = job.method.edge.step(batch)
        assert upload is not None
        path = folder / f"payload-{number}"
        path.write_bytes(pack_upload(upload.features, upload.labels, job.wire.codec))
        payloads.append(str(path))
    return [
        Spec(
            address=served.address,
            folders=homes[i :: options.swarms],
            payloads=payloads,
            terms=pack_terms(terms),
            steps=STEPS,
            active=max(1, options.active // options.swarms),
            turn_s=options.turn_s,
            seed=options.seed + i,
        )
        for i in range(options.swarms)
    ]


def measure(options: argparse.Namespace, served: Served, swarms: Swarms) -> dict[str, Any]:
    begun = swarms.all("connect")
    print(f"{options.edges} edges are connected after {longest(begun):.1f} s", flush=True)
    closed = swarms.all("closed", seconds=options.capacity_s, depth=DEPTH)
    capacity = sum(answer["applied"] / answer["wall_s"] for answer in closed)
    rate = options.rate or SHARE * capacity
    print(f"capacity {capacity:.0f} uploads/s; now {rate:.0f} for {options.minutes:g} min")
    sys.stdout.flush()
    before, busy, swarmed = served.figures(), cpu_s(served.pid), swarms.cpu_s()
    sampler = Sampler(served.pid)
    sampler.start()
    loaded = swarms.all("open", seconds=60 * options.minutes, rate=rate / options.swarms)
    sampler.end()
    after, wall_s = served.figures(), longest(loaded)
    shares = {
        "cloud_cpu": (cpu_s(served.pid) - busy) / wall_s,
        "swarm_cpu": (swarms.cpu_s() - swarmed) / wall_s,
        "step_share": (after["step_seconds"] - before["step_seconds"]) / wall_s,
    }
    finished = swarms.all("finish")
    made = {name: n for answer in finished for name, n in answer["made"].items()}
    latencies_s = [s for answer in loaded for s in answer["latencies_s"]]
    return {
        "edges": options.edges,
        "active": options.active,
        "auth": options.auth,
        "connect_s": longest(begun),
        "capacity_per_s": capacity,
        "rate_per_s": len(latencies_s) / wall_s,
        "wall_s": wall_s,
        **shares,
        "latency": quantiles(latencies_s),
        "lag": quantiles([s for answer in loaded for s in answer["lags_s"]]),
        "durable_s": longest(finished),
        "connections": sum(answer["connections"] for answer in finished),
        "problems": [problem for answer in finished for problem in answer["problems"]],
        "memory": memory(sampler.samples, 60 * options.minutes),
        "lost": lost(made, served.stop()),
    }


def longest(answers: Sequence[dict[str, Any]]) -> float:
    return max(float(answer["wall_s"]) for answer in answers)


def quantiles(values_s: Sequence[float]) -> dict[str, float]:
    names = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}
    found = np.quantile(np.array(values_s), list(names.values()))
    return {
        "n": len(values_s),
        **{f"{k}_ms": 1e3 * float(v) for k, v in zip(names, found, strict=True)},
    }


def lost(made: dict[str, int], printed: dict[str, Any]) -> dict[str, int]:
    """Compare what the edges made with the cloud's own accounts."""
    accounts = {account["edge"]: account for account in printed["edges"]}
    none = {"applied": 0, "durable": 0}
    return {
        "made": sum(made.values()),
        "not_applied": sum(n - accounts.get(e, none)["applied"] for e, n in made.items()),
        "not_durable": sum(n - accounts.get(e, none)["durable"] for e, n in made.items()),
        "learnt_from": printed["uploads"],
        "sent_again": printed["duplicates"],
        "refused": printed["refused"],
    }


def memory(samples: Sequence[tuple[float, int]], seconds: float) -> dict[str, Any]:
    """Return the slope over means of 10 s, after the first tenth, and the last tenth's growth."""
    at_s, taken = np.array(samples).T
    tenth_s = seconds / 10
    second = taken[(at_s >= tenth_s) & (at_s < 2 * tenth_s)]
    last = taken[at_s >= seconds - tenth_s]
    blocks = [
        (edge + BLOCK_S / 2, taken[(at_s >= edge) & (at_s < edge + BLOCK_S)].mean())
        for edge in np.arange(
            math.ceil(tenth_s / BLOCK_S) * BLOCK_S, seconds - BLOCK_S + 1, BLOCK_S
        )
    ]
    found = {
        "second_tenth_mb": float(second.mean()) / 1e6,
        "last_tenth_mb": float(last.mean()) / 1e6,
        "growth": float(last.mean() / second.mean()),
        "largest_mb": float(taken.max()) / 1e6,
        "samples_mb": [round(int(b) / 1e6, 2) for _, b in samples],  # one a second
    }
    if len(blocks) > 2:
        fit = linregress(*np.array(blocks).T)
        half = t.ppf(0.975, len(blocks) - 2) * fit.stderr
        found["slope_kb_per_min"] = 60e-3 * float(fit.slope)
        found["slope_half_interval"] = 60e-3 * float(half)
    return found


def show(results: dict[str, Any]) -> bool:
    """Print the table; return whether all targets are met."""
    latency, lag, kept, gone = (results[k] for k in ("latency", "lag", "memory", "lost"))
    ratio = results["latency"]["ratio"] = latency["p99_ms"] / latency["p50_ms"]
    nothing = gone["not_applied"] == gone["not_durable"] == 0
    rows = (
        ("capacity", f"{results['capacity_per_s']:.0f} uploads/s", None),
        ("kept", f"{results['rate_per_s']:.0f} uploads/s, {latency['n']:,} in all", None),
        ("latency", f"median {latency['p50_ms']:.1f} ms, p99 {latency['p99_ms']:.1f} ms, p99.9 "
         f"{latency['p999_ms']:.1f} ms, greatest {latency['max_ms']:.0f} ms", None),
        ("p99/median", f"{ratio:.1f}", ratio < RATIO),
        ("lag", f"median {lag['p50_ms']:.1f} ms, p99 {lag['p99_ms']:.1f} ms", None),
        ("lost", f"{gone['not_applied']} not applied, {gone['not_durable']} not durable, of "
         f"{gone['made']:,}; {gone['sent_again']} sent again, {gone['refused']} refused", nothing),
        ("connections", f"{results['connections']} for {results['edges']} edges", None),
        ("memory", f"{kept['second_tenth_mb']:.1f} MB, then {kept['last_tenth_mb']:.1f} MB: "
         f"{kept['growth']:.4f}", kept["growth"] <= GROWTH),
        ("slope", f"{kept.get('slope_kb_per_min', math.nan):.1f} ± "
         f"{kept.get('slope_half_interval', math.nan):.1f} kB/min", None),
        ("CPU", f"cloud {results['cloud_cpu']:.2f}, of which training steps "
         f"{results['step_share']:.2f}; swarm {results['swarm_cpu']:.2f}", None),
    )  # fmt: skip
    for name, text, met in rows:
        print(f"{name:<12}{text}" + ("" if met is None else "  (met)" if met else "  (NOT MET)"))
    for problem in results["problems"]:
        print(f"problem: {problem}")
    return all(met is not False for _, _, met in rows)


if __name__ == "__main__":
    sys.exit(main())
