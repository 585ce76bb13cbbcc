"""Scores of estimates: blind to order, scale and sign; intervals that count groups."""

import json
from math import comb

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eaves.audit.findings import Effort, Unmixed
from eaves.audit.intercept import Guess
from eaves.audit.recovery import rate_of_groups, rescaled, scored
from eaves.audit.similarity import likeness
from eaves.core.rates import Rate
from eaves.errors import ConfigError

pytestmark = pytest.mark.usefixtures("one_thread")

EFFORT = Effort(known=0, rounds=7, time_s=0.5)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(groups: int = 6, k: int = 3, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (groups, k, 3, 12, 12), generator=seeded(seed)).float()


def score(made: Tensor, sources: Tensor, white: float | None = None) -> Unmixed:
    return scored("made", Guess(sources=made), sources, effort=EFFORT, white=white)


@given(seed=st.integers(0, 2**20))
@settings(max_examples=8, deadline=None)
def test_order_scale_sign_and_offset_do_not_count(seed: int) -> None:
    sources, generator = images(), seeded(seed)
    order_GK = torch.rand(6, 3, generator=generator).argsort(dim=1)
    scale, offset = torch.randn(2, 6, 3, 1, 1, 1, generator=generator)
    scale = scale + scale.sign()
    made = scale * sources[torch.arange(6)[:, None], order_GK] + 100 * offset
    unmixed = score(made, sources, white=255.0)
    assert unmixed.recovered == Rate.of(6, 6)
    assert unmixed.correlation.value == pytest.approx(1)
    assert unmixed.likeness is not None
    assert unmixed.likeness.ssim.value == pytest.approx(1, abs=1e-5)
    assert unmixed.likeness.psnr_db.value > 60
    assert unmixed.beats_chance


def test_one_estimate_does_not_recover_two_sources() -> None:
    """Both sources are almost the same; an attack that answers one of them twice gets one."""
    sources = images(k=2)
    sources[:, 1] = sources[:, 0] + 0.1 * sources[:, 1]
    made = torch.stack([sources[:, 0], images(k=1, seed=9)[:, 0]], dim=1)
    assert score(made, sources).recovered.value == 0.5


def test_independent_estimates_are_at_chance() -> None:
    """Its interval and that of chance part in less than 1 of 100 cases; here the seed is fixed."""
    unmixed = score(images(40, seed=5), images(40), white=255.0)
    assert unmixed.recovered == Rate.of(0, 40)
    assert not unmixed.beats_chance
    assert abs(unmixed.correlation.value - unmixed.chance.value) < 0.02


def test_a_source_that_was_told_is_no_victim() -> None:
    sources = images()
    guess = Guess(sources=sources[:, 1:].flip(1), told=1)
    unmixed = scored("told", guess, sources, effort=EFFORT)
    assert unmixed.recovered == Rate.of(6, 6)
    wrong = Guess(sources=sources[:, :2], told=1)  # the told source and one more
    assert scored("told", wrong, sources, effort=EFFORT).recovered.value == 0.5


def test_pools_are_matched_as_one_and_counted_as_one() -> None:
    sources = images()
    pools = sources.reshape(2, 9, 3, 12, 12).flip(1)
    unmixed = score(pools, sources)
    assert (unmixed.recovered.value, unmixed.recovered.n) == (1.0, 2)
    assert unmixed.correlation.n == 2


def test_likeness_is_that_of_all_images_with_an_interval_of_groups() -> None:
    sources = images()
    made = sources + 40 * torch.randn(sources.shape, generator=seeded(3))
    grouped = score(made / 255, sources / 255, white=1.0).likeness
    assert grouped is not None
    scaled = rescaled(made.flatten(0, 1), sources.flatten(0, 1)).clamp(0, 255)
    single = likeness(scaled, sources.flatten(0, 1))
    for a, b in zip(
        (grouped.ssim, grouped.psnr_db, grouped.mse),
        (single.ssim, single.psnr_db, single.mse),
        strict=True,
    ):
        assert a.value == pytest.approx(b.value, rel=1e-4)
        assert (a.n, b.n) == (6, 18)


def test_what_is_rescaled_is_nearest() -> None:
    truth = images(1, 4)[0]
    made = truth + 50 * torch.randn(truth.shape, generator=seeded(2))
    best = (rescaled(made, truth) - truth).square().mean()
    for slope, offset in ((1.02, 0.0), (0.98, 0.0), (1.0, 2.0), (1.0, -2.0)):
        assert (slope * rescaled(made, truth) + offset - truth).square().mean() > best
    flat = rescaled(torch.ones_like(truth), truth)
    assert torch.allclose(flat, truth.mean(dim=(1, 2, 3), keepdim=True))


def coverage(groups: int, share: float) -> float:
    """Return how often, exactly, the interval covers ``share`` where groups stand as one."""
    covered = 0.0
    for k in range(groups + 1):
        rate = rate_of_groups((torch.arange(groups) < k)[:, None].expand(-1, 4))
        if rate.low <= share <= rate.high:
            covered += comb(groups, k) * share**k * (1 - share) ** (groups - k)
    return covered


@pytest.mark.parametrize("groups", [16, 64])
def test_covers_where_the_members_of_a_group_stand_or_fall_together(groups: int) -> None:
    """Exact: on average over shares 95 %, as Wilson's does, which may dip where shares are few."""
    covers = [coverage(groups, share / 50) for share in range(1, 50)]
    assert sum(covers) / len(covers) > 0.945
    assert min(covers) > 0.82


def test_covers_where_the_members_of_a_group_are_alike_or_independent() -> None:
    """1,000 draws of each kind: the true coverage is above 0.95 if 0.933 is reached (p < 0.01)."""
    generator = seeded()
    for together in (0.0, 0.5):
        share_G = 0.3 * torch.ones(1000, 16)
        chosen = torch.rand(1000, 16, generator=generator) < together
        fate = (torch.rand(1000, 16, generator=generator) < 0.3).float()
        share_G = torch.where(chosen, fate, share_G)
        draws = torch.rand(1000, 16, 4, generator=generator) < share_G[:, :, None]
        rates = [rate_of_groups(right_GV) for right_GV in draws]
        assert sum(rate.low <= 0.3 <= rate.high for rate in rates) / 1000 > 0.933


def test_groups_and_not_sources_are_counted() -> None:
    right_GV = torch.tensor([[True] * 8] * 3 + [[False] * 8])
    assert rate_of_groups(right_GV) == Rate.of(3, 4)
    right_GV[0, 0] = False
    rate = rate_of_groups(right_GV)
    assert rate.value == 23 / 32
    assert rate.low == Rate.of(2, 4).low
    assert rate.high == Rate.of(3, 4).high


def test_thirds_are_whole_when_they_are() -> None:
    """Three times a third is one group."""
    assert rate_of_groups(torch.eye(3, dtype=torch.bool)) == Rate.of(1, 3)


@pytest.mark.parametrize(("made", "sources"), [(images(1), images(1)), (images(k=2), images(k=3))])
def test_too_little_to_score(made: Tensor, sources: Tensor) -> None:
    with pytest.raises(ConfigError, match="expected 2 or more groups"):
        score(made, sources)


def test_as_json() -> None:
    told = json.loads(json.dumps(score(images(), images(), white=255.0).as_json()))
    assert told["recovered"]["value"] == 1
    assert told["effort"]["rounds"] == 7
    assert told["beats_chance"] is True
    assert told["likeness"]["ssim"]["n"] == 6
    assert score(images(), images()).as_json()["likeness"] is None
