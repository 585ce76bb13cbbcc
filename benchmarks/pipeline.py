"""How much of the machine the pipeline leaves to the nets: ratios, each from one run.

    python benchmarks/pipeline.py [--data-root DIR] [--net resnet18 --cut layer2] [--out FILE.json]

overlap      throughput of edge and cloud together, unlimited link, one thread a side, as a share of
             1 / max(edge step, cloud step), both measured alone           (target: 0.90 or more)
link bound   wall time over the link's busy time on a slow link            (1.05 or less)
full-edge    throughput of the pipeline as a share of a bare PyTorch loop  (0.97 or more)
link rate    bits per second that the emulated 3G link delivers over its 1.1 Mbit/s (within 3 %)
help         wall time of `eaves --help` over that of `python -c "import torch"`     (below 0.3)

Parts of a ratio are measured in turns, round by round, and the median over the rounds is printed
with the least and the greatest: these figures hold on a noisy machine where seconds do not. Without
a data root the images are random bytes; the arithmetic is the same.
"""

import argparse
import json
import platform
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch.nn.functional import cross_entropy

from eaves.codecs.base import parse_codec
from eaves.core.methods import METHODS
from eaves.core.net import Normalise
from eaves.core.optimise import OneCycle
from eaves.core.roles import Batch, Upload
from eaves.core.specs import LINKS, LinkSpec
from eaves.data.batches import batches
from eaves.data.load import load_dataset
from eaves.data.source import InMemory, Source
from eaves.experiments.build import builder_of
from eaves.methods.setup import Method, Setup
from eaves.nets.build import build_net
from eaves.runtime.meters import Totals
from eaves.runtime.pipeline import Pipeline
from eaves.runtime.traffic import Wire

MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    source = images(options.data_root)
    checks: dict[str, Callable[[], float]] = {
        "overlap": lambda: overlap(options, source),
        "link bound": lambda: link_bound(options, source),
        "full-edge": lambda: full_edge(options, source),
        "link rate": lambda: link_rate(options, source),
        "help": help_time,
    }
    results = {}
    for name, check in checks.items():
        if options.only and name not in options.only:
            continue
        values = [check() for _ in range(options.rounds)]
        results[name] = {"median": median(values), "least": min(values), "greatest": max(values)}
        print(f"{name:<12}" + "".join(f"  {k} {v:.3f}" for k, v in results[name].items()))
    if options.out:
        facts = {"command": sys.argv, "machine": platform.processor(), "commit": commit()}
        options.out.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--net", default="resnet18")
    parser.add_argument("--cut", default="layer2")
    parser.add_argument("--codec", default="int8+zstd")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--steps", type=int, default=60, help="steps of each measurement")
    parser.add_argument("--only", nargs="+", help="names of checks, as they are printed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write JSON here")
    return parser.parse_args()


def images(root: Path | None) -> Source:
    if root is not None:
        return load_dataset("cifar10", root=root).train
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(256, (12_800, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return InMemory(inputs, torch.randint(10, (len(inputs),), generator=generator))


def method_of(name: str, options: argparse.Namespace) -> Method:
    torch.manual_seed(0)
    schedule = OneCycle(total_steps=1000, precision=options.precision)
    setup = Setup(
        net=build_net(options.net, classes=10, input_shape=(3, 32, 32)),
        normalise=Normalise(MEAN, STD),
        input_shape=(3, 32, 32),
        classes=10,
        cut=options.cut,
        bottleneck=None,
        exit="conv",
        edge_schedule=schedule,
        cloud_schedule=schedule,
        device=torch.device("cpu"),
    )
    return builder_of(METHODS[name])(setup)


def stream(source: Source, steps: int) -> Iterator[Batch]:
    found = batches(source, batch_size=128, seed=0, epoch=0, augment="crop-flip")
    return islice(found, steps)


def piped(
    method: Method, options: argparse.Namespace, source: Source, link: LinkSpec, steps: int
) -> Totals:
    codec = parse_codec(options.codec if method.edge_modules else "raw")
    wire = Wire(codec=codec, reply_codec=codec, link=link)
    totals = Totals()
    pipeline = Pipeline(method.edge, method.cloud, wire, totals)
    for _ in pipeline.run(stream(source, steps), stop=threading.Event(), checkpoint_s=1e9):
        pass
    return totals


def seconds(body: Callable[[], object], steps: int) -> float:
    started = perf_counter()
    for _ in range(steps):
        body()
    return (perf_counter() - started) / steps


def overlap(options: argparse.Namespace, source: Source) -> float:
    """Edge and cloud alone, then together, then alone again: slow drifts cancel."""
    method, steps = method_of("hierarchical", options), int(options.steps)
    assert method.cloud is not None
    cloud, batch = method.cloud, next(stream(source, 1))
    upload, _ = method.edge.step(batch)
    assert upload is not None
    received = Upload(upload.features.float(), upload.labels)

    def alone() -> float:
        edge_s = seconds(lambda: method.edge.step(batch), steps // 2)
        return max(edge_s, seconds(lambda: cloud.step(received), steps // 2))

    alone()
    before = alone()
    together = piped(method, options, source, LINKS["unlimited"], steps).wall_s / steps
    return (before + alone()) / 2 / together


def link_bound(options: argparse.Namespace, source: Source) -> float:
    totals = piped(method_of("hierarchical", options), options, source, LINKS["3g"], 15)
    return totals.wall_s / totals.link.busy_s


def link_rate(options: argparse.Namespace, source: Source) -> float:
    link = LINKS["3g"]
    totals = piped(method_of("full-cloud", options), options, source, link, 4)
    # The clock of the link alone: from the first byte in to the last byte out.
    delivered_s = totals.wall_s - link.delay_s - last_step_s(options, source)
    rate_bps = 8 * totals.bytes_up / delivered_s
    return rate_bps / link.up_bps


def last_step_s(options: argparse.Namespace, source: Source) -> float:
    """What the cloud still does when the last byte has arrived."""
    method, batch = method_of("full-cloud", options), next(stream(source, 1))
    assert method.cloud is not None
    cloud, upload = method.cloud, Upload(batch.inputs, batch.labels)
    return seconds(lambda: cloud.step(upload), 2)


def full_edge(options: argparse.Namespace, source: Source) -> float:
    """Turns of a few seconds each, in both orders, so that drifts of the machine cancel."""
    steps = int(options.steps)
    link = LINKS["unlimited"]
    bare_s = bare_loop(options, source, steps)
    piped_s = piped(method_of("full-edge", options), options, source, link, steps).wall_s
    piped_s += piped(method_of("full-edge", options), options, source, link, steps).wall_s
    bare_s += bare_loop(options, source, steps)
    return bare_s / piped_s


def bare_loop(options: argparse.Namespace, source: Source, steps: int) -> float:
    """The loop that everybody writes, on the same batches."""
    torch.manual_seed(0)
    net = build_net(options.net, classes=10, input_shape=(3, 32, 32))
    normalise = Normalise(MEAN, STD)
    if options.precision == "bf16":
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.SGD(
        net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    started = perf_counter()
    for batch in stream(source, steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"):
            loss = cross_entropy(net(normalise(batch.inputs)), batch.labels)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return perf_counter() - started


def help_time() -> float:
    program = [sys.executable, "-m", "eaves", "--help"]
    torch_alone = [sys.executable, "-c", "import torch"]
    return timed(program) / timed(torch_alone)


def timed(command: list[str]) -> float:
    started = perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return perf_counter() - started


def commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip()


if __name__ == "__main__":
    main()
