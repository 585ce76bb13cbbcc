"""How a run tunes and reduces features: frozen, checked, part of a training run's configuration.

Imports no torch, so that the command line can print its help at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import final

from eaves.experiments.settings import expect_between, expect_choice, take_paths

PAIRS = ("random", "all", "none")


@final
@dataclass(frozen=True, kw_only=True)
class SiameseConfig:
    """How siamese tunes features, and what it leaves of them (``[siamese]`` in TOML)."""

    start: Path | None = None
    """siamese: begin with the weights of this bundle (or folder of a run) of the same net, trained
    by siamese, full-edge, full-cloud, hierarchical or split; --epochs of plain training are left
    out."""
    pairs: str = "random"
    """Which pairs of a batch fine-tuning compares: random (one half with the other), all, or none:
    plain training for as long, to compare with."""
    margin: float = 10.0
    """How far apart the features of different classes are driven, and no farther."""
    pair_weight: float = 0.01
    """Of the pairs, against the task."""
    tune_epochs: int = 2
    """Of fine-tuning on pairs."""
    tune_rate: float = 0.1
    """Learning rate of what comes after plain training, as a part of --lr."""
    components: int = 8
    """Numbers that are sent of an example: its leading principal components; 0: all features."""
    adapt_epochs: int = 2
    """In which the cloud's half learns from what will be sent; 0: it gets the map back alone."""

    def __post_init__(self) -> None:
        take_paths(self)
        expect_choice(self, "pairs", PAIRS)
        for name in ("margin", "pair_weight"):
            expect_between(self, name, 0, 1e6)
        expect_between(self, "tune_rate", 1e-6, 1e3)
        for name in ("tune_epochs", "adapt_epochs", "components"):
            expect_between(self, name, 0, 1e6)
