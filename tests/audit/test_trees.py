"""Boosted trees: what they look at, and that they answer for every class."""

import sys
from collections.abc import Callable

import pytest
import torch

from eaves.audit.knowledge import Exposure
from eaves.audit.trees import boost, pooled
from eaves.audit.trial import Allowance, Trial
from eaves.errors import ConfigError

Build = Callable[..., Exposure]
FEW = Allowance(rounds=8, time_s=600.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(512,), (8, 8, 8), (3, 2), (2, 16, 16)], ids=str)
def test_up_to_512_values_are_looked_at_one_by_one(shape: tuple[int, ...]) -> None:
    features = torch.randn(4, *shape, generator=seeded())
    assert torch.equal(pooled(features), features.flatten(1))


@pytest.mark.parametrize(
    ("shape", "values"),
    [((32, 16, 16), 512), ((100, 8, 8), 400), ((600, 2, 2), 512), ((513,), 512), ((2, 999, 3), 96)],
    ids=str,
)
def test_more_are_pooled_and_their_mean_stays(shape: tuple[int, ...], values: int) -> None:
    features = torch.full((2, *shape), 3.0)
    flat_NF = pooled(features)
    assert flat_NF.shape == (2, values)
    assert torch.allclose(flat_NF, torch.tensor(3.0))


def test_channels_are_kept_apart_where_there_is_room() -> None:
    features = torch.arange(32.0).reshape(1, 32, 1, 1).expand(1, 32, 16, 16)
    assert torch.equal(pooled(features)[0], torch.arange(32.0).repeat_interleave(16))


def test_they_find_a_product_of_values(exposed: Build) -> None:
    features_NF = torch.randn(1400, 3, generator=seeded())
    private_N = (features_NF[:, 0] * features_NF[:, 1] > 0).long()
    trial = Trial(exposed(features_NF, private_N), generator=seeded())
    found = list(boost(trial, FEW, generator=seeded()))
    assert [(at.done, at.total) for at in found] == [(2, 8), (4, 8), (6, 8), (8, 8)]
    right = (found[-1].victims.argmax(dim=1) == private_N[:400]).float().mean()
    assert right > 0.9
    assert torch.allclose(found[-1].victims.exp().sum(dim=1), torch.ones(400))


def test_the_seed_is_the_generators(exposed: Build) -> None:
    features_NF = torch.randn(800, 3, generator=seeded())
    private_N = (features_NF[:, 0] > 0).long()
    trial = Trial(exposed(features_NF, private_N, scale=1.0), generator=seeded())
    first, again, other = (
        list(boost(trial, Allowance(rounds=1, time_s=600.0), generator=seeded(seed)))[-1].victims
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)  # the noise that they learn from is another


def test_a_class_that_nothing_teaches_is_never_the_answer(exposed: Build) -> None:
    """There are 5 classes by number, and nobody of 1 and 3."""
    private_N = 2 * (torch.arange(700) % 3)
    trial = Trial(exposed(private_N.float().reshape(-1, 1), private_N), generator=seeded())
    at = list(boost(trial, Allowance(rounds=4, time_s=600.0), generator=seeded()))[-1]
    assert at.victims.shape == (400, 5)
    assert torch.equal(at.victims.argmax(dim=1), private_N[:400])
    assert at.victims[:, [1, 3]].max() < -40


def test_without_scikit_learn_they_say_what_to_install(
    exposed: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    private_N = torch.arange(500) % 2
    trial = Trial(exposed(private_N.float().reshape(-1, 1), private_N), generator=seeded())
    with pytest.raises(ConfigError, match=r'pip install "eaves\[lab\]", or leave .* out'):
        next(boost(trial, FEW, generator=seeded()))


def test_they_end_with_their_time(exposed: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = iter(range(100))
    monkeypatch.setattr("eaves.audit.pace.perf_counter", lambda: float(next(now_s)))
    private_N = torch.arange(500) % 2
    trial = Trial(exposed(private_N.float().reshape(-1, 1), private_N), generator=seeded())
    found = list(boost(trial, Allowance(rounds=8, time_s=2.5), generator=seeded()))
    assert [at.done for at in found] == [2, 4]
