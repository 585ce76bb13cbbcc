import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaves.errors import ConfigError
from eaves.experiments.config import TrainConfig, load_config, parse_config, resumed_config

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


@given(
    data=TEXT,
    net=TEXT,
    out=TEXT,
    lr=st.floats(1e-9, 1e3),
    seed=st.integers(0, 2**31 - 1),
    cut=st.none() | TEXT,
    max_steps=st.none() | st.integers(1, 10**9),
)
def test_a_configuration_is_the_same_thing_as_its_toml(**values: Any) -> None:
    config = TrainConfig(**{**values, "out": Path(values["out"])})
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
    }
    hashes = {replace(base, **{name: value}).hash() for name, value in counted.items()}
    assert len(hashes | {base.hash()}) == len(counted) + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "splitt"}, "unknown method 'splitt'; choose from: split, "),
        ({"exit": "cnn"}, "unknown exit 'cnn'; choose from: conv, "),
        ({"send": "twice"}, "unknown send 'twice'; choose from: once, every-epoch"),
        ({"augment": "cropflip"}, "unknown augment 'cropflip'; choose from: crop-flip, "),
        ({"precision": "fp16"}, "unknown precision 'fp16'; choose from: (fp32|bf16), "),
        ({"link": "5g"}, "unknown link '5g'; choose from: (3g|4g), "),
        ({"epochs": 0}, "expected --epochs of 1 or more, got 0"),
        ({"batch_size": -3}, "expected --batch-size of 1 or more, got -3"),
        ({"train_samples": 0}, "expected --train-samples of 1 or more, got 0"),
        ({"max_steps": 0}, "expected --max-steps of 1 or more"),
        ({"bottleneck": 0}, "expected --bottleneck of 1 or more"),
        ({"threads": 1.5}, r"expected --threads of 1 or more, got 1\.5"),
        ({"lr": 0.0}, "expected --lr from 1e-09 to 1000, got 0"),
        ({"lr": float("nan")}, "expected --lr from 1e-09 to 1000, got nan"),
        ({"edge_slowdown": 0.5}, r"expected --edge-slowdown from 1 to 10000, got 0\.5"),
        ({"checkpoint_s": float("inf")}, "expected --checkpoint-s from 0 to 1e.09, got inf"),
        ({"checkpoint_s": -1.0}, "expected --checkpoint-s from 0"),
        ({"seed": -1}, "expected a seed from 0 to 2147483647, got -1"),
        ({"seed": 2**31}, "expected a seed from 0"),
        ({"method": "split", "send": "once"}, "--send once is for hierarchical and full-cloud"),
        ({"copies": 2}, "--copies and --cloud-epochs need --send once"),
        ({"cloud_epochs": 2}, "--copies and --cloud-epochs need --send once"),
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
    assert "cut" not in tomllib.loads(TrainConfig().to_toml())
