"""Search for the image whose features are those that left the edge: the frame of two attacks.

An image is a point of some space (pixels, or the latents of a generator). Adam goes down

    MSE(features of the image, features seen) / variance + weight x penalty of the point

through the edge part and the bound. The weight is the best, by SSIM, for images of the attacker's
own, whose originals it knows. Chosen by the mismatch of the features alone, it would always be the
smallest one, and would fit the noise. The variance is that of features seen, from image to image,
noise included: so the same weights suit all edge parts, and heavy noise leaves the penalty alone.

A search needs gradients, and a codec has none: features of the image are compared as they are
before the codec with what the codec made of the victims'. The coarser the codec, the weaker the
search; its positive control goes through the same codec, and says whether anything is left of it.

Dimension key:  B batch   S starts   P points, B x S   C channels   H, W height and width
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from eaves.audit.convnets import as_bytes, fast
from eaves.audit.findings import Progress
from eaves.audit.pace import cosine, paced
from eaves.audit.scene import Pictures, Scene, WhiteBox
from eaves.audit.trial import Allowance
from eaves.core.ssim import WHITE, ssim
from eaves.errors import ConfigError

_LEAST = 1e-12  # of the variance: features that are always the same


@final
@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """How points are searched: ``allowance`` is for one batch of victims, its rounds are steps."""

    allowance: Allowance
    lr: float
    weights: tuple[float, ...]
    """Of the penalty; the best one for ``tuning`` images of the attacker's own is used."""
    tuning: int = 32
    victims: int = 256
    """How many of them are inverted, at most."""

    def __post_init__(self) -> None:
        if not self.lr > 0 or not self.weights or min(self.weights) < 0:
            raise ConfigError(
                "expected lr above 0 and one weight or more, none below 0, got "
                f"{self.lr} and {self.weights}"
            )
        if self.tuning < 1 or self.victims < 2:
            raise ConfigError(
                "expected 1 image or more for tuning and 2 victims or more, got "
                f"{self.tuning} and {self.victims}"
            )


class Space(ABC):
    """Where an image is searched."""

    @abstractmethod
    def starts(self, seen: Tensor, labels_B: Tensor) -> Tensor:
        """Return where to start: points (B, S, ...), S for each victim."""

    @abstractmethod
    def images(self, points: Tensor, labels_P: Tensor) -> Tensor:
        """Return the images (P, C, H, W) of points (P, ...): float32 in [0, 1], differentiable."""

    @abstractmethod
    def penalty(self, points: Tensor, labels_P: Tensor) -> Tensor:
        """Return how unlikely points (P, ...) are before anything is seen: (P,)."""


@final
class Search:
    """A search through one space, with the weight that suits one scene once it is tuned."""

    def __init__(self, space: Space, box: WhiteBox, plan: SearchPlan):
        self._space, self._box, self._plan = space, box, plan
        self._variance = 1.0
        self.weight = plan.weights[0]
        """Of the penalty."""
        self.steps = 0
        """Of the longest search so far."""
        self.ended_by_time = False
        """Whether any search had no time for all of its steps."""

    def tune(
        self, name: str, scene: Scene, own: Pictures, *, generator: torch.Generator
    ) -> Iterator[Progress]:
        """Choose the weight by images ``own``; yield after each trial."""
        few = own.at(torch.arange(min(self._plan.tuning, len(own))))
        seen = scene.box.seen(scene.box.features_of(few.images), generator=generator)
        self._variance = max(_LEAST, float(seen.var(dim=0, correction=0).mean()))
        best = -1.0
        for done, weight in enumerate(self._plan.weights, start=1):
            made_BCHW = self.images(seen, few.labels, weight)
            found = float(ssim(made_BCHW, few.images).mean())
            if found > best:
                best, self.weight = found, weight
            yield Progress(
                attack=name,
                attacker="tuning",
                done=done,
                total=len(self._plan.weights),
                figure=1 - found,
            )

    def images(self, seen: Tensor, labels_B: Tensor, weight: float | None = None) -> Tensor:
        """Return raw images (B, C, H, W): the best of the points found for each victim."""
        weight = self.weight if weight is None else weight
        starts = self._space.starts(seen, labels_B)
        each = starts.shape[1]
        seen_P, labels_P = (t.repeat_interleave(each, 0) for t in (seen, labels_B))
        points = starts.flatten(0, 1).clone().requires_grad_()
        optimiser = torch.optim.Adam([points], lr=self._plan.lr)
        steps = 0
        for share in paced(self._plan.allowance.rounds, self._plan.allowance):
            optimiser.param_groups[0]["lr"] = self._plan.lr * cosine(share)
            loss = self._losses(points, labels_P, seen_P, weight).sum()
            (points.grad,) = torch.autograd.grad(loss, [points])
            optimiser.step()
            steps += 1
        self.steps = max(self.steps, steps)
        self.ended_by_time |= steps < self._plan.allowance.rounds
        with torch.no_grad():
            loss_BS = self._losses(points, labels_P, seen_P, weight).reshape(-1, each)
            rows_B = loss_BS.argmin(1) + torch.arange(len(seen)) * each
            return as_bytes(self._space.images(points[rows_B], labels_B))

    def _losses(self, points: Tensor, labels_P: Tensor, seen_P: Tensor, weight: float) -> Tensor:
        with fast():
            features = self._box.features(WHITE * self._space.images(points, labels_P))
        mismatch_P = (features - seen_P).square().flatten(1).mean(1)
        return mismatch_P / self._variance + weight * self._space.penalty(points, labels_P)
