"""What the attacker knows beforehand, and what really left the edge.

Dimension key:  N examples   R releases of each input   ... the shape of the features
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from eaves.audit.findings import classes_in
from eaves.audit.release import ReleasePath
from eaves.core.rates import Rate
from eaves.errors import ConfigError
from eaves.privacy.mechanisms import Mechanism

_MOST = 10**8  # victims that samples_needed can ask for


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Known:
    """Examples of the attacker's own: bounded features before the noise (N, ...), labels (N,).

    A white box: the attacker runs the edge part itself. ``private`` are the classes of one private
    attribute, ``labels`` those of the task, both int64.

    The net was not trained on the first ``unseen`` of them; None: on none of them. They are held
    out first, for they are to a net what victims are. A net is surer of what it was trained on.

    Raises:
        ConfigError: tensors of other lengths or types, features that are not finite, private
            labels of one class, or more unseen examples than there are.
    """

    features: Tensor
    labels: Tensor
    private: Tensor
    unseen: int | None = None

    def __post_init__(self) -> None:
        _expect_examples(self.features, {"task": self.labels, "private": self.private})
        if self.unseen is not None and not 0 <= self.unseen <= len(self):
            raise ConfigError(f"expected 0 to {len(self)} unseen examples, got {self.unseen}")

    def __len__(self) -> int:
        return len(self.private)

    @property
    def not_trained_on(self) -> int:
        """How many of the first ones the net was not trained on."""
        return len(self) if self.unseen is None else self.unseen

    def at(self, rows: Tensor) -> "Known":
        """Return some of them, those that the net was not trained on first."""
        ordered = torch.cat([rows[rows < self.not_trained_on], rows[rows >= self.not_trained_on]])
        return Known(
            features=self.features[ordered],
            labels=self.labels[ordered],
            private=self.private[ordered],
            unseen=int((rows < self.not_trained_on).sum()),
        )


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Victims:
    """What left the edge for the victims: R releases of each input, features (N, R, ...).

    As the cloud decodes them, with noise; R is 1 where each input is sent once. The attacker sees
    ``labels``, which are sent in the clear, and is scored with ``private``.

    Raises:
        ConfigError: as :class:`Known` does.
    """

    features: Tensor
    labels: Tensor
    private: Tensor

    def __post_init__(self) -> None:
        if self.features.ndim < 3:
            raise ConfigError(
                "expected features (N, R, ...) of victims, R releases of each input, "
                f"got {tuple(self.features.shape)}; unsqueeze(1) where each is sent once"
            )
        _expect_examples(self.features, {"task": self.labels, "private": self.private})

    def __len__(self) -> int:
        return len(self.private)

    @property
    def releases(self) -> int:
        """How often each input was sent."""
        return self.features.shape[1]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Exposure:
    """One private ``attribute`` as it is exposed: attacker, victims, and what lies between them.

    ``path`` is what the victims' features came by, and what the attacker's own take.

    ``half_width`` is what the interval of a rate may extend to each side, at most.

    Raises:
        ConfigError: too few victims for ``half_width`` (the message says how many it takes),
            features of two shapes, or victims of a class that the attacker has no example of.
    """

    attribute: str
    known: Known
    victims: Victims
    path: ReleasePath
    half_width: float = 0.02

    def __post_init__(self) -> None:
        needed = samples_needed(self.half_width)
        if len(self.victims) < needed:
            raise ConfigError(
                f"expected {needed} victims or more for an interval of +-{self.half_width}, got "
                f"{len(self.victims)}; take more test examples, or ask for a wider interval"
            )
        known, seen = self.known.features.shape[1:], self.victims.features.shape[2:]
        if known != seen:
            raise ConfigError(
                "expected the same features of attacker and victims, got the shapes "
                f"{tuple(known)} and {tuple(seen)}"
            )
        unknown = set(classes_in(self.victims.private)) - set(classes_in(self.known.private))
        if unknown:
            raise ConfigError(
                f"expected victims of classes that the attacker has examples of, got {unknown} of "
                f"{self.attribute} too"
            )

    @property
    def mechanism(self) -> Mechanism:
        """Bound and noise."""
        return self.path.mechanism

    @property
    def classes(self) -> int:
        """How many classes the private attribute has."""
        return int(self.known.private.max()) + 1

    @property
    def labels(self) -> int:
        """How many classes the task has, as far as can be seen."""
        return 1 + max(int(self.known.labels.max()), int(self.victims.labels.max()))

    @property
    def majority(self) -> float:
        """The share of the victims' most frequent class: who answers it always is right so often.

        The same share of the attacker's examples may be of another class.
        """
        return int(self.victims.private.bincount().max()) / len(self.victims)

    def shuffled(self, *, generator: torch.Generator) -> "Exposure":
        """Return the control: shuffled private labels, on both sides.

        With the victims' own labels the control could fail by chance: an attacker that has learned
        nothing gives examples that are alike the same answer, and where the features fall into the
        classes of the attribute, that answer is right for a whole class or wrong for it.
        """
        known, victims = (
            side.private[torch.randperm(len(side), generator=generator)]
            for side in (self.known, self.victims)
        )
        return replace(
            self,
            known=replace(self.known, private=known),
            victims=replace(self.victims, private=victims),
        )


def samples_needed(half_width: float) -> int:
    """Return how many victims give every rate an interval of at most +-``half_width``.

    It is the smallest even number; a rate of 0.5 has the widest interval.

    Raises:
        ConfigError: a width that takes no victim, or more than 100 million.

    >>> samples_needed(0.02)
    2398
    """
    if not 0.0001 <= half_width < 0.5:
        raise ConfigError(f"expected a half-width from 0.0001 to below 0.5, got {half_width}")

    def narrow(half: int) -> bool:
        rate = Rate.of(half, 2 * half)
        return rate.high - rate.low <= 2 * half_width

    return 2 * (1 + bisect_left(range(1, _MOST // 2 + 1), True, key=narrow))


def _expect_examples(features: Tensor, labels: Mapping[str, Tensor]) -> None:
    n = len(features)
    if features.dtype != torch.float32 or features.ndim < 2 or not bool(features.isfinite().all()):
        raise ConfigError(
            "expected finite float32 features (N, ...), got "
            f"{features.dtype} {tuple(features.shape)}; decode them first"
        )
    for name, classes in labels.items():
        fits = classes.dtype == torch.int64 and classes.shape == (n,)
        if not fits or not n or int(classes.min()) < 0:
            raise ConfigError(
                f"expected int64 {name} labels from 0 of shape ({n},), 1 or more, got "
                f"{classes.dtype} {tuple(classes.shape)}"
            )
    if len(classes_in(labels["private"])) < 2:
        raise ConfigError(
            "expected private labels of 2 classes or more, got one: nothing is hidden there; "
            "choose another attribute, or more examples"
        )
