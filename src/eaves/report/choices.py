"""What there is to choose from: nets, cuts, data sets."""

from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

import torch

from eaves.core.units import percent_text
from eaves.data.load import DATASETS, dataset_table, load_dataset, make_synthetic
from eaves.experiments.cuts import cut_facts
from eaves.nets.build import NETS, NetEntry, build_net
from eaves.report.plans import uncounted_text
from eaves.report.stdout import console, plain_table, print_lines


def show_nets(*, as_json: bool) -> int:
    """Print every net of ours."""
    parameters = {name: _parameters(name) for name in NETS}
    if as_json:
        return print_lines(
            [
                {"net": name, "parameters": parameters[name], **_facts(entry)}
                for name, entry in NETS.items()
            ]
        )
    table = plain_table("net", "parameters", "stem", "images from", "about")
    for name, entry in NETS.items():
        side = "x".join(map(str, entry.smallest))
        stems = " or ".join(entry.stems) or "-"
        table.add_row(name, f"{parameters[name]:,}", stems, side, entry.about)
    table.caption = (
        "Parameters with 3 channels and 10 classes. Also: timm:NAME and torchvision:NAME (extra "
        "'vision'), and a net of your own as FILE.py:NAME."
    )
    console().print(table)
    return 0


def _facts(entry: NetEntry) -> dict[str, Any]:
    return {name: value for name, value in asdict(entry).items() if name != "build"}


def _parameters(name: str) -> int:
    with torch.device("meta"):  # counted without taking memory
        net = build_net(name, classes=10, input_shape=(3, 32, 32))
    return sum(p.numel() for p in net.parameters())


def show_cuts(
    name: str, input_shape: tuple[int, int, int], classes: int, stem: str | None, *, as_json: bool
) -> int:
    """Print where a net can be cut and what crosses there."""
    net = build_net(name, classes=classes, input_shape=input_shape, stem=stem)
    facts = cut_facts(net, input_shape)
    if as_json:
        return print_lines([asdict(fact) for fact in facts])
    table = plain_table(
        "cut", "features", "values", "8-bit / raw", "work on edge", "weights on edge"
    )
    for fact in facts:
        table.add_row(
            fact.cut,
            "x".join(map(str, fact.feature_shape)),
            f"{fact.values:,}",
            f"{fact.values / prod(input_shape):.2f}",
            f"{percent_text(fact.edge_macs, digits=0)}%",
            f"{percent_text(fact.edge_params)}%",
        )
    table.caption = (
        "8-bit / raw: bytes of 8-bit features, before compression, for each of the input"
    )
    if facts and facts[0].uncounted:
        table.caption += f". {uncounted_text(facts[0].uncounted)}"
    console().print(table)
    return 0


def show_data(root: Path | None, *, as_json: bool) -> int:
    """Print every data set and whether it is there."""
    rows = dataset_table(root)
    if as_json:
        return print_lines([row._asdict() for row in rows])
    table = plain_table("data", "state", "what it is", "terms")
    for row in rows:
        table.add_row(row.name, row.state, row.description, row.terms)
    console().print(table)
    return 0


def fetch_data(name: str, root: Path | None, *, download: bool, synthetic: bool) -> int:
    """Check that a data set is whole, downloaded or generated if asked; print what it holds."""
    if synthetic:
        make_synthetic(name, root=root)
    dataset = load_dataset(name, root=root, download=download)
    shape = "x".join(map(str, dataset.train.input_shape))
    terms = DATASETS[name.partition(":")[0]].terms
    text = (
        f"{dataset.name}: {len(dataset.train):,} to train, {len(dataset.test):,} to test, {shape}, "
        f"{len(dataset.classes)} classes. Terms: {terms}."
    )
    for line in (text, *dataset.notices):
        console().out(line, highlight=False)
    return 0
