r"""Secret linear mixtures of a group of K tensors, and how answers to them are taken apart again.

::

    q_j = sum_i C_ji h_i         what is sent: K queries for a group of K
    z_i = sum_j (C^-1)_ij r_j    what is made of the answers r to them

C is drawn again for every group. Its rows add up to 1, so that a constant that the answers have in
common, such as a bias, comes out as it went in.

==========  ========================================================================================
convex      positive parts: a weight for one source, and the rest divided at random (Dirichlet)
orthogonal  11'/K + t U R U', with R random orthogonal of K - 1 dimensions and U a basis of what
            adds up to 0: the mean is kept, deviations from it are turned and scaled; t, or 1/t, is
            from 1 to ``max_condition``
affine      11'/K + U R diag(t_1 ... t_(K-1)) R' U': each deviation is scaled by another t
==========  ========================================================================================

Two bounds hold for every law. ``max_share``: no source has a larger share of a query's energy (its
squared part among all squared parts). ``max_condition``: of C, the largest singular value over the
smallest, which is how much more the errors of some answers may count than those of others. What is
beyond is drawn again. With K = 2 the only orthogonal C with rows that add up to 1 are the identity
and the swap, which do not mix at all: hence t. **That makes t the only secret of a pair**, and with
the bounds of the defaults it is from 3 to 4, or from 1/4 to 1/3: one bit. Convex weights of a pair
are all from 0.625 to 0.667: less than a bit. ``guessed`` of :mod:`eaves.audit.unmixing` does it.

Formal guarantee: none. C is used for thousands of values with structure, and that gives it away:
see ``docs/threat_model.md``.

Dimension key:  G groups   K tensors of a group   ... the shape of one
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import log, sqrt
from typing import Final, NoReturn, final

import torch
from torch import Tensor

from eaves.errors import ConfigError, unknown
from eaves.privacy.sources import Source

_TRIES: Final = 500
_SPARE: Final = 8  # more than are expected to be needed: a second round costs as much as the first
# Drawing the coefficients of one batch at a time took most of the time of mixing.
_AHEAD: Final = 1536  # tensors: drawing large groups takes longer
_SLACK: Final = 1e-9  # of a bound that a law touches


@final
class Mixing:
    """The secret of some groups: ``matrix`` and ``inverse``, float64 (G, K, K).

    It cannot be pickled, and a log that shows it shows no coefficient.
    """

    def __init__(self, matrix_GKK: Tensor, inverse_GKK: Tensor | None = None, *, redrawn: int = 0):
        self.matrix_GKK = matrix_GKK
        self.inverse_GKK: Tensor = (
            torch.linalg.inv(matrix_GKK) if inverse_GKK is None else inverse_GKK
        )
        self.redrawn = redrawn
        """How many matrices were beyond a bound, and others taken instead."""

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return len(self.matrix_GKK)

    @property
    def group(self) -> int:
        """How many tensors make a group."""
        return self.matrix_GKK.shape[1]

    @property
    def share(self) -> Tensor:
        """The dominant source's share of the energy of each query (G, K)."""
        return _share(self.matrix_GKK)

    @property
    def amplification(self) -> Tensor:
        """How much independent errors of the answers grow in each group: ||C^-1||_F / sqrt(K)."""
        norm_G: Tensor = torch.linalg.matrix_norm(self.inverse_GKK)
        return norm_G / sqrt(self.group)

    def parted(self, groups: int) -> "tuple[Mixing, Mixing]":
        """Return the first ``groups``, with the count of what was redrawn, and the rest."""
        (matrix, other), (inverse, its_inverse) = (
            (x_GKK[:groups], x_GKK[groups:]) for x_GKK in (self.matrix_GKK, self.inverse_GKK)
        )
        return Mixing(matrix, inverse, redrawn=self.redrawn), Mixing(other, its_inverse)

    def mix(self, sources: Tensor) -> Tensor:
        """Return the queries (G K, ...) for tensors (G K, ...), group after group."""
        return _applied(self.matrix_GKK, sources)

    def unmix(self, answers: Tensor) -> Tensor:
        """Return what belongs to each source (G K, ...), from the answers (G K, ...) to queries."""
        return _applied(self.inverse_GKK, answers)

    def __repr__(self) -> str:
        return f"Mixing({self.groups} groups of {self.group})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Mixing is secret: it does not leave the edge, and cannot be pickled")


@final
@dataclass(frozen=True, kw_only=True)
class MixingLaw:
    """By which law C is drawn for groups of ``group``, and within which bounds.

    Raises:
        ConfigError: no such law, a group of one, or bounds that cannot be kept.
    """

    name: str = "orthogonal"
    group: int = 4
    max_share: float = 0.8
    max_condition: float = 4.0

    def __post_init__(self) -> None:
        if self.name not in LAWS:
            raise unknown("law of mixing", self.name, LAWS)
        if not 2 <= self.group <= 64:
            raise ConfigError(
                f"expected a --group from 2 to 64, got {self.group}: one input alone is mixed with "
                "nothing and leaves as it is, and large groups cannot be taken apart"
            )
        if not 1 / self.group < self.max_share <= 1:
            raise ConfigError(
                f"expected --max-share above 1/{self.group}, what every source has in an even "
                f"mixture, and up to 1, got {self.max_share:g}"
            )
        if not 1 < self.max_condition <= 1e6:
            raise ConfigError(
                f"expected --max-condition above 1 and up to 1e6, got {self.max_condition:g}"
            )
        self._refuse_identity()

    def _refuse_identity(self) -> None:
        if self.name == "convex" or self.group > 2:
            return
        if (least := _least_scale(self.max_share)) > self.max_condition:
            raise ConfigError(
                f"two sources mixed so that none has more than --max-share {self.max_share:g} of "
                f"the energy need a --max-condition of {least:.2f} or more, got "
                f"{self.max_condition:g}; raise either"
            )

    def draw(self, groups: int, source: Source) -> Mixing:
        """Return the secret of ``groups`` new groups.

        Raises:
            ConfigError: hardly any matrix of the law is within the bounds.
        """
        found = [torch.empty(0, self.group, self.group, dtype=torch.float64)]
        missing, beyond = groups, 0
        for _ in range(_TRIES):
            if missing <= 0:
                return Mixing(torch.cat(found)[:groups], redrawn=beyond)
            fresh = LAWS[self.name](self, 2 * missing + _SPARE, source)
            within = self._within(fresh)
            found.append(fresh[within])
            missing, beyond = missing - len(found[-1]), beyond + int((~within).sum())
        raise ConfigError(
            f"no {self.name} mixture of {self.group} had a share of {self.max_share:g} and a "
            f"condition number of {self.max_condition:g} or less among {beyond:,}; raise "
            "--max-share or --max-condition, or choose another --law"
        )

    def _within(self, matrix_GKK: Tensor) -> Tensor:
        """Return which matrices (G,) are within the bounds; none that cannot be inverted is."""
        within_G: Tensor = _share(matrix_GKK).amax(dim=1) <= self.max_share + _SLACK
        if self.name == "convex":  # the others have the condition number that they were made with
            values_GK = torch.linalg.svdvals(matrix_GKK)
            within_G &= values_GK[:, 0] <= self.max_condition * (1 + _SLACK) * values_GK[:, -1]
        return within_G


@final
class Stock:
    """Secrets drawn ahead: many at once take hardly longer than a few. Each is used once."""

    def __init__(self, law: MixingLaw, source: Source):
        self._law, self._source = law, source
        self._left = law.draw(0, source)

    def take(self, groups: int) -> Mixing:
        """Return the secret of ``groups`` new groups.

        Raises:
            ConfigError: as :meth:`MixingLaw.draw`.
        """
        if groups > self._left.groups:
            self._left = self._law.draw(max(groups, _AHEAD // self._law.group), self._source)
        taken, self._left = self._left.parted(groups)
        return taken


def _share(matrix_GKK: Tensor) -> Tensor:
    energy_GKK = matrix_GKK.square()
    share_GK: Tensor = energy_GKK.amax(dim=2) / energy_GKK.sum(dim=2)
    return share_GK


def _applied(matrix_GKK: Tensor, tensors: Tensor) -> Tensor:
    groups, group = matrix_GKK.shape[:2]
    if len(tensors) != groups * group:
        raise ValueError(
            f"expected {groups * group} tensors in {groups} groups of {group}, got {len(tensors)}"
        )
    if not tensors.numel():
        return tensors
    matrix = matrix_GKK.to(tensors.device, tensors.dtype)
    return torch.bmm(matrix, tensors.reshape(groups, group, -1)).reshape(tensors.shape)


def _convex(law: MixingLaw, groups: int, source: Source) -> Tensor:
    """Return rows of a weight for one source and a rest that is Dirichlet(1, ..., 1).

    The weight is drawn between what the bounds would allow if every rest were an average one.
    """
    k = law.group
    least = (1 + (k - 1) / law.max_condition) / k  # C = (a - b) 1 + b 11' has condition 1 / (a - b)
    most = 1 / (1 + sqrt((1 / law.max_share - 1) * k / 2))  # the squares of the rest are 2/K of it
    weight_GK1 = least + max(0.0, most - least) * _uniform((groups, k, 1), source)
    parts = source.laplace((groups, k, k - 1)).double().abs()  # exponential: see Devroye 1986, XI.4
    rest = (1 - weight_GK1) * parts / parts.sum(dim=2, keepdim=True)
    rows = torch.cat([weight_GK1, rest], dim=2)  # row j has its weight first: put it at place j
    places = (torch.arange(k) - torch.arange(k)[:, None]) % k
    matrix = rows.gather(2, places.expand(groups, k, k))
    order = source.normal((groups, k)).argsort(dim=1)
    return matrix.gather(1, order[:, :, None].expand(groups, k, k))


def _affine(law: MixingLaw, groups: int, source: Source) -> Tensor:
    """Return the mean kept, and deviations from it turned, each scaled, and turned again."""
    scale = _scales(law, (groups, 1, law.group - 1), source)
    return _around_mean((_turn(law, groups, source) * scale) @ _turn(law, groups, source))


def _orthogonal(law: MixingLaw, groups: int, source: Source) -> Tensor:
    """Return the mean kept, and deviations from it turned, and all scaled alike."""
    return _around_mean(_turn(law, groups, source) * _scales(law, (groups, 1, 1), source))


def _around_mean(deviations: Tensor) -> Tensor:
    """Return 11'/K + U D U' for D (G, K - 1, K - 1)."""
    k = deviations.shape[1] + 1
    matrix: Tensor = 1 / k + _basis(k) @ deviations @ _basis(k).T
    return matrix


@cache
def _basis(k: int) -> Tensor:
    """Return an orthonormal basis (K, K - 1) of the vectors whose values add up to 0."""
    full = torch.cat([torch.ones(k, 1), torch.eye(k)[:, : k - 1]], dim=1).double()
    basis: Tensor = torch.linalg.qr(full).Q[:, 1:]
    return basis


def _turn(law: MixingLaw, groups: int, source: Source) -> Tensor:
    """Return uniformly random orthogonal matrices (G, K - 1, K - 1).

    Source: Mezzadri, *How to generate random matrices from the classical compact groups* (2007):
    the Q of a normal matrix, with the signs that make it uniform.
    """
    q, r = torch.linalg.qr(source.normal((groups, law.group - 1, law.group - 1)).double())
    turn: Tensor = q * r.diagonal(dim1=1, dim2=2).sign()[:, None, :]
    return turn


def _scales(law: MixingLaw, shape: tuple[int, int, int], source: Source) -> Tensor:
    """Return t, all of one group above 1 or all below; the logarithm is uniform within bounds."""
    low = log(_least_scale(law.max_share)) if law.group == 2 else 0.0
    size = low + (log(law.max_condition) - low) * _uniform(shape, source)
    side = source.normal((shape[0], 1, 1)).double().sign()
    return (side * size).exp()


def _least_scale(share: float) -> float:
    """Return the least t >= 1 with which neither of two has more than ``share`` of the energy.

    The parts are (1 + t) / 2 and (1 - t) / 2, and their shares are the same for 1/t.

    >>> round(_least_scale(0.8), 6), _least_scale(1.0)
    (3.0, 1.0)
    """
    if share == 1:
        return 1.0
    ratio = sqrt(share / (1 - share))
    return (ratio + 1) / (ratio - 1)


def _uniform(shape: tuple[int, ...], source: Source) -> Tensor:
    """Return float64 values in [0, 1]."""
    uniform: Tensor = torch.special.ndtr(source.normal(shape).double())
    return uniform


LAWS: dict[str, Callable[[MixingLaw, int, Source], Tensor]] = {
    "orthogonal": _orthogonal,
    "convex": _convex,
    "affine": _affine,
}
"""Laws of C: each returns matrices (G, K, K) in float64."""
