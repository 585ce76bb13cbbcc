"""Settings of mixing: what the command line offers is what there is."""

from pathlib import Path

import pytest

from eaves.errors import ConfigError
from eaves.experiments.config import TrainConfig, parse_config
from eaves.experiments.mixingconfig import LAWS, MixingConfig
from eaves.experiments.run import run
from eaves.privacy import mixing
from eaves.privacy.mixing import MixingLaw


def test_every_law_is_offered() -> None:
    assert tuple(mixing.LAWS) == LAWS


def test_what_is_set_by_default_is_a_law() -> None:
    config, law = MixingConfig(), MixingLaw()
    assert (config.law, config.group) == (law.name, law.group)
    assert (config.max_share, config.max_condition) == (law.max_share, law.max_condition)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"law": "secret"}, "unknown law 'secret'; choose from: orthogonal, convex, affine"),
        (
            {"group": 1},
            "expected --group of 2 or more, got 1: one input alone is mixed with nothing",
        ),
        ({"max_share": 1.1}, "expected --max-share from 0 to 1, got 1.1"),
        ({"max_condition": 0.5}, "expected --max-condition from 1 to 1e+06, got 0.5"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        MixingConfig(**settings)  # type: ignore[arg-type]
    assert words in str(caught.value)


@pytest.mark.parametrize("law", LAWS)
def test_pairs_are_refused_unless_hardened_or_asked_for(law: str) -> None:
    with pytest.raises(
        ConfigError, match=r"mixtures of pairs keep no secret: .* --allow-guessable"
    ):
        MixingConfig(group=2, law=law).expect_secret()
    MixingConfig(group=2, law=law, hardened=True).expect_secret()
    MixingConfig(group=2, law=law, allow_guessable=True).expect_secret()
    MixingConfig(group=3, law=law).expect_secret()


def test_a_run_on_pairs_is_refused_before_it_begins(tmp_path: Path) -> None:
    config = TrainConfig(method="datamix", mixing=MixingConfig(group=2), out=tmp_path / "run")
    with pytest.raises(ConfigError, match="mixtures of pairs keep no secret"):
        next(iter(run(config)))
    assert not config.out.exists()


def test_it_is_a_table_of_its_own() -> None:
    config = parse_config('method = "datamix"\n[mixing]\ngroup = 4\nshuffle = true\n', "-")
    assert config.mixing == MixingConfig(group=4, shuffle=True)
    assert parse_config(config.to_toml(), "-") == config
    assert TrainConfig().hash() != TrainConfig(mixing=MixingConfig(group=3)).hash()
