"""The ground that all attackers on one exposure share: who learns from what, and who answers.

The attacker's examples are divided once, the noise of the held-out part and the joined releases of
the victims are made once. The victims' private labels are not here: no attacker can look at them.

Two parts are held out, from what the net was not trained on as far as that goes. One chooses (a
round, an attacker); what was chosen looks better there than it is. The other is looked at once: it
is what an attacker expects of the victims, and where they differ, the audit itself is in doubt.

Dimension key:  B batch   H held-out features: those that choose, then those that check
                V victims   L classes of the task   K classes of the private attribute
                ... the shape of the features
"""

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from eaves.audit.knowledge import Exposure
from eaves.audit.release import joined
from eaves.errors import ConfigError

_CHOOSE = 0.12  # of the attacker's examples choose, and do not teach
_CHECK = 0.08  # are looked at once
_COPIES = 2  # of each that chooses, with other noise: more cost as much time as training
_FEWEST = 20


@final
@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What one attacker may spend: ``rounds`` over its examples, ``time_s`` seconds.

    Whichever ends first ends the attack; the learning rate falls to 0 with it. A run that its time
    has ended cannot be repeated exactly, and is marked.
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

    def scaled(self, effort: float, *, patience: float = 1.0) -> "Allowance":
        """Return as many times the rounds, and the time ``patience`` times.

        Less effort leaves the time as it is, so that a slow machine does not end the fewer rounds.
        """
        rounds = max(1, round(self.rounds * effort))
        return replace(self, rounds=rounds, time_s=self.time_s * max(1.0, effort) * patience)


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
    """What an attacker answers after ``done`` of ``total`` rounds: logits (H, K) and (V, K).

    A round that its time has ended is not counted as done.
    """

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
        known = exposure.known
        if len(known) < _FEWEST:
            raise ConfigError(
                f"expected {_FEWEST} or more examples of the attacker's own, got {len(known)}"
            )
        self.exposure, self._generator = exposure, generator
        choose, check, train = self._divided()
        copies = choose.repeat(_COPIES if exposure.path.varies else 1)
        held = torch.cat([copies, check])
        self.choosing = len(copies)
        """How many rows of what is held out choose; the rest checks."""
        self.unseen_check = int((check < known.not_trained_on).sum()) == len(check)
        """Whether the net was trained on none of those that check."""
        self.train = self._seen(known.features[train], known.labels[train])
        """Bounded features before noise and codec: see :meth:`fresh`."""
        self.train_private, self.held_out_private = known.private[train], known.private[held]
        arrived = self._arrived(known.features[held], generator)
        self.held_out = self._seen(arrived, known.labels[held])
        victims = exposure.victims
        together = joined(victims.features, exposure.mechanism.law)
        self.victims = self._seen(together, victims.labels)
        self._mean, self._std = _scale(arrived)

    def _divided(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows of the attacker's examples: that choose, that check, that teach."""
        known = self.exposure.known
        n, fresh = len(known), known.not_trained_on
        unseen = torch.randperm(fresh, generator=self._generator)
        order = torch.cat([unseen, fresh + torch.randperm(n - fresh, generator=self._generator)])
        held, train = order.tensor_split([round((_CHOOSE + _CHECK) * n)])
        held = held[torch.randperm(len(held), generator=self._generator)]
        choose, check = held.tensor_split([max(1, round(_CHOOSE * n))])
        return choose, check, train

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example's features."""
        return tuple(self.train.features.shape[1:])

    def prior(self) -> Tensor:
        """Return the logarithm (K,) of each class's share of what teaches; of none, as of one."""
        counts_K = self.train_private.bincount(minlength=self.exposure.classes).clamp(min=1)
        return (counts_K / counts_K.sum()).log()

    def fresh(self, rows_B: Tensor, generator: torch.Generator) -> Seen:
        """Return examples that teach as they would arrive, with noise that was never drawn before.

        They take the victims' path: noise, the codec in batches of the carrier's, and joining.
        """
        arrived = self._arrived(self.train.features[rows_B], generator)
        return Seen(features=arrived, labels=self.train.labels[rows_B])

    def scaled(self, features: Tensor) -> Tensor:
        """Return features (N, ...) whose channels have mean 0 and variance 1, noise included."""
        return (features - self._mean) / self._std

    def _arrived(self, bounded: Tensor, generator: torch.Generator) -> Tensor:
        path, releases = self.exposure.path, self.exposure.victims.releases
        return path.seen(bounded, releases=releases, generator=generator)

    def _seen(self, features: Tensor, labels: Tensor) -> Seen:
        return Seen(
            features=features, labels=one_hot(labels, self.exposure.labels).to(features.dtype)
        )


def _scale(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel, 1 where it is constant."""
    others = [dim for dim in range(features.ndim) if dim != 1]
    std = features.std(dim=others, keepdim=True, correction=0)
    return features.mean(dim=others, keepdim=True), torch.where(std > 0, std, 1.0)
