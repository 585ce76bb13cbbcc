"""Whom what was sent could be of: candidates, how close each is, and which cannot be told apart.

Dimension key:  N examples   R releases of each   U examples that differ   D values of each
                C candidates: identities that differ   E pairs of a candidate and an example
                B victims at once   P values that are taken at once
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd, log
from typing import final

import torch
from torch import Tensor

from eaves.audit.release import joined
from eaves.privacy.mechanisms import Mechanism

_AT_ONCE = 2**22  # float64 values of one table: 32 MiB
_DEEP = 2**12  # values of an example that are turned into float64 at once

Look = frozenset[tuple[int, int]]
"""What an identity is to who sees features alone: its different examples, each with its share."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Places:
    """Where the right candidates stand in the lists of N victims, each of ``among`` places.

    Members of a tie share its places: each figure is its mean over all orders of the tie.
    """

    nearer: Tensor
    """How many stand before the right one and its tie, float64 (N,)."""
    tied: Tensor
    """How many are in its tie, itself among them, float64 (N,)."""
    among: int

    def ranks(self) -> Tensor:
        """Return the mean place (N,), from 1."""
        return self.nearer + (self.tied + 1) / 2

    def log_ranks(self) -> Tensor:
        """Return the mean of the log of the place (N,)."""
        last_N = self.nearer + self.tied
        return (torch.lgamma(last_N + 1) - torch.lgamma(self.nearer + 1)) / self.tied

    def within(self, best: int) -> Tensor:
        """Return the share (N,) of the places of each tie that are among the ``best`` first.

        >>> one, two = torch.ones(1).double(), 2 * torch.ones(1).double()
        >>> Places(nearer=one, tied=two, among=9).within(2)
        tensor([0.5000], dtype=torch.float64)
        """
        inside_N = (best - self.nearer).clamp(min=0)
        return torch.minimum(inside_N, self.tied) / self.tied


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """Identities by their features. Those that look alike are one candidate, which counts as many.

    That is what makes ties exact: distances come out of products of matrices, whose rounding may
    differ from column to column, so that equal features may not get equal distances. Here equal
    features (bit for bit; 0 and -0 are equal) are one column, and it is counts that are compared.
    """

    examples: Tensor
    """Features (U, D) that differ from each other."""
    example: Tensor
    """Int64 (E,): the examples of each candidate."""
    candidate: Tensor
    """Int64 (E,): whose they are."""
    log_share: Tensor
    """Float64 (E,): the log of the share of the candidate's examples that are this one."""
    alike: Tensor
    """Float64 (C,): how many identities a candidate stands for."""
    own: Tensor
    """Int64 (N,): the right candidate of each example."""
    coinciding: int
    """How many of the N examples have the features of another identity's example."""

    @classmethod
    def of(
        cls, features_ND: Tensor, identities_N: Tensor, *, expected_ND: Tensor | None = None
    ) -> "Candidates":
        """Sort examples by what they look like, and by the int64 identity of each.

        ``expected_ND`` is what arrives of them on average, where that is something else: by it
        distances are taken.
        """
        examples_UD, example_N = torch.unique(features_ND, dim=0, return_inverse=True)
        if expected_ND is not None:
            examples_UD = torch.empty_like(examples_UD)
            examples_UD[example_N] = expected_ND
        _, person_N = torch.unique(identities_N, return_inverse=True)
        looks = _looks(person_N.tolist(), example_N.tolist())
        kinds = {look: number for number, look in enumerate(dict.fromkeys(looks))}
        kind_M = torch.tensor([kinds[look] for look in looks])
        pairs = [(e, c, log(n / _size(look))) for look, c in kinds.items() for e, n in sorted(look)]
        example, candidate, log_share = zip(*pairs, strict=True)
        known_2P = torch.unique(torch.stack([example_N, person_N]), dim=1)
        return cls(
            examples=examples_UD,
            example=torch.tensor(example),
            candidate=torch.tensor(candidate),
            log_share=torch.tensor(log_share, dtype=torch.float64),
            alike=kind_M.bincount().double(),
            own=kind_M[person_N],
            coinciding=int((known_2P[0].bincount()[example_N] > 1).sum()),
        )

    @property
    def identities(self) -> int:
        """How many identities there are."""
        return int(self.alike.sum())

    def places(self, sent_NRD: Tensor, mechanism: Mechanism) -> Places:
        """Return where the right candidates stand when all are ordered by how close they are."""
        size = max(1, _AT_ONCE // max(_DEEP, len(self.example)))
        sent, own = torch.split(sent_NRD, size), torch.split(self.own, size)
        counted = [self._counted(*both, mechanism) for both in zip(sent, own, strict=True)]
        nearer_N, tied_N = (torch.cat(part) for part in zip(*counted, strict=True))
        return Places(nearer=nearer_N, tied=tied_N, among=self.identities)

    def _counted(
        self, sent_BRD: Tensor, own_B: Tensor, mechanism: Mechanism
    ) -> tuple[Tensor, Tensor]:
        """Return how many identities are closer than the right one, and as close, float64 (B,)."""
        closeness_BC = self.closeness(sent_BRD, mechanism)
        own_B1 = closeness_BC.gather(1, own_B[:, None])
        nearer_B = (closeness_BC > own_B1).double() @ self.alike
        return nearer_B, (closeness_BC == own_B1).double() @ self.alike

    def closeness(self, sent_BRD: Tensor, mechanism: Mechanism) -> Tensor:
        """Return the log density of each candidate, less what all have in common, float64 (B, C).

        An identity has the mean density of its examples. Without noise it is as close as its
        nearest one, and what is returned is the distance of that, below 0.
        """
        if mechanism.law == "laplace":
            distance_BU = _l1(sent_BRD, self.examples)
            unit = mechanism.scale
        else:
            distance_BU = _squared(joined(sent_BRD, mechanism.law), self.examples)
            unit = 2 * mechanism.scale**2 / sent_BRD.shape[1]
        closeness_BE = distance_BU[:, self.example].div_(-unit or -1.0)
        if len(self.example) == len(self.alike):  # one example each
            return closeness_BE
        if not unit:
            return self._best(closeness_BE)
        return self._pooled(closeness_BE.add_(self.log_share))

    def _best(self, closeness_BE: Tensor) -> Tensor:
        best_BC = closeness_BE.new_full((len(closeness_BE), len(self.alike)), -torch.inf)
        candidate_BE = self.candidate.expand_as(closeness_BE)
        return best_BC.scatter_reduce_(1, candidate_BE, closeness_BE, "amax")

    def _pooled(self, closeness_BE: Tensor) -> Tensor:
        """Return the log of the sums of exponentials of each candidate (B, C)."""
        best_BC = self._best(closeness_BE)
        rest_BE = (closeness_BE - best_BC[:, self.candidate]).exp_()
        sums_BC = torch.zeros_like(best_BC).index_add_(1, self.candidate, rest_BE)
        return sums_BC.log_().add_(best_BC)


def _looks(person_N: list[int], example_N: list[int]) -> list[Look]:
    """Return what each person looks like; who has the same in the same shares looks the same."""
    albums: dict[int, Counter[int]] = defaultdict(Counter)
    for person, example in zip(person_N, example_N, strict=True):
        albums[person][example] += 1
    return [_in_lowest_terms(albums[person]) for person in range(len(albums))]


def _in_lowest_terms(album: Counter[int]) -> Look:
    common = gcd(*album.values())
    return frozenset((example, count // common) for example, count in album.items())


def _size(look: Look) -> int:
    return sum(count for _, count in look)


def _squared(sent_BD: Tensor, examples_UD: Tensor) -> Tensor:
    """Return squared distances float64 (B, U), less the squared norm of what was sent.

    That is the same for all candidates. In float64: a distance is a small difference of large
    products, and float32 has lost it where crowds lie far apart.
    """
    out_BU = torch.zeros(len(sent_BD), len(examples_UD), dtype=torch.float64)
    for sent_BP, examples_UP in _parts(sent_BD, examples_UD):
        out_BU += examples_UP.square().sum(dim=1)
        out_BU.addmm_(sent_BP, examples_UP.T, alpha=-2)
    return out_BU


def _l1(sent_BRD: Tensor, examples_UD: Tensor) -> Tensor:
    """Return the sums of the L1 distances of all releases, float64 (B, U)."""
    out_BU = torch.zeros(len(sent_BRD), len(examples_UD), dtype=torch.float64)
    for sent_BD in sent_BRD.unbind(dim=1):
        for sent_BP, examples_UP in _parts(sent_BD, examples_UD):
            out_BU += torch.cdist(sent_BP, examples_UP, p=1)
    return out_BU


def _parts(sent_BD: Tensor, examples_UD: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield both in float64, some of their values at a time."""
    both = (torch.split(values, _DEEP, dim=1) for values in (sent_BD, examples_UD))
    for sent_BP, examples_UP in zip(*both, strict=True):
        yield sent_BP.double(), examples_UP.double()
