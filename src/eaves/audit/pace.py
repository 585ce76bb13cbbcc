"""How long an attack trains or searches, and in what order it takes its examples."""

from collections.abc import Iterable, Iterator
from itertools import chain
from math import cos, pi
from time import perf_counter
from typing import final

import torch
from torch import Tensor

from eaves.audit.trial import Allowance


def paced(steps: int, allowance: Allowance) -> Iterator[float]:
    """Yield the share that is done, in [0, 1), before each of ``steps``; end early out of time.

    The share is that of the steps or of the time, whichever is larger: a schedule that follows it
    ends as it should where time runs out, too.

    >>> [round(share, 3) for share in paced(4, Allowance(time_s=60.0))]
    [0.0, 0.25, 0.5, 0.75]
    """
    start_s = perf_counter()
    for step in range(steps):
        share = max(step / steps, (perf_counter() - start_s) / allowance.time_s)
        if share >= 1:
            return
        yield share


@final
class Epochs:
    """The epochs of one training: each is a number, from 1, and batches: rows and the share done.

    Take all batches of one epoch before the next. Every batch is full, the rest of an epoch is left
    out; with fewer examples than one batch takes, they are one.
    """

    def __init__(self, examples: int, allowance: Allowance, *, generator: torch.Generator):
        self._examples, self._allowance, self._draw = examples, allowance, generator
        self._per_epoch = max(1, examples // allowance.batch_size)
        self._steps = 0

    @property
    def made(self) -> int:
        """Epochs that were taken in full."""
        return self._steps // self._per_epoch

    @property
    def ended_by_time(self) -> bool:
        """True where fewer epochs were made than were planned."""
        return self.made < self._allowance.rounds

    def __iter__(self) -> Iterator[tuple[int, Iterator[tuple[Tensor, float]]]]:
        allowance = self._allowance
        shares = paced(self._per_epoch * allowance.rounds, allowance)
        for done in range(1, allowance.rounds + 1):
            order = torch.randperm(self._examples, generator=self._draw)
            rows = torch.split(
                order[: self._per_epoch * allowance.batch_size], allowance.batch_size
            )
            batches = self._counted(zip(rows, shares, strict=False))
            first = next(batches, None)
            if first is None:  # out of time
                return
            yield done, chain([first], batches)

    def _counted(self, batches: Iterable[tuple[Tensor, float]]) -> Iterator[tuple[Tensor, float]]:
        for batch in batches:
            self._steps += 1
            yield batch


def cosine(share: float) -> float:
    """Return the factor of a learning rate: 1 at the start, 0 at the end.

    >>> cosine(0.0), cosine(0.5), cosine(1.0)
    (1.0, 0.5, 0.0)
    """
    return (1 + cos(pi * share)) / 2
