"""Reconstruction in the latent space of a generator: a likely image that has the features.

Dimension key:  B batch   S starts   P points, B x S   D latents   M images of the pool
                C channels   H, W height and width
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from eaves.audit.findings import Progress
from eaves.audit.generator import Gan, GanPlan
from eaves.audit.inverters import Inverter
from eaves.audit.scene import Pictures, Scene, WhiteBox
from eaves.audit.search import Search, SearchPlan, Space
from eaves.audit.trial import Allowance
from eaves.core.ssim import WHITE
from eaves.errors import ConfigError

GAN = GanPlan()
LATENTS = SearchPlan(
    allowance=Allowance(rounds=150, time_s=90.0, batch_size=64),
    lr=0.1,
    weights=(0.0, 0.01, 0.1, 1.0),
)
"""Weights of the prior, from none on."""


@final
@dataclass(frozen=True, kw_only=True)
class LatentPlan:
    """A generator, and the search with it: from the ``starts`` best of ``pool`` random images."""

    gan: GanPlan = GAN
    search: SearchPlan = LATENTS
    pool: int = 2048
    starts: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.starts <= self.pool:
            raise ConfigError(
                f"expected 1 to {self.pool} starts, as many as the pool has, got {self.starts}"
            )


@final
class Latents(Space):
    """Images that ``net``, a generator, makes of latents ``pool_MD`` and what lies between them."""

    def __init__(self, net: nn.Module, pool_MD: Tensor, box: WhiteBox, *, starts: int):
        self._net, self._pool_MD, self._starts = net, pool_MD, starts
        with torch.no_grad():
            parts = [box.features(WHITE * net(z_BD)) for z_BD in torch.split(pool_MD, 256)]
        self._features = torch.cat(parts).flatten(1)

    def starts(self, seen: Tensor, labels_B: Tensor) -> Tensor:
        """Return the latents of the pool whose features are nearest, (B, S, D)."""
        far_BM = torch.cdist(seen.flatten(1), self._features)
        return self._pool_MD[far_BM.topk(self._starts, dim=1, largest=False).indices]

    def images(self, points: Tensor, labels_P: Tensor) -> Tensor:
        """Return what the generator makes of latents (P, D)."""
        x_PCHW: Tensor = self._net(points)
        return x_PCHW

    def penalty(self, points: Tensor, labels_P: Tensor) -> Tensor:
        """Return the mean square of the latents: their prior is normal."""
        return points.square().mean(1)


@final
class LatentSearch(Inverter):
    """Features -> the image of a generator that has them.

    The generator is trained once, by the first :meth:`learn`: it depends on images alone, so the
    same one serves the control on unshielded features, which shows how good it is.
    """

    name: ClassVar[str] = "gan"

    def __init__(self, plan: LatentPlan | None = None):
        self._plan = plan or LatentPlan()
        self._gan: Gan | None = None
        self._search: Search | None = None
        self.most = self._plan.search.victims
        self.batch_size = self._plan.search.allowance.batch_size

    @property
    def rounds(self) -> int:
        """Steps of the longest search."""
        return 0 if self._search is None else self._search.steps

    @property
    def planned(self) -> int:
        """Steps of a search with enough time."""
        return self._plan.search.allowance.rounds

    @property
    def ended_by_time(self) -> bool:
        """Whether any of it was ended by its time."""
        return any(part.ended_by_time for part in (self._gan, self._search) if part is not None)

    @property
    def note(self) -> str:
        """How long the generator was trained, and the weight that was chosen."""
        if self._gan is None or self._search is None:
            return ""
        return f"generator of {self._gan.epochs} epochs, prior weighs {self._search.weight:g}"

    def learn(
        self, scene: Scene, own: Pictures, *, generator: torch.Generator
    ) -> Iterator[Progress]:
        """Train the generator where there is none yet; choose the weight of the prior.

        It is chosen by images that the generator has not learned from.
        """
        few, own = own.part(min(0.5, self._plan.search.tuning / len(own)))
        if self._gan is None:
            gan = Gan(self._plan.gan, own.shape, generator=generator)
            yield from gan.learn(own, generator=generator)
            self._gan = gan
        pool_MD = self._gan.latents(self._plan.pool, generator=generator)
        space = Latents(self._gan.net, pool_MD, scene.box, starts=self._plan.starts)
        self._search = Search(space, scene.box, self._plan.search)
        yield from self._search.tune(self.name, scene, few, generator=generator)

    def invert(self, seen: Tensor, labels_B: Tensor, *, generator: torch.Generator) -> Tensor:
        """Search for images with the features ``seen``; ``generator`` is not drawn from."""
        if self._search is None:
            raise RuntimeError("the search has no generator yet: call learn() first")
        return self._search.images(seen, labels_B)
