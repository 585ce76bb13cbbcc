"""From settings to noise: whose key it has, how much of it there is, and what is proven of it."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from eaves.core.methods import PROTECTING
from eaves.errors import BudgetExceeded
from eaves.experiments.build import build_job
from eaves.experiments.config import TrainConfig
from eaves.experiments.hiding import hiding_for, privacy_facts, releases
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.run import run
from eaves.methods.setup import Hiding

SHAPE = (2, 3, 3)
CLASSES = {"high": ("low", "high"), "kind": ("a", "b", "c")}
BASE = TrainConfig(method="priphit", privacy=PrivacyConfig(private="high,kind"), seed=5)


def hiding(config: TrainConfig = BASE, *, secret: bool = False, edge_steps: int = 100) -> Hiding:
    return hiding_for(config, SHAPE, CLASSES, edge_steps=edge_steps, secret=secret)


def of(**privacy: Any) -> TrainConfig:
    return replace(BASE, privacy=replace(BASE.privacy, **privacy))


def noise_of(found: Hiding) -> list[Tensor]:
    """Return what both sources draw at first: in training, and in inference."""
    return [found.source.normal((64,)), found.answer_source.normal((64,))]


# Whose key


def test_no_two_secret_builds_share_noise() -> None:
    drawn = [noise for _ in range(3) for noise in noise_of(hiding(secret=True))]
    seeded = noise_of(hiding())
    for one, other in combinations([*drawn, *seeded], 2):
        assert not set(one.tolist()) & set(other.tolist())


def test_a_seed_repeats_its_noise_and_no_other_seed_does() -> None:
    first, again = noise_of(hiding()), noise_of(hiding())
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    others = [noise for seed in (0, 1, 6) for noise in noise_of(hiding(replace(BASE, seed=seed)))]
    for one, other in combinations([*first, *others], 2):
        assert not set(one.tolist()) & set(other.tolist())


def test_the_largest_seed_has_noise_of_its_own_in_inference() -> None:
    largest = noise_of(hiding(replace(BASE, seed=2**31 - 1)))
    least = noise_of(hiding(replace(BASE, seed=0)))
    for one, other in combinations([*largest, *least], 2):
        assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("secret", "words"),
    [(True, "a secret key of this device"), (False, "the seed takes the noise")],
)
def test_a_record_says_whose_key_it_was(secret: bool, words: str) -> None:
    facts = privacy_facts(BASE, hiding(secret=secret), SHAPE)
    assert words in facts["source"]
    assert any(facts["source"] in line for line in facts["statement"])


def test_a_job_is_secret_where_what_is_sent_leaves_the_machine() -> None:
    small = replace(
        BASE, data="digits:parity", privacy=PrivacyConfig(private="high"), train_samples=64
    )
    facts = [build_job(small, secret=secret).privacy for secret in (True, False)]
    assert [fact is not None and "secret" in fact["source"] for fact in facts] == [True, False]


# How much noise


@pytest.mark.parametrize("unit", ["tensor", "element"])
@pytest.mark.parametrize(
    ("law", "bound"), [("gaussian", "tanh"), ("gaussian", "l2"), ("laplace", "l1")]
)
@pytest.mark.parametrize(
    "sends",
    [{}, {"copies": 3}, {"send": "every-epoch"}, {"send": "every-epoch", "cloud_epochs": 4}],
)
def test_an_epsilon_is_what_its_scale_comes_to(
    law: str, bound: str, unit: str, sends: dict[str, Any]
) -> None:
    asked = of(noise=law, bound=bound, epsilon=3.0, epsilon_unit=unit, delta=1e-5)
    config = replace(asked, **sends)
    found = hiding(config)
    facts = privacy_facts(config, found, SHAPE)
    total = facts["epsilon"][unit]["total"]
    # Never above; below by the 1e-7 that a scale may be too large, and an accountant's rounding.
    assert 3.0 * (1 - 1e-3) < total <= 3.0
    one = facts["epsilon"][unit]["per_release"]
    assert (one < total) == (facts["releases"] > 1)
    assert facts["scale"] == found.mechanism.scale > 0
    assert facts["epsilon"]["element"]["total"] <= facts["epsilon"]["tensor"]["total"]


def test_one_release_of_laplace_noise_by_hand() -> None:
    """b = 2 C1 / epsilon for a payload; one value of an L1 ball moves as far: 2 C1."""
    found = hiding(of(noise="laplace", bound="l1", bound_limit=2.0, epsilon=8.0))
    assert found.mechanism.scale == pytest.approx(2 * 2.0 / 8.0)
    given = of(noise="laplace", bound="clip", bound_limit=2.0, noise_scale=0.5)
    facts = privacy_facts(given, hiding(given), SHAPE)
    assert facts["epsilon"]["element"]["total"] == pytest.approx(4.0 / 0.5)
    assert facts["epsilon"]["tensor"]["total"] == pytest.approx(18 * 4.0 / 0.5)
    assert (facts["values"], facts["scale"], facts["noise"]) == (18, 0.5, "laplace")


def test_without_noise_nothing_is_proven_and_the_record_is_json() -> None:
    for privacy in ({"noise": "none"}, {"noise_scale": 0.0}):
        config = of(**privacy)
        found = hiding(config)
        z = torch.randn(4, *SHAPE)
        assert torch.equal(found.mechanism.release(z, found.source), z.tanh())
        facts = privacy_facts(config, found, SHAPE)
        assert facts["epsilon"]["tensor"] == {"per_release": None, "total": None}
        json.dumps(facts, allow_nan=False)


def test_what_is_released_is_noised_by_that_scale() -> None:
    """Standard deviations of 18,000 values: +-2 % is 3.8 standard errors, once in 7,000 draws."""
    found = hiding(of(epsilon=20.0))
    z = torch.zeros(1000, *SHAPE)
    sent = found.mechanism.release(z, found.source)
    assert float(sent.std()) == pytest.approx(found.mechanism.scale, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 1),
        ({"send": "once"}, 1),
        ({"copies": 4}, 4),
        ({"copies": 4, "cloud_epochs": 7}, 4),
        ({"cloud_epochs": 7}, 1),
        ({"send": "every-epoch"}, 10),
        ({"send": "every-epoch", "epochs": 3}, 3),
        ({"send": "every-epoch", "epochs": 3, "cloud_epochs": 7}, 7),
    ],
)
def test_how_often_an_example_travels(changes: dict[str, Any], expected: int) -> None:
    config = replace(BASE, **changes)
    assert releases(config) == expected
    assert privacy_facts(config, hiding(config), SHAPE)["releases"] == expected


# The budget


@pytest.mark.parametrize("unit", ["tensor", "element"])
def test_a_budget_is_kept_to_the_last_digit(unit: str) -> None:
    config = replace(of(epsilon_unit=unit, noise_scale=4.0), send="every-epoch")
    total = privacy_facts(config, hiding(config), SHAPE)["epsilon"][unit]["total"]
    with_budget = replace(config.privacy, budget=total)
    assert hiding(replace(config, privacy=with_budget)).mechanism.scale == 4.0
    short = replace(config.privacy, budget=total * 0.999)
    with pytest.raises(BudgetExceeded, match=unit):
        hiding(replace(config, privacy=short))
    once = replace(config, send="once", privacy=short)  # a tenth of the releases
    assert hiding(once).mechanism.scale == 4.0


def test_nothing_is_sent_where_the_budget_is_too_small(tmp_path: Path) -> None:
    privacy = PrivacyConfig(private="high", budget=0.5)
    config = TrainConfig(
        method="priphit",
        data="digits:parity",
        train_samples=64,
        privacy=privacy,
        out=tmp_path / "o",
    )
    events: Iterator[object] = run(config)
    with pytest.raises(BudgetExceeded):
        next(events)
    assert not (tmp_path / "o").exists()  # no store, no checkpoint, no bundle


def test_without_noise_no_budget_is_kept() -> None:
    with pytest.raises(BudgetExceeded):
        hiding(of(noise="none", budget=1e6))


# The rest of the settings


def test_shares_of_the_training_become_steps() -> None:
    privacy: dict[str, Any] = {"ramp": 0.25, "adversary_steps": 3, "restarts": 2, "weight": 2.5}
    found = hiding(of(**privacy, aim="entropy", adversaries=4), edge_steps=80)
    assert (found.ramp_steps, found.adversary_steps, found.restart_steps) == (20, 3, 80)
    assert (found.weight, found.loss, found.adversaries) == (2.5, "entropy", 4)
    assert dict(found.attributes) == {"high": 2, "kind": 3}
    assert not found.keeps_training
    assert hiding().restart_steps == 0


@pytest.mark.parametrize("method", PROTECTING)
def test_every_method_that_hides_is_built_with_it(method: str) -> None:
    privacy = PrivacyConfig(private="high", noise_scale=0.5)
    base = TrainConfig(data="digits:parity", train_samples=64, bottleneck="2x2x2", privacy=privacy)
    facts = build_job(replace(base, method=method)).privacy
    assert facts is not None
    assert (facts["values"], facts["scale"], facts["private"]) == (8, 0.5, ["high"])
    assert math.isfinite(facts["epsilon"]["tensor"]["total"])
