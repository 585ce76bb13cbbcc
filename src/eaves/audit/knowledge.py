"""What the attacker knows beforehand, and what really left the edge.

Dimension key:  N examples   R releases of each input   ... the shape of the features
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import sqrt
from typing import final

import torch
from torch import Tensor

from eaves.audit.findings import classes_in
from eaves.core.rates import Rate
from eaves.errors import ConfigError
from eaves.privacy.mechanisms import Mechanism
from eaves.privacy.sources import Source

_MOST = 10**8  # victims that samples_needed can ask for


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Known:
    """Examples of the attacker's own: bounded features before the noise (N, ...), labels (N,).

    A white box: the attacker runs the edge part itself. ``private`` are the classes of one private
    attribute, ``labels`` those of the task, both int64.

    Raises:
        ConfigError: tensors of other lengths or types, features that are not finite, or private
            labels of one class.
    """

    features: Tensor
    labels: Tensor
    private: Tensor

    def __post_init__(self) -> None:
        _expect_examples(self.features, {"task": self.labels, "private": self.private})

    def __len__(self) -> int:
        return len(self.private)


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

    ``half_width`` is what the interval of a rate may extend to each side, at most.

    Raises:
        ConfigError: too few victims for ``half_width`` (the message says how many it takes),
            features of two shapes, or victims of a class that the attacker has no example of.
    """

    attribute: str
    known: Known
    victims: Victims
    mechanism: Mechanism
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
                f"{self.attribute} besides"
            )

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
        """Return the control: private labels that belong to nobody, on both sides.

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


def as_seen(bounded: Tensor, mechanism: Mechanism, *, releases: int, source: Source) -> Tensor:
    """Return what the cloud would see of bounded features (N, ...): released, and joined again.

    The mean of R Gaussian values is one of scale / sqrt(R), so one is drawn.
    """
    if mechanism.law != "laplace":
        each = replace(mechanism, scale=mechanism.scale / sqrt(releases))
        return each.noised(bounded, source)
    sent = [mechanism.noised(bounded, source) for _ in range(releases)]
    return joined(torch.stack(sent, dim=1), mechanism.law)


def joined(releases: Tensor, law: str) -> Tensor:
    """Return one estimate (N, ...) from R releases of each input (N, R, ...).

    It is the most likely value of what was released: for Gaussian noise the mean, for Laplace noise
    the median, whose variance comes down to half of the mean's as R grows.

    >>> joined(torch.tensor([[[0.0], [1.0], [5.0]]]), "laplace"), joined(
    ...     torch.tensor([[[0.0], [1.0], [5.0]]]), "gaussian")
    (tensor([[1.]]), tensor([[2.]]))
    """
    if law != "laplace":
        return releases.mean(dim=1)
    r = releases.shape[1]
    ordered = releases.sort(dim=1).values
    return (ordered[:, (r - 1) // 2] + ordered[:, r // 2]) / 2


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
