"""What every peer is given: one small net cut in two, random images, and one way to measure.

Dimension key:  B batch   C channels   H, W height and width

This file imports torch and nothing of eaves: it also runs in the peers' own environments.
"""

import argparse
import json
import sys
from pathlib import Path
from time import perf_counter
from typing import TextIO, final

import torch
from torch import Tensor, nn

BATCH, CLASSES = 64, 10
LEARNING_RATE, MOMENTUM = 0.01, 0.9


def options(description: str | None, *modes: str) -> argparse.Namespace:
    """Read ``MODE``, ``--batches`` and ``--warm-up`` from the command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mode", choices=modes)
    parser.add_argument("--batches", type=int, default=400, help="batches that count")
    parser.add_argument("--warm-up", type=int, default=50, help="batches before those")
    return parser.parse_args()


def edge_part() -> nn.Sequential:
    """Return the part before the cut: images (B, 3, 32, 32) -> features (B, 32, 16, 16)."""
    return nn.Sequential(nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.ReLU())


def exit_head() -> nn.Sequential:
    """Return the head by which an edge trains that gets no gradient: features -> logits."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES))


def cloud_part() -> nn.Sequential:
    """Return the part after the cut: features (B, 32, 16, 16) -> logits (B, 10)."""
    conv = nn.Conv2d(32, 64, 3, stride=2, padding=1)
    return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(64 * 8 * 8, CLASSES))


def sgd(*modules: nn.Module) -> torch.optim.SGD:
    """Return the optimiser of one side."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    return torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=MOMENTUM)


@final
class Images:
    """Random batches from memory: batch ``step`` is the same on every call and in every process."""

    def __init__(self, kept: int = 16) -> None:
        generator = torch.Generator().manual_seed(0)
        self._inputs = torch.randn(kept, BATCH, 3, 32, 32, generator=generator)
        self._labels = torch.randint(CLASSES, (kept, BATCH), generator=generator)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return images (B, 3, 32, 32) in fp32 and labels (B,) in int64."""
        index = step % len(self._inputs)
        return self._inputs[index], self._labels[index]


@final
class Meter:
    """Rate and traffic over the batches after the warm-up, up to the last one applied."""

    def __init__(self, *, warm_up: int, batches: int) -> None:
        self._marks_at = (warm_up, warm_up + batches)
        self._applied = 0
        self._marks: list[tuple[float, int]] = []

    def applied(self) -> None:
        """Note that one more batch has been learnt by both parts that were to learn it."""
        self._applied += 1
        if self._applied in self._marks_at:
            self._marks.append((perf_counter(), loopback_bytes()))

    def report(self, name: str, note: str, into: TextIO = sys.stdout) -> None:
        """Write the one JSON line of a run."""
        (began_s, bytes_before), (ended_s, bytes_after) = self._marks
        batches = self._marks_at[1] - self._marks_at[0]
        found = {
            "name": name,
            "samples_per_s": round(batches * BATCH / (ended_s - began_s), 1),
            "bytes_per_sample": round((bytes_after - bytes_before) / (batches * BATCH), 1),
            "batches": batches,
            "note": note,
        }
        print(json.dumps(found), file=into, flush=True)


def loopback_bytes() -> int:
    """Return what the loopback interface has carried, TCP and IP headers included.

    It counts every process of this network namespace: see README.md for one of its own.
    """
    # Not /sys: that stays the outer namespace's within a new one.
    lines = Path("/proc/net/dev").read_text().splitlines()
    (received,) = (line.split()[1] for line in lines if line.split()[0] == "lo:")
    return int(received)
