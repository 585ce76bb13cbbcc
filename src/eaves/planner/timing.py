"""Time the steps of a net stage by stage.

Every stage is timed in a chain of detached parts, whose steps are those of real training: forward
through all stages, backward in reverse, update. A second chain leaves out the gradients that go
from stage to stage; each of its backward times is that of a part which begins with the stage.

Dimension key:  B batch   K classes
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields
from statistics import median, quantiles
from time import perf_counter
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from eaves.core.optimise import OneCycle, Optimised, precision_of
from eaves.core.roles import Batch
from eaves.core.switching import quick_switching
from eaves.planner.profile import Seconds, StageTimes

_CONTENDING_STEPS = 1


@final
class Clock:
    """Durations by piece and kind; a GPU is waited for before the clock is read."""

    def __init__(self, device: torch.device):
        self._device = device
        self._found: dict[tuple[str, str], list[float]] = defaultdict(list)

    @contextmanager
    def time(self, name: str, kind: str) -> Iterator[None]:
        """Time the code inside."""
        started = self._now()
        yield
        self._found[name, kind].append(self._now() - started)

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return perf_counter()

    def forget(self) -> None:
        """Drop everything: it was the warm-up."""
        self._found.clear()

    def seconds(self, name: str, kind: str) -> Seconds:
        """Return the median and half the interquartile range of what was timed; 0 where nothing."""
        found = self._found.get((name, kind), [0.0])
        low, _, high = quantiles(found, n=4) if len(found) > 1 else (0.0, 0.0, 0.0)
        return Seconds(median(found), (high - low) / 2)

    def times(self, name: str) -> StageTimes:
        """Return the times of a stage."""
        return StageTimes(*(self.seconds(name, field.name) for field in fields(StageTimes)))

    def exit_times(self, name: str) -> StageTimes:
        """Return the times of an exit; its gradient always goes on, and it never answers alone."""
        forward, backward = self.seconds(name, "forward"), self.seconds(name, "backward")
        return StageTimes(forward, backward, backward, self.seconds(name, "update"), forward)


@final
class Piece:
    """A stage or an exit that goes forward and backward on its own."""

    def __init__(self, module: nn.Module, schedule: OneCycle, device: torch.device):
        self.module, self._schedule, self._device = module, schedule, device
        trained = any(p.requires_grad for p in module.parameters())
        self._part = Optimised({"piece": module}, self._schedule, self._device) if trained else None
        module.to(self._device).train()
        self._copies = False

    def context(self) -> AbstractContextManager[None]:
        """Return the context of a forward pass."""
        return self._part.forward() if self._part else precision_of(self._schedule, self._device)

    def forward(self, x: Tensor, *, linked: bool) -> tuple[Tensor, Tensor]:
        """Return ``x`` as a leaf, with gradient if ``linked``, and what the piece makes of it."""
        leaf = x.detach().requires_grad_(linked and x.is_floating_point())
        if not self._copies:
            try:
                return leaf, self.module(leaf)
            except RuntimeError as error:
                if "in-place" not in str(error):
                    raise
                self._copies = True  # the piece begins in place, which a leaf does not bear
        return leaf, self.module(leaf.clone())

    def backward(self, output: Tensor, gradient: Tensor | None) -> None:
        """Go backward from ``output``, a loss where there is no ``gradient``."""
        if self._part is not None:
            self._part.backward(output, gradient)
        elif output.requires_grad:
            torch.autograd.backward(output, gradient)

    def update(self) -> None:
        """Change the weights, if there are any."""
        if self._part is not None:
            self._part.update()


@final
class Chain:
    """All stages of a net, each on its own."""

    def __init__(self, stages: Mapping[str, nn.Module], schedule: OneCycle, device: torch.device):
        self._pieces = {n: Piece(module, schedule, device) for n, module in stages.items()}
        self._device = device
        self._last = list(stages)[-1]
        self._gradients: dict[str, Tensor | None] = {self._last: None}

    def step(self, batch: Batch, clock: Clock, *, linked: bool = True) -> dict[str, Tensor]:
        """Take one training step; return the output of each stage, the loss for the last.

        Not ``linked``, after a step that was: no gradient goes from stage to stage, no update.
        """
        leaves, outputs, x = {}, {}, batch.inputs.to(self._device)
        labels_B = batch.labels.to(self._device)
        for name, piece in self._pieces.items():
            with clock.time(name, "forward" if linked else "again"), piece.context():
                leaves[name], y = piece.forward(x, linked=linked)
                outputs[name] = cross_entropy(y, labels_B) if name == self._last else y
            x = outputs[name].detach()
        gradient = self._gradients[self._last]
        for name, piece in reversed(self._pieces.items()):
            gradient = gradient if linked else self._gradients[name]
            with clock.time(name, "backward" if linked else "backward_leaf"):
                piece.backward(outputs[name], gradient)
            self._gradients[name], gradient = gradient, leaves[name].grad
        if linked:
            for name, piece in self._pieces.items():
                with clock.time(name, "update"):
                    piece.update()
        return outputs

    def infer(self, batch: Batch, clock: Clock) -> None:
        """Go forward in evaluation mode."""
        x = batch.inputs.to(self._device)
        for name, piece in self._pieces.items():
            piece.module.eval()
            with torch.no_grad(), clock.time(name, "infer"), piece.context():
                x = piece.module(x)
            piece.module.train()

    def gradient(self, cut: str) -> Tensor:
        """Return the gradient of the last linked step by the features at ``cut``."""
        found = self._gradients[cut]
        assert found is not None
        return found


def step_exit(piece: Piece, name: str, z: Tensor, labels_B: Tensor, clock: Clock) -> None:
    """Take one training step of an exit on features ``z`` (B, ...)."""
    with clock.time(name, "forward"), piece.context():
        _, logits_BK = piece.forward(z, linked=True)
        loss = cross_entropy(logits_BK, labels_B.to(logits_BK.device))
    with clock.time(name, "backward"):
        piece.backward(loss, None)
    with clock.time(name, "update"):
        piece.update()


def contention(chains: tuple[Chain, Chain], batch: Batch, clock: Clock, alone_s: float) -> float:
    """Return how many times longer a step takes while another runs beside it in this process."""

    def steps(chain: Chain, n: int) -> None:
        for _ in range(n):
            with clock.time("step", "together"):
                chain.step(batch, Clock(torch.device("cpu")))

    with quick_switching(), ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        for n in (1, _CONTENDING_STEPS):  # a warm-up first: each thread has memory of its own
            clock.forget()
            begun = (one.submit(steps, chains[0], n), other.submit(steps, chains[1], n))
            for future in begun:
                future.result()
    return max(1.0, clock.seconds("step", "together").median_s / alone_s)
