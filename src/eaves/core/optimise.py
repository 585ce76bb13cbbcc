"""Stochastic gradient descent on a schedule, for one part of a net."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from math import cos, isfinite, pi, sqrt
from typing import final

import torch
from torch import Tensor, nn

from eaves.core.draws import Draws
from eaves.core.levels import GradientClip
from eaves.core.state import State
from eaves.errors import ConfigError, DivergedError, StateError


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """SGD with Nesterov momentum, or Adam, at a learning rate that depends on the step.

    ``momentum`` is Adam's beta 1. Adam is Loshchilov and Hutter's (*Decoupled Weight Decay
    Regularization*, 2019), with beta 2 of 0.999.
    """

    lr: float = 0.1
    optimiser: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    precision: str = "fp32"

    @abstractmethod
    def rate(self, step: int) -> float:
        """Return the learning rate of ``step`` (from 0)."""

    @abstractmethod
    def over(self, total_steps: int) -> "Schedule":
        """Return this schedule for training of so many steps."""


@final
@dataclass(frozen=True, kw_only=True)
class Steady(Schedule):
    """The same rate at every step: for what has to follow something that changes all the time."""

    def rate(self, step: int) -> float:
        """Return ``lr``, whatever the ``step``."""
        return self.lr

    def over(self, total_steps: int) -> "Steady":
        """Return the schedule as it is."""
        return self


@final
@dataclass(frozen=True, kw_only=True)
class Unending(Schedule):
    """The rate rises to ``lr`` linearly, then falls as the inverse square root of the step.

    For training of which no one knows how long it will be: it needs no end.

    Source: Vaswani et al., *Attention Is All You Need* (2017), section 5.3.
    """

    rising: int = 100

    @classmethod
    def like(cls, other: Schedule) -> "Unending":
        """Return such a schedule with the optimiser and the highest rate of another."""
        return cls(
            lr=other.lr,
            optimiser=other.optimiser,
            momentum=other.momentum,
            weight_decay=other.weight_decay,
            precision=other.precision,
        )

    def rate(self, step: int) -> float:
        """Return the learning rate of ``step`` (from 0).

        >>> [round(Unending(lr=0.8, rising=4).rate(i), 2) for i in (0, 3, 15, 63)]
        [0.2, 0.8, 0.4, 0.2]
        """
        number = step + 1
        return self.lr * min(number / self.rising, sqrt(self.rising / number))

    def over(self, total_steps: int) -> "OneCycle":
        """Return the schedule for training that has an end after all."""
        return OneCycle(
            total_steps=total_steps,
            lr=self.lr,
            optimiser=self.optimiser,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            precision=self.precision,
        )


@final
@dataclass(frozen=True, kw_only=True)
class OneCycle(Schedule):
    """The rate rises to ``lr`` linearly, then falls to 0 as a cosine.

    Source: Smith and Topin, *Super-Convergence* (2018), without its cycle of the momentum.
    """

    total_steps: int
    warmup: float = 0.25
    floor: float = 0.0
    """Lowest rate once the end is reached, as a share of ``lr``."""

    def rate(self, step: int) -> float:
        """Return the learning rate of ``step`` (from 0); past the end it is that of ``floor``.

        >>> schedule = OneCycle(total_steps=8, lr=0.8)
        >>> [round(schedule.rate(i), 2) for i in range(8)]
        [0.4, 0.8, 0.75, 0.6, 0.4, 0.2, 0.05, 0.0]
        """
        rising = max(1, round(self.warmup * self.total_steps))
        if step < rising:
            return self.lr * (step + 1) / rising
        if step >= self.total_steps:
            return self.lr * self.floor
        falling = max(1, self.total_steps - rising)
        return self.lr * (1 + cos(pi * min(1.0, (step + 1 - rising) / falling))) / 2

    def over(self, total_steps: int) -> "OneCycle":
        """Return the schedule with so many steps."""
        return replace(self, total_steps=total_steps)


@final
@dataclass(frozen=True, kw_only=True)
class InTurn(Schedule):
    """One schedule after another, each for its steps; the last goes on."""

    parts: tuple[OneCycle, ...]

    @classmethod
    def of(cls, *parts: OneCycle) -> "InTurn":
        """Return the parts as one; the optimiser is that of the first."""
        first = parts[0]
        return cls(
            lr=first.lr,
            optimiser=first.optimiser,
            momentum=first.momentum,
            weight_decay=first.weight_decay,
            precision=first.precision,
            parts=parts,
        )

    def rate(self, step: int) -> float:
        """Return the learning rate of ``step`` (from 0), counted from the beginning of all.

        >>> schedule = InTurn.of(*(OneCycle(total_steps=2, lr=lr) for lr in (1.0, 0.1)))
        >>> [schedule.rate(i) for i in range(4)]
        [1.0, 0.0, 0.1, 0.0]
        """
        for part in self.parts[:-1]:
            if step < part.total_steps:
                return part.rate(step)
            step -= part.total_steps
        return self.parts[-1].rate(step)

    def over(self, total_steps: int) -> "InTurn":
        """Return the schedule as it is: its parts have their own lengths."""
        return self


def precision_of(schedule: Schedule, device: torch.device) -> torch.autocast:
    """Return the context in which a forward pass has the precision of ``schedule``."""
    return torch.autocast(device.type, torch.bfloat16, enabled=schedule.precision == "bf16")


class Averaging(ABC):
    """Makes gradients those of several processes that train the same weights."""

    @abstractmethod
    def average(self, modules: nn.Module) -> bool:
        """Replace gradients and buffers by their mean over all examples of all processes.

        Return False, and change nothing, where no process has an example.
        """


@final
class Optimised:
    """Modules that are trained together, their optimiser, and where they stand in the schedule.

    Raises:
        ConfigError: the modules have no weights.
    """

    def __init__(self, modules: Mapping[str, nn.Module], schedule: Schedule, device: torch.device):
        self.modules = nn.ModuleDict(dict(modules)).to(device)
        if schedule.precision == "bf16":  # convolutions in bfloat16 are a tenth faster this way
            self.modules.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if not list(self.modules.parameters()):
            raise ConfigError(
                f"there are no weights to train in the part '{', '.join(self.modules)}' of the "
                "net; choose a later cut for the edge, an earlier one for the cloud"
            )
        self.device = device
        self.schedule = schedule
        self.steps = 0
        self.averaging: Averaging | None = None
        """Set where other processes train the same weights."""
        self.torn, self._updating = False, False
        """``torn``: a step has changed some of the weights, and failed."""
        self.clip: GradientClip | None = None
        """Set where an upload may be an outlier."""
        self._draws = Draws(device)
        # Of each module: to find them takes longer than to copy them.
        self._buffers = [module._buffers for module in self.modules.modules()]
        self._optimiser = _optimiser(self.modules, schedule)

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Be the context of a forward pass: bfloat16 if so scheduled, random numbers of its own.

        Set ``modules`` to training or evaluation before: in evaluation nothing is drawn.
        """
        precision = precision_of(self.schedule, self.device)
        with precision, self._draws.own() if self.modules.training else nullcontext():
            yield

    @contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """Be the context of a step that leaves nothing behind where it raises.

        Buffers and random numbers are as before; weights and the optimiser's state change at the
        end of a step only.

        Raises:
            DivergedError: it was interrupted while the weights changed.
        """
        before = [
            (buffer, buffer.clone())
            for own in self._buffers
            for buffer in own.values()
            if buffer is not None
        ]
        drawn = self._draws.state
        try:
            yield
        except Exception as error:
            with torch.no_grad():
                for buffer, value in before:  # BatchNorm has seen what is not to be learnt
                    buffer.copy_(value)
            self._draws.state = drawn
            self._optimiser.zero_grad(set_to_none=True)
            if self._updating:
                self.torn = True
                raise DivergedError(f"the weights were changed in part: {error!r:.300}") from error
            raise

    def descend(self, loss: Tensor, gradient: Tensor | None = None) -> float:
        """Go one step down ``loss``, or down a tensor whose ``gradient`` is given; return the loss.

        Raises:
            DivergedError: the loss, or the gradient given, is not finite; no weight is changed.
        """
        value = float((loss if gradient is None else gradient.norm()).detach())
        if not isfinite(value):
            raise DivergedError(
                f"the loss is {value} at step {self.steps}; "
                "lower the learning rate, or use fp32 if this is bf16"
            )
        self.backward(loss, gradient)
        self.update()
        return value

    def backward(self, loss: Tensor, gradient: Tensor | None = None) -> None:
        """Compute the gradients of ``loss``, or of a tensor whose ``gradient`` is given."""
        self._optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss, gradient)

    def update(self) -> None:
        """Change the weights by their gradients, at the rate of this step of the schedule.

        Raises:
            DivergedError: there is a ``clip``, and the gradient is not finite.
        """
        if self.averaging is not None and not self.averaging.average(self.modules):
            return
        if self.clip is not None and not self.clip.apply(self.modules.parameters()):
            if self.averaging is not None:
                return  # all processes see the same, and none makes the step
            raise DivergedError(
                f"the gradient is not finite at step {self.steps}; no weight was changed"
            )
        for group in self._optimiser.param_groups:
            group["lr"] = self.schedule.rate(self.steps)
        self._updating = True
        self._optimiser.step()
        self._updating = False
        self.steps += 1

    def abstain(self) -> None:
        """Take part in a step of other processes without an example of one's own."""
        self._optimiser.zero_grad(set_to_none=True)
        self.update()

    def state(self) -> State:
        """Return a copy of weights, optimiser and generator state, and step count."""
        tensors = {f"weights/{k}": v for k, v in self.modules.state_dict().items()}
        tensors["draws/state"] = self._draws.state
        for i, slots in self._optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{i}/{k}": v for k, v in slots.items() if v is not None}
        return State(
            {k: v.detach().cpu().clone() for k, v in tensors.items()}, {"steps": self.steps}
        )

    def load_state(self, state: State) -> None:
        """Go on from ``state``; raises :class:`StateError` where it belongs to another net."""
        saved: dict[str, dict[str, Tensor]] = {"weights": {}, "optimiser": {}, "draws": {}}
        try:
            for key, value in state.tensors.items():
                kind, name = key.split("/", 1)
                saved[kind][name] = value
            steps, draws = int(state.facts["steps"]), saved["draws"]["state"].clone()
            if (draws.shape, draws.dtype) != (self._draws.state.shape, self._draws.state.dtype):
                raise ValueError("it has the random state of another device")
            slots = self._slots(saved["optimiser"])
            self.modules.load_state_dict(saved["weights"])
            groups = self._optimiser.state_dict()["param_groups"]
            self._optimiser.load_state_dict({"state": slots, "param_groups": groups})
            self.steps, self._draws.state = steps, draws
            self.torn = self._updating = False
        except (
            IndexError,
            KeyError,
            OverflowError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            raise StateError(f"the saved state belongs to another net: {error}") from error

    def _slots(self, saved: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
        """Return what the optimiser keeps for each parameter, by number and name."""
        slots: dict[int, dict[str, Tensor]] = {}
        parameters = list(self.modules.parameters())
        for key, value in saved.items():
            i, slot = key.split("/")
            shape = () if slot == "step" else parameters[int(i)].shape
            if value.shape != shape:  # an optimiser would only notice in a step
                raise ValueError(f"'{key}' has the shape {tuple(value.shape)}")
            slots.setdefault(int(i), {})[slot] = value.to(self.device, copy=True)
        for number, found in slots.items():
            if set(found) != self._kept():
                raise ValueError(
                    f"an optimiser of another kind kept {sorted(found)} of weight {number}"
                )
        return slots

    def _kept(self) -> set[str]:
        """Return the names of what the optimiser keeps of each weight once it has moved it."""
        if self.schedule.optimiser == "adam":
            return {"step", "exp_avg", "exp_avg_sq"}
        return {"momentum_buffer"} if self.schedule.momentum else set()

    def state_bytes(self) -> int:
        """Return the bytes of weights, buffers, gradients and optimiser state while training."""
        weights = sum(p.nbytes for p in self.modules.parameters())
        buffers = sum(b.nbytes for b in self.modules.buffers())
        slots = 2 if self.schedule.optimiser == "adam" else int(self.schedule.momentum > 0)
        return (2 + slots) * weights + buffers  # the weight, its gradient, the optimiser's slots


def _optimiser(modules: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    if schedule.optimiser == "adam":
        return torch.optim.AdamW(
            modules.parameters(),
            lr=schedule.lr,
            betas=(schedule.momentum, 0.999),
            weight_decay=schedule.weight_decay,
            fused=True,
        )
    return torch.optim.SGD(
        modules.parameters(),
        lr=schedule.lr,
        momentum=schedule.momentum,
        weight_decay=schedule.weight_decay,
        nesterov=schedule.momentum > 0,
    )
