"""Siamese tuning: settings that mean nothing are refused, and say which flag it was."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eaves.errors import ConfigError
from eaves.experiments.config import TrainConfig, parse_config
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.siameseconfig import SiameseConfig

BASE = TrainConfig(method="siamese")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": "some"}, "unknown pairs 'some'; choose from: "),
        ({"margin": -1.0}, "expected --margin from 0 to .*, got -1"),
        ({"pair_weight": float("nan")}, "expected --pair-weight from 0 to .*, got nan"),
        ({"tune_rate": 0.0}, "expected --tune-rate from 1e-06 to .*, got 0"),
        ({"tune_epochs": -1}, "expected --tune-epochs from 0 to .*, got -1"),
        ({"adapt_epochs": -1}, "expected --adapt-epochs from 0 to .*, got -1"),
        ({"components": -1}, "expected --components from 0 to .*, got -1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SiameseConfig(**changes)


def test_each_setting_counts_in_the_hash_and_survives_in_toml() -> None:
    others: dict[str, Any] = {
        "start": Path("runs/before"),
        "pairs": "all",
        "margin": 3.0,
        "pair_weight": 0.5,
        "tune_epochs": 5,
        "tune_rate": 0.5,
        "components": 0,
        "adapt_epochs": 0,
    }
    hashes = {BASE.hash()}
    for name, value in others.items():
        config = replace(BASE, siamese=replace(BASE.siamese, **{name: value}))
        assert parse_config(config.to_toml(), "-") == config
        hashes.add(config.hash())
    assert len(hashes) == 1 + len(others)
    assert set(others) == set(BASE.to_dict()["siamese"]) | {"start"}


def test_siamese_hides_where_it_adds_noise_and_sends_nothing_in_training() -> None:
    assert BASE.tunes
    assert BASE.hides
    assert BASE.in_one_place
    assert not replace(BASE, privacy=PrivacyConfig(noise="none")).hides
    assert not TrainConfig().in_one_place
    assert TrainConfig(method="datamix").in_one_place
    with pytest.raises(ConfigError, match="--send once is for"):
        replace(BASE, send="once")


def test_a_run_without_a_lesson_is_refused() -> None:
    none = SiameseConfig(start=Path("before"), tune_epochs=0, adapt_epochs=0, components=0)
    quiet = PrivacyConfig(noise="none")
    with pytest.raises(ConfigError, match="there is nothing to do"):
        replace(BASE, siamese=none, privacy=quiet)
    replace(BASE, siamese=none)  # there is noise, whose scale has to be found
    replace(BASE, siamese=replace(none, components=2), privacy=quiet)
    replace(BASE, siamese=replace(none, start=None), privacy=quiet)
