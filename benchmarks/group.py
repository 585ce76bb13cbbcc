"""Two processes that train one cloud half together, against one that does all of it.

    python -m benchmarks.group [--steps 200] [--json FILE]

Two edges with batches of their own. Either `torchrun` starts two processes of `eaves serve`, each
with one edge; or one process learns from both at once (--merge 2 --edges 2). In both cases one step
is made of one upload of each edge.

curves       loss of the cloud at every step, from the same uploads in the same order, with Trainer
             and Group themselves: the largest difference between the two ways, relative to the
             loss. A net without BatchNorm: rounding only, which training amplifies from step to
             step (target: 1e-2 after 200). The net `small` has BatchNorm, for which each process
             normalises with its own half of the batch, as in DistributedDataParallel: there the
             means over the last tenth of the steps are compared, as a share of the first loss
             (target: 1 %), and the rest is printed only
throughput   examples a second: of the trainers alone, in those same runs; and of the whole, with
             real `eaves serve` and two real `eaves agent` in plaintext on loopback (no target: it
             takes four cores for two processes to be faster than one)

The whole also says how many examples of the test set the two clouds get right after training.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch
from benchmarks.served import LOOPBACK, Served, free_ports, write_json
from torch import Tensor

from eaves.codecs.upload import pack_upload
from eaves.core.optimise import Optimised
from eaves.core.roles import CloudLearner, Losses, Upload
from eaves.errors import EavesError
from eaves.experiments.halves import cloud_half, edge_job, open_origin
from eaves.experiments.phases import edge_phases
from eaves.network.group import find_group
from eaves.network.half import Half
from eaves.network.keeper import Keeper
from eaves.network.ledger import Run
from eaves.network.trainer import Trainer
from eaves.network.wire import pack_terms
from eaves.network.workqueue import Line, Receipt, UploadWork

CONFIG = """
data = "digits"
net = "{net}"
cut = "conv1"
codec = "fp32"
batch_size = {batch}
epochs = {epochs}
seed = {seed}
"""
# Batch by batch the same thing whoever has the examples: there is no BatchNorm in it.
PLAIN = """
from collections import OrderedDict

from torch import nn


def plain(classes, input_shape):
    def conv(channels, width, stride):
        return nn.Sequential(nn.Conv2d(channels, width, 3, stride=stride, padding=1), nn.ReLU())

    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, classes))
    stages = {"conv1": conv(input_shape[0], 32, 1), "conv2": conv(32, 64, 2)}
    return nn.Sequential(OrderedDict(**stages, conv3=conv(64, 128, 2), head=head))
"""
EDGES = 2
ROUNDING, BATCHNORM = 1e-2, 0.01
LIMIT_S = 600.0


class Recorded(CloudLearner):
    """A learner that keeps the loss of every step."""

    def __init__(self, learner: CloudLearner):
        self._learner = learner
        self.losses: list[float] = []

    @property
    def part(self) -> Optimised | None:
        return self._learner.part

    def step(self, upload: Upload) -> tuple[Tensor | None, Losses]:
        reply, losses = self._learner.step(upload)
        self.losses.append(losses["loss"])
        return reply, losses


class Deaf(Line):
    """The way back to an edge that is not there."""

    def __init__(self, edge: int):
        self.run = Run(f"edge-{edge}", f"run{edge}")

    def receipt(self, receipt: Receipt, *, done: int = 0) -> None:
        pass

    def refuse(self, error: EavesError) -> None:
        raise error


def main() -> int:
    options = parse()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "plain.py").write_text(PLAIN)
        for name, net in (("plain", f"{folder}/plain.py:plain"), ("small", "small")):
            results[name] = curves(options, folder / name, net)
            print(row(name, results[name]), flush=True)
        if not options.curves_only:
            for name in ("group", "merge"):
                results[name] = whole(options, folder / name, group=name == "group")
                print(whole_row(name, results[name]), flush=True)
    write_json(options.json, results)
    good = results["plain"]["largest"] <= ROUNDING and results["small"]["last_tenth"] <= BATCHNORM
    return 0 if good else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200, help="of the curves")
    parser.add_argument("--batch", type=int, default=64, help="examples in an upload")
    parser.add_argument("--epochs", type=int, default=20, help="of the whole")
    parser.add_argument("--curves-only", action="store_true")
    parser.add_argument("--json", type=Path, help="write JSON here")
    return parser.parse_args()


# The curves


def curves(options: argparse.Namespace, folder: Path, net: str) -> dict[str, Any]:
    """Train from the same uploads in both ways; return both curves and how far apart they are."""
    folder.mkdir()
    epochs = 1 + options.steps * options.batch // 1000
    for edge in range(EDGES):
        text = CONFIG.format(net=net, batch=options.batch, epochs=epochs, seed=edge)
        (folder / f"edge-{edge}.toml").write_text(text)
        pack_uploads(folder, edge, options.steps)
    together, group_s = learn(folder, processes=EDGES, steps=options.steps)
    merged, merge_s = learn(folder, processes=1, steps=options.steps)
    apart = np.abs(together - merged) / merged
    tenth = max(1, len(merged) // 10)
    ends = together[-tenth:].mean(), merged[-tenth:].mean()
    examples = EDGES * options.batch * len(merged)
    return {
        "steps": len(merged),
        "largest": float(apart.max()),
        "median": float(np.median(apart)),
        "last_tenth": float(abs(ends[0] - ends[1]) / merged[0]),
        "first_loss": float(merged[0]),
        "last_loss": {"group": float(ends[0]), "merge": float(ends[1])},
        "examples_per_s": {"group": examples / group_s, "merge": examples / merge_s},
        "curves": {"group": together.tolist(), "merge": merged.tolist()},
    }


def pack_uploads(folder: Path, edge: int, steps: int) -> None:
    """Write what an edge would send: features of its first part, as it trains."""
    job, _ = edge_job(open_origin(folder / f"edge-{edge}.toml"))
    home = folder / f"uploads-{edge}"
    home.mkdir()
    batches = cycle(
        [b for b in edge_phases(job)[0].batches(job) if len(b.labels) == job.config.batch_size]
    )
    for seq, batch in enumerate(islice(batches, steps), start=1):
        upload, _ = job.method.edge.step(batch)
        assert upload is not None
        content = pack_upload(upload.features, upload.labels, job.wire.codec)
        (home / str(seq)).write_bytes(content)


def learn(folder: Path, *, processes: int, steps: int) -> tuple[np.ndarray[Any, Any], float]:
    """Return the loss of every step, the mean over all processes, and the seconds of them all."""
    spawn, port = multiprocessing.get_context("spawn"), free_ports(1)
    with spawn.Pool(processes) as pool:
        given = [(folder, rank, processes, port, steps) for rank in range(processes)]
        found = pool.starmap(learn_as, given, chunksize=1)
    return np.mean([losses for losses, _ in found], axis=0), max(wall_s for _, wall_s in found)


def learn_as(
    folder: Path, rank: int, size: int, port: int, steps: int
) -> tuple[list[float], float]:
    """Be one process of the cloud: take its edges' uploads, all of which wait already."""
    torch.set_num_threads(1)
    facts = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": LOOPBACK, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in facts.items()})
    group = find_group()
    half, _, terms = cloud_half(open_origin(folder / "edge-0.toml"), "cpu")
    assert half.learner is not None
    learner = Recorded(half.learner)
    half = Half(
        learner=learner,
        predictor=half.predictor,
        accepts=half.accepts,
        reply_codec=half.reply_codec,
    )
    keeper = Keeper(folder / f"of-{size}", pack_terms(terms), every_s=1e9)
    mine = range(rank, EDGES, size)
    trainer = Trainer(half, keeper, group, edges=EDGES, merge=len(mine))
    put_all(trainer, folder, mine, steps)
    trainer.stop()  # what waits is learnt all the same
    started = perf_counter()
    trainer.run()
    wall_s = perf_counter() - started
    keeper.close()
    group.close()
    return learner.losses, wall_s


def put_all(trainer: Trainer, folder: Path, edges: Sequence[int], steps: int) -> None:
    lines = {edge: Deaf(edge) for edge in edges}
    for line in lines.values():
        trainer.open(line, steps=steps, memory_bytes=2**40)
    for seq in range(1, steps + 1):
        for edge, line in lines.items():
            content = (folder / f"uploads-{edge}" / str(seq)).read_bytes()
            trainer.work.put(UploadWork(line, seq, seq - 1, content))


# The whole


def whole(options: argparse.Namespace, folder: Path, *, group: bool) -> dict[str, Any]:
    """Train with two agents; return examples a second and how often the clouds are right."""
    config = CONFIG.format(net="small", batch=options.batch, epochs=options.epochs, seed=0)
    ways = ("--edges", str(EDGES)) if group else ("--edges", str(EDGES), "--merge", str(EDGES))
    processes = EDGES if group else 1
    with Served(folder, config, *ways, insecure=True, processes=processes) as served:
        agents = [agent(options, folder, served.address, edge) for edge in range(EDGES)]
        lines = [process.communicate(timeout=LIMIT_S)[0] for process in agents]
    records = [json.loads(line) for line in lines]
    wall_s = max(record["time"]["wall_s"] for record in records)
    return {
        "wall_s": wall_s,
        "examples_per_s": sum(record["samples"] for record in records) / wall_s,
        "accuracy": [record["accuracy"]["cloud"]["value"] for record in records],
    }


def agent(
    options: argparse.Namespace, folder: Path, address: str, edge: int
) -> "subprocess.Popen[str]":
    path = folder / f"agent-{edge}.toml"
    text = CONFIG.format(net="small", batch=options.batch, epochs=options.epochs, seed=edge)
    path.write_text(text)
    # fmt: off
    command = (
        sys.executable, "-m", "eaves", "agent", str(path), "--cloud", address, "--insecure",
        "--name", f"edge-{edge}", "--out", str(folder / f"agent-{edge}"), "--json",
    )
    # fmt: on
    with (folder / f"agent-{edge}.log").open("wb") as log:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)


def row(name: str, found: dict[str, Any]) -> str:
    ends, rates = found["last_loss"], found["examples_per_s"]
    value, target = ("largest", ROUNDING) if name == "plain" else ("last_tenth", BATCHNORM)
    return (
        f"{name:<7}{found['steps']} steps, loss from {found['first_loss']:.3f} to "
        f"{ends['group']:.4f} (group), {ends['merge']:.4f} (merge): largest difference "
        f"{found['largest']:.1e}, median {found['median']:.1e}, last tenth "
        f"{found['last_tenth']:.1e}  ({'met' if found[value] <= target else 'NOT MET'})\n"
        f"{'':<7}{rates['group']:,.0f} examples/s (group), {rates['merge']:,.0f} (merge)"
    )


def whole_row(name: str, found: dict[str, Any]) -> str:
    right = ", ".join(f"{100 * value:.1f} %" for value in found["accuracy"])
    return f"{name:<7}{found['examples_per_s']:,.0f} examples/s with two agents; right: {right}"


if __name__ == "__main__":
    sys.exit(main())
