"""The rank measure: its ends, its laws, another library's figures, and the authors' curve.

Dimension key:  N examples   D values of each
"""

import json
from collections.abc import Callable
from dataclasses import replace
from math import log

import pytest
import torch
from torch import Tensor

from eaves.audit.rank import MOST_VICTIMS, Ranking, curve, measure, rows_for, scale_at
from eaves.audit.release import joined
from eaves.core.rates import Rate
from eaves.errors import ConfigError
from eaves.privacy.bounds import Clip
from eaves.privacy.mechanisms import Mechanism
from eaves.privacy.sources import Pseudo

pytestmark = pytest.mark.usefixtures("one_thread")

OPEN = Mechanism(bound=Clip(1e30), law="none", scale=0.0)
LAWS = ["gaussian", "laplace"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spread(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=seeded(seed))


def one(features_ND: Tensor, scale: float, law: str = "gaussian", releases: int = 1) -> Ranking:
    [found] = curve(features_ND, [scale], law=law, releases=releases, generator=seeded(5))
    return found


# The ends


@pytest.mark.parametrize("law", LAWS)
def test_without_noise_all_are_first(law: str) -> None:
    found = one(spread(300, 4), 0.0, law)
    assert found.law == "none"
    assert found.privacy.value == pytest.approx(1 / 300)
    assert (found.at_rank_1.value, found.in_best.value, found.log_rank.value) == (1, 1, 0)
    assert (found.ties.value, found.snr, found.snr_db) == (0, None, None)
    assert found.beats_chance


@pytest.mark.parametrize("law", LAWS)
def test_in_endless_noise_nothing_is_found(law: str) -> None:
    """Of 2,000 places at random the mean is off by 0.0065; four times that is once in 16,000."""
    found = one(spread(2000, 4), 1e6, law)
    assert abs(found.privacy.value - found.chance) < 0.026
    assert abs(found.log_rank.value - found.log_rank_chance) < 0.012
    assert found.at_rank_1.value < 0.004
    assert abs(found.in_best.value - 0.05) < 0.02


@pytest.mark.parametrize("law", [*LAWS, "none"])
def test_features_that_are_all_the_same_are_at_chance_exactly(law: str) -> None:
    features = torch.full((77, 5), 3.3)
    found = one(features, 0.0 if law == "none" else 1.0, law)
    assert found.privacy.value == found.privacy.high == found.chance == 78 / 154
    assert found.at_rank_1.value == pytest.approx(1 / 77)
    assert found.in_best.value == pytest.approx(3 / 77) == found.in_best_chance
    assert found.log_rank.value == pytest.approx(found.log_rank_chance)
    assert (found.ties.value, found.signal) == (1, 0)
    assert found.snr_db is None
    assert not found.beats_chance


def test_chance_is_the_mean_over_all_places() -> None:
    found = one(spread(50, 2), 0.0)
    places = range(1, 51)
    assert found.chance == pytest.approx(sum(places) / 50 / 50)
    assert found.log_rank_chance == pytest.approx(sum(map(log, places)) / 50 / log(50))
    assert found.at_rank_1_chance == 1 / 50
    assert found.in_best_chance == 2 / 50


def test_a_tenth_that_coincides_shares_the_first_places() -> None:
    """As in the authors' run: without any noise the mean rank is far above 1."""
    features = spread(400, 4)
    features[:40] = 0.0
    found = one(features, 0.0)
    assert found.ties.value == 0.1
    assert found.at_rank_1.value == pytest.approx((360 + 1) / 400)
    assert found.privacy.value == pytest.approx((360 + 40 * 20.5) / 400 / 400)


def test_half_a_find_is_half_a_find_and_its_interval_reaches_to_whole_ones() -> None:
    features = torch.tensor([[0.0], [0.0], [5.0]])
    found = measure(features, torch.tensor([[[0.1]], [[5.0]], [[5.2]]]), OPEN)
    assert found.at_rank_1.value == 1.5 / 3
    assert (found.at_rank_1.low, found.at_rank_1.high) == (Rate.of(1, 3).low, Rate.of(2, 3).high)
    assert found.privacy.value == pytest.approx((1.5 + 2.5 + 1) / 3 / 3)


# Laws


@pytest.mark.parametrize("law", LAWS)
def test_more_noise_hides_more(law: str) -> None:
    found = curve(spread(1000, 6), [0, 0.1, 0.3, 1, 3, 10], law=law, generator=seeded())
    privacy, logs = ([getattr(f, n).value for f in found] for n in ("privacy", "log_rank"))
    assert privacy == sorted(privacy)
    assert logs == sorted(logs)
    firsts = [f.at_rank_1.value for f in found]
    assert firsts == sorted(firsts, reverse=True)
    assert privacy[-1] > 20 * privacy[1]
    ratios = [f.snr_db for f in found[1:] if f.snr_db is not None]
    assert ratios == sorted(ratios, reverse=True)
    assert len(ratios) == 5


def test_a_turn_a_shift_and_a_common_scale_change_nothing() -> None:
    """In float64, so that they are exact enough to leave each place where it was."""
    features, noise = spread(300, 5).double(), spread(300, 5, seed=1).double()
    turn = torch.linalg.qr(spread(5, 5, seed=2).double()).Q

    def found(change: Callable[[Tensor], Tensor], scale: float) -> Ranking:
        mechanism = Mechanism(bound=Clip(1e30), law="gaussian", scale=scale)
        x, z = change(features), change(features + noise)
        return measure(x, z.unsqueeze(1), mechanism)

    plain = found(lambda x: x, 1.0)
    moved = found(lambda x: 1000 * (x @ turn) + 50, 1000.0)
    assert moved.privacy.value == pytest.approx(plain.privacy.value, abs=1e-12)
    assert moved.log_rank.value == pytest.approx(plain.log_rank.value, abs=1e-12)
    assert moved.at_rank_1 == plain.at_rank_1
    assert moved.snr == pytest.approx(plain.snr)
    assert 0.01 < plain.privacy.value < 0.4  # it is not at one of its ends


def test_sixteen_gaussian_releases_are_one_with_a_quarter_of_the_noise() -> None:
    """The means of 2,000 places differ by less than 4 of their standard errors."""
    features = spread(2000, 4)
    many, single = one(features, 2.0, releases=16), one(features, 0.5)
    error = (many.privacy.high - many.privacy.low) / 2 / 1.96
    assert abs(many.privacy.value - single.privacy.value) < 4 * 2**0.5 * error
    assert many.snr_db == pytest.approx(single.snr_db, abs=0.3)
    assert many.privacy.high < one(features, 2.0).privacy.low / 2
    assert (many.releases, single.releases) == (16, 1)


def test_laplace_noise_is_judged_by_its_own_likelihood() -> None:
    """Over all releases: neither the Euclidean distance nor a median finds as many."""
    features = spread(1500, 8)
    mechanism = Mechanism(bound=Clip(1e30), law="laplace", scale=1.5)
    sent = features[:, None] + 1.5 * Pseudo(seeded(1)).laplace((1500, 5, 8))
    best = measure(features, sent, mechanism)
    euclidean = measure(features, sent, replace(mechanism, law="gaussian"))
    median = measure(features, joined(sent, "laplace").unsqueeze(1), mechanism)
    assert best.privacy.value < euclidean.privacy.value
    assert best.privacy.value < median.privacy.value


# Another library, and the authors


@pytest.mark.parametrize(("law", "metric"), [("gaussian", "sqeuclidean"), ("laplace", "cityblock")])
def test_ranks_are_those_of_scipy(law: str, metric: str) -> None:
    stats = pytest.importorskip("scipy.stats")
    distance = pytest.importorskip("scipy.spatial.distance")
    features = spread(150, 3).mul(2).round() / 2  # many coincide
    sent = features + spread(150, 3, seed=1)
    distances = distance.cdist(sent.double().numpy(), features.double().numpy(), metric)
    # What differs by rounding alone is a tie: these are sums of three exact products.
    ranks = torch.tensor(
        [stats.rankdata(row.round(9), method="average")[j] for j, row in enumerate(distances)]
    )
    mechanism = Mechanism(bound=Clip(1e30), law=law, scale=1.0)
    found = measure(features, sent.unsqueeze(1), mechanism)
    assert found.ties.value > 0.1
    assert found.privacy.value == pytest.approx(float(ranks.mean()) / 150)


def test_the_authors_curve_has_its_shape_on_made_up_features() -> None:
    """Two classes in 4 values: accuracy is flat, then falls; privacy rises all the way.

    Theirs, noise variance to accuracy and privacy: 0.01 .934 .006, 0.1 .933 .025, 0.5 .925 .084,
    1 .907 .129, 2 .880 .182, 4 .830 .248.
    """
    classes = torch.randint(2, (2000,), generator=seeded())
    # Classes are far apart in the first value, and people differ by less in each further one.
    features = spread(2000, 4, seed=1) * torch.tensor([0.7, 0.8, 0.5, 0.3])
    features[:, 0] += 2.0 * (2 * classes - 1)
    variances = [0.01, 0.1, 0.5, 1.0, 2.0, 4.0]
    found = curve(features, [v**0.5 for v in variances], generator=seeded(2))
    accuracy = []
    for variance in variances:
        sent = features[:, 0] + variance**0.5 * torch.randn(2000, generator=seeded(3))
        accuracy.append(float(((sent > 0) == classes.bool()).double().mean()))
    assert accuracy[0] - accuracy[1] < 0.01
    assert accuracy[1] - accuracy[2] < 0.03
    assert accuracy[3] - accuracy[5] > 0.08
    privacy = [ranking.privacy.value for ranking in found]
    assert privacy == sorted(privacy)
    assert privacy[0] < 0.02
    assert 0.15 < privacy[-1] < 0.4
    assert found[0].at_rank_1.value > 0.1
    assert found[-1].at_rank_1.value < 0.005


# Identities


def people(each: int, apart: float = 2.0) -> tuple[Tensor, Tensor]:
    """Return ``each`` examples of 200 people, who differ by more than their examples do."""
    faces = torch.arange(200).repeat_interleave(each)
    return apart * spread(200, 6)[faces] + 0.3 * spread(len(faces), 6, seed=1), faces


@pytest.mark.parametrize("law", LAWS)
def test_identities_are_ranked_by_all_their_examples(law: str) -> None:
    features, faces = people(8)
    none, some, endless = curve(
        features, [0.0, 2.0, 1e6], law=law, identities=faces, generator=seeded()
    )
    assert {f.candidates for f in (none, some, endless)} == {200}
    assert none.effort.known == 1600
    assert none.privacy.value == pytest.approx(1 / 200)
    assert none.log_rank.value == 0
    assert none.log_rank.value < some.log_rank.value < some.log_rank_chance - 0.1
    assert abs(endless.log_rank.value - endless.log_rank_chance) < 0.03
    shuffled = faces[torch.randperm(1600, generator=seeded(3))]
    [nobody] = curve(features, [2.0], law=law, identities=shuffled, generator=seeded())
    assert nobody.log_rank.value > some.log_rank.high + 0.1


def test_an_identity_for_each_example_is_the_default() -> None:
    features = spread(200, 4)
    [plain], [named] = (
        curve(features, [0.7], identities=who, generator=seeded())
        for who in (None, torch.arange(200).flip(0))
    )
    assert plain.as_json() | {"effort": 0} == named.as_json() | {"effort": 0}


# What is measured


def test_at_most_so_many_at_equal_distances() -> None:
    features = torch.zeros(5000, 2)
    rows = rows_for(features, OPEN)
    assert len(rows) == MOST_VICTIMS
    assert (int(rows[0]), int(rows[-1])) == (0, 4998)
    assert torch.equal(rows_for(features[rows], OPEN), torch.arange(4000))
    assert len(rows_for(torch.zeros(5000, 100, 100), OPEN)) < 4000
    laplace = Mechanism(bound=Clip(1.0), law="laplace", scale=1.0)
    wide = torch.zeros(2000, 5000)
    assert len(rows_for(wide, laplace, releases=4)) < len(rows_for(wide, laplace)) < 2000


def test_of_more_examples_some_are_measured() -> None:
    features = spread(60, 3)
    sent = (features + spread(60, 3, seed=1)).unsqueeze(1)
    rows, faces = rows_for(features, OPEN, most=20), torch.arange(60) // 2
    assert rows.tolist() == list(range(0, 60, 3))
    some = measure(features, sent, OPEN, identities=faces, most=20)
    by_hand = measure(features[rows], sent[rows], OPEN, identities=faces[rows])
    assert some.candidates == 20
    assert some.as_json() | {"effort": 0} == by_hand.as_json() | {"effort": 0}


def test_maps_are_measured_as_what_they_hold() -> None:
    flat, noise = spread(80, 12), spread(80, 12, seed=1)
    sent = (flat + noise).unsqueeze(1)
    maps = measure(flat.reshape(80, 3, 2, 2), sent.reshape(80, 1, 3, 2, 2), OPEN)
    assert maps.privacy == measure(flat, sent, OPEN).privacy


@pytest.mark.parametrize("law", LAWS)
def test_the_scale_for_a_ratio_gives_it(law: str) -> None:
    """16,000 values: their variance is known to 0.1 dB, by 2 of its standard errors or more."""
    features = spread(2000, 8) * torch.arange(1, 9) + 5
    for snr_db in (-10.0, 0.0, 7.0):
        found = one(features, scale_at(features, snr_db, law=law), law)
        assert found.snr_db == pytest.approx(snr_db, abs=0.2)
        assert found.snr == pytest.approx(10 ** (snr_db / 10), rel=0.05)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_it_is_strict_json(scale: float) -> None:
    found = one(spread(20, 2), scale)
    written = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert written["privacy"]["n"] == written["at_rank_1"]["n"] == written["ties"]["n"] == 20
    assert written["privacy"]["low"] <= written["privacy"]["value"] <= written["privacy"]["high"]
    assert written["chance"] == 21 / 40
    assert (written["snr_db"] is None) == (scale == 0)


# What is refused


def sent_once(features: Tensor) -> Tensor:
    return features.unsqueeze(1)


@pytest.mark.parametrize(
    ("features", "sent", "message"),
    [
        (spread(5, 2), spread(5, 2), r"R releases of each .*\(5, 2\) and \(5, 2\); unsqueeze"),
        (spread(5, 2), sent_once(spread(4, 2)), r"got \(5, 2\) and \(4, 1, 2\)"),
        (spread(5, 2), sent_once(spread(5, 3)), r"got \(5, 2\) and \(5, 1, 3\)"),
        (spread(1, 2), sent_once(spread(1, 2)), "expected features .* of 2 examples or more"),
        (spread(5, 2) / 0, sent_once(spread(5, 2)), "expected finite features"),
        (spread(5, 2), sent_once(spread(5, 2)) * torch.nan, "expected finite features"),
    ],
)
def test_what_does_not_fit_is_refused(features: Tensor, sent: Tensor, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        measure(features, sent, OPEN)


def test_one_identity_is_refused() -> None:
    features = spread(5, 2)
    with pytest.raises(ConfigError, match="expected examples of 2 identities or more, got one"):
        measure(features, sent_once(features), OPEN, identities=torch.zeros(5, dtype=torch.int64))


def test_no_ratio_without_a_signal() -> None:
    with pytest.raises(ConfigError, match="expected features that differ, got equal ones"):
        scale_at(torch.ones(5, 2), 0.0)
