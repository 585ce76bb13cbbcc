"""DISCO: a pruner that takes away, of each input, the channels that tell what is private.

Source: Singh, Chopra, Garza, Zhang, Vepakomma, Sharma, Raskar, *DISCO: Dynamic and Invariant
Sensitive Channel Obfuscation for Deep Neural Networks* (CVPR 2021), arXiv:2012.11025::

    x -> E -> z -> z * mask(P(z)) -> bound -> + noise -> z~ --------> cloud: C(z~) -> task
                                                 |-> D  task exit     |-> S  adversary

    S    <- CE(S(z~), s)
    E, D <- CE(D(z~), y)                                   no gradient of S reaches E
    P    <- CE(D(z~), y) - weight * CE(S(z~), s)           nor does it go around P

The pruner P gives each channel a score; the mask is 1 for the highest scores of an input and 0 for
the :data:`PRUNED` share of lowest. P is a part of the edge, so it is in the bundle.

Dimension key:  B batch   C channels
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, final

import torch
from torch import Tensor, nn

from eaves.core.bottleneck import with_bottleneck
from eaves.core.exits import exit_head
from eaves.core.net import SplitNet, output_shape
from eaves.core.optimise import Optimised
from eaves.core.roles import Batch, Losses
from eaves.errors import ConfigError
from eaves.methods.adversaries import Adversaries
from eaves.methods.hiding import Defence, hiding_method
from eaves.methods.setup import Method, Setup, hiding_of
from eaves.privacy.sources import Source

PRUNED: Final = 0.6
"""Share of the channels that is taken away, rounded up; ours: the paper tries many."""


def disco(setup: Setup) -> Method:
    """Build both halves of DISCO.

    The channels at the cut are pruned. Of fewer than three none would be left, or all: where a
    bottleneck leaves so few, those before the bottleneck are pruned instead.

    Raises:
        ConfigError: no private attribute is named, there is no adversary, or there are fewer than
            three channels to prune.
    """
    hiding = hiding_of(setup)
    if not hiding.adversaries:
        raise ConfigError("disco prunes against adversaries: raise --adversaries to 1 or more")
    split, pruner = _pruned(setup)
    shape = output_shape(split.edge, setup.input_shape)
    # Whatever the aim chosen for PriPHiT: the paper's is minus the cross-entropy.
    adversaries = Adversaries(shape, replace(hiding, loss="reversal"), setup.device)
    return hiding_method(setup, split, [AgainstPruner(adversaries, pruner)])


@final
class Pruner(nn.Module):
    """Features (B, C, ...) -> the same, with the channels of lowest score set to 0.

    Raises:
        ConfigError: there are fewer than three channels.
    """

    def __init__(self, feature_shape: Sequence[int]):
        super().__init__()
        channels = feature_shape[0]
        self._kept = kept(channels)
        if not self._kept:
            raise ConfigError(
                f"disco needs 3 channels or more to prune, got {channels}; "
                "choose another cut, or a wider --bottleneck"
            )
        # DIFFERS(DISCO): a small net of an edge device, not the remaining layers of a ResNet-18.
        self.scores = exit_head("conv", feature_shape, channels)

    def forward(self, z: Tensor) -> Tensor:
        """Prune each example by its own scores."""
        mask_BC = straight_through(self.scores(z).float(), self._kept)
        return z * mask_BC.reshape(*mask_BC.shape, *[1] * (z.dim() - 2))


def kept(channels: int) -> int:
    """Return how many of so many channels are left.

    >>> kept(2), kept(3), kept(8), kept(32)
    (0, 1, 3, 12)
    """
    return int(channels * (1 - PRUNED) + 1e-9)


def straight_through(scores_BC: Tensor, keep: int) -> Tensor:
    """Return 1 for the ``keep`` highest scores of each example, and 0 for the others.

    Its gradient is that of sigmoid(score - the lowest score that is kept).

    >>> straight_through(torch.tensor([[3.0, 1.0, 2.0]]), 2).tolist()
    [[1.0, 0.0, 1.0]]
    """
    highest = scores_BC.topk(keep, dim=1)
    mask_BC = torch.zeros_like(scores_BC).scatter(1, highest.indices, 1.0)
    # DIFFERS(DISCO): a temperature of 1, not 1/30, which leaves most channels without a gradient.
    soft_BC = (scores_BC - highest.values[:, -1:]).sigmoid()
    return mask_BC + (soft_BC - soft_BC.detach())


@final
class AgainstPruner(Defence):
    """A defence whose penalty teaches the pruner, and nothing else of the edge part."""

    def __init__(self, defence: Defence, pruner: nn.Module):
        self._defence, self._pruner = defence, pruner

    @property
    def part(self) -> Optimised | None:
        """The opponent of the defence."""
        return self._defence.part

    def learn(self, z: Tensor, noise: Source, batch: Batch) -> Losses:
        """Let the opponent learn."""
        return self._defence.learn(z, noise, batch)

    def penalty(self, sent: Tensor, batch: Batch) -> Tensor:
        """Return the defence's penalty, with its gradient by the pruner's weights alone."""
        return through(self._defence.penalty(sent, batch), self._pruner.parameters())


def through(value: Tensor, weights: Iterable[Tensor]) -> Tensor:
    """Return ``value`` with its gradient by ``weights`` kept, and that by all else left out.

    >>> a, b = torch.tensor(2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    >>> product = through(a * b, [a])
    >>> product.backward()
    >>> product.item(), a.grad, b.grad
    (6.0, tensor(3.), None)
    """
    chosen = list(weights)
    gradients = torch.autograd.grad(value, chosen, retain_graph=True)
    along = torch.stack([(w * g).sum() for w, g in zip(chosen, gradients, strict=True)]).sum()
    return value.detach() + (along - along.detach())


def _pruned(setup: Setup) -> tuple[SplitNet, Pruner]:
    """Return the split net with a pruner at the end of the edge part, or before its bottleneck."""
    split = setup.split()
    shape = output_shape(split.edge, setup.input_shape)
    if kept(shape[0]) or setup.bottleneck is None:
        return _with_pruner(split, shape)
    wide = replace(setup, bottleneck=None).split()
    shape = output_shape(wide.edge, setup.input_shape)
    split, pruner = _with_pruner(wide, shape)
    return with_bottleneck(split, shape, setup.bottleneck, ends_open=True), pruner


def _with_pruner(split: SplitNet, shape: Sequence[int]) -> tuple[SplitNet, Pruner]:
    pruner = Pruner(shape)
    return SplitNet(nn.Sequential(split.edge, pruner), split.cloud, split.cut), pruner
