"""Outlier screening: uploads with features far larger than usual are refused before a step.

What is usual is said by three things, none of which a single edge can move far: the features of an
edge part that has not learnt yet (probed by the cloud itself), the level of the edge's own uploads
before, and the lower median of the levels of the other edges. Levels are running medians, so that
one upload moves them by 5 % at most.

*Guarantee.* Of features that are accepted, neither the root mean square nor the largest value is
more than ``times`` that of the largest of the three; and an edge's own level counts at most
``times`` above the others', so that it cannot climb without end while others are there.

*No guarantee.* Features of the usual size with a wrong content, or a wrong label, pass: see
:mod:`eaves.network.merging`. One edge alone is its own measure.

Dimension key:  B batch
"""

from bisect import bisect_left, insort
from math import sqrt
from typing import Any, Final, final

import torch
from torch import Tensor

from eaves.core.levels import Level
from eaves.errors import PayloadError, StateError
from eaves.network.policy import Scale

_MOST_EDGES: Final = 4096  # with a level of their own; the oldest are forgotten
_LEARNT: Final = 100.0
"""How much larger features may be after learning than those of an edge part that has not learnt."""


def scale_of(features: Tensor) -> Scale:
    """Return how large features (B, ...) are."""
    flat = features.detach().float().flatten()
    low, high = flat.aminmax()  # twenty times as fast as the infinity norm
    rms = float(torch.linalg.vector_norm(flat)) / sqrt(len(flat))
    return Scale(rms=rms, peak=max(-float(low), float(high)))


@final
class Screening:
    """Says which features are too large. ``times`` 0: none are."""

    def __init__(self, times: float, probed: Scale | None):
        self._times, self._probed = times, probed
        self._levels: dict[str, tuple[Level, Level]] = {}
        self._sorted: tuple[list[float], list[float]] = ([], [])  # the values of the levels

    def check(self, edge: str, features: Tensor) -> Scale | None:
        """Return how large the features of an edge are; raise where they are too large.

        Raises:
            PayloadError: they are larger than features of this training are.
        """
        if not self._times or not features.dtype.is_floating_point:
            return None
        scale = scale_of(features)
        for i, (name, found) in enumerate((("root mean square", scale.rms), ("size", scale.peak))):
            if (most := self._most(edge, i)) and not found <= most:
                raise PayloadError(
                    f"features with a {name} of up to {most:.4g} were expected, these have "
                    f"{found:.4g}: more than {self._times:g} times what is usual here "
                    "(--feature-limit)"
                )
        return scale

    def learnt(self, edge: str, scale: Scale | None) -> None:
        """Take note of features that were learnt from."""
        if scale is None:
            return
        if edge not in self._levels and len(self._levels) >= _MOST_EDGES:
            for level, values in zip(
                self._levels.pop(next(iter(self._levels))), self._sorted, strict=True
            ):
                _remove(values, level.value)
        levels = self._levels.get(edge)
        if levels is None:
            levels = self._levels[edge] = (Level(), Level())
        else:
            for level, values in zip(levels, self._sorted, strict=True):
                _remove(values, level.value)
        for level, values, figure in zip(
            levels, self._sorted, (scale.rms, scale.peak), strict=True
        ):
            level.add(figure)
            insort(values, level.value)

    def _most(self, edge: str, i: int) -> float:
        """Return the largest figure that is accepted; 0: anything, nothing is known yet."""
        own = self._levels[edge][i].value if edge in self._levels else 0.0
        usual = self._usual_of_others(edge, own, self._sorted[i])
        if self._probed is not None:
            probed = (self._probed.rms, self._probed.peak)[i]
            # Features grow as an edge learns, and it may have learnt before it sends.
            usual = max(usual, probed * _LEARNT / self._times)
        return self._times * max(usual, min(own, self._times * usual))

    def _usual_of_others(self, edge: str, own: float, values: list[float]) -> float:
        """Return the lower median of the levels of all but one; its own where there are none."""
        known = edge in self._levels
        if not (others := len(values) - known):
            return own
        middle = (others - 1) // 2
        return values[middle + (known and bisect_left(values, own) <= middle)]

    def facts(self) -> dict[str, Any]:
        """Return the levels, for a checkpoint."""
        return {e: [rms.facts(), peak.facts()] for e, (rms, peak) in self._levels.items()}

    def restore(self, facts: object) -> None:
        """Go on from :meth:`facts`; raises :class:`StateError` for anything else."""
        try:
            if not isinstance(facts, dict):
                raise TypeError("expected levels by their edges")
            self._levels = {
                str(edge): (Level.of(rms), Level.of(peak)) for edge, (rms, peak) in facts.items()
            }
        except (TypeError, ValueError) as error:
            raise StateError(f"the checkpoint has no levels of the edges: {error}") from error
        rms, peak = ([pair[i].value for pair in self._levels.values()] for i in (0, 1))
        self._sorted = (sorted(rms), sorted(peak))


def _remove(values: list[float], value: float) -> None:
    """Take one value out of a sorted list that has it."""
    del values[bisect_left(values, value)]
