"""Who is how close, and who cannot be told from whom: held against densities and enumerations."""

from itertools import permutations
from math import log
from statistics import fmean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Laplace, Normal

from eaves.audit.candidates import Candidates, Places
from eaves.privacy.bounds import Clip
from eaves.privacy.mechanisms import Mechanism

pytestmark = pytest.mark.usefixtures("one_thread")

OPEN = Mechanism(bound=Clip(1e30), law="none", scale=0.0)
LAWS = {"gaussian": Normal, "laplace": Laplace}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(law: str, scale: float) -> Mechanism:
    return Mechanism(bound=Clip(1e30), law=law, scale=scale)


def each(features: Tensor) -> Candidates:
    return Candidates.of(features, torch.arange(len(features)))


# Places


@given(nearer=st.integers(0, 3), tied=st.integers(1, 4), best=st.integers(1, 8))
def test_a_tie_is_the_mean_over_all_its_orders(nearer: int, tied: int, best: int) -> None:
    found = [nearer + 1 + order.index(0) for order in permutations(range(tied))]
    numbers = [torch.tensor([float(n)], dtype=torch.float64) for n in (nearer, tied)]
    places = Places(nearer=numbers[0], tied=numbers[1], among=8)
    assert float(places.ranks()) == pytest.approx(fmean(found))
    assert float(places.log_ranks()) == pytest.approx(fmean(log(place) for place in found))
    assert float(places.within(best)) == pytest.approx(fmean(place <= best for place in found))


# Ties


@pytest.mark.parametrize("law", ["none", "gaussian", "laplace"])
def test_equal_features_tie_whatever_products_of_matrices_make_of_them(law: str) -> None:
    """37 columns of 7 values: kernels treat the last ones otherwise than the first."""
    once = 1000 + torch.randn(36, 7, generator=seeded())
    features = torch.cat([once, once[[0, 5, 5, 35]]])
    mechanism = OPEN if law == "none" else noise(law, 1.0)
    sent = (features + 0.1 * torch.randn(40, 7, generator=seeded(1))).unsqueeze(1)
    candidates = each(features)
    places = candidates.places(sent, mechanism)
    expected = torch.ones(40, dtype=torch.float64)
    expected[[0, 36, 35, 39]] = 2
    expected[[5, 37, 38]] = 3
    assert torch.equal(places.tied, expected)
    assert candidates.coinciding == 7
    assert candidates.identities == places.among == 40


def test_zero_has_no_sign() -> None:
    assert each(torch.tensor([[0.0, 1.0], [-0.0, 1.0]])).coinciding == 2


def test_candidates_as_far_as_each_other_tie_too() -> None:
    places = each(torch.tensor([[-1.0], [1.0], [3.0]])).places(torch.zeros(3, 1, 1), OPEN)
    assert places.nearer.tolist() == [0, 0, 2]
    assert places.tied.tolist() == [2, 2, 1]


@pytest.mark.parametrize("law", ["none", "laplace"])
@pytest.mark.parametrize("apart", [0, 10_000])
def test_small_differences_beside_large_values_are_seen(law: str, apart: float) -> None:
    """Of 1e-2 between neighbours in crowds that are 2e4 apart, beside 4,000 values of 1e3."""
    features = torch.full((200, 4001), 1000.0)
    features[:, 0] = torch.randperm(200, generator=seeded()) * 0.01
    features[::2, 0] += apart
    features[1::2, 0] -= apart
    mechanism = OPEN if law == "none" else noise(law, 1.0)
    places = each(features).places(features.unsqueeze(1), mechanism)
    assert bool((places.ranks() == 1).all())


def test_wide_features_are_added_up_part_by_part() -> None:
    features = torch.randn(6, 5000, generator=seeded())
    sent = features + torch.randn(6, 5000, generator=seeded(1))
    closeness = each(features).closeness(sent.unsqueeze(1), OPEN)
    distances = torch.cdist(sent.double(), features.double()).square()
    norms = closeness + distances  # what all have in common is left out
    assert torch.allclose(norms, norms[:, :1].expand_as(norms))


# Densities


def density(law: str, scale: float, sent_RD: Tensor, examples_KD: Tensor) -> float:
    """Return the log of the mean density of what was sent, around each example."""
    around = LAWS[law](examples_KD.double(), scale)
    return float(around.log_prob(sent_RD[:, None].double()).sum(dim=(0, 2)).logsumexp(0)) - log(
        len(examples_KD)
    )


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("releases", [1, 3])
@pytest.mark.parametrize("several", [False, True])
def test_closeness_is_the_density_of_the_noise(law: str, releases: int, several: bool) -> None:
    features = torch.randn(7, 4, generator=seeded())
    sent = features[:, None] + 0.5 * torch.randn(7, releases, 4, generator=seeded(1))
    people = torch.tensor([0, 0, 1, 2, 2, 2, 1]) if several else torch.arange(7)
    candidates = Candidates.of(features, people)
    closeness = candidates.closeness(sent, noise(law, 0.5))
    for row in range(7):
        found = [float(closeness[row, candidates.own[people == k][0]]) for k in range(3)]
        expected = [density(law, 0.5, sent[row], features[people == k]) for k in range(3)]
        both = zip(found, expected, strict=True)
        common, *others = [a - b for a, b in both]
        assert others == pytest.approx([common, common])


def test_without_noise_an_identity_is_as_close_as_its_nearest_example() -> None:
    features = torch.tensor([[0.0], [10.0], [4.0], [5.0]])
    candidates = Candidates.of(features, torch.tensor([7, 7, -3, -3]))
    places = candidates.places(torch.tensor([[[0.5]], [[9.0]], [[8.0]], [[5.0]]]), OPEN)
    assert places.ranks().tolist() == [1, 1, 2, 1]


def test_who_has_the_same_examples_in_the_same_shares_looks_the_same() -> None:
    one, two = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    features = torch.stack([one, two, two, two, one, one, one, two])
    people = torch.tensor([0, 0, 1, 1, 1, 1, 2, 3])  # the first is half and half, as the second is
    candidates = Candidates.of(features, people)
    assert candidates.alike.tolist() == [2, 1, 1]
    assert candidates.own.tolist() == [0, 0, 0, 0, 0, 0, 1, 2]
    places = candidates.places(features.unsqueeze(1), noise("gaussian", 0.1))
    assert places.tied.tolist() == [2, 2, 2, 2, 2, 2, 1, 1]
    assert candidates.coinciding == 8


def test_only_features_of_others_coincide() -> None:
    features = torch.tensor([[1.0], [1.0], [2.0], [2.0], [3.0]])
    assert Candidates.of(features, torch.tensor([0, 0, 1, 2, 2])).coinciding == 2
