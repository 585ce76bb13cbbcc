"""What it saves that a process keeps freed memory for its next step (eaves.runtime.process).

    python benchmarks/allocator.py [--rounds 5] [--steps 200]

A step of each half of the small net of benchmarks/peers (batch 64 of 3x32x32), hierarchical, and
the packing of its upload, in fp32; in a process that keeps freed memory and in one that does not,
in turn. Milliseconds of CPU, the median over the rounds, with the least and the greatest.
"""

import argparse
import json
import subprocess
import sys
from statistics import median

STEPS = """
import json, sys, time, torch
from torch import nn
from eaves.codecs.base import parse_codec
from eaves.codecs.upload import pack_upload
from eaves.core.optimise import OneCycle, Optimised
from eaves.core.roles import Batch
from eaves.methods.hierarchical import Classifier, HierarchicalEdge
from eaves.runtime.process import keep_freed_memory

torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory()
steps, cpu, codec = int(sys.argv[2]), torch.device("cpu"), parse_codec("fp32")
edge = nn.Sequential(nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.ReLU())
exit_ = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
conv = nn.Conv2d(32, 64, 3, stride=2, padding=1)
cloud = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(64 * 8 * 8, 10))
schedule = OneCycle(total_steps=10**6, lr=0.01)
device = HierarchicalEdge(Optimised({"edge": edge, "exit": exit_}, schedule, cpu))
service = Classifier(Optimised({"cloud": cloud}, schedule, cpu))
batch = Batch(torch.rand(64, 3, 32, 32), torch.randint(10, (64,)))
spent = {"edge step": 0.0, "packing": 0.0, "cloud step": 0.0}
for step in range(steps + 20):
    if step == 20:
        spent = dict.fromkeys(spent, 0.0)
    marks = [time.process_time()]
    upload, _ = device.step(batch)
    marks.append(time.process_time())
    pack_upload(upload.features, upload.labels, codec)
    marks.append(time.process_time())
    service.step(upload)
    marks.append(time.process_time())
    for name, before, after in zip(spent, marks, marks[1:]):
        spent[name] += (after - before) / steps * 1e3
print(json.dumps(spent))
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {"keep": [], "give back": []}
    for _ in range(options.rounds):
        for how, results in found.items():
            words = (sys.executable, "-c", STEPS, how, str(options.steps))
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
            results.append(json.loads(done.stdout))
    for name in found["keep"][0]:
        kept, given = ([r[name] for r in found[how]] for how in ("keep", "give back"))
        print(f"{name:<11} {spread(given)}, keeping freed memory {spread(kept)}")


def spread(times_ms: list[float]) -> str:
    return f"{median(times_ms):.2f} ms ({min(times_ms):.2f} to {max(times_ms):.2f})"


if __name__ == "__main__":
    main()
