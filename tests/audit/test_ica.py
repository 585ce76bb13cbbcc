"""FastICA against scikit-learn's, by its laws, and on mixtures that have no solution."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import FastICA
from torch import Tensor

from eaves.audit.ica import fast_ica, whitening

pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sparse(groups: int, k: int, samples: int = 4000, seed: int = 0) -> Tensor:
    """Return independent sources (G, K, N) with the heavy tails of an image's gradients."""
    noise = torch.randn(2, groups, k, samples, generator=seeded(seed), dtype=torch.float64)
    sources: Tensor = noise[0] * noise[1]
    return sources


def matrices(groups: int, k: int, seed: int = 1) -> Tensor:
    return torch.randn(groups, k, k, generator=seeded(seed), dtype=torch.float64)


def alike(a_GKN: Tensor, b_GKN: Tensor) -> Tensor:
    """Return |correlation| (G, K, K) of components."""
    a, b = (x - x.mean(dim=2, keepdim=True) for x in (a_GKN, b_GKN))
    a, b = (x / x.norm(dim=2, keepdim=True) for x in (a, b))
    found_GKK: Tensor = (a @ b.mT).abs()
    return found_GKK


@pytest.mark.parametrize("k", [1, 2, 5, 16])
def test_finds_sparse_sources(k: int) -> None:
    sources_GKN = sparse(6, k)
    found_GKN = fast_ica(matrices(6, k) @ sources_GKN, generator=seeded()) @ (
        matrices(6, k) @ sources_GKN
    )
    best = alike(found_GKN, sources_GKN)
    assert best.amax(dim=1).min() > 0.99
    assert torch.equal(best.argmax(dim=1).sort(dim=1).values, torch.arange(k).expand(6, k))


def test_the_same_components_as_scikit_learn() -> None:
    mixed_GKN = matrices(3, 4) @ sparse(3, 4)
    ours_GKN = fast_ica(mixed_GKN, generator=seeded()) @ mixed_GKN
    for mixed_KN, ours_KN in zip(mixed_GKN, ours_GKN, strict=True):
        model = FastICA(whiten="unit-variance", fun="exp", tol=1e-8, max_iter=1000, random_state=0)
        theirs_KN = torch.from_numpy(model.fit_transform(mixed_KN.T.numpy())).T
        assert alike(ours_KN[None], theirs_KN[None])[0].amax(dim=1).min() > 0.99999
        assert torch.allclose(ours_KN.var(dim=1, correction=0), theirs_KN.var(dim=1, correction=0))


@given(seed=st.integers(0, 2**20), log_scale=st.floats(-6, 6), offset=st.floats(-100, 100))
@settings(max_examples=10, deadline=None)
def test_order_scale_and_offset_of_the_mixtures_do_not_count(
    seed: int, log_scale: float, offset: float
) -> None:
    mixed_GKN = matrices(1, 3) @ sparse(1, 3, samples=2000)
    order = torch.randperm(3, generator=seeded(seed))
    other_GKN = (mixed_GKN[:, order] + offset) * 10**log_scale
    a, b = (
        fast_ica(m, generator=seeded(seed)) @ (m - m.mean(dim=2, keepdim=True))
        for m in (mixed_GKN, other_GKN)
    )
    assert alike(a, b).amax(dim=1).min() > 0.999


def test_components_are_white() -> None:
    mixed_GKN = matrices(4, 5) @ sparse(4, 5) + 3
    y_GKN = fast_ica(mixed_GKN, generator=seeded()) @ (mixed_GKN - mixed_GKN.mean(2, keepdim=True))
    assert torch.allclose(y_GKN @ y_GKN.mT / y_GKN.shape[2], torch.eye(5).double(), atol=1e-5)


def test_groups_do_not_see_each_other() -> None:
    """A group that takes long does not change one that is done."""
    sources_GKN = torch.cat([sparse(1, 3), torch.randn(1, 3, 4000, generator=seeded(5))])
    mixed_GKN = matrices(2, 3) @ sources_GKN
    both = fast_ica(mixed_GKN, generator=seeded()) @ mixed_GKN
    alone = fast_ica(mixed_GKN[:1], generator=seeded()) @ mixed_GKN[:1]
    assert alike(both[:1], alone).amax(dim=1).min() > 0.9999


def test_more_starts_never_lead_to_more_gaussian_components() -> None:
    def far(starts: int) -> Tensor:
        noise = torch.randn(5, 200, 2, 100, generator=seeded(), dtype=torch.float64)
        mixed_GKN = matrices(200, 2) @ noise.prod(dim=0)
        y_GKN = fast_ica(mixed_GKN, starts=starts, generator=seeded()) @ (
            mixed_GKN - mixed_GKN.mean(dim=2, keepdim=True)
        )
        far_G: Tensor = ((-y_GKN.square() / 2).exp().mean(dim=2) - 0.5**0.5).square().sum(dim=1)
        return far_G

    one, several = far(1), far(4)
    assert bool((several >= one - 1e-6).all())
    assert bool((several > one + 1e-3).any())  # else this test would show nothing


DEGENERATE = {
    "constant": torch.full((2, 3, 50), 7.0),
    "zero": torch.zeros(2, 3, 50),
    "copies": sparse(2, 1).expand(2, 3, -1),
    "one of them constant": torch.cat([sparse(2, 2), torch.ones(2, 1, 4000)], dim=1),
    "fewer samples than mixtures": torch.randn(2, 6, 3, generator=seeded()),
    "tiny": 1e-20 * sparse(2, 3),
    "huge": 1e20 * sparse(2, 3),
    "two values": (sparse(2, 3) > 0).double(),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_finite_always(name: str) -> None:
    mixed_GKN = DEGENERATE[name]
    found_GKK = fast_ica(mixed_GKN, generator=seeded())
    assert found_GKK.shape == (2, mixed_GKN.shape[1], mixed_GKN.shape[1])
    assert bool(found_GKK.isfinite().all())
    assert bool((found_GKK @ mixed_GKN.double()).isfinite().all())


def test_what_has_fewer_directions_is_still_unmixed() -> None:
    """Three mixtures of two sources: both are found, and what is left over is nearly nothing."""
    sources_GKN = sparse(5, 2)
    mixed_GKN = torch.randn(5, 3, 2, generator=seeded(3), dtype=torch.float64) @ sources_GKN
    found_GKN = fast_ica(mixed_GKN, generator=seeded()) @ mixed_GKN
    size_GK, order_GK = found_GKN.var(dim=2).sort(dim=1)
    assert size_GK[:, 0].max() < 0.05
    two = found_GKN[torch.arange(5)[:, None], order_GK[:, 1:]]
    assert alike(two, sources_GKN).amax(dim=1).min() > 0.99


def test_whitening_leaves_out_what_is_empty() -> None:
    mixed_GKN = torch.cat([sparse(2, 2), torch.zeros(2, 1, 4000)], dim=1).double()
    centred_GKN = mixed_GKN - mixed_GKN.mean(dim=2, keepdim=True)
    zca_GKK = whitening(centred_GKN)
    white_GKN = zca_GKK @ centred_GKN
    assert torch.allclose(zca_GKK, zca_GKK.mT)
    expected = torch.diag(torch.tensor([1.0, 1.0, 0.0]).double()).expand(2, 3, 3)
    assert torch.allclose(white_GKN @ white_GKN.mT / 4000, expected, atol=1e-9)


@pytest.mark.parametrize(
    "mixed",
    [torch.zeros(3, 50), torch.zeros(1, 3, 1), torch.tensor([[[0.0, 1.0], [float("nan"), 1.0]]])],
)
def test_mixtures_that_are_none(mixed: Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected finite mixtures \(G, K, N\)"):
        fast_ica(mixed, generator=seeded())
