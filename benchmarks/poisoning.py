"""What hostile edges cost the others: every rule of merging against every attack.

    python -m benchmarks.poisoning [--data digits] [--edges 10] [--hostile 2] [--seeds 3]
        [--split iid|two-classes] [--rules ...] [--attacks ...] [--root DIR] [--json FILE]

Ten edges train one cloud half by hierarchical training, each with a tenth of the data and an edge
part of its own; all of them and the cloud are in this process, and the cloud's own code learns
from what they upload (network/learning.py, with screening.py before it). Two of ten are hostile
from the first step to the last.

attacks   labels: random labels; flip: label y becomes K-1-y; large: features 5 times as large,
          with random signs, and random labels (within the bound of 10 that screening holds);
          huge: features of ±1e9; sign: features with their sign turned; noise: normal noise as
          large as features, and random labels
rules     single: each upload is a step of its own, in turn (--merge 1); the others as in
          network/merging.py, on ten uploads at a time
accuracy  of the cloud on the test set, by the features of the honest edges, mean over them and the
          seeds; ± is the half-width of the 95 % interval over seeds (Student's t)
cost      points below the undisturbed run of the same rule with the honest edges alone, and below
          the best undisturbed one
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from scipy.stats import t
from torch import Tensor

from eaves.codecs.base import parse_codec
from eaves.core.roles import Batch, Upload
from eaves.data.batches import batches, steps_per_epoch
from eaves.data.load import load_dataset
from eaves.data.source import Dataset, InMemory
from eaves.errors import PayloadError
from eaves.experiments.build import Steps, build_method
from eaves.experiments.config import TrainConfig
from eaves.experiments.halves import probed_scale
from eaves.methods.setup import Method
from eaves.network.group import Alone
from eaves.network.half import Accepts, Half
from eaves.network.learning import Learning
from eaves.network.policy import TrainingPolicy
from eaves.network.screening import Screening

Attack = Callable[[Upload, int, torch.Generator], Upload]
RULES = ("single", "mean", "clipped", "trimmed", "median", "krum")


def _random_labels(upload: Upload, classes: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, classes, upload.labels.shape, generator=generator)


def _signs(upload: Upload, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, upload.features.shape, generator=generator) * 2.0 - 1.0


def _labels(upload: Upload, classes: int, generator: torch.Generator) -> Upload:
    return Upload(upload.features, _random_labels(upload, classes, generator))


def _flip(upload: Upload, classes: int, generator: torch.Generator) -> Upload:
    return Upload(upload.features, classes - 1 - upload.labels)


def _large(upload: Upload, classes: int, generator: torch.Generator) -> Upload:
    features = 5 * upload.features.square().mean().sqrt() * _signs(upload, generator)
    return Upload(features, _random_labels(upload, classes, generator))


def _huge(upload: Upload, classes: int, generator: torch.Generator) -> Upload:
    return Upload(1e9 * _signs(upload, generator), _random_labels(upload, classes, generator))


def _sign(upload: Upload, classes: int, generator: torch.Generator) -> Upload:
    return Upload(-upload.features, upload.labels)


def _noise(upload: Upload, classes: int, generator: torch.Generator) -> Upload:
    noise = torch.randn(upload.features.shape, generator=generator)
    features = noise * upload.features.square().mean().sqrt()
    return Upload(features, _random_labels(upload, classes, generator))


ATTACKS: dict[str, Attack | None] = {
    "none": None,
    "labels": _labels,
    "flip": _flip,
    "large": _large,
    "huge": _huge,
    "sign": _sign,
    "noise": _noise,
}


@dataclass(frozen=True)
class Trial:
    """One run."""

    rule: str
    attack: str
    seed: int
    edges: int
    hostile: int
    split: str
    epochs: int
    batch_size: int
    limits: bool = True
    lr: float | None = None


def shares(dataset: Dataset, trial: Trial) -> list[InMemory]:
    """Return the training examples of each edge: a random part, or all of two classes."""
    everything = dataset.train.fetch(torch.arange(len(dataset.train)))
    labels_N, edges = everything.labels, trial.edges
    generator = torch.Generator().manual_seed(trial.seed)
    order_N = torch.randperm(len(labels_N), generator=generator)
    if trial.split == "iid":
        parts = list(order_N.tensor_split(edges))
    else:  # edge i has classes i and i + 1, a half of the examples of each
        parts = []
        for i in range(edges):
            own = [order_N[labels_N[order_N] == (i + k) % 10] for k in (0, 1)]
            parts.append(torch.cat([own[0][: len(own[0]) // 2], own[1][len(own[1]) // 2 :]]))
    return [InMemory(everything.inputs[part], labels_N[part]) for part in parts]


def built(config: TrainConfig, dataset: Dataset, steps: int) -> Method:
    """Return a method; every edge begins with the same weights."""
    return build_method(
        config, dataset.interface, steps=Steps(epoch=1, edge=steps, cloud=steps)
    ).method


def run(dataset: Dataset, trial: Trial) -> float:
    """Return the accuracy of the cloud on the features of honest edges."""
    config = TrainConfig(
        data="digits",
        net="small",
        batch_size=trial.batch_size,
        epochs=trial.epochs,
        lr=trial.lr,
        seed=trial.seed,
    )
    sources = shares(dataset, trial)
    each = min(steps_per_epoch(len(source), trial.batch_size) for source in sources)
    steps = each * trial.epochs
    methods = [built(config, dataset, steps) for _ in sources]
    cloud, classes = methods[0], len(dataset.interface.classes)
    merge = 1 if trial.rule == "single" else trial.edges
    policy = TrainingPolicy(
        run_uploads=steps,
        merge_rule="mean" if trial.rule == "single" else trial.rule,
        gradient_times=20.0 if trial.limits else 0.0,
        feature_times=10.0 if trial.limits else 0.0,
        probed=probed_scale(methods[0], dataset.interface),
    )
    assert cloud.cloud is not None
    assert cloud.cloud_predictor is not None
    half = Half(
        learner=cloud.cloud,
        predictor=cloud.cloud_predictor,
        accepts=Accepts(feature_shape=(1,), dtype=torch.float32, classes=classes),
        reply_codec=parse_codec("fp32"),
        policy=policy,
    )
    learning = Learning(half, Alone())
    honest_only = trial.attack == "none"
    first = trial.hostile if honest_only else 0
    learning.plan(0, edges=trial.edges - first, merge=merge)
    screening = Screening(policy.feature_times, policy.probed)
    generator = torch.Generator().manual_seed(1000 + trial.seed)
    attack = ATTACKS[trial.attack]
    for epoch in range(trial.epochs):
        streams = [
            batches(source, batch_size=trial.batch_size, seed=trial.seed, epoch=epoch)
            for source in sources
        ]
        for _ in range(each):
            uploads = []
            for i in range(first, trial.edges):
                upload, _ = methods[i].edge.step(next(streams[i]))
                assert upload is not None
                if i < trial.hostile and attack is not None:
                    upload = attack(upload, classes, generator)
                if (one := screened(screening, str(i), upload)) is not None:
                    uploads.append(one)
            for together in [uploads] if merge > 1 else [[one] for one in uploads]:
                learning.step(together)
    edges = [methods[i] for i in range(trial.hostile, trial.edges)]
    return mean(accuracy(edge, cloud, dataset) for edge in edges)


def screened(screening: Screening, edge: str, upload: Upload) -> Upload | None:
    """Return the upload; None where the cloud refuses it."""
    try:
        screening.learnt(edge, screening.check(edge, upload.features))
    except PayloadError:
        return None
    return upload


def accuracy(edge: Method, cloud: Method, dataset: Dataset) -> float:
    """Return the share of the test set that the cloud answers rightly for an edge."""
    assert cloud.cloud_predictor is not None
    right = total = 0
    for batch in batches(dataset.test, batch_size=500, seed=0, epoch=0, shuffle=False):
        right += right_of(batch, edge, cloud)
        total += len(batch.labels)
    return right / total


def right_of(batch: Batch, edge: Method, cloud: Method) -> int:
    features, _ = edge.edge_predictor.predict(batch.inputs)
    assert features is not None
    assert cloud.cloud_predictor is not None
    answers_B = cloud.cloud_predictor.answer(features).argmax(dim=1)
    return int((answers_B == batch.labels).sum())


def interval(values: Sequence[float]) -> float:
    """Return the half-width of the 95 % interval of the mean."""
    if len(values) < 2:
        return math.nan
    return float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))


def main() -> None:
    """Run the grid and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--train-samples", type=int)
    parser.add_argument("--edges", type=int, default=10)
    parser.add_argument("--hostile", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--split", choices=("iid", "two-classes"), default="iid")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=RULES)
    parser.add_argument("--attacks", nargs="+", choices=tuple(ATTACKS), default=tuple(ATTACKS))
    parser.add_argument("--no-limits", action="store_true", help="neither screening nor clipping")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    dataset = load_dataset(args.data, root=args.root, train_samples=args.train_samples)
    n, classes = len(dataset.test), len(dataset.interface.classes)
    hostile = f"{args.hostile} of {args.edges} edges hostile"
    print(f"{args.data}, {hostile}, {args.split}; n = {n}, chance {100 / classes:.0f} %")
    found: list[dict[str, Any]] = []
    for rule in args.rules:
        for attack in args.attacks:
            values = [
                100
                * run(
                    dataset,
                    Trial(
                        rule=rule,
                        attack=attack,
                        seed=seed,
                        edges=args.edges,
                        hostile=args.hostile,
                        split=args.split,
                        epochs=args.epochs,
                        batch_size=args.batch_size,
                        limits=not args.no_limits,
                        lr=args.lr,
                    ),
                )
                for seed in range(args.seeds)
            ]
            row = {"rule": rule, "attack": attack, "accuracy": mean(values), "values": values}
            found.append(row)
            print(f"{rule:8} {attack:7} {mean(values):5.1f} ± {interval(values):4.1f}", flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps({"settings": vars(args), "rows": found}, default=str))


if __name__ == "__main__":
    main()
