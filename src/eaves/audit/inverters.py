"""What every way of rebuilding images from features is to the attack that uses it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from eaves.audit.findings import Progress
from eaves.audit.scene import Pictures, Scene


class Inverter(ABC):
    """One way from features back to images: it learns from images of its own, then inverts."""

    name: ClassVar[str]

    most: int | None = None
    """Victims that there is time for; None: all of them."""
    batch_size: int = 256
    """Victims that are inverted together."""

    @property
    @abstractmethod
    def rounds(self) -> int:
        """Epochs, or steps of a search, that were taken."""

    @property
    @abstractmethod
    def planned(self) -> int:
        """Epochs, or steps of a search, that were to be taken."""

    @property
    @abstractmethod
    def ended_by_time(self) -> bool:
        """Whether any of it was ended by its time."""

    @property
    def note(self) -> str:
        """What else there is to say of how it was done."""
        return ""

    @abstractmethod
    def learn(
        self, scene: Scene, own: Pictures, *, generator: torch.Generator
    ) -> Iterator[Progress]:
        """Learn from the attacker's images ``own`` what it takes to invert ``scene``."""

    @abstractmethod
    def invert(self, seen: Tensor, labels_B: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return raw images (B, C, H, W) uint8 from joined features (B, ...) and task labels."""
