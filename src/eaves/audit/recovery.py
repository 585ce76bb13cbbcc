"""How much of the sources of mixed groups came back, with intervals that count groups.

Which estimate is of which source, at what scale and sign, is found with the truth at hand, in
favour of the attacker: for what it recovers is told from what it does not by that alone.

Dimension key:  G groups, or pools of them   V sources of each that are victims   E estimates
                C channels   H, W height and width
"""

import torch
from torch import Tensor

from eaves.audit.findings import Effort, Likeness, Score, Unmixed
from eaves.audit.intercept import Guess
from eaves.audit.matching import best_pairs, correlations
from eaves.audit.similarity import mse, psnr
from eaves.core.rates import Rate
from eaves.core.ssim import WHITE, ssim
from eaves.errors import ConfigError

RECOVERED = 0.95
"""A source counts as recovered where an estimate correlates with it by more, of either sign."""

_COPY_DB = 100.0  # stands for the PSNR of an exact copy, which is infinite


def scored(
    attack: str,
    guess: Guess,
    sources_GKCHW: Tensor,
    *,
    effort: Effort,
    white: float | None = None,
) -> Unmixed:
    """Score what one attack made against the true sources, matched one to one in their group.

    ``white`` is the data range of sources that are images, 1 or 255; None: they are none.

    Raises:
        ConfigError: fewer than 2 groups or pools, or estimates that do not fit the sources.
    """
    made = guess.sources
    secret_GVCHW = sources_GKCHW[:, guess.told :]
    victims_GVCHW = secret_GVCHW.reshape(len(made), -1, *secret_GVCHW.shape[2:])
    if len(made) < 2 or made.shape[1] < victims_GVCHW.shape[1]:
        raise ConfigError(
            "expected 2 or more groups (or pools) with an estimate of each source, got "
            f"{tuple(made.shape)} of {tuple(victims_GVCHW.shape)}"
        )
    found_GV, pairs_GV = _matched(made, victims_GVCHW)
    others_GV, _ = _matched(made, victims_GVCHW.roll(1, dims=0))
    return Unmixed(
        attack=attack,
        recovered=rate_of_groups(found_GV > RECOVERED),
        correlation=Score.of(found_GV.mean(dim=1)),
        chance=Score.of(others_GV.mean(dim=1)),
        likeness=None if white is None else _likeness(made, pairs_GV, victims_GVCHW, white),
        effort=effort,
        note=guess.note,
    )


def _matched(made_GECHW: Tensor, sources_GVCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return |correlation| float64 (G, V) of each source with its estimate, and which that is."""
    gains_GEV = correlations(made_GECHW, sources_GVCHW).abs()
    pairs_GV = best_pairs(gains_GEV)
    return gains_GEV.gather(1, pairs_GV[:, None])[:, 0], pairs_GV


def nearest(guess: Guess, sources_GKCHW: Tensor) -> Tensor:
    """Return what came nearest to each source (G, K, C, H, W), at the source's scale and offset.

    For pictures: sources that the attacker was told are returned as they are.
    """
    told, secret_GVCHW = sources_GKCHW[:, : guess.told], sources_GKCHW[:, guess.told :]
    victims_PVCHW = secret_GVCHW.reshape(len(guess.sources), -1, *secret_GVCHW.shape[2:])
    _, pairs_PV = _matched(guess.sources, victims_PVCHW)
    matched = guess.sources[torch.arange(len(pairs_PV))[:, None], pairs_PV].flatten(0, 1)
    made = rescaled(matched, victims_PVCHW.flatten(0, 1)).reshape(secret_GVCHW.shape)
    return torch.cat([told, made], dim=1)


def rate_of_groups(right_GV: Tensor) -> Rate:
    """Return the share of all that are right, with an interval for any dependence in a group.

    Wilson's interval with n = G: as if the members of a group were right or wrong together. The
    variance of the mean of G shares in [0, 1] is largest then, whatever joins them, so the interval
    is never narrower than it must be; where they are independent it is wider by sqrt(V). The share
    is rounded to whole groups, down for the low end and up for the high one.

    >>> rate = rate_of_groups(torch.tensor([[True, True], [True, False]]))
    >>> rate.value, rate.n
    (0.75, 2)
    """
    groups, victims = right_GV.shape
    right = int(right_GV.sum())
    low = Rate.of(right // victims, groups).low
    high = Rate.of(-(-right // victims), groups).high
    return Rate(right / (groups * victims), low, high, groups)


def _likeness(
    made_GECHW: Tensor, pairs_GV: Tensor, sources_GVCHW: Tensor, white: float
) -> Likeness:
    """Return how like the sources the matched estimates are, as raw images; groups are counted."""
    groups, victims = pairs_GV.shape
    matched = made_GECHW[torch.arange(groups)[:, None], pairs_GV]
    truth_NCHW = sources_GVCHW.flatten(0, 1).float() * (WHITE / white)
    made_NCHW = rescaled(matched.flatten(0, 1), truth_NCHW).clamp(0, WHITE)
    figures = (
        ssim(made_NCHW, truth_NCHW),
        psnr(made_NCHW, truth_NCHW).clamp(max=_COPY_DB),
        mse(made_NCHW, truth_NCHW),
    )
    like, db, error = (Score.of(f.reshape(groups, victims).mean(dim=1)) for f in figures)
    return Likeness(ssim=like, psnr_db=db, mse=error)


def rescaled(made_NCHW: Tensor, truth_NCHW: Tensor) -> Tensor:
    """Return each estimate times a number plus another, those that bring it nearest the truth."""
    dims = (1, 2, 3)
    mean_N111 = made_NCHW.mean(dim=dims, keepdim=True)
    truth_mean_N111 = truth_NCHW.mean(dim=dims, keepdim=True)
    made, truth = made_NCHW - mean_N111, truth_NCHW - truth_mean_N111
    energy_N111 = made.square().sum(dim=dims, keepdim=True).clamp(min=torch.finfo().tiny)
    slope_N111 = (made * truth).sum(dim=dims, keepdim=True) / energy_N111
    return slope_N111 * made + truth_mean_N111
