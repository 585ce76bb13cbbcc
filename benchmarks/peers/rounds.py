"""Every peer in turn, several rounds: what one machine in one session says of all of them.

    python -m benchmarks.peers.rounds ENVS [--rounds 5] [--only bare] [--out FILE.jsonl]

ENVS is the folder that setup_peers.sh filled. Each run gets a network namespace of its own where
the system allows that, so that the bytes on loopback are its own. Printed: the median over the
rounds, with the least and the greatest.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

HERE = "."  # not one of the peers' environments: that of this process
RUNS = (
    (HERE, "bare_tcp", "one-way"),
    (HERE, "eaves_run", "plain"),
    (HERE, "eaves_run", "tls"),
    (HERE, "bare_tcp", "gradient-returned"),
    ("torchslicer", "torchslicer_run", "tcp"),
    ("torchslicer", "torchslicer_run", "grpc"),
    ("torchslicer", "torchslicer_run", "tcp-default"),
    ("torchslicer", "torchslicer_run", "grpc-default"),
    ("nvflare", "nvflare_run", "gradient-returned"),
    ("nvflare", "nvflare_run", "one-way"),
)
ALONE = ("unshare", "--map-root-user", "--net", "--", "sh", "-c", 'ip link set lo up; exec "$@"')
LIMIT_S = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("envs", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="runs whose module has this in its name")
    parser.add_argument("--out", type=Path, help="append every JSON line here")
    options = parser.parse_args()
    prefix = (*ALONE, "sh") if allowed((*ALONE, "sh", "true")) else ()
    print("bytes of each run alone" if prefix else "bytes of the whole machine", file=sys.stderr)
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(options.rounds):
        for env, module, mode in RUNS:
            if options.only in module:
                result = run([*prefix, python(options.envs, env)], module, mode, options.out)
                found.setdefault(result["name"], []).append(result)
    for name, results in found.items():
        print(row(name, results), flush=True)


def allowed(command: tuple[str, ...]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def python(envs: Path, env: str) -> str:
    return sys.executable if env == HERE else str(envs / env / "bin" / "python")


def run(start: list[str], module: str, mode: str, out: Path | None) -> dict[str, Any]:
    command = [*start, "-m", f"benchmarks.peers.{module}", mode]
    line = subprocess.run(
        command, stdout=subprocess.PIPE, check=True, text=True, timeout=LIMIT_S
    ).stdout
    if out is not None:
        with out.open("a") as file:
            file.write(line)
    result: dict[str, Any] = json.loads(line)
    return result


def row(name: str, results: list[dict[str, Any]]) -> str:
    rates = [float(result["samples_per_s"]) for result in results]
    traffic = median(float(result["bytes_per_sample"]) for result in results)
    spread = f"({min(rates):,.0f} to {max(rates):,.0f})"
    return f"{name:<40} {median(rates):7,.0f} samples/s {spread:<18} {traffic:9,.0f} B/sample"


if __name__ == "__main__":
    main()
