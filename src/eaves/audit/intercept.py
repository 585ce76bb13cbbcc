"""What the cloud holds of mixed groups, what else it may know, and what an attack makes of it.

Dimension key:  G groups   K sources, and queries, of a group   C channels   H, W height and width
                N examples of the attacker's own   P pools of groups   E estimates of each
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from eaves.errors import ConfigError

Mix = Callable[[Tensor, torch.Generator], Tensor]
"""The public law: sources (B, K, C, H, W) -> queries (B, K, C, H, W), matrices and noise fresh."""

Draw = Callable[[int, torch.Generator], Tensor]
"""The public law of the matrices alone: how many, generator -> (n, K, K)."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Intercept:
    """Queries (G, K, C, H, W) that the cloud was sent, each group mixed by a matrix of its own.

    What form they have, K, and which K of them are a group is known to the cloud, for it answers
    them. So is the law of the matrices, but not the matrices. Each attack says what it uses.

    Raises:
        ConfigError: queries, or knowledge, of shapes that do not fit or of values that are not
            finite.
    """

    queries: Tensor
    noise_std: float = 0.0
    """Standard deviation of the independent noise on each value of a query: public, as the law."""
    own: Tensor | None = None
    """Sources (N, C, H, W) of the attacker's own, made as those of the victims were."""
    mix: Mix | None = None
    """The public law, to mix them by."""
    draw: Draw | None = None
    """The public law of the matrices, to guess one by."""
    plaintext: Tensor | None = None
    """The first source (G, C, H, W) of every group, known by chance or planted."""
    matrices: Tensor | None = None
    """The secret (G, K, K), for the upper bound: queries = matrices @ sources + noise."""

    def __post_init__(self) -> None:
        shape = tuple(self.queries.shape)
        if len(shape) != 5 or shape[1] < 2 or 0 in shape or not _finite(self.queries):
            raise ConfigError(
                "expected finite queries (G, K, C, H, W) of groups of 2 or more, got shape "
                f"{shape} of {self.queries.dtype}"
            )
        if not 0 <= self.noise_std < float("inf"):
            raise ConfigError(f"expected noise_std of 0 or more, got {self.noise_std}")
        groups, k, *example = shape
        self._expect("own", self.own, (2 * k, *example))
        self._expect("plaintext", self.plaintext, (groups, *example))
        self._expect("matrices", self.matrices, (groups, k, k))

    def _expect(self, name: str, given: Tensor | None, shape: tuple[int, ...]) -> None:
        """Refuse a tensor of another shape, or with fewer examples where it is ``own``."""
        if given is None:
            return
        enough = len(given) >= shape[0] if name == "own" else len(given) == shape[0]
        if tuple(given.shape[1:]) != shape[1:] or not enough or not _finite(given):
            raise ConfigError(
                f"expected {name} finite and of shape {shape}{' or more' * (name == 'own')}, "
                f"as the queries are of {tuple(self.queries.shape)}, got {tuple(given.shape)}"
            )


def _finite(x: Tensor) -> bool:
    return x.is_floating_point() and bool(x.isfinite().all())


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Guess:
    """What one attack takes the sources to be: (P, E, C, H, W), of any order, scale and sign.

    P is the number of groups; or of pools, where the attack does not say what group a source is of.
    """

    sources: Tensor
    told: int = 0
    """How many first sources of each group the attacker was told: they are not among these."""
    known: int = 0
    """Examples of the attacker's own that it used."""
    rounds: int = 0
    note: str = ""
