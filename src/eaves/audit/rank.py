"""Whose is it: how far up the list its own input comes, when what was sent is held against many.

The attacker has the inputs of N people, one of which was sent. It computes their features itself (a
white box: the edge part up to its bound, without the noise) and orders the people by how likely
each is to have given what it received. The **rank** is the place of the right one, 1 for the first.
Where all can be told apart it is 1; where nothing can, it is any of 1 to N, (N + 1) / 2 on average.
So the chance level of the mean rank over N is about 0.5, not 1.

Not guaranteed: anything. It is a measure of one attack, no bound, and says nothing about
differential privacy. It depends on the scale of the features against that of the noise: compare at
equal signal-to-noise ratios, which stand beside it. Features that coincide raise it, whatever the
noise: their share stands beside it, too.

Source: the rank measure of hybrid nets with Siamese fine-tuning (DeepPrivInf2017), and the log-rank
of the work that followed it (DPFE).

Dimension key:  N examples   M identities   R releases of each example   D values of each
                ... the shape of the features
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil, floor, isqrt, lgamma, log, log10, sqrt
from time import perf_counter
from typing import Any, final

import torch
from torch import Tensor

from eaves.audit.candidates import Candidates
from eaves.audit.findings import Effort, Score
from eaves.audit.release import joined
from eaves.core.rates import Rate
from eaves.errors import ConfigError
from eaves.privacy.bounds import Clip
from eaves.privacy.mechanisms import Mechanism
from eaves.privacy.sources import Pseudo

MOST_VICTIMS = 4_000
"""Victims, and candidates, of one measurement: each is held against each."""
BEST = 0.05
"""The share of the list whose members count as found in its best part."""

_WORK = {"laplace": 2**33, "gaussian": 2**37, "none": 2**37}  # products: 10 s of a core, about
_FAR = Clip(1e30)  # binds nothing


@final
@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Where in the list of all candidates the right ones were found, over all victims.

    Members of a tie share its places: each figure is what it would be on average over all orders
    of the tie. Intervals count victims as independent.
    """

    privacy: Score
    """The mean rank over the number of candidates, M."""
    at_rank_1: Rate
    """The share of victims whose own is first; a tie of k for the first place counts 1/k."""
    in_best: Rate
    """The share of victims whose own is among the best :data:`BEST`, one candidate at least."""
    log_rank: Score
    """The mean of log(rank) / log(M)."""
    ties: Rate
    """The share of examples whose features are, bit for bit, those of another identity, too."""
    candidates: int
    """How many identities there are, M; as many as victims where each is its own."""
    releases: int
    """How often each was sent."""
    law: str
    scale: float
    signal: float
    """The trace of the features' covariance."""
    noise: float
    """The mean squared distance of what was sent, joined, from the features: all that came between.
    """
    effort: Effort

    @property
    def chance(self) -> float:
        """Chance level of ``privacy``: (M + 1) / 2M."""
        return (self.candidates + 1) / (2 * self.candidates)

    @property
    def at_rank_1_chance(self) -> float:
        """Chance level of ``at_rank_1``."""
        return 1 / self.candidates

    @property
    def in_best_chance(self) -> float:
        """Chance level of ``in_best``."""
        return _best_of(self.candidates) / self.candidates

    @property
    def log_rank_chance(self) -> float:
        """Chance level of ``log_rank``: the mean of log(k) over all places k, over log(M)."""
        return lgamma(self.candidates + 1) / (self.candidates * log(self.candidates))

    @property
    def snr(self) -> float | None:
        """Signal over noise; None where there is no noise."""
        return self.signal / self.noise if self.noise else None

    @property
    def snr_db(self) -> float | None:
        """The same in decibels; None where there is no noise, or no signal."""
        return 10 * log10(self.snr) if self.snr else None

    @property
    def beats_chance(self) -> bool:
        """True where the interval of the mean rank lies below chance."""
        return self.privacy.high < self.chance

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name, the chance levels and ratios, and ``beats_chance``."""
        figures = ("chance", "at_rank_1_chance", "in_best_chance", "log_rank_chance")
        computed = (*figures, "snr", "snr_db", "beats_chance")
        return {**asdict(self), **{name: getattr(self, name) for name in computed}}


def rows_for(
    features: Tensor, mechanism: Mechanism, *, releases: int = 1, most: int = MOST_VICTIMS
) -> Tensor:
    """Return which of N examples (N, ...) are measured, int64: all, or so many at equal distances.

    At most ``most``, and fewer where the features are so wide that it would take minutes. Always
    the same ones. Data may be in the order of their classes, so it is not the first.

    >>> noise = Mechanism(bound=Clip(1.0), law="none", scale=0.0)
    >>> rows_for(torch.zeros(10, 2), noise, most=4)
    tensor([0, 2, 5, 7])
    """
    n, work = len(features), _WORK[mechanism.law]
    if mechanism.law == "laplace":
        work //= releases
    most = min(n, most, max(2, isqrt(work // max(1, features[0].numel()))))
    return torch.arange(most) * n // most


def measure(
    features: Tensor,
    sent: Tensor,
    mechanism: Mechanism,
    *,
    identities: Tensor | None = None,
    expected: Tensor | None = None,
    most: int = MOST_VICTIMS,
) -> Ranking:
    """Hold what was ``sent`` (N, R, ...) against the ``features`` (N, ...) of all candidates.

    ``features`` are bounded, before the noise; ``sent`` is what the cloud decodes, of R releases.
    How likely a candidate is, is the likelihood of the noise of ``mechanism``: the Euclidean
    distance for Gaussian noise and for none, of the mean of the releases; the sum of the L1
    distances of all releases for Laplace noise. Distances are to ``expected`` (N, ...), what
    arrives of each candidate on average, where a codec makes that something else than its features.

    Several examples may have one of the int64 ``identities`` (N,): then identities are ordered, by
    the mean density of the noise around each of their examples, that of the victim among them;
    without noise, by the nearest. By default each example is an identity of its own.

    Of more examples than :func:`rows_for` allows, only its rows are measured.

    Raises:
        ConfigError: tensors that do not fit each other or are not finite, or fewer than 2
            identities.
    """
    start_s = perf_counter()
    _expect_fitting(features, sent)
    rows = rows_for(features, mechanism, releases=sent.shape[1], most=most)
    features_ND, sent_NRD = features[rows].flatten(1), sent[rows].flatten(2)
    candidates = Candidates.of(
        features_ND,
        rows if identities is None else identities[rows],
        expected_ND=None if expected is None else expected[rows].flatten(1),
    )
    if candidates.identities < 2:
        raise ConfigError("expected examples of 2 identities or more, got one: no other to mistake")
    places = candidates.places(sent_NRD, mechanism)
    m, n = places.among, len(rows)
    error_ND = joined(sent_NRD, mechanism.law) - features_ND
    return Ranking(
        privacy=Score.of(places.ranks() / m),
        at_rank_1=_share(places.within(1)),
        in_best=_share(places.within(_best_of(m))),
        log_rank=Score.of(places.log_ranks() / log(m)),
        ties=Rate.of(candidates.coinciding, n),
        candidates=m,
        releases=sent.shape[1],
        law=mechanism.law,
        scale=mechanism.scale,
        signal=_trace(features_ND),
        noise=float(error_ND.double().square().sum()) / n,
        effort=Effort(known=n, rounds=1, time_s=perf_counter() - start_s, planned=1),
    )


def curve(
    features: Tensor,
    scales: Sequence[float],
    *,
    law: str = "gaussian",
    releases: int = 1,
    identities: Tensor | None = None,
    generator: torch.Generator,
) -> list[Ranking]:
    """Return a measurement of the same ``features`` (N, ...) for each scale, with fresh noise.

    They are taken as bounded already, and sent without a codec. A scale of 0 is no noise.

    Raises:
        ConfigError: as for :func:`measure`, or no such law or scale.
    """
    source, found = Pseudo(generator), []
    for scale in scales:
        mechanism = Mechanism(bound=_FAR, law=law if scale else "none", scale=scale)
        few = rows_for(features, mechanism, releases=releases)
        bounded, who = features[few], None if identities is None else identities[few]
        sent = torch.stack([mechanism.noised(bounded, source) for _ in range(releases)], dim=1)
        found.append(measure(bounded, sent, mechanism, identities=who))
    return found


def scale_at(features: Tensor, snr_db: float, *, law: str = "gaussian") -> float:
    """Return the scale of ``law`` that gives features (N, ...) a signal-to-noise ratio.

    Signal is the trace of their covariance, noise the sum of the variances of what is added to
    them: the square of the scale for each value, twice that for Laplace noise.

    Raises:
        ConfigError: features that are all the same.

    >>> round(scale_at(torch.tensor([[0.0, 0.0], [4.0, 0.0], [2.0, 2.0], [2.0, -2.0]]), 0.0), 4)
    1.633
    """
    signal = _trace(features.flatten(1))
    if not signal:
        raise ConfigError("expected features that differ, got equal ones: there is no signal")
    variance = signal / features[0].numel() / 10 ** (snr_db / 10)
    return sqrt(variance / 2 if law == "laplace" else variance)


def _trace(features_ND: Tensor) -> float:
    """Return the trace of the covariance: the variances of all values, added up."""
    return float(features_ND.double().var(dim=0).sum())


def _best_of(candidates: int) -> int:
    return max(1, floor(BEST * candidates))


def _share(within_N: Tensor) -> Rate:
    """Return the mean of shares in [0, 1] as a rate; its interval is widened to whole victims."""
    n, hits = len(within_N), round(float(within_N.sum()), 6)
    return Rate(hits / n, Rate.of(floor(hits), n).low, Rate.of(ceil(hits), n).high, n)


def _expect_fitting(features: Tensor, sent: Tensor) -> None:
    fits = sent.ndim == features.ndim + 1 and sent.shape[:1] + sent.shape[2:] == features.shape
    if features.ndim < 2 or not fits or len(features) < 2:
        raise ConfigError(
            "expected features (N, ...) of 2 examples or more, and R releases of each (N, R, ...), "
            f"got {tuple(features.shape)} and {tuple(sent.shape)}; unsqueeze(1) where each is sent "
            "once"
        )
    if not bool(features.isfinite().all() and sent.isfinite().all()):
        raise ConfigError("expected finite features, got NaN or infinity; look at the net")
