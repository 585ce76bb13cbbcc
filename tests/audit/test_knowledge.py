"""What attacker and victims may be, how many it takes, and what several releases come to."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eaves.audit.knowledge import Exposure, Known, Victims, samples_needed
from eaves.audit.release import ReleasePath
from eaves.core.rates import Rate
from eaves.errors import ConfigError
from eaves.privacy.bounds import bound_named
from eaves.privacy.mechanisms import Mechanism

PLAIN = ReleasePath(mechanism=Mechanism(bound=bound_named("clip"), law="none", scale=0.0))


def known(n: int = 10, shape: tuple[int, ...] = (3,), classes: int = 2) -> Known:
    private_N = torch.arange(n) % classes
    return Known(
        features=torch.zeros(n, *shape), labels=torch.zeros_like(private_N), private=private_N
    )


def victims(n: int = 400, shape: tuple[int, ...] = (3,), releases: int = 1) -> Victims:
    private_N = torch.arange(n) % 2
    features = torch.zeros(n, releases, *shape)
    return Victims(features=features, labels=torch.zeros_like(private_N), private=private_N)


# How many


@settings(deadline=None, max_examples=30)
@given(half_width=st.floats(0.02, 0.45))
def test_so_many_victims_give_every_rate_its_interval_and_fewer_do_not(half_width: float) -> None:
    n = samples_needed(half_width)
    rates = [Rate.of(k, n) for k in range(n + 1)]
    assert max(rate.high - rate.low for rate in rates) <= 2 * half_width
    if n > 2:
        fewer = Rate.of((n - 2) // 2, n - 2)
        assert fewer.high - fewer.low > 2 * half_width


@pytest.mark.parametrize(("half_width", "n"), [(0.02, 2398), (0.03, 1064), (0.01, 9600)])
def test_the_number_is_that_of_the_closed_form(half_width: float, n: int) -> None:
    z2 = 1.959963984540054**2
    exact = z2 / (4 * half_width**2) - z2
    assert samples_needed(half_width) == n
    assert exact <= n < exact + 2


@pytest.mark.parametrize("half_width", [0.0, -0.1, 0.5, 1e-5, float("nan")])
def test_a_width_that_cannot_be_is_refused(half_width: float) -> None:
    with pytest.raises(ConfigError, match=r"expected a half-width from 0\.0001 to below 0\.5"):
        samples_needed(half_width)


# What may be


def test_too_few_victims_are_refused_with_the_number_it_takes() -> None:
    with pytest.raises(ConfigError, match=r"expected 2398 victims .* \+-0\.02, got 2397"):
        Exposure(attribute="Male", known=known(), victims=victims(2397), path=PLAIN)
    enough = Exposure(attribute="Male", known=known(), victims=victims(2398), path=PLAIN)
    assert enough.majority == 0.5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": torch.zeros(4, 3, dtype=torch.uint8)}, r"float32 features .* torch\.uint8"),
        ({"features": torch.full((4, 3), float("nan"))}, "expected finite float32"),
        ({"features": torch.zeros(4)}, "expected finite float32"),
        ({"features": torch.zeros(5, 3)}, r"int64 task labels from 0 of shape \(5,\)"),
        ({"labels": torch.zeros(4)}, r"int64 task labels .* got torch\.float32"),
        ({"labels": torch.tensor([0, 0, 0, -1])}, "task labels from 0"),
        ({"private": torch.zeros(4, 2, dtype=torch.int64)}, r"private labels .* got .* \(4, 2\)"),
        ({"private": torch.ones(4, dtype=torch.int64)}, "2 classes or more, got one"),
    ],
)
def test_examples_that_cannot_be_are_refused(change: dict[str, torch.Tensor], words: str) -> None:
    given = {
        "features": torch.zeros(4, 3),
        "labels": torch.zeros(4, dtype=torch.int64),
        "private": torch.tensor([0, 1, 0, 1]),
    }
    with pytest.raises(ConfigError, match=words):
        Known(**(given | change), unseen=None)


def test_no_example_is_refused() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ConfigError, match="1 or more"):
        Known(features=torch.zeros(0, 3), labels=none, private=none)


def test_victims_say_how_often_they_sent() -> None:
    assert victims(releases=5).releases == 5
    flat = torch.zeros(4, 3)
    with pytest.raises(ConfigError, match=r"features \(N, R, \.\.\.\) .* unsqueeze\(1\)"):
        Victims(features=flat, labels=torch.zeros(4).long(), private=torch.tensor([0, 1, 0, 1]))


def test_attacker_and_victims_must_fit() -> None:
    with pytest.raises(ConfigError, match=r"shapes \(4,\) and \(3,\)"):
        Exposure(
            attribute="a",
            known=known(shape=(4,)),
            victims=victims(),
            path=PLAIN,
            half_width=0.05,
        )
    strange = Victims(
        features=torch.zeros(400, 1, 3),
        labels=torch.zeros(400).long(),
        private=torch.arange(400) % 3,
    )
    with pytest.raises(ConfigError, match=r"classes that the attacker has examples of, got \{2\}"):
        Exposure(attribute="a", known=known(), victims=strange, path=PLAIN, half_width=0.05)


def test_an_exposure_counts_classes_on_both_sides() -> None:
    sent = victims()
    told = Victims(features=sent.features, labels=sent.labels + 6, private=sent.private)
    exposure = Exposure(
        attribute="a", known=known(12, classes=3), victims=told, path=PLAIN, half_width=0.05
    )
    assert (exposure.classes, exposure.labels, exposure.majority) == (3, 7, 0.5)


def test_shuffling_moves_private_labels_alone_on_both_sides() -> None:
    exposure = Exposure(
        attribute="a", known=known(100), victims=victims(), path=PLAIN, half_width=0.05
    )
    mixed = exposure.shuffled(generator=torch.Generator().manual_seed(0))
    for before, after in ((exposure.known, mixed.known), (exposure.victims, mixed.victims)):
        assert after.features is before.features
        assert after.labels is before.labels
        assert not torch.equal(after.private, before.private)
        assert torch.equal(after.private.sort().values, before.private.sort().values)
    assert mixed.path == PLAIN


def test_what_the_net_was_not_trained_on_comes_first() -> None:
    private_N = torch.arange(10) % 2
    own = Known(
        features=torch.arange(10.0).reshape(10, 1),
        labels=private_N,
        private=private_N,
        unseen=6,
    )
    some = own.at(torch.tensor([9, 2, 7, 0, 5]))
    assert some.features[:, 0].tolist() == [2.0, 0.0, 5.0, 9.0, 7.0]
    assert (some.unseen, some.not_trained_on, len(some)) == (3, 3, 5)
    assert torch.equal(some.private, some.features[:, 0].long() % 2)
    assert known(10).not_trained_on == 10  # nothing is said
    with pytest.raises(ConfigError, match="expected 0 to 10 unseen examples, got 11"):
        Known(features=own.features, labels=private_N, private=private_N, unseen=11)
