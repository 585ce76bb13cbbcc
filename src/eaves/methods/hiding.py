"""Edges that hide something from the cloud: what PriPHiT and the methods it is compared with share.

::

    stage 1, on the edge alone          x -> E -> bound -> + noise -> z~ -> D -> task
        each defence learns to see      (an adversary that reads the private label, for example)
        E, D  <- CE(D(z~), y) + weight * what the defences still see
    stage 2, one way                    send z~ and y;  cloud: C <- CE(C(z~), y)

In stage 1 nothing is sent, and an :class:`Upload` has no place for private labels. In stage 2 the
features are made in evaluation mode, so that those of one example do not depend on the others of
its batch, which no bound on one example's features would cover.

Dimension key:  B batch   K classes
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from eaves.core.exits import exit_head
from eaves.core.net import SplitNet, output_shape
from eaves.core.optimise import Optimised
from eaves.core.roles import Batch, EdgeLearner, EdgePredictor, Losses, Upload
from eaves.core.state import State, joined, parted
from eaves.errors import StateError
from eaves.methods.hierarchical import Classifier
from eaves.methods.setup import CloudAnswers, Hiding, Method, Setup, hiding_of, share_right
from eaves.privacy.sources import Pseudo, Source


class Defence(ABC):
    """Something on the edge that finds what is to be hidden in the features, and says how much.

    It holds an opponent that learns beside the edge part, or a measure that needs no learning.
    """

    @property
    def part(self) -> Optimised | None:
        """The opponent; None where there is none."""
        return None

    def learn(self, z: Tensor, noise: Source, batch: Batch) -> Losses:
        """Let the opponent learn from bounded features (B, ...), which carry no gradient."""
        return {}

    @abstractmethod
    def penalty(self, sent: Tensor, batch: Batch) -> Tensor:
        """Return what is still seen in the features as sent (B, ...): a scalar to go down.

        The gradient goes to the features alone; the opponent stays as it is.
        """


@final
class HidingEdge(EdgeLearner):
    """E and its exit D, trained to answer the task and to leave the defences nothing to see."""

    one_way: ClassVar[bool] = True

    def __init__(self, part: Optimised, defences: Sequence[Defence], hiding: Hiding):
        self._part, self._defences, self.hiding = part, tuple(defences), hiding
        seed = int(torch.randint(2**31, ()))
        self._generator = torch.Generator(part.device).manual_seed(seed)
        self._training_noise = Pseudo(self._generator)

    @property
    def part(self) -> Optimised:
        """The edge part and its exit."""
        return self._part

    def step(self, batch: Batch) -> tuple[None, Losses]:
        """Learn from one batch; nothing is sent."""
        x, y_B = batch.inputs.to(self.part.device), batch.labels.to(self.part.device)
        mechanism, modules = self.hiding.mechanism, self.part.modules
        modules.train()
        with self.part.forward():
            z = mechanism.bounded(modules["edge"](x).float())
            sent = mechanism.noised(z, self._training_noise)
            logits_BK = modules["exit"](sent)
            loss = cross_entropy(logits_BK, y_B)
        losses = {"accuracy": share_right(logits_BK, y_B)}
        for defence in self._defences:
            losses |= defence.learn(z.detach(), self._training_noise, batch)
            loss = loss + self._weight() * defence.penalty(sent, batch)
        return None, {"loss": self.part.descend(loss), **losses}

    def _weight(self) -> float:
        """Return the weight of hiding now: 0 for half of the ramp, then rising to all of it.

        First the features are to say something, and the opponents to learn to read it.
        """
        if self.part.steps >= self.hiding.ramp_steps:
            return self.hiding.weight
        return self.hiding.weight * max(0.0, 2 * self.part.steps / self.hiding.ramp_steps - 1)

    def state(self) -> State:
        """Return a copy of the state of all that learns, and how far noise was drawn."""
        drawn = {"training": self._generator.get_state(), "sent": self.hiding.source.state()}
        parts = {f"defence{i}": part.state() for i, part in self._opponents()}
        return joined({"part": self.part.state(), "noise": State(drawn), **parts})

    def load_state(self, state: State) -> None:
        """Go on from ``state``; raises ``StateError`` where it does not fit."""
        opponents = {f"defence{i}": part for i, part in self._opponents()}
        states = parted(state, ("part", "noise", *opponents))
        drawn = states["noise"].tensors
        try:
            self._generator.set_state(drawn["training"])
            self.hiding.source.load_state(drawn["sent"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise StateError(f"the saved state belongs to another edge: {error!r}") from error
        for name, part in {"part": self.part, **opponents}.items():
            part.load_state(states[name])

    def state_bytes(self) -> int:
        """Return the bytes of weights, gradients and optimiser state that training holds."""
        return self.part.state_bytes() + sum(part.state_bytes() for _, part in self._opponents())

    def _opponents(self) -> list[tuple[int, Optimised]]:
        parts = ((i, defence.part) for i, defence in enumerate(self._defences))
        return [(i, part) for i, part in parts if part is not None]


@final
class HidingSender(EdgeLearner):
    """Stage 2: send the features as inference will make them, bounded and noised.

    Where so chosen, E goes on learning as in stage 1 before each upload.
    """

    one_way: ClassVar[bool] = True

    def __init__(self, learner: HidingEdge):
        self._learner = learner

    @property
    def part(self) -> Optimised:
        """The edge part, as it was trained."""
        return self._learner.part

    def step(self, batch: Batch) -> tuple[Upload, Losses]:
        """Release the features of one batch."""
        hiding = self._learner.hiding
        losses = self._learner.step(batch)[1] if hiding.keeps_training else {}
        self.part.modules.eval()
        with torch.no_grad(), self.part.forward():
            z = self.part.modules["edge"](batch.inputs.to(self.part.device)).float()
        sent = hiding.mechanism.release(z, hiding.source)
        return Upload(sent, batch.labels), losses

    def state(self) -> State:
        """Return the state of the learner."""
        return self._learner.state()

    def load_state(self, state: State) -> None:
        """Go on from ``state``; raises ``StateError`` where it does not fit."""
        self._learner.load_state(state)

    def state_bytes(self) -> int:
        """Return the bytes that training holds."""
        return self._learner.state_bytes()


@final
class HidingAnswers(EdgePredictor):
    """Release the features of an input; an exit answers early, from what would be sent."""

    def __init__(self, modules: Mapping[str, nn.Module], hiding: Hiding, device: torch.device):
        self._modules, self._mechanism, self._device = modules, hiding.mechanism, device
        self._source = hiding.answer_source

    def predict(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return features and early logits, in evaluation mode and without gradient."""
        with torch.no_grad():
            z = self._modules["edge"].eval()(inputs.to(self._device))
            sent = self._mechanism.release(z, self._source)
            exit_ = self._modules.get("exit")
            return sent, None if exit_ is None else exit_.eval()(sent)


def hiding_method(setup: Setup, split: SplitNet, defences: Sequence[Defence]) -> Method:
    """Build both halves of a method whose edge hides by ``defences``."""
    hiding = hiding_of(setup)
    feature_shape = output_shape(split.edge, setup.input_shape)
    edge_modules: dict[str, nn.Module] = {
        "edge": split.edge,
        "exit": exit_head(setup.exit, feature_shape, setup.classes),
    }
    part = Optimised(edge_modules, setup.edge_schedule, setup.device)
    edge = HidingEdge(part, defences, hiding)
    cloud_modules = {"cloud": split.cloud}
    return Method(
        edge=edge,
        cloud=Classifier(Optimised(cloud_modules, setup.cloud_schedule, setup.device)),
        edge_predictor=HidingAnswers(edge_modules, hiding, setup.device),
        cloud_predictor=CloudAnswers(split.cloud, setup.device),
        edge_modules=edge_modules,
        cloud_modules=cloud_modules,
        sender=HidingSender(edge),
        edge_first=True,
    )
