import json
import tomllib
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaves.core.methods import PROTECTING
from eaves.errors import ConfigError
from eaves.experiments.auditconfig import AuditConfig
from eaves.experiments.config import (
    TrainConfig,
    load_config,
    located,
    parse_config,
    resumed_config,
    without_places,
)
from eaves.experiments.netconfig import AgentConfig, InferConfig, ServeConfig
from eaves.experiments.planconfig import ProfileConfig
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.siameseconfig import SiameseConfig

HIDES: dict[str, Any] = {"method": "priphit", "privacy": PrivacyConfig(private="high")}
KEEPS = PrivacyConfig(private="high", keep_training=True)
TEXT = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1)


def test_every_field_has_a_line_of_help() -> None:
    source = Path(TrainConfig.__module__.replace(".", "/") + ".py").name
    import eaves.experiments.config as module

    assert module.__file__ is not None
    text = Path(module.__file__).read_text(encoding="utf-8")
    assert source == "config.py"
    for field in fields(TrainConfig):
        after = text.split(f"\n    {field.name}: ", 1)[1].split("\n", 2)[1]
        assert after.startswith('    """'), field.name


def test_every_privacy_setting_has_a_line_of_help() -> None:
    import eaves.experiments.privacyconfig as module

    text = Path(str(module.__file__)).read_text(encoding="utf-8")
    for field in fields(PrivacyConfig):
        after = text.split(f"\n    {field.name}: ", 1)[1].split("\n", 2)[1]
        assert after.startswith('    """'), field.name


@given(
    data=TEXT,
    net=TEXT,
    out=TEXT,
    lr=st.floats(1e-9, 1e3),
    seed=st.integers(0, 2**31 - 1),
    cut=st.none() | TEXT,
    max_steps=st.none() | st.integers(1, 10**9),
    bottleneck=st.none() | st.integers(1, 4096) | st.just("2x4x4"),
    private=TEXT.filter(lambda name: name.count(",") == 0),
    epsilon=st.none() | st.floats(1e-6, 1e6),
    keep=st.booleans(),
)
def test_a_configuration_is_the_same_thing_as_its_toml(**values: Any) -> None:
    private, epsilon, keep = (values.pop(name) for name in ("private", "epsilon", "keep"))
    privacy = PrivacyConfig(private=f"Male,{private}x", epsilon=epsilon, keep_training=keep)
    ways = {"method": "priphit", "send": "every-epoch", "privacy": privacy}
    config = TrainConfig(**{**values, **ways, "out": Path(values["out"])})
    assert parse_config(config.to_toml(), "-") == config
    assert parse_config(config.to_toml(), "-").hash() == config.hash()


def test_the_hash_counts_what_the_result_depends_on_and_nothing_else() -> None:
    base = TrainConfig()
    apart: dict[str, Any] = {
        "data_root": Path("x"),
        "out": Path("y"),
        "checkpoint_s": 1.0,
        "compare": "split",
    }
    assert replace(base, **apart).hash() == base.hash()
    counted: dict[str, Any] = {
        "method": "split",
        "seed": 1,
        "codec": "int4",
        "link": "3g",
        "lr": 0.2,
        "epochs": 11,
        "cut": "conv1",
        "train_samples": 100,
        "edge_slowdown": 2.0,
        "optimiser": "adam",
        "bottleneck": "2x4x4",
        "privacy": PrivacyConfig(noise_scale=0.5),
    }
    hashes = {replace(base, **{name: value}).hash() for name, value in counted.items()}
    assert len(hashes | {base.hash()}) == len(counted) + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "splitt"}, "unknown method 'splitt'; choose from: split, "),
        ({"exit": "cnn"}, "unknown exit 'cnn'; choose from: conv, "),
        ({"optimiser": "adma"}, "unknown optimiser 'adma'; choose from: adam, "),
        ({"send": "twice"}, "unknown send 'twice'; choose from: once, "),
        ({"augment": "cropflip"}, "unknown augment 'cropflip'; choose from: crop-flip, "),
        ({"precision": "fp16"}, "unknown precision 'fp16'; choose from: (fp32|bf16), "),
        ({"link": "5g"}, "unknown link '5g'; choose from: (3g|4g), "),
        ({"epochs": 0}, "expected --epochs of 1 or more, got 0"),
        ({"batch_size": -3}, "expected --batch-size of 1 or more, got -3"),
        ({"train_samples": 0}, "expected --train-samples of 1 or more, got 0"),
        ({"max_steps": 0}, "expected --max-steps of 1 or more"),
        ({"bottleneck": 0}, "expected a --bottleneck of 1 channel or more, got 0"),
        ({"bottleneck": "0x4x4"}, "expected a --bottleneck of 1 channel or more, got 0x4x4"),
        ({"bottleneck": "-1"}, "expected a --bottleneck of 1 channel or more, got -1"),
        ({"bottleneck": "2x4"}, "as in 8 or 2x4x4, got '2x4'"),
        ({"bottleneck": "2x0x4"}, "as in 8 or 2x4x4, got '2x0x4'"),
        ({"bottleneck": "wide"}, "as in 8 or 2x4x4, got 'wide'"),
        ({"bottleneck": 10**9}, "got 1000000000 .channels: at most 100,000"),
        ({"threads": 1_000_000}, "expected --threads from 1 to 1,024, got 1,000,000"),
        ({"threads": 1.5}, r"expected --threads of 1 or more, got 1\.5"),
        ({"lr": 0.0}, "expected --lr from 1e-09 to 1000, got 0"),
        ({"lr": float("nan")}, "expected --lr from 1e-09 to 1000, got nan"),
        ({"feature_augment": "flip"}, "--feature-augment needs --send once, and a method that"),
        (
            {"feature_augment": "flip", "send": "once", "method": "full-cloud"},
            "full-cloud augments the inputs themselves",
        ),
        ({"feature_augment": "flop", "send": "once"}, "unknown feature-augment 'flop'; choose"),
        ({"edge_slowdown": 0.5}, r"expected --edge-slowdown from 1 to 10000, got 0\.5"),
        ({"checkpoint_s": float("inf")}, "expected --checkpoint-s from 0 to 1e.09, got inf"),
        ({"checkpoint_s": -1.0}, "expected --checkpoint-s from 0"),
        ({"seed": -1}, "expected a seed from 0 to 2147483647, got -1"),
        ({"seed": 2**31}, "expected a seed from 0"),
        (
            {"method": "split", "send": "once"},
            "--send once is for hierarchical, full-cloud, priphit, .*; split sends nothing or",
        ),
        ({"method": "full-edge", "send": "once"}, "--send once is for .*; full-edge sends nothing"),
        ({"copies": 2}, "--copies needs --send once"),
        ({"cloud_epochs": 2}, "--cloud-epochs needs --send once"),
        ({**HIDES, "send": "every-epoch", "copies": 2}, "--copies needs --send once"),
        ({**HIDES, "copies": 11}, "11 copies need as many epochs of the cloud or more, got 10"),
        ({"method": "priphit"}, "priphit hides private attributes: name .* --private Male"),
        ({"method": "nopeek", "privacy": PrivacyConfig(private=" ,")}, "nopeek hides private"),
        ({**HIDES, "privacy": KEEPS}, "--keep-training is for --send every-epoch and priphit, "),
        ({"privacy": KEEPS}, "--keep-training is for --send every-epoch and priphit, "),
        ({"send": "once", "copies": 11}, "11 copies need as many epochs"),
    ],
)
def test_nonsense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "unknown key in run.toml 'epoch'; choose from: epochs, "),
        ("epochs = '3'", "run.toml: expected epochs to be int, got '3'"),
        ("epochs = true", "run.toml: expected epochs to be int, got True"),
        ("epochs = 3.5", r"run.toml: expected epochs to be int, got 3\.5"),
        ("lr = 'fast'", "run.toml: expected lr to be float, got 'fast'"),
        ("cut = 3", "run.toml: expected cut to be str, got 3"),
        ("[train]\nepochs = 3", "unknown key in run.toml 'train'"),
        ("epochs = ", "run.toml is not TOML"),
        ("method = 'splitt'", "unknown method 'splitt'"),
        ("bottleneck = 2.5", r"run.toml: expected bottleneck to be int or str, got 2\.5"),
        ("privacy = 3", r"run.toml, \[privacy\]: expected settings by their names, got 3"),
        ("[privacy]\nepsilom = 3", r"unknown key in run.toml, \[privacy\] 'epsilom'; .* epsilon, "),
        ("[privacy]\nweight = 'much'", r"run.toml, \[privacy\]: expected weight to be float, got"),
        ("[privacy]\nnoise = 'none'\nepsilon = 1", "--epsilon needs noise"),
    ],
)
def test_toml_is_read_strictly(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(text, "run.toml")


def test_whole_numbers_are_numbers_and_strings_are_paths() -> None:
    config = parse_config("lr = 1\nout = 'here'\ndata_root = 'there'", "-")
    assert (config.lr, config.out, config.data_root) == (1.0, Path("here"), Path("there"))
    assert isinstance(config.lr, float)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*none\.toml"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"net = '\xff'")
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*latin\.toml"):
        load_config(tmp_path / "latin.toml")


def test_a_run_is_resumed_from_where_it_lies_now(tmp_path: Path) -> None:
    written = TrainConfig(epochs=3, out=Path("elsewhere"))
    (tmp_path / "config.toml").write_text(written.to_toml(), encoding="utf-8")
    assert resumed_config(tmp_path) == replace(written, out=tmp_path)
    with pytest.raises(ConfigError, match=r"there is no run to resume in .*empty"):
        resumed_config(tmp_path / "empty")


def test_what_is_not_set_is_not_written() -> None:
    written = tomllib.loads(TrainConfig().to_toml())
    assert "cut" not in written
    assert "epsilon" not in written["privacy"]


@pytest.mark.parametrize("method", PROTECTING)
def test_what_hides_sends_once_unless_told_otherwise(method: str) -> None:
    hides = replace(TrainConfig(**HIDES), method=method)
    assert hides.sends_once
    assert not replace(hides, send="every-epoch").sends_once
    assert replace(hides, copies=2, cloud_epochs=3).copies == 2
    apart = replace(hides, send="every-epoch", cloud_epochs=3, privacy=KEEPS)
    assert apart.cloud_epochs == 3
    assert not TrainConfig().sends_once
    assert TrainConfig(send="once").sends_once


def test_a_table_of_a_file_is_not_lost_beside_other_keys() -> None:
    config = parse_config("[privacy]\nprivate = 'Male, Young'\nepsilon = 8\n", "-")
    assert config.privacy == PrivacyConfig(private="Male, Young", epsilon=8.0)
    assert config.privacy.attributes == ("Male", "Young")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (TrainConfig, "out"),
        (TrainConfig, "data_root"),
        (SiameseConfig, "start"),
        (ServeConfig, "out"),
        (ServeConfig, "credentials"),
        (AgentConfig, "out"),
        (InferConfig, "credentials"),
        (AuditConfig, "out"),
        (ProfileConfig, "data_root"),
    ],
)
def test_a_path_may_be_given_as_a_string(make: Callable[..., Any], name: str) -> None:
    assert getattr(make(**{name: "r"}), name) == Path("r")
    assert make(**{name: "r"}) == make(**{name: Path("r")})
    for wrong in ("", 3, b"r", "a\0b"):
        with pytest.raises(ConfigError, match=f"expected --{name.replace('_', '-')} to be a path"):
            make(**{name: wrong})


def test_what_a_setting_points_to_is_not_part_of_the_hash() -> None:
    one, other = TrainConfig(net="a/mine.py:Net", cut="x"), TrainConfig(net="/b/m.py:Net", cut="x")
    assert one.hash() == other.hash() != replace(one, net="a/mine.py:Other").hash()
    started = [replace(one, siamese=SiameseConfig(start=Path(name))) for name in "ab"]
    assert started[0].hash() == started[1].hash() != one.hash()


def test_located_settings_hold_from_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = TrainConfig(
        net="../a/mine.py:Net",
        cut="x",
        data_root=Path("data"),
        out=Path("r"),
        siamese=SiameseConfig(start=Path("s")),
    )
    found = located(config)
    assert found.net == f"{tmp_path.parent}/a/mine.py:Net"
    assert (found.data_root, found.out) == (tmp_path / "data", tmp_path / "r")
    assert found.siamese.start == tmp_path / "s"
    assert located(found) == found
    assert located(TrainConfig(net="timm:x", cut="y")).net == "timm:x"
    assert str(tmp_path) not in json.dumps(without_places(found.to_dict()))
