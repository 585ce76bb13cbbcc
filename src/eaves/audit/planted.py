"""Positive control: an attribute that is surely there, behind the same noise and codec.

Half of some examples of the attacker's own, by a coin, have a few of their features shifted up,
the others down. How far is tried out: until a simple reference, the mean of those values as they
arrive, tells the coin at 90 %. So the strength is known, whatever the noise, the codec and the
features. An attacker that does not find it with the budget of the attack would not have found a
private attribute of that strength either.

Dimension key:  N examples   C channels   ... the shape of the features
"""

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from eaves.audit.findings import classes_in
from eaves.audit.knowledge import Exposure, Known, Victims
from eaves.audit.release import ReleasePath
from eaves.audit.trial import Allowance
from eaves.privacy.sources import Pseudo

STRENGTH = 0.9
"""Balanced accuracy of the reference from which on the planted attribute is surely there."""
_MOST_KNOWN, _MOST_VICTIMS = 2_000, 800  # a control is on a part of the examples, to be cheap
_VICTIMS = 0.3  # of that part, where there are fewer
_FIRST, _FACTOR, _TRIES = 0.1, 1.4, 40  # shifts, in standard deviations of what arrives
_SHIFTED = 4  # one in so many values is, where features are flat
_ANY_WIDTH = 0.49
_TWO = 2
_LEAST_S = 5.0  # of time: less would be of the machine, and not of the attacker


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Plant:
    """An exposure with a planted attribute, and how well the reference reads it."""

    exposure: Exposure
    strength: float


def planted(exposure: Exposure, *, generator: torch.Generator) -> Plant:
    """Return a part of the attacker's examples, some as victims, with a planted attribute."""
    coin_N = torch.arange(len(exposure.known)) % 2
    coin_N = coin_N[torch.randperm(len(coin_N), generator=generator)]
    # The coins take the place of the private labels here and not in the exposure, whose victims may
    # be of more classes than the two of a coin.
    teach, victims = divided(replace(exposure.known, private=coin_N), generator=generator)
    coins = [teach.private, victims.private]
    path, direction = exposure.path.unbounded(), _direction(teach.features)
    arrived = _arrived(exposure, path, teach.features, generator)
    shift, strength = _FIRST * float(arrived.std()) + 1e-6, 0.0
    for _ in range(_TRIES):
        made = [
            _shifted(side.features, coin, shift * direction)
            for side, coin in zip((teach, victims), coins, strict=True)
        ]
        there = [_arrived(exposure, path, features, generator) for features in made]
        strength = _read(there, coins, direction)
        if strength >= STRENGTH:
            break
        shift *= _FACTOR
    exposure = replace(exposure, path=path)
    sides = [
        replace(side, features=features)
        for side, features in zip((teach, victims), made, strict=True)
    ]
    return Plant(exposure=exposure_from(exposure, *sides, generator=generator), strength=strength)


def part_of(exposure: Exposure, *, generator: torch.Generator) -> Exposure:
    """Return a part of the attacker's examples, some of them as victims: for controls.

    Where a class is so rare that the part has none of it, it is the whole exposure.
    """
    known = exposure.known
    order = torch.randperm(len(known), generator=generator)
    private_N, split = known.private[order], _victims_of(len(known))
    taught = set(classes_in(private_N[split : split + _MOST_KNOWN]))
    read = set(classes_in(private_N[:split]))
    if len(taught) < _TWO or len(read) < _TWO or not read <= taught:
        return exposure
    sides = known.at(order[split : split + _MOST_KNOWN]), known.at(order[:split])
    return exposure_from(exposure, *sides, generator=generator)


def divided(known: Known, *, generator: torch.Generator) -> tuple[Known, Known]:
    """Return some of the attacker's examples that teach, and others to be read."""
    split = _victims_of(len(known))
    order = torch.randperm(len(known), generator=generator)
    return known.at(order[split : split + _MOST_KNOWN]), known.at(order[:split])


def _victims_of(known: int) -> int:
    return min(_MOST_VICTIMS, round(_VICTIMS * known))


def exposure_from(
    exposure: Exposure, teach: Known, victims: Known, *, generator: torch.Generator
) -> Exposure:
    """Return the exposure of some examples of the attacker's own, by the path of the attack."""
    sent = exposure.path.released(
        victims.features,
        releases=exposure.victims.releases,
        source=Pseudo(generator),
        seed=int(torch.randint(2**31, (), generator=generator)),
    )
    return replace(
        exposure,
        known=teach,
        victims=Victims(features=sent, labels=victims.labels, private=victims.private),
        half_width=_ANY_WIDTH,
    )


def share_of(exposure: Exposure, allowance: Allowance) -> Allowance:
    """Return the allowance of the attack for a part of the examples: the same rounds, less time.

    An attack that its time ends after a few rounds has a control that ends after a few, too.
    """
    share = min(1.0, _MOST_KNOWN / len(exposure.known))
    return replace(allowance, time_s=min(allowance.time_s, _LEAST_S + share * allowance.time_s))


def _arrived(
    exposure: Exposure, path: ReleasePath, features: Tensor, generator: torch.Generator
) -> Tensor:
    return path.seen(features, releases=exposure.victims.releases, generator=generator)


def _direction(features: Tensor) -> Tensor:
    """Return which values are shifted, 1 or 0: the channel, or the quarter, that varies most."""
    if features.ndim == 4:
        channel = features.var(dim=(0, 2, 3)).argmax()
        direction = torch.zeros(features.shape[1:])
        direction[channel] = 1.0
        return direction
    spread_D = features.flatten(1).var(dim=0)
    chosen = spread_D.topk(max(1, len(spread_D) // _SHIFTED)).indices
    return torch.zeros_like(spread_D).index_fill(0, chosen, 1.0).reshape(features.shape[1:])


def _shifted(features: Tensor, coin_N: Tensor, shift: Tensor) -> Tensor:
    sign_N = 2.0 * coin_N - 1
    return features + sign_N.reshape(-1, *[1] * (features.ndim - 1)) * shift


def _read(there: list[Tensor], coins: list[Tensor], direction: Tensor) -> float:
    """Return the balanced accuracy of the mean of the shifted values, half way between the two."""
    scores = [(z * direction).flatten(1).sum(dim=1) for z in there]
    low, high = (float(scores[0][coins[0] == k].mean()) for k in (0, 1))
    up_N = scores[1] > (low + high) / 2
    right = [(up_N[coins[1] == k] == bool(k)).float().mean() for k in (0, 1)]
    return float(sum(right)) / 2
