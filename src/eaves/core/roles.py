"""The roles that a method fills, and what passes between them.

A method is a pair of learners (training) and a pair of predictors (inference). They do not know
where they run: the same objects run in the pipeline of one process and over a network.

Dimension key:  B batch   K classes
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from eaves.core.optimise import Optimised
from eaves.core.state import State

Losses = Mapping[str, float]
"""Figures of one step: ``loss``, and ``accuracy`` (share of the batch) where there is an answer."""


@final
@dataclass(frozen=True, slots=True)
class Batch:
    """Examples as the data set gives them: raw inputs (B, ...) and task labels (B,)."""

    inputs: Tensor
    labels: Tensor


@final
@dataclass(frozen=True, slots=True)
class Upload:
    """What leaves the edge for one batch: features (B, ...) and task labels (B,).

    Nothing in it requires grad; private labels are not in it.
    """

    features: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.features.requires_grad:
            raise ValueError("an Upload carries no gradient: detach its features")


class Learner(ABC):
    """One half of a training method."""

    @property
    @abstractmethod
    def part(self) -> Optimised | None:
        """What this half trains; None where it trains nothing."""

    def state(self) -> State:
        """Return a copy of the state; training on does not change it."""
        return self.part.state() if self.part else State()

    def load_state(self, state: State) -> None:
        """Go on from ``state``; raises ``StateError`` where it does not fit."""
        if self.part:
            self.part.load_state(state)

    def state_bytes(self) -> int:
        """Return the bytes of weights, gradients and optimiser state that training holds."""
        return self.part.state_bytes() if self.part else 0


class EdgeLearner(Learner):
    """The half of a training method that holds the data."""

    one_way: ClassVar[bool]
    """True where the cloud never answers: the edge ends bit-identical with the cloud on or off."""

    @abstractmethod
    def step(self, batch: Batch) -> tuple[Upload | None, Losses]:
        """Take one batch; return what is to be sent and the figures of the edge's own loss."""

    def receive(self, reply: Tensor) -> None:
        """Take the cloud's reply to the last upload (two-way methods only)."""
        raise TypeError(f"{type(self).__name__} is one-way and takes no reply")


class CloudLearner(Learner):
    """The half of a training method that sees uploads only."""

    @abstractmethod
    def step(self, upload: Upload) -> tuple[Tensor | None, Losses]:
        """Learn from one upload; return the reply (two-way methods) and the figures of the loss."""


class EdgePredictor(ABC):
    """The half of inference that holds the input."""

    @abstractmethod
    def predict(self, inputs: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the features to send (None: nothing is sent), and early logits (B, K) if any."""


class CloudPredictor(ABC):
    """The half of inference that answers what the edge sends."""

    @abstractmethod
    def answer(self, features: Tensor) -> Tensor:
        """Return logits (B, K) for decoded features (B, ...)."""
