"""What divided training is compared with: all in the cloud, all on the edge, split learning.

Dimension key:  B batch   K classes
"""

from typing import ClassVar, final

from torch import Tensor, nn

from eaves.core.optimise import Optimised
from eaves.core.roles import Batch, CloudLearner, EdgeLearner, Losses, Upload
from eaves.errors import ConfigError
from eaves.methods.hierarchical import Classifier
from eaves.methods.setup import CloudAnswers, EdgeAnswers, Method, Setup, classify


@final
class Relay(EdgeLearner):
    """Send every input as it is and learn nothing: the edge of full-cloud training."""

    one_way: ClassVar[bool] = True

    @property
    def part(self) -> None:
        """Nothing is trained."""
        return

    def step(self, batch: Batch) -> tuple[Upload, Losses]:
        """Pass the batch on."""
        return Upload(batch.inputs, batch.labels), {}


@final
class WholeEdge(EdgeLearner):
    """Train the whole net on the edge and send nothing."""

    one_way: ClassVar[bool] = True

    def __init__(self, part: Optimised):
        self._part = part

    @property
    def part(self) -> Optimised:
        """The whole net."""
        return self._part

    def step(self, batch: Batch) -> tuple[None, Losses]:
        """Learn from one batch."""
        net = self.part.modules["edge"]
        return None, classify(self.part, net, batch.inputs, batch.labels)


@final
class SplitEdge(EdgeLearner):
    """The edge of split learning: send the features, wait for their gradient, go on backward.

    Source: Gupta and Raskar, *Distributed learning of deep neural network over multiple agents*
    (2018), with labels sent. A lossy codec is passed straight through: the gradient for the decoded
    features is used for the original ones.
    """

    one_way: ClassVar[bool] = False

    def __init__(self, part: Optimised):
        self._part = part
        self._sent: Tensor | None = None

    @property
    def part(self) -> Optimised:
        """The edge part."""
        return self._part

    def step(self, batch: Batch) -> tuple[Upload, Losses]:
        """Go forward up to the cut."""
        self.part.modules.train()
        with self.part.forward():
            self._sent = self.part.modules["edge"](batch.inputs.to(self.part.device))
        return Upload(self._sent.detach(), batch.labels), {}

    def receive(self, reply: Tensor) -> None:
        """Go backward from the gradient of the loss by the features, and update."""
        if self._sent is None or reply.shape != self._sent.shape:
            expected = None if self._sent is None else tuple(self._sent.shape)
            raise ValueError(f"expected a gradient of shape {expected}, got {tuple(reply.shape)}")
        sent, self._sent = self._sent, None
        self.part.descend(sent, reply.to(self.part.device, sent.dtype))


@final
class SplitCloud(CloudLearner):
    """The cloud of split learning: learn, and return the gradient by the features."""

    def __init__(self, part: Optimised):
        self._part = part

    @property
    def part(self) -> Optimised:
        """The cloud part."""
        return self._part

    def step(self, upload: Upload) -> tuple[Tensor, Losses]:
        """Learn from one upload; reply with the gradient (B, ...) of the loss."""
        # Detached: the upload is the caller's, and must not gather gradients.
        z = upload.features.to(self.part.device).detach().requires_grad_()
        # A clone, because a first layer that works in place may not overwrite a leaf.
        losses = classify(self.part, self.part.modules["cloud"], z.clone(), upload.labels)
        if z.grad is None:
            raise ConfigError("the cloud part does not use its features: there is no gradient")
        return z.grad, losses


def full_cloud(setup: Setup) -> Method:
    """Build training in the cloud: inputs travel, every epoch or once."""
    modules = {"cloud": setup.whole()}
    cloud = Classifier(Optimised(modules, setup.cloud_schedule, setup.device))
    return Method(
        edge=Relay(),
        cloud=cloud,
        edge_predictor=EdgeAnswers(nn.Identity(), None, setup.device),
        cloud_predictor=CloudAnswers(modules["cloud"], setup.device),
        edge_modules={},
        cloud_modules=modules,
        sender=Relay(),
    )


def full_edge(setup: Setup) -> Method:
    """Build training on the edge: nothing travels."""
    modules = {"edge": setup.whole()}
    return Method(
        edge=WholeEdge(Optimised(modules, setup.edge_schedule, setup.device)),
        cloud=None,
        edge_predictor=EdgeAnswers(None, modules["edge"], setup.device),
        cloud_predictor=None,
        edge_modules=modules,
        cloud_modules={},
    )


def split_learning(setup: Setup) -> Method:
    """Build split learning: features travel up, gradients down."""
    split = setup.split()
    return Method(
        edge=SplitEdge(Optimised({"edge": split.edge}, setup.edge_schedule, setup.device)),
        cloud=SplitCloud(Optimised({"cloud": split.cloud}, setup.cloud_schedule, setup.device)),
        edge_predictor=EdgeAnswers(split.edge, None, setup.device),
        cloud_predictor=CloudAnswers(split.cloud, setup.device),
        edge_modules={"edge": split.edge},
        cloud_modules={"cloud": split.cloud},
    )
