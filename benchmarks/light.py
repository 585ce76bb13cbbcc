"""What a device needs with torch and without: memory, and time to its first features.

    python -m benchmarks.light [--repeats 10] [--json FILE]

One bundle each of `compact` and `mobilevit_xxs` on images of 3x64x64, not trained, cut where a run
would cut it. Every measurement is a process of its own, begun by itself, which ends when the first
input's features are a payload; those with torch and those without take turns.

torch    the edge half of `eaves infer`, as light as it goes: no data set, one thread
light    `eaves light`'s: ONNX Runtime on what `eaves export` wrote, one thread

Both have the client for a cloud loaded. `memory` is the peak resident memory of the process (VmHWM
of /proc), `start` the time from before it was started. `command` is all of `eaves light` for one
input, from its start to its end, and the processor time of that. The interval of a median or of a
ratio of pairs is that of its order statistics, 95 % or the next above.
(targets: 40 % of memory, start and command within 1 s)
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from math import comb
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median
from tempfile import TemporaryDirectory
from time import clock_gettime
from typing import Any

import numpy as np
from benchmarks.served import write_json
from benchmarks.timing import seconds

from eaves.data.source import Interface
from eaves.experiments.build import build_method
from eaves.experiments.bundle import write_bundle
from eaves.experiments.config import TrainConfig
from eaves.experiments.exporting import export
from eaves.experiments.halves import facts_of_terms, terms_of

NETS = ("compact", "mobilevit_xxs")
SHAPE = (3, 64, 64)
MOST_MEMORY, MOST_START_S = 0.4, 1.0
_CLOCK = 1  # CLOCK_MONOTONIC: the same in all processes of a machine

_END = """
from time import clock_gettime
end_s = clock_gettime(1)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"end_s": end_s, "memory_bytes": 1024 * int(peak.split()[1])}))
"""
_TORCH = """
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
from eaves.experiments.build import build_method, wire_of
from eaves.experiments.halves import load_weights, open_origin
from eaves.network.asking import CloudClient
from eaves.runtime.process import set_up
set_up(1)
origin = open_origin(Path(sys.argv[1]) / "bundle")
method = build_method(replace(origin.config, device="cpu"), origin.interface).method
load_weights(origin, "edge", method.edge_modules)
x = torch.zeros(1, *origin.interface.input_shape, dtype=torch.uint8)
wire_of(origin.config).codec.encode(method.edge_predictor.predict(x)[0])
"""
_LIGHT = """
import json, sys
from pathlib import Path
import numpy as np
from eaves.light.codec import LightCodec
from eaves.light.facts import read_facts
from eaves.light.model import LightEdge
from eaves.network.asking import CloudClient
folder = Path(sys.argv[1]) / "device"
facts = read_facts(folder)
edge = LightEdge(folder, facts)
x = np.zeros((1, *facts.input_shape), np.uint8)
LightCodec(facts.codec).encode(edge.predict(x)[0])
"""
WAYS = {"torch": _TORCH + _END, "light": _LIGHT + _END}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write JSON here")
    options = parser.parse_args()
    results = {}
    for net in NETS:
        with TemporaryDirectory() as temporary:
            exported(net, Path(temporary))
            results[net] = compared(Path(temporary), options.repeats)
        print(row(net, results[net]), flush=True)
    write_json(options.json, results)
    return 0 if all(found["met"] for found in results.values()) else 1


def exported(net: str, folder: Path) -> None:
    """Write a bundle of a net that was not trained, and what a device needs of it."""
    config = TrainConfig(net=net, data="cifar10", device="cpu")
    interface = Interface(input_shape=SHAPE, classes=tuple(map(str, range(10))))
    built = build_method(config, interface)
    facts = facts_of_terms(config, terms_of(config, interface, built.method, built.cut))
    write_bundle(folder / "bundle", {"edge": built.method.edge_modules}, facts)
    export(folder / "bundle", folder / "device")


def compared(folder: Path, repeats: int) -> dict[str, Any]:
    for way in WAYS:
        one(way, folder)  # into the page cache
    found = [{way: one(way, folder) for way in WAYS} for _ in range(repeats)]
    result: dict[str, Any] = {
        way: {name: spread([pair[way][name] for pair in found]) for name in found[0][way]}
        for way in WAYS
    }
    result["ratio"] = {
        name: spread([pair["light"][name] / pair["torch"][name] for pair in found])
        for name in found[0]["light"]
    }
    np.save(folder / "one.npy", np.zeros((1, *SHAPE), np.uint8))
    words = [sys.executable, "-m", "eaves", "light", str(folder / "device"), "--inputs"]
    before_s = processor_s()
    whole = [seconds(lambda: _run([*words, str(folder / "one.npy")])) for _ in range(repeats)]
    result["command_s"] = spread(whole)
    result["command_processor_s"] = (processor_s() - before_s) / repeats
    memory, starts = (
        result["ratio"]["memory_bytes"],
        (result["light"]["start_s"], result["command_s"]),
    )
    result["met"] = memory["median"] <= MOST_MEMORY and all(
        start["median"] <= MOST_START_S for start in starts
    )
    return result


def one(way: str, folder: Path) -> dict[str, float]:
    """Measure one process."""
    start_s = clock_gettime(_CLOCK)
    found = json.loads(_run([sys.executable, "-c", WAYS[way], str(folder)]))
    return {"memory_bytes": found["memory_bytes"], "start_s": found["end_s"] - start_s}


def processor_s() -> float:
    """Return the processor time of all children that have ended."""
    used = getrusage(RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run(words: Sequence[str]) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median and its interval: order statistics, of 95 % or the next above."""
    ordered, n = sorted(values), len(values)
    beyond = [2 * sum(comb(n, i) for i in range(k + 1)) / 2**n for k in range(n // 2)]
    k = max(0, sum(share <= 0.05 for share in beyond) - 1)
    return {"median": median(ordered), "low": ordered[k], "high": ordered[n - 1 - k], "n": n}


def row(net: str, found: dict[str, Any]) -> str:
    def words(way: str) -> str:
        memory, start = found[way]["memory_bytes"], found[way]["start_s"]
        return (
            f"{way}: memory {memory['median'] / 1e6:.0f} MB ({memory['low'] / 1e6:.0f} to "
            f"{memory['high'] / 1e6:.0f}), start {start['median']:.2f} s ({start['low']:.2f} to "
            f"{start['high']:.2f})"
        )

    memory, start = found["ratio"]["memory_bytes"], found["ratio"]["start_s"]
    whole = found["command_s"]
    return (
        f"{net}\n  {words('torch')}\n  {words('light')}\n"
        f"  memory {100 * memory['median']:.1f} % ({100 * memory['low']:.1f} to "
        f"{100 * memory['high']:.1f}), start {100 * start['median']:.0f} % "
        f"({100 * start['low']:.0f} to {100 * start['high']:.0f}), command "
        f"{whole['median']:.2f} s ({whole['low']:.2f} to {whole['high']:.2f}; "
        f"processor {found['command_processor_s']:.2f} s)  "
        f"({'met' if found['met'] else 'NOT MET'})"
    )


if __name__ == "__main__":
    sys.exit(main())
