"""What other codecs would make of a net that is trained already: bytes and accuracy, no training.

    python benchmarks/requantise.py runs/resnet18-accuracy --data-root DATA

Takes the folder of a finished run of hierarchical or split training. Bytes are those of features
for each test image, in batches of 256; accuracy is the cloud's on the whole test set.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from eaves.codecs.base import parse_codec
from eaves.data.batches import batches
from eaves.experiments.answering import Beside
from eaves.experiments.build import Job, build_job
from eaves.experiments.bundle import read_weights
from eaves.experiments.config import load_config
from eaves.experiments.evaluate import evaluate

CODECS = [f"int{n}:{of}+zstd" for n in (8, 4, 2, 1) for of in ("tensor", "channel")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--codecs", nargs="+", default=["fp32", *CODECS])
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(options.run / "config.toml")
    job = build_job(replace(config, data_root=options.data_root or config.data_root))
    halves = {"edge": job.method.edge_modules, "cloud": job.method.cloud_modules}
    for side, modules in halves.items():
        weights = read_weights(options.run / "bundle", side)
        torch.nn.ModuleDict(dict(modules)).load_state_dict(weights)
    edge, cloud = job.method.edge_predictor, job.method.cloud_predictor
    assert cloud is not None, "the run has no cloud"
    for name in options.codecs:
        rate = evaluate(edge, Beside(cloud), job.dataset.test, parse_codec(name))["cloud"]
        assert rate is not None, "the run sends nothing"
        print(
            f"{name:<20} {bytes_each(job, name):8.1f} B   accuracy {rate.value:.4f} "
            f"[{rate.low:.4f}, {rate.high:.4f}]"
        )


def bytes_each(job: Job, name: str) -> float:
    codec, total = parse_codec(name), 0
    for batch in batches(job.dataset.test, batch_size=256, seed=0, epoch=0, shuffle=False):
        features, _ = job.method.edge_predictor.predict(batch.inputs)
        assert features is not None, "the run sends nothing"
        total += len(codec.encode(features))
    return total / len(job.dataset.test)


if __name__ == "__main__":
    main()
