"""Fuzz what arrives from outside: messages, payloads, files that others may have damaged.

    python -m benchmarks.fuzz [--minutes 10] [--seed 0] [--corpus FOLDER] [--only NAME] [--out FILE]
    python -m benchmarks.fuzz --nightly [...]    eight hours, with the date as the seed

Mutates valid inputs of each target: by bytes, and by fields under right checksums. An input may
end in a valid result or in the error that the code documents. All else is a finding: another
exception, a crash, more than 2 s, more memory than the target may take, a broken promise. Findings
are made short and written to the corpus, which is run first the next time. Inputs that end in a
new way are mutated further. Prints executions a second and outcomes by target; JSON in --out.
Exit code 1: there are findings.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from benchmarks.fuzzing.loop import Loop
from benchmarks.fuzzing.targets import TARGETS

_NIGHT_MINUTES = 480
_SILENT_S = 30.0  # of a child that is stuck where no signal is heard
_ROOT = Path(__file__).parents[1]


def main() -> int:
    options = _options()
    if options.child:
        return child(options)
    names = [name for name in TARGETS if not options.only or name in options.only.split(",")]
    seconds = options.minutes * 60 / len(names)
    results = {}
    print(f"{'target':<12}{'inputs':>10}{'a second':>10}  outcomes", flush=True)
    for name in names:
        results[name] = found = run_child(name, seconds, options.seed, options.corpus)
        outcomes = ", ".join(f"{k} {v}" for k, v in sorted(found["outcomes"].items()))
        print(f"{name:<12}{found['inputs']:>10}{found['per_s']:>10.0f}  {outcomes}", flush=True)
        for key, file in found["findings"].items():
            print(f"    FINDING {key}\n        {file}", flush=True)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    total = sum(found["inputs"] for found in results.values())
    findings = sum(len(found["findings"]) for found in results.values())
    print(f"{total} inputs, {findings} findings")
    return 1 if findings else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="of all targets together")
    parser.add_argument("--nightly", action="store_true", help=f"{_NIGHT_MINUTES} minutes")
    parser.add_argument("--seed", type=int, help="0; with --nightly another one every day")
    parser.add_argument("--corpus", type=Path, default=Path("fuzz-corpus"))
    parser.add_argument("--only", default="", help="targets, with commas between")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.seed is None:
        options.seed = date.today().toordinal() if options.nightly else 0
    if options.nightly:
        options.minutes = _NIGHT_MINUTES
    return options


def child(options: argparse.Namespace) -> int:
    """Fuzz one target in this process."""
    torch.set_num_threads(1)
    tempfile.tempdir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # spare the disk
    target = TARGETS[options.child]()
    loop = Loop(target, options.seed, options.corpus / target.name, options.scratch)
    loop.run(options.seconds)
    print(json.dumps(loop.result()))
    target.close()
    return 0


def run_child(name: str, seconds: float, seed: int, corpus: Path) -> dict[str, Any]:
    """Fuzz one target in a process of its own; one that dies or is stuck is a finding."""
    total: dict[str, Any] = {"inputs": 0, "per_s": 0.0, "outcomes": {}, "findings": {}}
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and len(total["findings"]) < 20:
        with tempfile.TemporaryDirectory() as scratch:
            arguments = ["--child", name, "--seconds", str(left), "--seed", str(seed)]
            arguments += ["--corpus", str(corpus), "--scratch", scratch]
            ended, output, errors = _watched(arguments, Path(scratch))
            if ended == "" and output:
                _add(total, json.loads(output.splitlines()[-1]))
                break
            found = _kept(corpus / name, ended or errors[-300:], Path(scratch) / "input")
            _add(total, {"inputs": 1, "per_s": 0.0, "outcomes": {"died": 1}, "findings": found})
            seed += 1_000_003
    return total


def _watched(arguments: list[str], scratch: Path) -> tuple[str, str, str]:
    """Return how a child ended where that is not well, its output, and what it said of errors."""
    with (scratch / "out").open("w+") as out, (scratch / "err").open("w+") as err:
        command = [sys.executable, "-X", "faulthandler", "-m", "benchmarks.fuzz", *arguments]
        process = subprocess.Popen(command, cwd=_ROOT, stdout=out, stderr=err)
        ended, current = "", scratch / "input"
        while process.poll() is None:
            time.sleep(0.2)
            silent = current.exists() and time.time() - current.stat().st_mtime > _SILENT_S
            if silent:
                ended = f"stuck for {_SILENT_S:g} s"
                process.kill()
        if process.returncode < 0 and not ended:
            ended = f"killed by signal {-process.returncode}"
        return ended, (scratch / "out").read_text(), (scratch / "err").read_text()


def _kept(folder: Path, why: str, current: Path) -> dict[str, str]:
    """Keep the input that a child died of."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"died-{int(time.time())}"
    file.write_bytes(current.read_bytes() if current.exists() else b"")
    return {why: str(file)}


def _add(total: dict[str, Any], more: dict[str, Any]) -> None:
    total["inputs"] += more["inputs"]
    total["per_s"] = max(total["per_s"], more["per_s"])
    for outcome, count in more["outcomes"].items():
        total["outcomes"][outcome] = total["outcomes"].get(outcome, 0) + count
    total["findings"] |= more["findings"]


if __name__ == "__main__":
    sys.exit(main())
