"""What every method is built from, and what it is built into.

Dimension key:  B batch   K classes
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from eaves.core.bottleneck import with_bottleneck
from eaves.core.net import SplitNet, StagedNet, output_shape, split_at
from eaves.core.optimise import OneCycle, Optimised
from eaves.core.roles import (
    CloudLearner,
    CloudPredictor,
    EdgeLearner,
    EdgePredictor,
    Losses,
    Upload,
)
from eaves.core.shield import Open, Shield
from eaves.core.specs import parse_bottleneck
from eaves.errors import ConfigError
from eaves.privacy.mechanisms import Mechanism
from eaves.privacy.mixing import MixingLaw
from eaves.privacy.sources import Keyed, Source

INPUT = "input"
"""The cut before the first stage: the edge normalises inputs, and does nothing else (DataMix)."""


@final
@dataclass(frozen=True, kw_only=True)
class Hiding:
    """What an edge hides from the cloud, and by which means."""

    mechanism: Mechanism
    """Bounds and noises what is sent, in training and in inference."""
    source: Keyed
    """Of the noise of what is sent in training; the cloud must not know its key."""
    answer_source: Keyed
    """Of the noise in inference, another one: the same noise twice would cancel out."""
    attributes: Mapping[str, int]
    """The classes of each private attribute."""
    loss: str = "uniform"
    """What adversaries are driven to: see :mod:`eaves.methods.adversaries`."""
    weight: float = 1.0
    """Of what the defences still see, against the loss of the task."""
    adversaries: int = 2
    """For each private attribute."""
    adversary_steps: int = 1
    """That adversaries take for each step of the edge part."""
    ramp_steps: int = 0
    """After half of which the weight rises from 0, and is reached at their end."""
    restart_steps: int = 0
    """Steps after which one adversary starts from its first weights again; 0: none does."""
    keeps_training: bool = False
    """The edge part goes on learning while it sends."""


@final
@dataclass(frozen=True, kw_only=True)
class Mixed:
    """How an edge mixes inputs, in training and in use."""

    law: MixingLaw
    source: Source
    """Of the coefficients in inference; the cloud must not know how they were drawn."""
    shuffle: bool = False
    """Queries of all groups of a batch leave in random order."""
    cloud_ends: str | None = None
    """The last stage of the cloud, whose answer comes back; None: that of the whole net."""


@final
@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How features are tuned to the task by pairs, and how many numbers are left of them."""

    steps: Mapping[str, int]
    """Of the lessons ``train``, ``tune``, ``fit`` and ``adapt``; 0: left out."""
    rate: float = 0.1
    """Learning rate of ``tune`` and ``adapt``, as a part of that of ``train``."""
    pairs: str = "random"
    """A key of :data:`eaves.methods.siamese.CONTRASTS`."""
    margin: float = 10.0
    weight: float = 0.01
    """Of the pairs, against the task."""
    components: int = 8
    """Numbers that are sent; 0: all features."""


@final
@dataclass(frozen=True, kw_only=True)
class Setup:
    """The choices that a method is built from. ``normalise`` becomes the first layer of all."""

    net: StagedNet
    normalise: nn.Module
    input_shape: tuple[int, ...]
    classes: int
    cut: str
    bottleneck: int | str | None
    exit: str
    edge_schedule: OneCycle
    cloud_schedule: OneCycle
    device: torch.device
    hiding: Hiding | None = None
    mixed: Mixed | None = None
    tuning: Tuning | None = None

    def split(self, net: StagedNet | None = None) -> SplitNet:
        """Divide the net, with the bottleneck if one is wanted; the edge part takes raw inputs.

        ``net`` is what is divided instead of the whole of it.
        """
        split = split_at(net or self.net, self.cut, example=self.input_shape)
        if self.bottleneck is not None:
            shape = output_shape(split.edge, self.input_shape)
            bounded = self.hiding is not None
            split = with_bottleneck(split, shape, self.bottleneck, ends_open=bounded)
        return SplitNet(nn.Sequential(self.normalise, split.edge), split.cloud, split.cut)

    def feature_shape(self) -> tuple[int, ...]:
        """Return the shape, without the batch, of what crosses the cut."""
        if self.cut == INPUT:
            return self.input_shape
        if self.tuning is not None and self.tuning.components:
            return (self.tuning.components,)
        split = split_at(self.net, self.cut, example=self.input_shape)
        shape = output_shape(split.edge, self.input_shape)
        if self.bottleneck is None:
            return shape
        channels, side = parse_bottleneck(self.bottleneck)
        return (channels, *(side or shape[1:]))

    def whole(self) -> nn.Module:
        """Return the whole net on raw inputs."""
        return nn.Sequential(self.normalise, self.net)


@final
@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Steps of one learner, as a part of training in one place."""

    name: str
    learner: EdgeLearner
    steps: int
    augmented: bool = True


@final
@dataclass(frozen=True, kw_only=True)
class Method:
    """Both halves of a method, for training and for inference, and the weights of each side."""

    edge: EdgeLearner
    cloud: CloudLearner | None
    edge_predictor: EdgePredictor
    cloud_predictor: CloudPredictor | None
    edge_modules: Mapping[str, nn.Module]
    cloud_modules: Mapping[str, nn.Module]
    sender: EdgeLearner | None = None
    """The edge that sends what it has learnt to, where the method can send once."""
    course: tuple[Lesson, ...] = ()
    """The lessons of a method that is trained in one place, one after the other; they share the
    state of ``edge``. Empty: ``edge`` learns from first to last."""
    edge_first: bool = False
    """The edge learns alone, before anything is sent."""
    shield: Shield = field(default_factory=Open)
    """What is done to features in inference, and undone on the answers."""


def hiding_of(setup: Setup) -> Hiding:
    """Return what is to be hidden; raises :class:`ConfigError` where nothing is."""
    if setup.hiding is None:
        raise ConfigError("this method hides private attributes: name them with --private")
    return setup.hiding


@final
class EdgeAnswers(EdgePredictor):
    """Send what ``edge`` makes of an input (None: nothing is sent); ``exit`` answers early."""

    def __init__(self, edge: nn.Module | None, exit_: nn.Module | None, device: torch.device):
        self._edge, self._exit, self._device = edge, exit_, device

    def predict(self, inputs: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return features and early logits, both in evaluation mode and without gradient."""
        features = inputs.to(self._device)
        with torch.no_grad():
            if self._edge is not None:
                features = self._edge.eval()(features)
            early = self._exit.eval()(features) if self._exit is not None else None
        return (features if self._edge is not None else None), early


@final
class CloudAnswers(CloudPredictor):
    """Run ``net`` on what arrives."""

    def __init__(self, net: nn.Module, device: torch.device):
        self._net, self._device = net, device

    def answer(self, features: Tensor) -> Tensor:
        """Return the logits, in evaluation mode and without gradient."""
        with torch.no_grad():
            logits: Tensor = self._net.eval()(features.to(self._device))
        return logits


@final
class AnswersOnly(CloudLearner):
    """The cloud half of a method that is trained in one place: it answers, and learns nothing."""

    @property
    def part(self) -> None:
        """Nothing is trained."""
        return

    def step(self, upload: Upload) -> tuple[Tensor | None, Losses]:
        """Refuse."""
        raise ConfigError("this cloud half answers queries, and learns from no upload")


def classify(part: Optimised, net: nn.Module, x: Tensor, y_B: Tensor) -> Losses:
    """Take one step down the cross-entropy of ``net(x)`` against the labels ``y_B``."""
    part.modules.train()
    with part.forward():
        logits_BK = net(x.to(part.device))
        loss = cross_entropy(logits_BK, y_B.to(part.device))
    return {"loss": part.descend(loss), "accuracy": share_right(logits_BK, y_B)}


def share_right(logits_BK: Tensor, labels_B: Tensor) -> float:
    """Return the share of examples whose largest logit is that of their label."""
    right_B = logits_BK.detach().argmax(dim=1) == labels_B.to(logits_BK.device)
    return float(right_B.float().mean())
