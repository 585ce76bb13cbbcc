"""The paper's four headline figures beside ours: plans for its nets, image sizes and link.

    python benchmarks/headlines.py --data-root DIR [--out docs/plans]

For ResNet-18 and VGG-16, on CIFAR-10 and on inputs of Tiny ImageNet's size (3x64x64, 200 classes):
an edge like a Jetson Nano, a cloud with an RTX 2080 Ti, a 3G uplink of 1.1 Mbit/s, batch 128, fp32.
Prints Markdown: for each, the training time saved by hierarchical training at every cut against
full-cloud with raw images sent every epoch, and edge memory and energy against full-edge; and draws
one figure. Payload sizes are those of CIFAR-10 images, and of made-up images for Tiny ImageNet's
size, with untrained nets; int8 without zstd does not depend on the images. Nothing is trained.

The paper states 29 % and 61 % (VGG-16 and ResNet-18 on CIFAR-10), 25 % and 81 % (Tiny ImageNet).
Its cuts, bits, devices and link rates are not all known to us: headlines are compared here.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eaves.core.specs import parse_link
from eaves.core.units import bytes_text, joules_text, seconds_text
from eaves.experiments.planconfig import ProfileConfig
from eaves.experiments.profiling import take_profile
from eaves.planner.cost import Cost, training_cost
from eaves.planner.devices import DEVICES, preset
from eaves.planner.profile import Profile
from eaves.planner.scenario import Candidate, Scenario
from eaves.planner.search import held_bytes

EDGE, CLOUD, LINK = "jetson-nano", "rtx-2080-ti", "3g"
CODECS = ("int8", "int8+zstd", "int4+zstd")
COLOURS = ("#999999", "#0072B2", "#E69F00")
# (net, data): what the paper states, and how many examples an epoch has.
STATED = {
    ("vgg16", "CIFAR-10"): (0.29, 50_000),
    ("resnet18", "CIFAR-10"): (0.61, 50_000),
    ("vgg16", "Tiny ImageNet size"): (0.25, 100_000),
    ("resnet18", "Tiny ImageNet size"): (0.81, 100_000),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, required=True, help="holds cifar-10-batches-bin")
    parser.add_argument("--out", type=Path, help="folder for headlines.png and headlines.json")
    options = parser.parse_args()
    scenarios = {key: scenario_of(*key, options.data_root) for key in STATED}
    print("\n\n".join(table(*key, scenario) for key, scenario in scenarios.items()))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        figure = draw(scenarios)
        figure.savefig(options.out / "headlines.png", dpi=110)
        facts = [facts_of(*key, scenario) for key, scenario in scenarios.items()]
        (options.out / "headlines.json").write_text(json.dumps(facts, indent=1) + "\n")


def scenario_of(net: str, data: str, root: Path) -> Scenario:
    codecs = ",".join(CODECS)
    if data == "CIFAR-10":
        settings = ProfileConfig(net=net, data="cifar10", data_root=root, codecs=codecs)
    else:
        settings = ProfileConfig(net=net, input="3x64x64", classes=200, codecs=codecs)
    for event in take_profile(settings, timed=False):
        if isinstance(event, Profile):
            profile = event
    samples = STATED[net, data][1]
    return Scenario(
        edge=preset(profile, DEVICES[EDGE]),
        cloud=preset(profile, DEVICES[CLOUD]),
        link=parse_link(LINK),
        batches=samples // profile.subject.batch_size,
        power=DEVICES[EDGE].power,
    )


def saved(scenario: Scenario, cost: Cost) -> float:
    raw = training_cost(scenario, Candidate(method="full-cloud", codec="raw"))
    return 1 - cost.epoch_s / raw.epoch_s


def at(scenario: Scenario, cut: str, codec: str) -> Cost:
    return training_cost(scenario, Candidate(method="hierarchical", cut=cut, codec=codec))


def table(net: str, data: str, scenario: Scenario) -> str:
    stated = STATED[net, data][0]
    whole = training_cost(scenario, Candidate(method="full-edge"))
    names = ["cut", *(f"saved, `{codec}`" for codec in CODECS), "sequential, `int4+zstd`"]
    names += ["edge works", "edge memory", "of full-edge", "energy, `int4+zstd`", "of full-edge"]
    lines = [
        f"**{net}, {data}**: the paper states **{stated:.0%}**; ours, best cut: **"
        f"{max(saved(scenario, at(scenario, c, CODECS[-1])) for c in scenario.edge.cuts):.0%}** "
        "(`int4+zstd`)",
        "",
        f"| {' | '.join(names)} |",
        f"|{' --- |' * len(names)}",
    ]
    lines += [
        f"| {' | '.join(cells(scenario, cut, whole))} |"
        for cut in scenario.edge.cuts
        if cut != "stem"
    ]
    last = ["full-edge", *[f"{saved(scenario, whole):.0%}"] * 4, seconds_text(whole.edge_s)]
    energy_j = whole.energy_j or 0.0
    last += [bytes_text(held_bytes(whole)), "100%", joules_text(energy_j), "100%"]
    return "\n".join([*lines, f"| {' | '.join(last)} |"])


def cells(scenario: Scenario, cut: str, whole: Cost) -> list[str]:
    costs = [at(scenario, cut, codec) for codec in CODECS]
    best = costs[-1]
    raw = training_cost(scenario, Candidate(method="full-cloud", codec="raw"))
    memory = held_bytes(best) / held_bytes(whole)
    energy_j, whole_j = best.energy_j or 0.0, whole.energy_j or 1.0
    return [
        cut,
        *(f"{saved(scenario, cost):.0%}" for cost in costs),
        f"{1 - best.sequential_s / raw.sequential_s:.0%}",
        seconds_text(best.edge_s),
        bytes_text(held_bytes(best)),
        f"{memory:.0%}",
        joules_text(energy_j),
        f"{energy_j / whole_j:.0%}",
    ]


def draw(scenarios: dict[tuple[str, str], Scenario]) -> Figure:
    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(2, 2).flatten()
    for panel, ((net, data), scenario) in zip(axes, scenarios.items(), strict=True):
        draw_panel(panel, net, data, scenario)
    figure.suptitle(
        f"Training time saved against full-cloud, raw images every epoch: {EDGE}, {CLOUD}, {LINK}"
    )
    return figure


def draw_panel(axes: Axes, net: str, data: str, scenario: Scenario) -> None:
    cuts = [cut for cut in scenario.edge.cuts if cut != "stem"]
    width = 0.8 / len(CODECS)
    for i, (codec, colour) in enumerate(zip(CODECS, COLOURS, strict=True)):
        shares = [100 * saved(scenario, at(scenario, cut, codec)) for cut in cuts]
        places = [j + (i - 1) * width for j in range(len(cuts))]
        axes.bar(places, shares, width, color=colour, label=f"hierarchical, {codec}")
    whole = training_cost(scenario, Candidate(method="full-edge"))
    axes.axhline(100 * saved(scenario, whole), color="#009E73", ls=":", label="full-edge")
    stated = 100 * STATED[net, data][0]
    axes.axhline(stated, color="black", ls="--", label="stated in the paper")
    axes.set_xticks(range(len(cuts)), cuts)
    axes.set_ylim(-50, 100)
    axes.set_ylabel("saved, %")
    axes.set_title(f"{net}, {data}")
    axes.legend(fontsize=7, loc="lower right")


def facts_of(net: str, data: str, scenario: Scenario) -> dict[str, Any]:
    rows = [
        {"cut": cut, "codec": codec, **asdict(at(scenario, cut, codec))}
        for cut in scenario.edge.cuts
        for codec in CODECS
    ]
    for row in rows:
        row["saved"] = saved(scenario, at(scenario, row["cut"], row["codec"]))
    places = {"edge": EDGE, "cloud": CLOUD, "link": LINK}
    return {"net": net, "data": data, "stated": STATED[net, data][0], **places, "rows": rows}


if __name__ == "__main__":
    main()
