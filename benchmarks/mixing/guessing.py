"""How much of plain mixtures a guess of the coefficients recovers, from their public law alone.

    python -m benchmarks.mixing.guessing [--groups 40] [--seed 0] [--json FILE]

Synthetic pictures (3 x 24 x 24: slopes, boxes and blobs) are mixed by each law at its default
bounds. "guessed" tries 256 matrices of the law on each group and keeps the one that leaves the
sparsest edges: no ICA, no examples, no training. Beside it ICA of gradients, and the mixtures as
they are. Recovered: correlation above 0.95; the interval counts groups.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from eaves.audit.intercept import Intercept
from eaves.audit.unmixing import UnmixPlan, take_apart
from eaves.errors import ConfigError
from eaves.privacy.mixing import LAWS, MixingLaw
from eaves.privacy.sources import Pseudo

SIDE, SHAPES = 24, 10
ATTACKS = ("nothing", "guessed", "gradient")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--groups", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    print(f"| law | K | {' | '.join(f'{name}, %' for name in ATTACKS)} |")
    print("| --- | --- |" + " --- |" * len(ATTACKS))
    for group in (2, 3, 4, 8):
        for name in LAWS:
            try:
                found = recovered(MixingLaw(name=name, group=group), options.groups, options.seed)
            except ConfigError as error:
                print(f"| {name} | {group} | {error} |")
                continue
            rows.append({"law": name, "group": group, **found})
            cells = (
                f"{100 * rate['value']:.1f} [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"
                for rate in found.values()
            )
            print(f"| {name} | {group} | {' | '.join(cells)} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"n": options.groups, "rows": rows}, indent=1))


def recovered(law: MixingLaw, groups: int, seed: int) -> dict[str, dict[str, float]]:
    """Return the rate of each attack."""
    generator = torch.Generator().manual_seed(seed)
    sources = pictures(groups * law.group, generator)
    queries = law.draw(groups, Pseudo(generator)).mix(sources)
    shape = (groups, law.group, *sources.shape[1:])
    seen = Intercept(
        queries=queries.reshape(shape), draw=lambda n, g: law.draw(n, Pseudo(g)).matrix_GKK
    )
    plan = UnmixPlan(filter="gradient")
    return {
        name: asdict(
            take_apart(name, seen, sources.reshape(shape), plan=plan, generator=generator)[
                0
            ].recovered
        )
        for name in ATTACKS
    }


def pictures(n: int, generator: torch.Generator) -> Tensor:
    """Return pictures (N, 3, H, W) in [0, 1]: a slope of light behind boxes and soft blobs."""
    y, x = torch.meshgrid(torch.linspace(0, 1, SIDE), torch.linspace(0, 1, SIDE), indexing="ij")
    slope = torch.rand(n, 3, 2, generator=generator)[..., None, None]
    made = 0.5 * (slope[:, :, 0] * x + slope[:, :, 1] * y)
    for number in range(SHAPES):
        colour, place = torch.rand(2, n, 3, 1, 1, generator=generator)
        across, down = (x - place[:, :1]).abs(), (y - place[:, 1:2]).abs()
        size = 0.05 + 0.2 * place[:, 2:]
        if number % 2:
            cover = ((across < size) & (down < 0.7 * size)).float()
        else:
            cover = (-(across.square() + down.square()) / size.square()).exp()
        made = (1 - cover) * made + cover * colour
    return made


if __name__ == "__main__":
    main()
