"""The share of a net's multiplications that the edge has at the cuts of benchmarks/privacy/rows.py.

    python -m benchmarks.privacy.shares

The narrow layers count: those down to the edge, those up to the cloud. Prints Markdown.
"""

import torch
from benchmarks.privacy.rows import hiding, nets
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from eaves.data.source import Interface
from eaves.experiments.build import build_method

FACES = Interface(input_shape=(3, 64, 64), classes=("no", "yes"))


def macs(net: nn.Module, x: torch.Tensor) -> tuple[float, torch.Tensor]:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        y = net.eval()(x)
    return counter.get_total_flops() / 2, y


def main() -> None:
    configs = {"compact": hiding()}
    configs |= {row.config.net: row.config for row in nets() if row.config.method == "priphit"}
    print("| net | cut | edge, M | cloud, M | edge's share % |\n| --- | --- | --- | --- | --- |")
    for name, config in configs.items():
        method = build_method(config, FACES).method
        edge, z = macs(method.edge_modules["edge"], torch.zeros(1, 3, 64, 64))
        cloud, _ = macs(method.cloud_modules["cloud"], z.float())
        share = 100 * edge / (edge + cloud)
        print(f"| {name} | {config.cut} | {edge / 1e6:.1f} | {cloud / 1e6:.1f} | {share:.1f} |")


if __name__ == "__main__":
    main()
