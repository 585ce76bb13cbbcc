r"""Hierarchical training by early exits.

Source: Sepehri, Pad, Yüzügüler, Frossard, Dunbar, *Hierarchical Training of Deep Neural Networks
Using Early Exiting*, IEEE TNNLS 2024, arXiv:2303.02384::

    edge :  z = E(x)                 forward up to the cut
            send Q(z), y             one way; the edge never waits for an answer
            L_e = CE(X(z), y)        X: the exit;  update E, X
    cloud:  z' = dequantise(Q(z))    a leaf
            L_c = CE(C(z'), y)       update C

Two losses, two optimisers, nothing shared. Nothing is differentiated through Q, so Q may be any
codec. Each side keeps its own BatchNorm statistics.

Dimension key:  B batch   K classes
"""

from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from eaves.core.exits import exit_head
from eaves.core.net import output_shape
from eaves.core.optimise import Optimised
from eaves.core.roles import Batch, CloudLearner, EdgeLearner, Losses, Upload
from eaves.methods.setup import (
    CloudAnswers,
    EdgeAnswers,
    Method,
    Setup,
    classify,
    share_right,
)


@final
class HierarchicalEdge(EdgeLearner):
    """E and its exit X, trained by X's loss alone."""

    one_way: ClassVar[bool] = True

    def __init__(self, part: Optimised):
        self._part = part
        self._edge, self._exit = part.modules["edge"], part.modules["exit"]

    @property
    def part(self) -> Optimised:
        """The edge part and its exit."""
        return self._part

    def step(self, batch: Batch) -> tuple[Upload, Losses]:
        """Learn from one batch, and send the features that this very forward pass made."""
        x, y_B = batch.inputs.to(self.part.device), batch.labels.to(self.part.device)
        self.part.modules.train()
        with self.part.forward():
            z = self._edge(x)
            logits_BK = self._exit(z)
            loss = cross_entropy(logits_BK, y_B)
        value = self.part.descend(loss)
        return Upload(z.detach(), y_B), {"loss": value, "accuracy": share_right(logits_BK, y_B)}


@final
class SendingEdge(EdgeLearner):
    """An edge part that has finished learning and sends the features that inference will make."""

    one_way: ClassVar[bool] = True

    def __init__(self, learner: HierarchicalEdge):
        self._learner = learner

    @property
    def part(self) -> Optimised:
        """The edge part, as it was trained."""
        return self._learner.part

    def step(self, batch: Batch) -> tuple[Upload, Losses]:
        """Make the features of one batch in evaluation mode; nothing changes."""
        self.part.modules.eval()
        with torch.no_grad(), self.part.forward():
            z = self.part.modules["edge"](batch.inputs.to(self.part.device))
        return Upload(z, batch.labels), {}


@final
class Classifier(CloudLearner):
    """A net trained by cross-entropy on the uploads that arrive; it never replies."""

    def __init__(self, part: Optimised):
        self._part = part

    @property
    def part(self) -> Optimised:
        """The cloud part."""
        return self._part

    def step(self, upload: Upload) -> tuple[Tensor | None, Losses]:
        """Learn from one upload."""
        return None, classify(self.part, self.part.modules["cloud"], upload.features, upload.labels)


def hierarchical(setup: Setup) -> Method:
    """Build both halves of hierarchical training."""
    split = setup.split()
    feature_shape = output_shape(split.edge, setup.input_shape)
    edge_modules: dict[str, nn.Module] = {
        "edge": split.edge,
        "exit": exit_head(setup.exit, feature_shape, setup.classes),
    }
    cloud_modules = {"cloud": split.cloud}
    edge = HierarchicalEdge(Optimised(edge_modules, setup.edge_schedule, setup.device))
    cloud = Classifier(Optimised(cloud_modules, setup.cloud_schedule, setup.device))
    return Method(
        edge=edge,
        cloud=cloud,
        edge_predictor=EdgeAnswers(split.edge, edge_modules["exit"], setup.device),
        cloud_predictor=CloudAnswers(split.cloud, setup.device),
        edge_modules=edge_modules,
        cloud_modules=cloud_modules,
        sender=SendingEdge(edge),
    )
