"""Attacks that undo a mixing of sources by a secret matrix, fresh for each group.

The matrix is used once, on thousands of structured values, and in each value alike: what parts the
values of one group parts the sources. ICA finds that without any example. Where noise is added, the
sources come back with that noise, or more; what a net can take off, one of the attacks takes off.

Every attack takes (seen, plan, generator) and says which knowledge of :class:`Intercept` it uses.
All of them know the queries, which K of them are a group (but for ``pooled``), and the law of the
noise.

Dimension key:  G groups   K queries of a group   C channels   H, W height and width   N samples
                P pools of groups   M groups of the attacker's own
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Protocol, TypeVar, final

import torch
from torch import Tensor

from eaves.audit.filters import FILTERS, filtered, usable
from eaves.audit.findings import Effort, Unmixed
from eaves.audit.ica import fast_ica
from eaves.audit.intercept import Guess, Intercept, Mix
from eaves.audit.learners import drawing_from
from eaves.audit.matching import correlations
from eaves.audit.recovery import scored
from eaves.audit.unmixnet import (
    MatrixFinder,
    NetPlan,
    Refiner,
    lessons,
    teach,
    unlikeness,
    unmixed_by,
)
from eaves.errors import ConfigError

_AT_ONCE = 128  # groups that are un-mixed together: bounds memory
_LEAST = 1e-30  # what counts as 0, whatever the scale
_LESSONS = 512  # groups of the attacker's own that ICA un-mixes: slow where noise hides the matrix
_TRIED = 64  # groups of the attacker's own that a filter is chosen by


@final
@dataclass(frozen=True, kw_only=True)
class UnmixPlan:
    """What the attacks may spend, and what those look at that take a filter."""

    steps: int = 200
    """Most steps of ICA."""
    filter: str = "gradient"
    """A key of :data:`~eaves.audit.filters.FILTERS`, for ``pooled`` and ``known-plaintext``."""
    pool_groups: int = 4
    """Groups whose queries are shuffled together, for ``pooled``."""
    guesses: int = 256
    """Matrices of the law that ``guessed`` tries on each group."""
    net: NetPlan = field(default_factory=NetPlan)

    def __post_init__(self) -> None:
        least = self.steps >= 1 and self.pool_groups >= 2 and self.guesses >= 1
        if not least or self.filter not in FILTERS:
            raise ConfigError(
                "expected 1 or more steps, pools of 2 or more groups, 1 or more guesses and a "
                f"filter of {', '.join(FILTERS)}, got {self.steps}, {self.pool_groups}, "
                f"{self.guesses} and {self.filter!r}"
            )


class Unmixer(Protocol):
    """From what was intercepted to estimates of the sources."""

    @abstractmethod
    def __call__(self, seen: Intercept, plan: UnmixPlan, *, generator: torch.Generator) -> Guess:
        """Return what the attack takes the sources to be."""


def nothing(seen: Intercept, plan: UnmixPlan, *, generator: torch.Generator) -> Guess:
    """Take the queries for the sources: what a mixture alone shows of its strongest source."""
    return Guess(sources=seen.queries)


def raw(seen: Intercept, plan: UnmixPlan, *, generator: torch.Generator) -> Guess:
    """ICA of the values as they are. That it fails says little: see :func:`gradient`."""
    return _by_ica("raw", seen, plan, generator)


def gradient(seen: Intercept, plan: UnmixPlan, *, generator: torch.Generator) -> Guess:
    """ICA of differences of neighbours, which are sparse in images; needs no other knowledge."""
    return _by_ica("gradient", seen, plan, generator)


def coarse(seen: Intercept, plan: UnmixPlan, *, generator: torch.Generator) -> Guess:
    """ICA of differences of 2 x 2 means: finds the matrix where noise hides it from gradients."""
    return _by_ica("coarse", seen, plan, generator)


def laplacian(seen: Intercept, plan: UnmixPlan, *, generator: torch.Generator) -> Guess:
    """ICA of Laplacians whose channels were made white: for maps of many channels."""
    return _by_ica("laplacian", seen, plan, generator)


def _by_ica(by: str, seen: Intercept, plan: UnmixPlan, generator: torch.Generator) -> Guess:
    unmixing_GKK = _unmixing(by, seen.queries, plan, generator)
    made = _applied(unmixing_GKK, calmed(seen.queries, seen.noise_std))
    return Guess(sources=made, rounds=plan.steps)


def _unmixing(by: str, queries: Tensor, plan: UnmixPlan, generator: torch.Generator) -> Tensor:
    """Return unmixing matrices float64 (G, K, K) by ICA after the filter ``by``."""
    found = [
        fast_ica(filtered(by, part), steps=plan.steps, generator=generator)
        for part in torch.split(queries, _AT_ONCE)
    ]
    return torch.cat(found)


def _applied(matrices_GEK: Tensor, x_GKCHW: Tensor) -> Tensor:
    """Return matrices times maps, float32 (G, E, C, H, W)."""
    made_GEN = matrices_GEK @ x_GKCHW.flatten(2).to(matrices_GEK.dtype)
    return made_GEN.float().reshape(*made_GEN.shape[:2], *x_GKCHW.shape[2:])


def calmed(queries_GKCHW: Tensor, noise_std: float) -> Tensor:
    """Return queries, float64, with each direction of a group scaled down by its share of noise.

    The Wiener filter over the K queries of a group, I - v Cov(q)^-1 with noise of variance v: the
    least squared error of all linear estimates of what they were before the noise.
    """
    flat_GKN = queries_GKCHW.flatten(2).double()
    mean_GK1 = flat_GKN.mean(dim=2, keepdim=True)
    centred_GKN = flat_GKN - mean_GK1
    values_GK, vectors_GKK = torch.linalg.eigh(centred_GKN @ centred_GKN.mT / flat_GKN.shape[2])
    keep_GK = (1 - noise_std**2 / values_GK.clamp(min=_LEAST)).clamp(min=0)
    filter_GKK = (vectors_GKK * keep_GK[:, None]) @ vectors_GKK.mT
    calm_GKN: Tensor = filter_GKK @ centred_GKN + mean_GK1
    return calm_GKN.reshape(queries_GKCHW.shape)


def guessed(seen: Intercept, plan: UnmixPlan, *, generator: torch.Generator) -> Guess:
    """Guess the matrix: of many that the public law draws, the one whose inverse looks best.

    The guess for a group is the matrix that leaves the sparsest edges. No ICA, no examples, no
    training. A law with little room is guessed at once: of an orthogonal pair only one bit is
    secret, whether the difference was made larger or smaller. Uses ``draw``.

    >>> turn = torch.tensor([[[1.0, 0.5], [0.5, 1.0]]])
    >>> sources = torch.zeros(1, 2, 1, 4, 4)
    >>> sources[0, 0, 0, 1, 1], sources[0, 1, 0, 2, 3] = 1.0, 2.0
    >>> queries = (turn @ sources.flatten(2)).reshape(sources.shape)
    >>> seen = Intercept(queries=queries, draw=lambda n, _: turn.expand(n, 2, 2))
    >>> made = guessed(seen, UnmixPlan(), generator=torch.Generator()).sources
    >>> bool(torch.allclose(made, sources, atol=1e-6))
    True
    """
    draw, k = _needed("guessed", "draw", seen.draw), seen.queries.shape[1]
    calm = calmed(seen.queries, seen.noise_std)
    edges_GKN = filtered(plan.filter, calm.float())
    gram_GKK = edges_GKN.double() @ edges_GKN.double().mT
    best_G = torch.full((len(calm),), torch.inf, dtype=torch.float64)
    chosen_GKK = torch.eye(k, dtype=torch.float64).repeat(len(calm), 1, 1)
    for inverse_KK in torch.linalg.pinv(draw(plan.guesses, generator).double()):
        # The L1 norm over the L2 norm of each source's edges: smallest where few are not 0.
        size_GK = (inverse_KK.float() @ edges_GKN).abs().mean(dim=2).double()
        power_GK = (inverse_KK @ gram_GKK @ inverse_KK.T).diagonal(dim1=1, dim2=2)
        dense_G = (size_GK / power_GK.clamp(min=_LEAST).sqrt()).sum(dim=1)
        better_G = dense_G < best_G
        best_G = torch.where(better_G, dense_G, best_G)
        chosen_GKK = torch.where(better_G[:, None, None], inverse_KK, chosen_GKK)
    return Guess(sources=_applied(chosen_GKK, calm), rounds=plan.guesses)


def pooled(seen: Intercept, plan: UnmixPlan, *, generator: torch.Generator) -> Guess:
    """Un-mix queries that are shuffled across the groups of a pool: who belongs to whom is unknown.

    One ICA over a whole pool finds all of its sources. Its inverse tells which of them each query
    holds: queries that hold the same are a group, and are un-mixed again on their own, with far
    fewer unknowns. Shuffled here, since an intercept is in order.

    Raises:
        ConfigError: the groups do not fill the pools.
    """
    groups, k = seen.queries.shape[:2]
    if groups % plan.pool_groups:
        raise ConfigError(
            f"expected groups that fill pools of {plan.pool_groups}, got {groups}; leave out the "
            f"last {groups % plan.pool_groups}, or set pool_groups"
        )
    ordered = seen.queries.reshape(-1, plan.pool_groups * k, *seen.queries.shape[2:])
    order_PQ = torch.rand(ordered.shape[:2], generator=generator).argsort(dim=1)
    shuffled = _picked(ordered, order_PQ)
    mixing_PQQ = torch.linalg.pinv(_unmixing(plan.filter, shuffled, plan, generator))
    members_PSK = together(mixing_PQQ, k)
    regrouped = _picked(shuffled, members_PSK.flatten(1)).reshape(seen.queries.shape)
    alone = Intercept(queries=regrouped, noise_std=seen.noise_std)
    guess = _by_ica(plan.filter, alone, plan, generator)
    home_PSK = order_PQ.gather(1, members_PSK.flatten(1)).reshape(members_PSK.shape) // k
    right = int((home_PSK == home_PSK[:, :, :1]).all(dim=2).sum())
    return replace(
        guess,
        sources=guess.sources.reshape(ordered.shape),
        note=f"{right} of {groups} groups put together, in pools of {plan.pool_groups}",
    )


def _picked(queries_PQCHW: Tensor, order_PQ: Tensor) -> Tensor:
    return queries_PQCHW[torch.arange(len(queries_PQCHW))[:, None], order_PQ]


def together(mixing_PQQ: Tensor, k: int) -> Tensor:
    """Return int64 (P, Q / k, k): which queries of each pool are a group.

    Queries that hold much of the same sources are; ``mixing_PQQ`` holds how much of each source is
    in each query. Group after group is filled, from the query that has the clearest fellows.

    >>> holds = torch.tensor([[[3.0, 0, 1, 0], [0, 2, 0, 1], [1, 0, 2, 0], [0, 1, 0, 2]]])
    >>> together(holds, 2).sort(dim=2).values.sort(dim=1).values.tolist()
    [[[0, 2], [1, 3]]]
    """
    share_PQQ = mixing_PQQ.abs() / mixing_PQQ.norm(dim=2, keepdim=True).clamp(min=_LEAST)
    alike_PQQ = share_PQQ @ share_PQQ.mT
    pools, count = alike_PQQ.shape[:2]
    free_PQ, chosen = torch.ones(pools, count, dtype=torch.bool), []
    for _ in range(count // k):
        both_PQQ = free_PQ[:, :, None] & free_PQ[:, None, :]
        open_PQQ = torch.where(both_PQQ, alike_PQQ, -1.0)
        best = open_PQQ.topk(k, dim=2)
        first_P = best.values.sum(dim=2).argmax(dim=1)
        members_PK = best.indices[torch.arange(pools), first_P]
        free_PQ = free_PQ.scatter(1, members_PK, False)
        chosen.append(members_PK)
    return torch.stack(chosen, dim=1)


def known_plaintext(seen: Intercept, plan: UnmixPlan, *, generator: torch.Generator) -> Guess:
    """Use the first source of each group: take it off the queries, and un-mix what is left.

    After the filter, its part in each query is found by least squares. What is left has K - 1
    sources, of which alone the finding is. Uses ``plaintext``.
    """
    known_GCHW = _needed("known-plaintext", "plaintext", seen.plaintext)
    # Together, for a filter may adapt itself to what it is given.
    edges = filtered(plan.filter, torch.cat([seen.queries, known_GCHW[:, None]], dim=1)).double()
    edges_GKN, known_G1N = edges[:, :-1], edges[:, -1:]
    energy_G11 = known_G1N.square().sum(dim=2, keepdim=True)
    part_GK1 = edges_GKN @ known_G1N.mT / energy_G11.clamp(min=_LEAST)
    rest_GKN = edges_GKN - part_GK1 @ known_G1N
    _, vectors_GKK = torch.linalg.eigh(rest_GKN @ rest_GKN.mT)
    basis_GEK = vectors_GKK[:, :, 1:].mT  # without the direction in which nothing is left
    rows_GEE = fast_ica(basis_GEK @ rest_GKN, steps=plan.steps, generator=generator)
    left = calmed(seen.queries, seen.noise_std) - _applied(part_GK1, known_GCHW[:, None])
    row_GK = inverse_rows(seen.queries, known_GCHW)
    made = _applied(row_GK[:, None], seen.queries)
    share = correlations(made, known_GCHW[:, None]).square().mean()
    return Guess(
        sources=_applied(rows_GEE @ basis_GEK, left),
        told=1,
        rounds=plan.steps,
        note=f"a row of each inverse was found, and gives {share:.4f} of the known source",
    )


def inverse_rows(queries_GKCHW: Tensor, known_GCHW: Tensor) -> Tensor:
    """Return float64 (G, K): the row of each group's inverse matrix that gives the known source.

    By least squares, row @ queries = source: exact without noise.
    """
    known_GN1 = known_GCHW.flatten(1).double()[:, :, None]
    rows_GK1: Tensor = torch.linalg.lstsq(queries_GKCHW.flatten(2).double().mT, known_GN1).solution
    return rows_GK1[:, :, 0]


def learned(seen: Intercept, plan: UnmixPlan, *, generator: torch.Generator) -> Guess:
    """Train a net that finds the matrix on mixtures of the attacker's own sources.

    They are mixed again in every lesson, by the public law. Where there is noise, half of the time
    trains another net to take it off. Uses ``own`` and ``mix``.
    """
    own_MKCHW, mix = _practice("learned", seen)
    noisy = seen.noise_std > 0
    net = _half(plan.net) if noisy else plan.net
    with drawing_from(generator):
        finder = MatrixFinder(seen.queries.shape[1], width=net.width)
    given = (
        (calmed(mix(sources, generator), seen.noise_std).float(), sources, share)
        for sources, share in lessons(own_MKCHW, net.allowance, generator=generator)
    )
    steps = teach(finder, given, lr=net.lr)
    made = unmixed_by(finder, calmed(seen.queries, seen.noise_std).float())
    if not noisy:
        return Guess(sources=made, known=len(own_MKCHW.flatten(0, 1)), rounds=steps)
    queries = calmed(mix(own_MKCHW, generator), seen.noise_std).float()
    refined = _refined(made, unmixed_by(finder, queries), own_MKCHW, net, generator)
    return replace(refined, rounds=steps + refined.rounds)


def denoised(seen: Intercept, plan: UnmixPlan, *, generator: torch.Generator) -> Guess:
    """ICA, then a net that takes off the noise.

    The net learns from what the same ICA makes of the attacker's own sources, mixed by the public
    law; of all filters, ICA gets the one that un-mixes those best. Uses ``own`` and ``mix``.
    """
    own_MKCHW, mix = _practice("denoised", seen)
    own_MKCHW = own_MKCHW[:_LESSONS]
    practice = Intercept(queries=mix(own_MKCHW, generator), noise_std=seen.noise_std)
    few = replace(practice, queries=practice.queries[:_TRIED])

    def error(by: str) -> float:
        made = _by_ica(by, few, plan, generator).sources
        return float(unlikeness(made, own_MKCHW[:_TRIED]))

    best = min(usable(seen.queries), key=error)
    made, lesson = (_by_ica(best, s, plan, generator).sources for s in (seen, practice))
    guess = _refined(made, lesson, own_MKCHW, plan.net, generator)
    return replace(guess, note=f"ICA after the filter {best!r}")


def _practice(attack: str, seen: Intercept) -> tuple[Tensor, Mix]:
    """Return the attacker's own sources, in groups (M, K, C, H, W), and the law to mix them by."""
    own, k = _needed(attack, "own", seen.own), seen.queries.shape[1]
    groups = own[: len(own) // k * k].reshape(-1, k, *own.shape[1:])
    return groups, _needed(attack, "mix", seen.mix)


def _refined(
    made: Tensor, lesson: Tensor, own: Tensor, net: NetPlan, generator: torch.Generator
) -> Guess:
    """Return estimates less the noise, as a net learned to take it off a ``lesson``."""
    with drawing_from(generator):
        refiner = Refiner(own.shape[2], width=net.width)
    rows = torch.arange(len(own))
    given = (
        (lesson[rows_B], own[rows_B], share)
        for rows_B, share in lessons(rows, net.allowance, generator=generator)
    )
    steps = teach(refiner, given, lr=net.lr)
    known = len(own.flatten(0, 1))
    return Guess(sources=unmixed_by(refiner, made), known=known, rounds=steps)


def oracle(seen: Intercept, plan: UnmixPlan, *, generator: torch.Generator) -> Guess:
    """Un-mix by the inverse of the secret matrices, after :func:`calmed`: the upper bound.

    Of all that is linear, that is: a net that takes off noise can do better. Uses ``matrices``.
    """
    inverse_GKK = torch.linalg.pinv(_needed("oracle", "matrices", seen.matrices).double())
    return Guess(sources=_applied(inverse_GKK, calmed(seen.queries, seen.noise_std)))


_Known = TypeVar("_Known")


def _needed(attack: str, name: str, given: _Known | None) -> _Known:
    """Return what an attack cannot do without."""
    if given is None:
        raise ConfigError(
            f"expected an intercept with {name!r} for the attack {attack!r}, got none; give it, or "
            "leave the attack out"
        )
    return given


def _half(net: NetPlan) -> NetPlan:
    rounds, time_s = max(1, net.allowance.rounds // 2), net.allowance.time_s / 2
    return replace(net, allowance=replace(net.allowance, rounds=rounds, time_s=time_s))


UNMIXERS: Mapping[str, Unmixer] = {
    "nothing": nothing,
    "raw": raw,
    "gradient": gradient,
    "coarse": coarse,
    "laplacian": laplacian,
    "guessed": guessed,
    "pooled": pooled,
    "known-plaintext": known_plaintext,
    "learned": learned,
    "denoised": denoised,
    "oracle": oracle,
}


BESIDE = ("nothing", "oracle")
"""What is no attack: it shows what a mixture alone is like, and what there is to be recovered."""


def take_apart(
    attack: str,
    seen: Intercept,
    sources_GKCHW: Tensor,
    *,
    plan: UnmixPlan | None = None,
    white: float | None = None,
    generator: torch.Generator,
) -> tuple[Unmixed, Guess]:
    """Run one of :data:`UNMIXERS`; return how much of the true sources it recovered, and what.

    ``white`` is the data range of sources that are images, 1 or 255: then what is recovered is
    held against them as images, too. A source that the attacker was told is no victim.

    Raises:
        ConfigError: an unknown attack, knowledge that it needs and has not, sources that do not fit
            the queries, or fewer than 2 groups (or pools).
    """
    if attack not in UNMIXERS:
        raise ConfigError(f"expected an attack of {', '.join(UNMIXERS)}, got {attack!r}")
    if sources_GKCHW.shape != seen.queries.shape:
        raise ConfigError(
            f"expected sources of the queries' shape {tuple(seen.queries.shape)}, got "
            f"{tuple(sources_GKCHW.shape)}"
        )
    start_s = perf_counter()
    guess = UNMIXERS[attack](seen, plan or UnmixPlan(), generator=generator)
    time_s = perf_counter() - start_s
    effort = Effort(known=guess.known, rounds=guess.rounds, time_s=time_s)
    return scored(attack, guess, sources_GKCHW, effort=effort, white=white), guess
