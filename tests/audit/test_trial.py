"""What attackers are given alike, and what they are not given.

Dimension key:  N examples   F features
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from eaves.audit.knowledge import Exposure
from eaves.audit.trial import Allowance, Seen, Trial
from eaves.errors import ConfigError

Build = Callable[..., Exposure]


def numbered(n: int) -> tuple[Tensor, Tensor]:
    """Return features whose value is the example's number, and classes by turns."""
    return torch.arange(n, dtype=torch.float32).reshape(n, 1) / 100, torch.arange(n) % 2


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_example_both_teaches_and_is_held_out(exposed: Build) -> None:
    features_NF, private_N = numbered(600)
    trial = Trial(exposed(features_NF, private_N), generator=seeded())
    train, held_out = (
        set((100 * seen.features[:, 0]).round().int().tolist())
        for seen in (trial.train, trial.held_out)
    )
    assert train | held_out == set(range(400, 600))
    assert not train & held_out
    assert len(held_out) == 40
    assert trial.choosing == 24  # the other 16 choose nothing
    for seen, classes in (
        (trial.train, trial.train_private),
        (trial.held_out, trial.held_out_private),
    ):  # each example is with its own class
        assert torch.equal((100 * seen.features[:, 0]).round().long() % 2, classes)


def test_the_victims_are_there_without_their_private_labels(exposed: Build) -> None:
    features_NF, private_N = numbered(600)
    labels_N = torch.arange(600) % 3
    trial = Trial(exposed(features_NF, private_N, labels=labels_N), generator=seeded())
    assert set(vars(trial.victims)) == {"features", "labels"}
    assert torch.equal(trial.victims.features, features_NF[:400])
    assert torch.equal(trial.victims.labels.argmax(dim=1), labels_N[:400])
    assert set(trial.victims.labels.sum(dim=1).tolist()) == {1.0}
    assert trial.shape == (1,)


def test_noise_is_fresh_for_each_use_and_that_of_the_held_out_part_stays(exposed: Build) -> None:
    features_NF, private_N = numbered(600)
    trial = Trial(exposed(features_NF, private_N, scale=0.5), generator=seeded())
    rows, draw = torch.arange(50), seeded(1)
    first, second = (trial.fresh(rows, draw).features for _ in range(2))
    assert not torch.equal(first, second)
    assert float((first - second).std()) == pytest.approx(0.5 * 2**0.5, rel=0.4)
    copies = trial.held_out.features[:48].reshape(2, 24, 1)
    assert not torch.equal(copies[0], copies[1])
    assert torch.equal(trial.held_out_private[:24], trial.held_out_private[24:48])
    assert len(trial.held_out) == 64


def test_the_noise_is_that_of_as_many_releases_as_the_victims_sent(exposed: Build) -> None:
    private_N = torch.arange(900) % 2
    exposure = exposed(torch.zeros(900, 20), private_N, scale=1.0, releases=25)
    trial = Trial(exposure, generator=seeded())
    made = trial.fresh(torch.arange(400), seeded(1))
    for seen in (made, trial.held_out, trial.victims):  # 3,000 values or more: 0.2 +- 0.003
        assert float(seen.features.std()) == pytest.approx(0.2, abs=0.015)


def test_channels_are_scaled_by_what_the_cloud_sees(exposed: Build) -> None:
    features = torch.randn(600, 3, 4, 4, generator=seeded(5))
    features = 2 + features * torch.tensor([0.01, 3.0, 0.0]).reshape(3, 1, 1)
    trial = Trial(exposed(features, torch.arange(600) % 2, scale=0.0), generator=seeded())
    scaled = trial.scaled(trial.held_out.features)
    assert torch.allclose(scaled.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-3)
    assert torch.allclose(scaled[:, :2].std(dim=(0, 2, 3)), torch.ones(2), atol=1e-2)
    assert scaled[:, 2].abs().max() == 0  # constant: neither divided by 0 nor blown up


def test_the_prior_is_that_of_what_teaches(exposed: Build) -> None:
    features_NF, _ = numbered(2400)
    private_N = (torch.arange(2400) % 4 == 0).long()
    trial = Trial(exposed(features_NF, private_N), generator=seeded())
    counts = trial.train_private.bincount()
    assert torch.allclose(trial.prior().exp(), counts / counts.sum())
    assert float(trial.prior().exp()[1]) == pytest.approx(0.25, abs=0.03)


def test_an_attacker_without_examples_is_refused(exposed: Build) -> None:
    features_NF, private_N = numbered(419)
    with pytest.raises(ConfigError, match=r"expected 20 or more examples .* got 19"):
        Trial(exposed(features_NF, private_N), generator=seeded())


@pytest.mark.parametrize(
    "nonsense",
    [{"rounds": 0}, {"time_s": 0.0}, {"time_s": float("nan")}, {"batch_size": 1}],
)
def test_an_allowance_of_nothing_is_refused(nonsense: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="expected 1 or more rounds"):
        Allowance(**nonsense)


def test_as_many_are_seen_as_there_are_features() -> None:
    assert len(Seen(features=torch.zeros(3, 2), labels=torch.zeros(3, 1))) == 3
