"""Reconstruction by gradient descent on the pixels: feature MSE and total variation.

Dimension key:  N images   B batch   S starts   P points   C channels   H, W height and width
                K classes of the task
"""

from collections.abc import Iterator
from typing import ClassVar, final

import torch
from torch import Tensor

from eaves.audit.findings import Progress
from eaves.audit.inverters import Inverter
from eaves.audit.scene import Pictures, Scene, mean_images
from eaves.audit.search import Search, SearchPlan, Space
from eaves.audit.trial import Allowance
from eaves.core.ssim import WHITE

PIXELS = SearchPlan(
    allowance=Allowance(rounds=200, time_s=60.0, batch_size=64),
    lr=0.02,
    weights=(0.0, 0.1, 1.0, 3.0, 10.0, 100.0),
)
"""Weights of the total variation, from none to one that leaves little but the mean image."""


@final
class Pixels(Space):
    """Images as what they differ by from the mean image of their task label."""

    # DIFFERS(PriPHiT): total variation of the difference, not of the image. So the heaviest weight
    # leaves the mean image, the best answer where nothing can be seen, and not a grey one.

    def __init__(self, means_KCHW: Tensor):
        self._means_KCHW = means_KCHW / WHITE

    def starts(self, seen: Tensor, labels_B: Tensor) -> Tensor:
        """Return one start for each victim: no difference."""
        return torch.zeros_like(self._means_KCHW[labels_B]).unsqueeze(1)

    def images(self, points: Tensor, labels_P: Tensor) -> Tensor:
        """Return mean image and difference together, clipped to [0, 1].

        Its gradient is that without clipping: else a pixel that was clipped once would stay so.
        """
        x_PCHW = self._means_KCHW[labels_P] + points
        return x_PCHW + (x_PCHW.clamp(0, 1) - x_PCHW).detach()

    def penalty(self, points: Tensor, labels_P: Tensor) -> Tensor:
        """Return the total variation: mean differences of neighbours, down and across."""
        down, across = points.diff(dim=2), points.diff(dim=3)
        return down.abs().flatten(1).mean(1) + across.abs().flatten(1).mean(1)


@final
class Optimisation(Inverter):
    """Features -> the image that has them, found pixel by pixel."""

    name: ClassVar[str] = "optimisation"

    def __init__(self, plan: SearchPlan = PIXELS):
        self._plan = plan
        self._search: Search | None = None
        self.most, self.batch_size = plan.victims, plan.allowance.batch_size

    @property
    def rounds(self) -> int:
        """Steps of the longest search."""
        return 0 if self._search is None else self._search.steps

    @property
    def planned(self) -> int:
        """Steps of a search with enough time."""
        return self._plan.allowance.rounds

    @property
    def ended_by_time(self) -> bool:
        """Whether any of it was ended by its time."""
        return self._search is not None and self._search.ended_by_time

    @property
    def note(self) -> str:
        """The weight that was chosen."""
        return "" if self._search is None else f"total variation weighs {self._search.weight:g}"

    def learn(
        self, scene: Scene, own: Pictures, *, generator: torch.Generator
    ) -> Iterator[Progress]:
        """Take the mean images, and choose the weight of the total variation."""
        space = Pixels(mean_images(own, scene.label_classes))
        self._search = Search(space, scene.box, self._plan)
        yield from self._search.tune(self.name, scene, own, generator=generator)

    def invert(self, seen: Tensor, labels_B: Tensor, *, generator: torch.Generator) -> Tensor:
        """Search for images with the features ``seen``; ``generator`` is not drawn from."""
        if self._search is None:
            raise RuntimeError("the search has no mean images yet: call learn() first")
        return self._search.images(seen, labels_B)
