"""Robust running levels: how large a figure usually is, whatever single values come.

A level is a running median on a logarithmic scale: a value moves it by a bounded step, however far
away it is, so that one upload with huge features or gradients changes next to nothing.
"""

from collections.abc import Iterable
from math import exp, isfinite, log
from typing import Final, final

import torch
from torch import Tensor, nn

_STEP: Final = 0.05  # of a logarithm, once there is a history: 5 % for each value
_HISTORY: Final = 16  # steps before gradients are clipped: the first ones tell little


@final
class Level:
    """Running median of positive figures, in constant memory.

    >>> level = Level()
    >>> for figure in (1.0, 1.0, 1.0, 1e9):
    ...     level.add(figure)
    >>> round(level.value, 1)
    1.4
    """

    def __init__(self, value: float = 0.0, count: int = 0):
        """Go on from ``value`` after ``count`` figures."""
        self._log, self.count = log(value) if count else 0.0, count

    @property
    def value(self) -> float:
        """The level; 0 before the first figure."""
        return exp(self._log) if self.count else 0.0

    def add(self, figure: float) -> None:
        """Take a figure into account; one that is not positive and finite tells nothing."""
        if not (figure > 0 and isfinite(figure)):
            return
        away = log(figure) - self._log
        most = max(_STEP, 1 / self.count) if self.count else abs(away)
        self._log += max(-most, min(most, away))
        self.count += 1

    def facts(self) -> list[float]:
        """Return what :meth:`of` makes the same level from, for a checkpoint."""
        return [self._log, self.count]

    @classmethod
    def of(cls, facts: object) -> "Level":
        """Go on from :meth:`facts`; raises :class:`ValueError` for anything else."""
        match facts:
            case [float() | int() as logarithm, int() as count] if count >= 0:
                level = cls()
                level._log, level.count = float(logarithm), count
                return level
        raise ValueError(f"expected a logarithm and a count, got {facts!r}")


@final
class GradientClip:
    """Clips gradients by their norm, at a multiple of the level of the norms before.

    In training without outliers it changes no bit: it acts on a norm that is ``times`` as large as
    usual, after 16 steps.

    Source: norm clipping (Pascanu, Mikolov, Bengio, 2013), with the threshold taken from the run.
    """

    def __init__(self, times: float):
        if not times > 1:
            raise ValueError(f"expected to clip at more than 1 times the level, got {times}")
        self._times, self.level, self.clipped = times, Level(), 0

    def apply(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Scale the gradients down where their common norm is an outlier.

        Return False, and change nothing, where the norm is not finite: no step is to be made.
        """
        gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
        norm = float(nn.utils.get_total_norm(gradients))
        if not isfinite(norm):
            return False
        most = self._times * self.level.value
        if self.level.count >= _HISTORY and norm > most:
            torch._foreach_mul_(gradients, most / norm)
            self.clipped, norm = self.clipped + 1, most
        self.level.add(norm)
        return True
