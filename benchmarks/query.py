"""What the network adds to an answer of the cloud, and what many clients get together.

    python -m benchmarks.query [--queries 500] [--rounds 5] [--json FILE]

A real `eaves serve` on loopback, with TLS and in plaintext; features of 2,048 floats for each
example (8 kB, codec fp32: the digits at the cut conv1 of the small net).

beyond       round trip of CloudClient.ask for a batch of one, less the time of the cloud's half
             for the same batch, measured alone in this process: medians        (target: 1.5 ms)
clients      --clients of them at once, each asking again as soon as it is answered: queries a
             second, and examples in a batch of answers, on average (the fill)

Asking and computing take turns, round by round, with one thread each: what disturbs the machine
disturbs both. `p99` is that of the round trips of all rounds together. Clients are threads of
--processes processes, which share the machine with the cloud.
"""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch
from benchmarks.served import Served, write_json
from torch import Tensor

from eaves.codecs.base import parse_codec
from eaves.core.roles import CloudPredictor
from eaves.experiments.halves import cloud_half, open_origin
from eaves.network.asking import CloudClient
from eaves.network.certificates import make_device
from eaves.network.channel import Target, insecure_target, secure_target

CONFIG = 'data = "digits"\nnet = "small"\ncut = "conv1"\ncodec = "fp32"\n'
SHAPE = (1, 32, 8, 8)
TARGET_MS, TIMEOUT_S = 1.5, 30.0


def main() -> int:
    options = parse()
    torch.set_num_threads(1)
    payload = parse_codec("fp32").encode(features())
    results: dict[str, Any] = {"payload_bytes": len(payload)}
    with TemporaryDirectory() as temporary:
        for how in ("TLS", "plaintext"):
            insecure = how == "plaintext"
            served = Served(Path(temporary) / how, CONFIG, insecure=insecure)
            folder = None if insecure else make_device(served.certs, "edge-1")
            half, _, _ = cloud_half(open_origin(Path(temporary) / how / "cloud.toml"), "cpu")
            with served:
                one = alone(options, target_of(served.address, folder), payload, half.predictor)
                many = together(options, served, folder, payload)
                served.stop()
            results[how] = {**one, **many}
            print(row(how, results[how], options), flush=True)
    write_json(options.json, results)
    return 0 if all(results[how]["beyond_ms"] <= TARGET_MS for how in ("TLS", "plaintext")) else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--queries", type=int, default=500, help="in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--processes", type=int, default=2, help="that have the clients")
    parser.add_argument("--seconds", type=float, default=10.0, help="of all clients at once")
    parser.add_argument("--json", type=Path, help="write JSON here")
    return parser.parse_args()


def features() -> Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))


def target_of(address: str, folder: Path | None) -> Target:
    return insecure_target(address, "edge-1") if folder is None else secure_target(address, folder)


def alone(
    options: argparse.Namespace, target: Target, payload: bytes, predictor: CloudPredictor
) -> dict[str, float]:
    """Return the round trip of one client, and what computing takes, in turns."""
    z_BCHW, asked, computed = features(), [], []
    with closing(CloudClient(target, "")) as client:
        timed(lambda: client.ask(payload, timeout_s=TIMEOUT_S), 50)
        timed(lambda: predictor.answer(z_BCHW), 50)
        for _ in range(options.rounds):
            times = timed(lambda: client.ask(payload, timeout_s=TIMEOUT_S), options.queries)
            asked.append(times)
            computed.append(timed(lambda: predictor.answer(z_BCHW), options.queries))
    beyond = [median(a) - median(c) for a, c in zip(asked, computed, strict=True)]
    trips_ms = 1e3 * np.concatenate(asked)
    compute_ms = 1e3 * np.concatenate(computed)
    return {
        "ask_p50_ms": float(np.median(trips_ms)),
        "ask_p99_ms": float(np.quantile(trips_ms, 0.99)),
        "compute_p50_ms": float(np.median(compute_ms)),
        "compute_p99_ms": float(np.quantile(compute_ms, 0.99)),
        "beyond_ms": 1e3 * median(beyond),
        "beyond_least_ms": 1e3 * min(beyond),
        "beyond_greatest_ms": 1e3 * max(beyond),
    }


def timed(body: Any, times: int) -> list[float]:
    found = []
    for _ in range(times):
        started = perf_counter()
        body()
        found.append(perf_counter() - started)
    return found


def together(
    options: argparse.Namespace, served: Served, folder: Path | None, payload: bytes
) -> dict[str, float]:
    """Return what all clients get at once, and how full the cloud's batches are."""
    each = options.clients // options.processes
    # Not a fork: gRPC has threads in this process.
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        asked = (served.address, folder, payload, each)
        list(pool.map(clients, *repeated((*asked, 0.5), options.processes)))  # imports, connections
        before = served.figures()
        found = pool.map(clients, *repeated((*asked, options.seconds), options.processes))
        times_ms = 1e3 * np.concatenate(list(found))
        after = served.figures()
    batches = after["answer_batches"] - before["answer_batches"]
    return {
        "clients": each * options.processes,
        "queries_per_s": len(times_ms) / options.seconds,
        "fill": (after["answers"] - before["answers"]) / batches,
        "together_p50_ms": float(np.median(times_ms)),
        "together_p99_ms": float(np.quantile(times_ms, 0.99)),
    }


def repeated(values: Sequence[Any], times: int) -> list[list[Any]]:
    return [[value] * times for value in values]


def clients(
    address: str, folder: Path | None, payload: bytes, count: int, seconds: float
) -> list[float]:
    """Ask with so many threads for so long; return all times. Runs in a process of its own."""
    torch.set_num_threads(1)

    def ask_on(_: int) -> list[float]:
        times: list[float] = []
        with closing(CloudClient(target_of(address, folder), "")) as client:
            over = perf_counter() + seconds
            while perf_counter() < over:
                times += timed(lambda: client.ask(payload, timeout_s=TIMEOUT_S), 1)
        return times

    with ThreadPoolExecutor(count) as pool:
        return [one for times in pool.map(ask_on, range(count)) for one in times]


def row(how: str, found: dict[str, Any], options: argparse.Namespace) -> str:
    met = "met" if found["beyond_ms"] <= TARGET_MS else "NOT MET"
    return (
        f"{how:<10}round trip p50 {found['ask_p50_ms']:.2f} ms, p99 {found['ask_p99_ms']:.2f}; "
        f"compute p50 {found['compute_p50_ms']:.2f}; beyond {found['beyond_ms']:.2f} ms "
        f"({found['beyond_least_ms']:.2f} to {found['beyond_greatest_ms']:.2f})  ({met})\n"
        f"{'':<10}{found['clients']} clients: {found['queries_per_s']:.0f} queries/s, fill "
        f"{found['fill']:.1f}, p50 {found['together_p50_ms']:.1f} ms, p99 "
        f"{found['together_p99_ms']:.1f} ms"
    )


if __name__ == "__main__":
    sys.exit(main())
