"""How near honest training comes to the limits that are there for outliers.

    python -m benchmarks.honest [--epochs 15] [--json FILE]

Every method that uploads, on several nets, cuts, optimisers and rates, trains on digits with one
edge, as a cloud would see it (network/screening.py, core/levels.py with limits of infinity):

gradient   largest norm of the gradient over the level of the norms before it, after 16 steps
rms, peak  largest root mean square and largest value of features over the level of those before
begin      features of the first upload over those of the probe (an edge part that has not learnt)
grown      the largest level over the probe

A limit of 10 raises a false alarm where one of the first three comes to 10 (features: to 10 over
the largest of three measures, so that 10 over the level alone is not yet one), or begin to 100.
"""

import argparse
import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from eaves.core.levels import Level
from eaves.core.optimise import Optimised
from eaves.experiments.build import build_job
from eaves.experiments.config import TrainConfig
from eaves.experiments.halves import probed_scale
from eaves.experiments.phases import edge_phases
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.network.screening import scale_of

HIDING = PrivacyConfig(private="high")
BASE = TrainConfig(batch_size=64)
CASES: dict[str, TrainConfig] = {
    "hierarchical small, adam": replace(BASE, optimiser="adam"),
    "hierarchical small, lr 1": replace(BASE, lr=1.0),
    "hierarchical small, lr 0.001": replace(BASE, lr=0.001),
    "hierarchical small, batch 8": replace(BASE, batch_size=8),
    "hierarchical small, bottleneck 2": replace(BASE, bottleneck=2),
    "hierarchical small, once": replace(BASE, send="once"),
    "hierarchical small, conv1": replace(BASE, cut="conv1"),
    **{
        f"{method} {send}": replace(
            BASE, method=method, data="digits:parity", privacy=HIDING, send=send
        )
        for method in ("priphit", "nopeek", "disco", "deepobfuscator")
        for send in ("once", "every-epoch")
    },
    **{
        f"{method} {net}": replace(BASE, method=method, net=net)
        for method in ("hierarchical", "split", "full-cloud")
        for net in ("small", "ds_cnn", "resnet20")
    },
}


def measure(config: TrainConfig) -> dict[str, Any]:
    """Return the largest ratios of one run."""
    job = build_job(config)
    probe = probed_scale(job.method, job.dataset.interface)
    cloud, norms, gradient = job.method.cloud, Level(), 0.0
    assert cloud is not None
    assert cloud.part is not None
    levels, ratios, begin, grown = (Level(), Level()), [0.0, 0.0], 0.0, 0.0
    for phase in edge_phases(job):
        sends = phase is edge_phases(job)[-1] or phase.name in ("send", "train")
        for batch in islice(phase.batches(job), phase.steps):
            upload, _ = phase.edge.step(batch)
            if upload is None or not sends:
                continue
            if upload.features.dtype.is_floating_point:
                scale = scale_of(upload.features)
                if not levels[0].count and probe is not None:
                    begin = max(scale.rms / probe.rms, scale.peak / probe.peak)
                for i, figure in enumerate((scale.rms, scale.peak)):
                    if levels[i].count:
                        ratios[i] = max(ratios[i], figure / levels[i].value)
                    levels[i].add(figure)
                if probe is not None:
                    grown = max(grown, levels[0].value / probe.rms, levels[1].value / probe.peak)
            reply, _ = cloud.step(upload)
            norm = norm_of(cloud.part)
            if norms.count >= 16:
                gradient = max(gradient, norm / norms.value)
            norms.add(norm)
            if reply is not None:
                phase.edge.receive(reply)
    found = {"gradient": gradient, "rms": ratios[0], "peak": ratios[1]}
    return {**found, "begin": begin, "grown": grown, "steps": cloud.part.steps}


def norm_of(part: Optimised) -> float:
    """Return the norm of the gradient of the last step."""
    gradients = [p.grad for p in part.modules.parameters() if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


def main() -> None:
    """Measure all cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    print(f"{'':34} gradient   rms  peak  begin  grown  steps")
    for name, config in CASES.items():
        if args.only not in name:
            continue
        one = found[name] = measure(replace(config, epochs=args.epochs))
        figures = " ".join(f"{one[k]:6.2f}" for k in ("gradient", "rms", "peak", "begin", "grown"))
        print(f"{name:34} {figures} {one['steps']:6}", flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
