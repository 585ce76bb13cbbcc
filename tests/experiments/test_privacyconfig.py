"""What is hidden: settings that mean nothing are refused, and say which flag it was."""

from dataclasses import replace
from typing import Any

import pytest

from eaves.errors import ConfigError
from eaves.experiments.config import TrainConfig, parse_config
from eaves.experiments.privacyconfig import AIMS, BOUNDS, LAWS, UNITS, PrivacyConfig
from eaves.methods import adversaries
from eaves.privacy import accounting, bounds
from eaves.privacy.bounds import bound_named
from eaves.privacy.mechanisms import Mechanism


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bound": "thah"}, "unknown bound 'thah'; choose from: tanh, auto"),
        ({"noise": "gausian"}, "unknown noise 'gausian'; choose from: gaussian, "),
        ({"aim": "uniforn"}, "unknown aim 'uniforn'; choose from: uniform, "),
        ({"epsilon_unit": "image"}, "unknown epsilon-unit 'image'; choose from: "),
        ({"adversaries": -1}, "expected --adversaries from 0 to 1000, got -1"),
        ({"adversary_steps": 0}, "expected --adversary-steps from 1 to 1000, got 0"),
        ({"restarts": -1}, "expected --restarts from 0 to 1000, got -1"),
        ({"ramp": 1.5}, r"expected --ramp from 0 to 1, got 1\.5"),
        ({"noise_scale": -0.5}, r"expected --noise-scale from 0 to 1e\+06, got -0\.5"),
        ({"noise_scale": float("nan")}, "expected --noise-scale from 0 to .*, got nan"),
        ({"weight": float("inf")}, "expected --weight from 0 to .*, got inf"),
        ({"bound_limit": 0.0}, "expected --bound-limit from 1e-06 to .*, got 0"),
        ({"epsilon": 0.0}, "expected --epsilon from 1e-06 to .*, got 0"),
        ({"budget": -1.0}, "expected --budget from 1e-06 to .*, got -1"),
        ({"delta": 0.0}, r"expected --delta from 1e-300 to 0\.5, got 0"),
        ({"delta": 0.6}, r"expected --delta from 1e-300 to 0\.5, got 0\.6"),
        ({"epsilon": 1.0, "noise": "none"}, "--epsilon needs noise: choose --noise gaussian or"),
        ({"private": "Male, Young,Male"}, "--private names the same attribute twice: Male, Y"),
    ],
)
def test_nonsense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PrivacyConfig(**changes)


def test_the_least_and_the_most_are_allowed() -> None:
    least = {"adversaries": 0, "adversary_steps": 1, "restarts": 0, "ramp": 0, "weight": 0}
    PrivacyConfig(**least, noise_scale=0, epsilon=1e-6, budget=1e-6, delta=1e-300)  # type: ignore[arg-type]
    PrivacyConfig(ramp=1, weight=1e6, noise_scale=1e6, epsilon=1e6, budget=1e6, delta=0.5)


@pytest.mark.parametrize(
    ("private", "attributes"),
    [("", ()), (" , ", ()), ("Male", ("Male",)), (" Male ,Young,", ("Male", "Young"))],
)
def test_attributes_are_what_stands_between_commas(
    private: str, attributes: tuple[str, ...]
) -> None:
    assert PrivacyConfig(private=private).attributes == attributes


def test_every_name_is_known_where_it_is_used() -> None:
    """The tables are written twice, since this one imports no torch."""
    assert set(AIMS) == set(adversaries.AIMS)
    assert set(UNITS) == set(accounting.UNITS)
    assert {"auto", *bounds.BOUNDS} == set(BOUNDS)
    for bound in bounds.BOUNDS:
        for law in LAWS:
            Mechanism(bound=bound_named(bound, 1.0), law=law, scale=float(law != "none"))
    with pytest.raises(ConfigError, match="unknown"):
        bound_named("l3", 1.0)


def test_each_setting_counts_in_the_hash_and_survives_in_toml() -> None:
    base = TrainConfig(method="priphit", privacy=PrivacyConfig(private="Male"))
    others: dict[str, Any] = {
        "private": "Young",
        "bound": "l2",
        "bound_limit": 2.0,
        "noise": "laplace",
        "noise_scale": 0.5,
        "epsilon": 3.0,
        "epsilon_unit": "element",
        "delta": 1e-6,
        "budget": 9.0,
        "weight": 2.5,
        "aim": "entropy",
        "adversaries": 3,
        "adversary_steps": 2,
        "ramp": 0.25,
        "restarts": 1,
        "keep_training": True,
    }
    hashes = {base.hash()}
    for name, value in others.items():
        privacy = replace(base.privacy, **{name: value})
        config = replace(base, privacy=privacy, send="every-epoch")
        assert parse_config(config.to_toml(), "-") == config
        hashes.add(config.hash())
    assert len(hashes) == 1 + len(others)
    unset = {"bound_limit", "epsilon", "budget"}
    assert set(others) == set(base.to_dict()["privacy"]) | unset
