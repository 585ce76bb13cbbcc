"""Positive controls of attacks that take mixtures apart: sources that surely can be, mixed alike.

The sources are synthetic: sparse, independent, of the shape of the features. They are mixed by the
law of the bundle, with coefficients that are drawn for them, without noise, and carried by its
codec. That an attack fails which cannot take these apart says nothing.

Dimension key:  G groups   K sources of a group   C channels   H, W height and width
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from eaves.audit.filters import FILTERS, usable
from eaves.audit.intercept import Intercept
from eaves.audit.unmixing import BESIDE, UNMIXERS, UnmixPlan, take_apart
from eaves.audit.verdict import Planted
from eaves.experiments.build import law_of
from eaves.experiments.exposing import Subject
from eaves.privacy.sources import Pseudo

_GROUPS, _OWN_GROUPS = 32, 256
_SPARSE = 0.15  # of the values are not 0


@final
@dataclass(frozen=True, kw_only=True)
class MixControls:
    """The controls of one bundle, at the budget of ``plan``."""

    subject: Subject
    shape: tuple[int, ...]
    """Of one example's features, as a map (C, H, W)."""
    plan: UnmixPlan

    def run(self, *, generator: torch.Generator) -> Iterator[Planted]:
        """Yield what each attack makes of sources that it should take apart."""
        law = law_of(self.subject.config.mixing)
        sources = self._sources(_GROUPS * law.group, generator)
        mixing = law.draw(_GROUPS, Pseudo(generator))
        queries = self.subject.path.carried(mixing.mix(sources))
        seen = Intercept(
            queries=queries.reshape(_GROUPS, law.group, *self.shape),
            own=self._sources(_OWN_GROUPS * law.group, generator),
            mix=self._practice,
            draw=lambda n, generator: law.draw(n, Pseudo(generator)).matrix_GKK,
            plaintext=sources.reshape(_GROUPS, law.group, *self.shape)[:, 0],
            matrices=mixing.matrix_GKK,
        )
        truth = sources.reshape(_GROUPS, law.group, *self.shape)
        can = usable(seen.queries)
        for name in UNMIXERS:
            if name in BESIDE or (name in FILTERS and name not in can):
                continue
            found, _ = take_apart(name, seen, truth, plan=self.plan, generator=generator)
            yield Planted(
                attack="unmixing",
                attacker=name,
                what="sparse independent sources, mixed by the same law without noise",
                found=found.correlation.value,
                chance=found.chance.value,
                strength=None,
                passed=found.beats_chance,
            )

    def _practice(self, sources_BKCHW: Tensor, generator: torch.Generator) -> Tensor:
        law = law_of(self.subject.config.mixing)
        mixing = law.draw(len(sources_BKCHW), Pseudo(generator))
        mixed = mixing.mix(sources_BKCHW.flatten(0, 1))
        return self.subject.path.carried(mixed).reshape(sources_BKCHW.shape)

    def _sources(self, n: int, generator: torch.Generator) -> Tensor:
        """Return sources (N, C, H, W): few values, in all places alike."""
        there = torch.rand(n, *self.shape, generator=generator) < _SPARSE
        return there * torch.randn(n, *self.shape, generator=generator)
