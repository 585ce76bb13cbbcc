"""Bound and noise together: what is done to features before they leave, and what it is worth.

Which sensitivity counts, of those in the table of :mod:`eaves.privacy.bounds`, depends on the noise
alone: the L1 norm for Laplace, the L2 norm for Gaussian noise. So every law goes with every
bound; these fit best (d values, limit C)::

    to hide             bound        law        scale of one release
    one value each      tanh, clip   laplace    2 C / epsilon
    one value each      tanh, clip   gaussian   scale_for("gaussian", sensitivity=2 C, ...)
    the whole payload   l1           laplace    2 C / epsilon
    the whole payload   l2           gaussian   scale_for("gaussian", sensitivity=2 C, ...)

Others cost more than they must: Laplace noise on an L2 clip counts 2 C sqrt(d) for the payload.
Gaussian noise on an L1 clip counts 2 C, the farthest that two points of that norm are apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import final

import torch
from torch import Tensor

from eaves.errors import DivergedError
from eaves.privacy.accounting import Release, expect_noise
from eaves.privacy.bounds import Bound
from eaves.privacy.sources import Source


@final
@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """Features, bounded, plus ``scale`` times noise of ``law`` on each value.

    Formal guarantee: what :func:`eaves.privacy.accounting.guarantee` says of :meth:`release_of`,
    for what :meth:`release` returns and anything that is computed from it, if the noise is fresh
    for each input and its source is not known.

    Not guaranteed: see :func:`eaves.privacy.accounting.statement`.

    Raises:
        ConfigError: no such law, or a scale that it cannot have.
    """

    bound: Bound
    law: str
    scale: float

    def __post_init__(self) -> None:
        expect_noise(self.law, self.scale)

    def bounded(self, z: Tensor) -> Tensor:
        """Return features (B, ...) within the bound; gradients go through."""
        return self.bound.apply(z)

    def noised(self, z_bounded: Tensor, source: Source) -> Tensor:
        """Return bounded features (B, ...) plus fresh noise; gradients go through.

        With the law ``none`` or a scale of 0 it is what was given, and nothing is drawn.

        Raises:
            DivergedError: the features hold NaN or infinity.
            ValueError: they are not within the bound, so no guarantee would hold.
        """
        if self.scale == 0:
            return z_bounded
        self._expect_bounded(z_bounded)
        draw = source.laplace if self.law == "laplace" else source.normal
        noise = draw(z_bounded.shape, salt=_bytes_of(z_bounded))
        return z_bounded + self.scale * noise.to(z_bounded.device)

    def release(self, z: Tensor, source: Source) -> Tensor:
        """Return what may leave: features (B, ...), bounded, with fresh noise."""
        return self.noised(self.bounded(z), source)

    def release_of(self, shape: Sequence[int]) -> Release:
        """Return what one payload of features of ``shape``, without the batch, is accounted as."""
        values = prod(shape)
        reach = self.bound.reach(values)
        return Release(
            law=self.law,
            scale=self.scale,
            element_sensitivity=reach.element,
            tensor_sensitivity=reach.l1 if self.law == "laplace" else reach.l2,
            values=values,
        )

    def _expect_bounded(self, z: Tensor) -> None:
        if self.bound.holds(z):
            return
        if not torch.isfinite(z).all():
            raise DivergedError(
                "the features to be sent hold NaN or infinity; lower the learning rate, or use "
                "fp32 if this is bf16"
            )
        raise ValueError(f"expected features within {self.bound}; give them to bounded() first")


def _bytes_of(z: Tensor) -> bytes:
    return z.detach().cpu().contiguous().numpy().tobytes()
