"""A net of your own, cut in two, trained with its halves side by side, and bundled.

    python examples/own_net.py

The same net from the command line, which calls it as ``OwnNet(classes=..., input_shape=...)``:

    eaves train --net examples/own_net.py:OwnNet --cut join --epochs 15 --batch-size 64
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

import eaves


class OwnNet(nn.Module):
    """A plain module with one residual join: (B, C, H, W) -> (B, classes)."""

    def __init__(self, classes: int, input_shape: tuple[int, int, int]):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(input_shape[0], 32, 3, padding=1), nn.ReLU())
        self.branch = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32))
        self.join = nn.ReLU()
        self.body = nn.Sequential(nn.Conv2d(32, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU())
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.join(x + self.branch(x))
        logits: Tensor = self.head(self.body(x).mean(dim=(2, 3)))
        return logits


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a net of your own in two halves.")
    parser.add_argument("--out", type=Path, default=Path("runs/own_net"))
    parser.add_argument("--smoke", action="store_true", help="one epoch, to see that it runs")
    args = parser.parse_args()

    torch.manual_seed(0)  # of the weights: a net that is handed over is taken as it is
    net = OwnNet(classes=10, input_shape=(1, 8, 8))
    print("it can be cut after:", ", ".join(eaves.cut_points(net)))

    config = eaves.TrainConfig(
        cut="join", epochs=1 if args.smoke else 15, batch_size=64, link="wifi", out=args.out
    )
    for event in eaves.run(config, net=net):  # the loop is yours: stop, log or plot here
        if isinstance(event, eaves.RunRecord):
            record = event
        else:
            print(f"{event.phase}: {event.progress.edge_steps} of {event.steps} steps", end="\r")

    print()
    for answer, rate in record.accuracy.items():
        if rate is not None:
            print(f"{answer}: accuracy {rate['value']:.3f} on {rate['n']} unseen digits")
    print(f"bytes sent for each example: {record.bytes['per_sample_up']:.0f}")
    for file in sorted((args.out / "bundle").rglob("*.*")):
        print(f"{file.stat().st_size:8,d} bytes  {file}")


if __name__ == "__main__":
    main()
