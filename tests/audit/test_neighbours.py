"""The nearest-neighbour attacker: what is alike is found, whatever its form.

Dimension key:  N examples   F features
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from eaves.audit.attribute import NEIGHBOURS as NAME
from eaves.audit.attribute import Budget, attack
from eaves.audit.findings import Finding
from eaves.audit.knowledge import Exposure
from eaves.audit.neighbours import NEIGHBOURS, vote
from eaves.audit.trial import Trial

Build = Callable[..., Exposure]
pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def read(exposure: Exposure) -> Finding:
    *_, found = attack(exposure, attackers=[NAME], budget=Budget(), generator=seeded())
    assert isinstance(found, Finding)
    return found


def test_a_checkerboard_is_read(exposed: Build) -> None:
    features_NF = 3 * torch.rand(3000, 2, generator=seeded(1))
    private_N = features_NF.floor().sum(dim=1).long() % 2
    assert read(exposed(features_NF, private_N)).reading.rate.value > 0.9


def test_noise_is_met_by_more_neighbours(exposed: Build) -> None:
    private_N = torch.arange(3000) % 2
    features_NF = (2.0 * private_N - 1).reshape(-1, 1).repeat(1, 3)
    found = read(exposed(features_NF, private_N, scale=1.5))
    assert found.reading.rate.value > 0.8  # 0.876 is that of Bayes; one neighbour gets 0.79


def test_neighbours_of_the_victims_own_label_are_asked(exposed: Build) -> None:
    features_NF = normal(2400, 2, seed=1)
    labels_N = torch.randint(2, (2400,), generator=seeded(2))
    private_N = labels_N ^ (features_NF[:, 0] > 0).long()
    assert read(exposed(features_NF, private_N, labels=labels_N)).reading.rate.value > 0.9
    assert not read(exposed(features_NF, private_N)).reading.beats_chance


def test_few_examples_have_few_neighbours(exposed: Build) -> None:
    private_N = torch.arange(430) % 2
    trial = Trial(exposed(normal(430, 3, seed=1), private_N), generator=seeded())
    rounds = list(vote(trial, generator=seeded()))
    assert len(rounds) == rounds[-1].total == 2 * sum(n <= 24 for n in NEIGHBOURS)
    assert all(bool(at.victims.isfinite().all()) for at in rounds)


def test_wide_features_are_pooled(exposed: Build) -> None:
    private_N = torch.arange(600) % 2
    features = normal(600, 16, 16, 16, seed=1) + private_N.reshape(-1, 1, 1, 1)
    assert read(exposed(features, private_N)).reading.rate.value > 0.95
