"""The roles that a method fills, and what passes between them.

A method is a pair of learners (training) and a pair of predictors (inference). They do not know
where they run: the same objects run in the pipeline of one process and over a network.

Dimension key:  B batch   K classes   A private attributes
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from eaves.core.optimise import Optimised
from eaves.core.state import State

Losses = Mapping[str, float]
"""Figures of one step: ``loss``, and ``accuracy`` (share of the batch) where there is an answer."""


@final
class PrivateLabels:
    """What the cloud shall not learn: int64 classes (B, A) of A attributes, by their names.

    It is no Tensor, so that it fits no field of an :class:`Upload`; it cannot be pickled, and a log
    or an error that shows it shows no label.
    """

    def __init__(self, labels_BA: Tensor, names: tuple[str, ...]):
        if labels_BA.dtype != torch.int64 or labels_BA.shape[1:] != (len(names),):
            raise ValueError(
                f"expected int64 labels of shape (B, {len(names)}) for {', '.join(names)}, "
                f"got {labels_BA.dtype} {tuple(labels_BA.shape)}"
            )
        self.labels_BA, self.names = labels_BA, names

    def of(self, name: str) -> Tensor:
        """Return the classes (B,) of one attribute."""
        if name not in self.names:
            raise ValueError(f"expected one of {', '.join(self.names)}, got {name!r}")
        return self.labels_BA[:, self.names.index(name)]

    def __len__(self) -> int:
        return len(self.labels_BA)

    def __repr__(self) -> str:
        return f"PrivateLabels({len(self)} of {', '.join(self.names)})"

    def __reduce__(self) -> str:
        raise TypeError("private labels do not leave the edge: they cannot be pickled")


@final
@dataclass(frozen=True, slots=True)
class Batch:
    """Examples as the data set gives them: raw inputs (B, ...) and task labels (B,).

    ``private`` stays on the edge, for the adversaries that learn to read it there.
    """

    inputs: Tensor
    labels: Tensor
    private: PrivateLabels | None = None


@final
@dataclass(frozen=True, slots=True)
class Upload:
    """What leaves the edge for one batch: features (B, ...) and task labels (B,).

    Nothing in it requires grad; private labels are not in it.
    """

    features: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        for given in (self.features, self.labels):
            if not isinstance(given, Tensor):
                raise TypeError(f"an Upload carries tensors alone, got {given!r}")
        if self.features.requires_grad:
            raise ValueError("an Upload carries no gradient: detach its features")


class Learner(ABC):
    """One half of a training method."""

    # State goes through the part, once for all methods of both sides: a method that wrote its own
    # could forget a piece of it.
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
