"""How nets of an attacker learn: by gradient descent, with noise that is fresh at every step.

Dimension key:  B batch   H held-out features   V victims   L classes of the task
                K classes of the private attribute
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from eaves.audit.pace import paced
from eaves.audit.trial import Allowance, Round, Seen, Trial
from eaves.core.optimise import OneCycle

_AT_ONCE = 1024  # examples that are answered together
_SCALE = 10_000  # steps of the schedule, whatever the number of those that are taken


@contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Let code that knows torch's global generator alone draw from ``generator``.

    It stands in for the global one as long as this is open, so do not yield inside.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        yield


def learn(
    net: nn.Module, trial: Trial, allowance: Allowance, *, lr: float, generator: torch.Generator
) -> Iterator[Round]:
    """Train ``net``, (features, labels (B, L)) -> logits (B, K); yield after each epoch.

    By cross-entropy with AdamW, at a rate that rises to ``lr`` and falls to 0 as a cosine.
    """
    student = _Student(net, trial, lr, generator)
    batches = ceil(len(trial.train) / allowance.batch_size)
    shares = paced(allowance.rounds * batches, allowance)
    for done in range(1, allowance.rounds + 1):
        order = torch.randperm(len(trial.train), generator=generator).tensor_split(batches)
        steps = 0
        with drawing_from(generator):  # dropout in a net of the caller
            for rows_B, share in zip(order, shares, strict=False):  # the time may end first
                student.step(rows_B, share)
                steps += 1
        held_out, victims = student.answers(trial.held_out), student.answers(trial.victims)
        made = done - (steps < batches)
        yield Round(done=made, total=allowance.rounds, held_out=held_out, victims=victims)
        if steps < batches:
            return


@final
class _Student:
    """A net, and where its optimiser stands.

    The net's own logits are those of classes that are equally likely: how frequent they are is
    known, and need not be learned, which would take long where one is rare.
    """

    def __init__(self, net: nn.Module, trial: Trial, lr: float, generator: torch.Generator):
        self._net, self._trial = net, trial
        self._generator, self._prior_K = generator, trial.prior()
        self._optimiser = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=1e-2)
        self._schedule = OneCycle(total_steps=_SCALE, lr=lr, warmup=0.1)

    def step(self, rows_B: Tensor, share: float) -> None:
        """Learn from some examples, when a ``share`` of all that may be spent is gone."""
        for group in self._optimiser.param_groups:
            group["lr"] = self._schedule.rate(int(share * _SCALE))
        seen = self._trial.fresh(rows_B, self._generator)
        z = self._trial.scaled(seen.features)
        logits_BK = self._net.train()(z, seen.labels) + self._prior_K
        loss = cross_entropy(logits_BK, self._trial.train_private[rows_B])
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()

    @torch.no_grad()
    def answers(self, seen: Seen) -> Tensor:
        """Return logits (N, K)."""
        self._net.eval()
        z, parts = self._trial.scaled(seen.features), ceil(len(seen) / _AT_ONCE)
        pairs = zip(z.tensor_split(parts), seen.labels.tensor_split(parts), strict=True)
        return torch.cat([self._net(z, y_BL) + self._prior_K for z, y_BL in pairs])
