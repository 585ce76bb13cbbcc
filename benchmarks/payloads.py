"""How much the payloads of a plan differ from those of training: bytes a sample, three times.

    python benchmarks/payloads.py --data-root DIR [--steps 80]

For each net and cut: what the codecs make of an untrained net's features on made-up images (a plan
without --data), of the same on CIFAR-10 (a plan with --data cifar10), and of the features after
--steps batches of hierarchical training, each as the mean of three batches. The two columns of a
plan stand beside their difference from training.
"""

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import mean

import torch

from eaves.codecs.base import parse_codec
from eaves.codecs.upload import pack_upload
from eaves.core.roles import Batch, Upload
from eaves.data.batches import batches
from eaves.data.load import load_dataset
from eaves.data.synthetic import made_up
from eaves.experiments.build import build_job
from eaves.experiments.config import TrainConfig

CUTS = {"resnet18": ("layer1", "layer2", "layer3", "layer4"), "vgg16": ("pool3", "pool4", "pool5")}
CODECS = ("int8+zstd", "int4+zstd", "int2+zstd")
MEASURED = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, required=True, help="holds cifar-10-batches-bin")
    parser.add_argument("--steps", type=int, default=80)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| net, cut, codec | made up | CIFAR-10 | trained |\n| --- | --- | --- | --- |")
    for net, cuts in CUTS.items():
        for cut in cuts:
            for row in rows(net, cut, options):
                print(row, flush=True)


def rows(net: str, cut: str, options: argparse.Namespace) -> Iterator[str]:
    config = TrainConfig(
        net=net,
        cut=cut,
        data="cifar10",
        data_root=options.data_root,
        precision="bf16",
        max_steps=options.steps + MEASURED,
    )
    generator = torch.Generator().manual_seed(0)
    fakes = made_up(128 * MEASURED, (3, 32, 32), 10, generator=generator)
    source = load_dataset("cifar10", root=options.data_root).train
    on_fakes = sizes(config, batches(fakes, batch_size=128, seed=0, epoch=0))
    real = batches(source, batch_size=128, seed=0, epoch=0, augment="crop-flip")
    on_real = sizes(config, real, skip=options.steps)
    for i, codec in enumerate(CODECS):
        trained = on_real[1][i]
        cells = [
            f"{size:,.0f} ({size / trained - 1:+.0%})" for size in (on_fakes[0][i], on_real[0][i])
        ]
        yield f"| {net} {cut} `{codec}` | {cells[0]} | {cells[1]} | {trained:,.0f} |"


def sizes(
    config: TrainConfig, stream: Iterator[Batch], *, skip: int = 0
) -> tuple[list[float], list[float]]:
    """Return the bytes a sample of the first batches, and of those after ``skip`` more."""
    edge = build_job(config).method.edge
    wanted = [measured(edge.step(batch)[0]) for batch in islice(stream, MEASURED)]
    first = [mean(column) for column in zip(*wanted, strict=True)]
    if not skip:
        return first, first
    for batch in islice(stream, skip):
        edge.step(batch)
    late = [measured(edge.step(batch)[0]) for batch in islice(stream, MEASURED)]
    return first, [mean(column) for column in zip(*late, strict=True)]


def measured(upload: Upload | None) -> list[float]:
    assert upload is not None
    features, labels = upload.features, upload.labels
    return [len(pack_upload(features, labels, parse_codec(c))) / len(labels) for c in CODECS]


if __name__ == "__main__":
    main()
