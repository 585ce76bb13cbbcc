"""Principal components of features that come in batches, and the map to a few numbers and back.

Dimension key:  N examples   F values   D components
"""

import pytest
import torch
from torch import Tensor, nn

from eaves.core.state import State
from eaves.errors import ConfigError, DivergedError, StateError
from eaves.privacy.projection import IncrementalPCA, Project, Projection, Restore

decomposition = pytest.importorskip("sklearn.decomposition")


def features(n: int = 600, values: int = 40, seed: int = 0) -> Tensor:
    """Return features with a mean, whose spread falls from direction to direction."""
    generator = torch.Generator().manual_seed(seed)
    spread_F = 5.0 * 0.7 ** torch.arange(values)
    turned_FF = torch.linalg.qr(torch.randn(values, values, generator=generator)).Q
    x_NF: Tensor = torch.randn(n, values, generator=generator) * spread_F @ turned_FF + 3.0
    return x_NF


def fitted(x_NF: Tensor, components: int, size: int = 64) -> IncrementalPCA:
    pca = IncrementalPCA(x_NF.shape[1], components)
    for batch in torch.split(x_NF, size):
        pca.update(batch)
    return pca


@pytest.mark.parametrize("size", [7, 64, 600])
def test_the_components_are_those_of_all_examples_at_once(size: int) -> None:
    x_NF = features()
    pca = fitted(x_NF, 4, size)
    exact = decomposition.PCA(4, svd_solver="full").fit(x_NF.double().numpy())
    turned = torch.from_numpy(exact.components_) @ pca.basis().T
    torch.testing.assert_close(turned.abs(), torch.eye(4).double(), atol=1e-4, rtol=0)
    n = len(x_NF)
    exact_D = torch.from_numpy(exact.explained_variance_) * (n - 1) / n
    torch.testing.assert_close(pca.variances(), exact_D, rtol=1e-5, atol=0)
    torch.testing.assert_close(pca.mean_F, x_NF.double().mean(dim=0))
    total = float(x_NF.double().var(dim=0, correction=0).sum())
    assert pca.variance == pytest.approx(total, rel=1e-9)


def test_they_are_as_near_as_those_of_the_library_that_also_works_in_batches() -> None:
    x_NF = features(values=80)
    theirs = decomposition.IncrementalPCA(3, batch_size=50)
    for batch in torch.split(x_NF, 50):
        theirs.partial_fit(batch.numpy())
    exact = torch.linalg.svd((x_NF - x_NF.mean(dim=0)).double(), full_matrices=False).Vh[:3]

    def lost(basis_DF: Tensor) -> float:
        """Return how much of the exact subspace a basis misses."""
        return 3 - float((basis_DF.double() @ exact.T).square().sum())

    assert lost(fitted(x_NF, 3, 50).basis()) <= lost(torch.from_numpy(theirs.components_)) + 1e-9


def test_with_as_many_components_as_values_nothing_is_lost() -> None:
    x_NF = features(values=12)
    projection = Projection((3, 4), 12)
    projection.fit(fitted(x_NF, 12))
    back = projection.restore(projection.project(x_NF.reshape(-1, 3, 4)))
    assert back.shape == (600, 3, 4)
    torch.testing.assert_close(back.flatten(1), x_NF, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("components", [0, 1, 5])
def test_what_is_sent_has_mean_0_and_a_mean_variance_of_1(components: int) -> None:
    x_NF = features(values=24)
    projection = Projection((24,), components)
    assert float(projection.project(x_NF).abs().sum()) == 0 or not components
    projection.fit(fitted(x_NF, components))
    z_ND = projection.project(x_NF)
    assert z_ND.shape == (600, components or 24)
    torch.testing.assert_close(z_ND.mean(dim=0), torch.zeros(z_ND.shape[1]), atol=1e-4, rtol=0)
    assert float(z_ND.var(dim=0, correction=0).mean()) == pytest.approx(1.0, rel=1e-4)


def test_features_without_a_projection_come_back_as_they_were() -> None:
    x_NF = features(values=24)
    projection = Projection((2, 3, 4), 0)
    projection.fit(fitted(x_NF, 0))
    edge, cloud = Project(projection), Restore(projection)
    sent = edge(x_NF.reshape(-1, 2, 3, 4))
    assert sent.shape == (600, 2, 3, 4)
    torch.testing.assert_close(cloud(sent).flatten(1), x_NF, atol=1e-4, rtol=1e-4)


def test_features_of_few_dimensions_leave_the_other_components_without_variance() -> None:
    line_NF = torch.linspace(-1, 1, 50)[:, None] * torch.ones(50, 6)
    pca = fitted(line_NF, 3, 10)
    basis_DF = pca.basis()
    torch.testing.assert_close(basis_DF @ basis_DF.T, torch.eye(3).double(), atol=1e-9, rtol=0)
    assert float(pca.variances()[1:].sum()) == pytest.approx(0, abs=1e-12)
    constant = fitted(torch.ones(20, 6), 2)
    basis_DF = constant.basis()
    torch.testing.assert_close(basis_DF @ basis_DF.T, torch.eye(2).double(), atol=1e-9, rtol=0)
    projection = Projection((6,), 2)
    projection.fit(constant)
    assert float(projection.project(torch.ones(3, 6)).abs().max()) == 0


def test_memory_does_not_grow_with_the_number_of_examples() -> None:
    pca = IncrementalPCA(50, 2)
    held = []
    for seed in range(40):
        pca.update(features(30, 50, seed))
        held.append(sum(t.nbytes for t in pca.state().tensors.values()))
    assert held[-1] == held[2]  # full after two batches


def test_a_saved_state_goes_on_as_if_nothing_had_been() -> None:
    x_NF = features()
    whole, first, second = (IncrementalPCA(40, 3) for _ in range(3))
    whole.update(x_NF[:300]).update(x_NF[300:])
    first.update(x_NF[:300])
    second.load_state(first.state())
    second.update(x_NF[300:])
    assert torch.equal(whole.basis(), second.basis())
    assert second.variance == whole.variance
    with pytest.raises(StateError, match="other features"):
        IncrementalPCA(41, 3).load_state(first.state())
    with pytest.raises(StateError, match="damaged"):
        second.load_state(State())


def test_the_direction_of_a_component_does_not_depend_on_luck() -> None:
    x_NF = features()
    assert torch.allclose(fitted(x_NF, 3).basis(), fitted(x_NF.flip(0), 3).basis(), atol=1e-4)


def test_the_map_is_part_of_both_halves_on_disk() -> None:
    projection = Projection((4,), 2)
    halves = nn.ModuleDict({"edge": Project(projection), "cloud": Restore(projection)})
    projection.fit(fitted(features(values=4), 2))
    copy = Projection((4,), 2)
    nn.ModuleDict({"edge": Project(copy), "cloud": Restore(copy)}).load_state_dict(
        halves.state_dict()
    )
    x_NF = features(3, 4)
    assert torch.equal(copy.project(x_NF), projection.project(x_NF))


@pytest.mark.parametrize("components", [-1, 9])
def test_more_components_than_values_are_refused(components: int) -> None:
    with pytest.raises(ConfigError, match=f"expected 1 to 8 --components.*got {components}"):
        IncrementalPCA(8, components)


def test_more_components_than_examples_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected 5 training examples or more.*got 4"):
        fitted(features(4, 8), 5).basis()


def test_features_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DivergedError, match="NaN or infinity"):
        IncrementalPCA(3, 1).update(torch.tensor([[0.0, float("nan"), 1.0]]))
