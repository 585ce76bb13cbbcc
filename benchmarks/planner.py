"""Predicted against measured: what a plan says an epoch takes, and what it then takes.

    python benchmarks/planner.py --data-root DIR [--nets resnet18 vgg16] [--out FILE.json]

For each net a profile is taken once, on this machine. Then each configuration is trained for an
epoch of --batches batches, over the emulated link, and its wall time is set against the plan's:
both sides on this machine, one thread each. Prints a row for each, the median and the worst error
(targets: 8 % and 25 %), and for each net and link how much slower the cut that the plan calls the
best is than the one that was measured to be the best (target: 5 %). The cuts are hierarchical,
their codec is int8+zstd; payload sizes are those of the untrained net in the profile.

A run that another process disturbs is measured too long: use a quiet machine.
"""

import argparse
import json
import platform
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, final

import torch

from eaves.core.specs import parse_link
from eaves.experiments.build import Job, build_job
from eaves.experiments.config import TrainConfig
from eaves.experiments.phases import phases_of
from eaves.experiments.planconfig import ProfileConfig
from eaves.experiments.profiling import take_profile
from eaves.planner.cost import training_cost
from eaves.planner.devices import slowed
from eaves.planner.profile import Profile
from eaves.planner.scenario import Candidate, Scenario
from eaves.runtime.meters import Totals

CUTS = {"resnet18": ("layer1", "layer2", "layer3"), "vgg16": ("pool3", "pool4", "pool5")}
CODEC = "int8+zstd"


@final
@dataclass(frozen=True)
class Case:
    """One configuration."""

    way: Candidate
    link: str
    slowdown: float = 1.0

    def __str__(self) -> str:
        slower = f" edge/{self.slowdown:g}" if self.slowdown > 1 else ""
        return f"{self.way} {self.link}{slower}"


def main() -> None:
    options = parse()
    rows: list[dict[str, Any]] = []
    for net in options.nets:
        rows += measured(net, options)
    errors = [abs(row["error"]) for row in rows]
    print(f"{len(rows)} configurations: median error {median(errors):.1%}, worst {max(errors):.1%}")
    lost = best_cuts(rows)
    for name, share in lost.items():
        print(f"{name}: the cut that the plan calls best takes {share:+.1%} of the best measured")
    if options.out:
        facts = {"command": sys.argv, "machine": platform.processor(), "torch": torch.__version__}
        summary = {"median": median(errors), "worst": max(errors), "best_cut_lost": lost}
        options.out.write_text(json.dumps({**facts, **summary, "rows": rows}, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, required=True, help="holds cifar-10-batches-bin")
    parser.add_argument("--nets", nargs="+", default=list(CUTS), choices=list(CUTS))
    parser.add_argument("--batches", type=int, default=20, help="of 128, in an epoch")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--seconds", type=float, default=10.0, help="of timing for each profile")
    parser.add_argument("--out", type=Path, help="write JSON here")
    return parser.parse_args()


def cases(net: str) -> Iterator[Case]:
    """Return every cut on 3G and wifi, later ones on a slower edge, and what they compete with."""
    cuts = [Candidate(method="hierarchical", cut=cut, codec=CODEC) for cut in CUTS[net]]
    yield Case(Candidate(method="full-edge"), "wifi")
    yield Case(Candidate(method="full-cloud", codec="raw"), "wifi")
    yield Case(Candidate(method="split", cut=CUTS[net][-1], codec=CODEC), "wifi")
    yield from (Case(way, "wifi") for way in cuts)
    yield from (Case(way, "3g") for way in cuts)
    yield from (Case(way, "wifi", 4.0) for way in cuts)


def measured(net: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each case of ``net``, printing it as it comes."""
    profile = profile_of(net, options)
    train(config_of(Case(Candidate(method="full-edge"), "unlimited"), net, options))  # the warm-up
    rows = []
    for case in cases(net):
        predicted_s = predict(profile, case, options.batches)
        totals = train(config_of(case, net, options))
        error = predicted_s / totals.wall_s - 1
        print(
            f"{net:<9} {case!s:<42} predicted {predicted_s:7.2f} s  measured "
            f"{totals.wall_s:7.2f} s  error {error:+6.1%}",
            flush=True,
        )
        way = asdict(case.way)
        times = {"predicted_s": predicted_s, "measured_s": totals.wall_s, "error": error}
        rows.append({"net": net, **way, "link": case.link, "slowdown": case.slowdown, **times})
    return rows


def profile_of(net: str, options: argparse.Namespace) -> Profile:
    settings = ProfileConfig(
        net=net,
        data="cifar10",
        data_root=options.data_root,
        precision=options.precision,
        codecs=CODEC,
    )
    for event in take_profile(settings, budget_s=options.seconds):
        if isinstance(event, Profile):
            profile = event
    print(f"{net}: profile taken, a step is {profile.contention:.2f} times longer beside another")
    return profile


def predict(profile: Profile, case: Case, batches: int) -> float:
    scenario = Scenario(
        edge=slowed(profile, case.slowdown),
        cloud=profile,
        link=parse_link(case.link),
        batches=batches,
        epochs=1,
        one_process=True,
    )
    return training_cost(scenario, case.way).epoch_s


def config_of(case: Case, net: str, options: argparse.Namespace) -> TrainConfig:
    found = TrainConfig(
        method=case.way.method,
        data="cifar10",
        data_root=options.data_root,
        train_samples=128 * options.batches,
        net=net,
        cut=case.way.cut,
        link=case.link,
        edge_slowdown=case.slowdown,
        epochs=1,
        precision=options.precision,
        checkpoint_s=1e9,
    )
    return found if case.way.method == "full-cloud" else replace(found, codec=CODEC)


def train(config: TrainConfig) -> Totals:
    """Train one epoch and return what it took; nothing is evaluated or written."""
    torch.set_num_threads(config.threads)
    job: Job = build_job(config)
    totals = Totals()
    [phase] = phases_of(job, None)
    for _ in phase.start(0, totals, threading.Event()):
        pass
    return totals


def best_cuts(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return how much longer the plan's best cut takes than the measured best, by net and link."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["method"] == "hierarchical":
            slower = f" edge/{row['slowdown']:g}" if row["slowdown"] > 1 else ""
            groups.setdefault(f"{row['net']} {row['link']}{slower}", []).append(row)
    found = {}
    for name, group in groups.items():
        chosen = min(group, key=lambda row: row["predicted_s"])
        found[name] = chosen["measured_s"] / min(row["measured_s"] for row in group) - 1
    return found


if __name__ == "__main__":
    main()
