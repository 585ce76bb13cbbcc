"""The ground that all attackers on one exposure share: who learns from what, and who answers.

The attacker's examples are divided once, the noise of the held-out part and the joined releases of
the victims are made once. The victims' private labels are not here: no attacker can look at them.

Dimension key:  B batch   H held-out features   V victims   L classes of the task
                K classes of the private attribute   ... the shape of the features
"""

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from eaves.audit.knowledge import Exposure, as_seen, joined
from eaves.errors import ConfigError
from eaves.privacy.sources import Pseudo, Source

_HELD_OUT = 0.15  # the attacker's examples that choose, and do not teach
_COPIES = 2  # of each of them, with other noise: more cost as much time as training
_FEWEST = 20


@final
@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What one attacker may spend: ``rounds`` over its examples, ``time_s`` seconds.

    Whichever ends first ends the attack; the learning rate falls to 0 with it. A run that its time
    has ended cannot be repeated exactly.
    """

    rounds: int = 20
    time_s: float = 60.0
    batch_size: int = 256

    def __post_init__(self) -> None:
        if self.rounds < 1 or not self.time_s > 0 or self.batch_size < 2:
            raise ConfigError(
                "expected 1 or more rounds, a time above 0 s and batches of 2 or more, got "
                f"{self.rounds}, {self.time_s} s and {self.batch_size}"
            )

    def scaled(self, effort: float) -> "Allowance":
        """Return as many times the rounds.

        Less effort leaves the time as it is, so that a slow machine does not end the fewer rounds.
        """
        rounds = max(1, round(self.rounds * effort))
        return replace(self, rounds=rounds, time_s=self.time_s * max(1.0, effort))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What the cloud sees: features (N, ...), and the task labels (N, L), 1 at the label."""

    features: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.features)


@final
@dataclass(frozen=True, kw_only=True)
class Round:
    """What an attacker answers after ``done`` of ``total`` rounds: logits (H, K) and (V, K)."""

    done: int
    total: int
    held_out: Tensor
    victims: Tensor


@final
class Trial:
    """An exposure, made ready for attackers.

    Raises:
        ConfigError: the attacker has fewer than 20 examples.
    """

    def __init__(self, exposure: Exposure, *, generator: torch.Generator):
        known, source = exposure.known, Pseudo(generator)
        if len(known) < _FEWEST:
            raise ConfigError(
                f"expected {_FEWEST} or more examples of the attacker's own, got {len(known)}"
            )
        mixed = torch.randperm(len(known), generator=generator)
        held, train = mixed.tensor_split([round(_HELD_OUT * len(known))])
        copies = held.repeat(1 if exposure.mechanism.scale == 0 else _COPIES)
        self.exposure = exposure
        self.train = self._seen(known.features[train], known.labels[train])
        """Bounded features without noise: see :meth:`fresh`."""
        self.train_private, self.held_out_private = known.private[train], known.private[copies]
        noised = self._noised(known.features[copies], source)
        self.held_out = self._seen(noised, known.labels[copies])
        victims = exposure.victims
        together = joined(victims.features, exposure.mechanism.law)
        self.victims = self._seen(together, victims.labels)
        self._mean, self._std = _scale(noised)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example's features."""
        return tuple(self.train.features.shape[1:])

    def prior(self) -> Tensor:
        """Return the logarithm (K,) of each class's share of what teaches; of none, as of one."""
        counts_K = self.train_private.bincount(minlength=self.exposure.classes).clamp(min=1)
        return (counts_K / counts_K.sum()).log()

    def fresh(self, rows_B: Tensor, source: Source) -> Seen:
        """Return examples that teach, with noise that was never drawn before."""
        noised = self._noised(self.train.features[rows_B], source)
        return Seen(features=noised, labels=self.train.labels[rows_B])

    def scaled(self, features: Tensor) -> Tensor:
        """Return features (N, ...) whose channels have mean 0 and variance 1, noise included."""
        return (features - self._mean) / self._std

    def _noised(self, bounded: Tensor, source: Source) -> Tensor:
        mechanism, releases = self.exposure.mechanism, self.exposure.victims.releases
        return as_seen(bounded, mechanism, releases=releases, source=source)

    def _seen(self, features: Tensor, labels: Tensor) -> Seen:
        return Seen(
            features=features, labels=one_hot(labels, self.exposure.labels).to(features.dtype)
        )


def _scale(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel, 1 where it is constant."""
    others = [dim for dim in range(features.ndim) if dim != 1]
    std = features.std(dim=others, keepdim=True, correction=0)
    return features.mean(dim=others, keepdim=True), torch.where(std > 0, std, 1.0)
