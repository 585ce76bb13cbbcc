"""Adversarial exits: classifiers on the edge that try to read private attributes in the features.

An adversary that is weak, or of one kind only, gives false privacy: an attacker trains afresh, and
may be deeper. So there are several for each attribute, of different depth; they take several steps,
each with noise drawn again; and one after the other begins again.

Dimension key:  B batch   A attributes   K classes   C channels
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from math import log, prod
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from eaves.core.optimise import Optimised, Steady
from eaves.core.roles import Batch, Losses
from eaves.errors import unknown
from eaves.methods.hiding import Defence
from eaves.methods.setup import Hiding, share_right
from eaves.privacy.sources import Source

_WIDTH = 128
_GROUPS = 8
_LR = 2e-3


def uniform(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Return KL(uniform || p), averaged over the batch: 0 where all classes seem alike."""
    return -logits_BK.log_softmax(dim=1).mean() - log(logits_BK.shape[1])


def entropy(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Return KL(p || uniform) = log K - H(p), averaged over the batch.

    Source: Roy and Boddeti, *Mitigating Information Leakage in Image Representations: A Maximum
    Entropy Approach* (CVPR 2019), equation 4. Its gradient vanishes where p is sure.
    """
    logp_BK = logits_BK.log_softmax(dim=1)
    return (logp_BK.exp() * logp_BK).sum(dim=1).mean() + log(logits_BK.shape[1])


def reversal(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Return -CE(p, s): unbounded, and lowest where the adversary is sure and wrong, which leaks.

    Source: Ganin et al., *Domain-Adversarial Training of Neural Networks* (JMLR 2016).
    """
    return -cross_entropy(logits_BK, labels_B)


AIMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "uniform": uniform,
    "entropy": entropy,
    "reversal": reversal,
}


@final
class Adversaries(Defence):
    """Several adversaries for each private attribute; see the top of this file."""

    def __init__(self, feature_shape: Sequence[int], hiding: Hiding, device: torch.device):
        if hiding.loss not in AIMS:
            raise unknown("loss of adversaries", hiding.loss, AIMS)
        self._shape, self._hiding, self._aim = tuple(feature_shape), hiding, AIMS[hiding.loss]
        self._names = tuple(hiding.attributes)
        heads = {
            f"{a}-{i}": adversary(i, self._shape, classes)
            for a, classes in enumerate(hiding.attributes.values())
            for i in range(hiding.adversaries)
        }
        self._part = Optimised(heads, Steady(lr=_LR, optimiser="adam"), device)
        self._fresh = {name: deepcopy(head.state_dict()) for name, head in heads.items()}

    @property
    def part(self) -> Optimised:
        """All adversaries: attribute 0's are called ``0-0``, ``0-1``."""
        return self._part

    def learn(self, z: Tensor, noise: Source, batch: Batch) -> Losses:
        """Take the steps of one batch; return the accuracy of the best on its last noise."""
        private = self._private(batch)
        heads = self._part.modules
        for _ in range(self._hiding.adversary_steps):
            self._restart()
            heads.train()
            with self._part.forward():
                sent = self._hiding.mechanism.noised(z, noise)
                answers = {name: head(sent) for name, head in heads.items()}
                losses = [cross_entropy(p, _labels(name, private)) for name, p in answers.items()]
            self._part.descend(torch.stack(losses).sum())
        read = [share_right(p, _labels(name, private)) for name, p in answers.items()]
        return {"adversary": max(read)}

    def penalty(self, sent: Tensor, batch: Batch) -> Tensor:
        """Return the aim's value, averaged over the adversaries and added over attributes."""
        private = self._private(batch)
        heads = self._part.modules.requires_grad_(False)
        with self._part.forward():
            seen = [self._aim(head(sent), _labels(n, private)) for n, head in heads.items()]
        heads.requires_grad_(True)
        return torch.stack(seen).sum() / self._hiding.adversaries

    def _private(self, batch: Batch) -> Tensor:
        """Return the private classes (B, A) of a batch."""
        if batch.private is None:
            raise ValueError(f"expected private labels of {', '.join(self._names)}, got none")
        labels_B = [batch.private.of(name) for name in self._names]
        return torch.stack(labels_B, dim=1).to(self._part.device)

    def _restart(self) -> None:
        """Let one adversary begin again, with its first weights, where it is time to."""
        steps, every = self._part.steps, self._hiding.restart_steps
        if every and steps and steps % every == 0:
            names = list(self._part.modules)
            name = names[steps // every % len(names)]
            self._part.modules[name].load_state_dict(self._fresh[name])


def adversaries_of(
    hiding: Hiding, feature_shape: Sequence[int], device: torch.device
) -> list[Defence]:
    """Return the defence against all adversaries; none where there are none, or nothing to read."""
    if not (hiding.adversaries and hiding.attributes):
        return []
    return [Adversaries(feature_shape, hiding, device)]


def adversary(number: int, feature_shape: Sequence[int], classes: int) -> nn.Module:
    """Return the adversary of that number: one of three kinds, features (B, ...) -> (B, classes).

    0: one hidden layer. 1: two convolutions and a hidden layer; of flat features, three layers.
    2: two wide hidden layers.

    >>> adversary(1, (8, 4, 4), 2)(torch.zeros(3, 8, 4, 4)).shape
    torch.Size([3, 2])
    """
    values = prod(feature_shape)
    if number % 3 == 0:
        return nn.Sequential(nn.Flatten(), *_dense(values, _WIDTH), nn.Linear(_WIDTH, classes))
    wide = 2 * _WIDTH
    if number % 3 == 2 or len(feature_shape) != 3:
        hidden = [*_dense(values, wide), *_dense(wide, wide)]
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(wide, classes))
    half, side = _WIDTH // 2, min(4, *feature_shape[1:])
    convolved = [*_conv(feature_shape[0], half), *_conv(half, half), nn.AdaptiveAvgPool2d(side)]
    hidden = _dense(half * side * side, _WIDTH)
    return nn.Sequential(*convolved, nn.Flatten(), *hidden, nn.Linear(_WIDTH, classes))


# No BatchNorm: frozen, it would judge features that change all the time by running statistics that
# lag behind them.


def _dense(n_in: int, n_out: int) -> list[nn.Module]:
    return [nn.Linear(n_in, n_out), nn.LayerNorm(n_out), nn.ReLU()]


def _conv(c_in: int, c_out: int) -> list[nn.Module]:
    conv = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
    return [conv, nn.GroupNorm(_GROUPS, c_out), nn.ReLU()]


def _labels(name: str, private_BA: Tensor) -> Tensor:
    """Return the classes (B,) of the attribute that the adversary of that name reads."""
    return private_BA[:, int(name.split("-")[0])]
