"""Settings from TOML and the environment: what is read, what is refused, and what counts more."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaves.errors import ConfigError
from eaves.experiments.auditconfig import AuditConfig
from eaves.experiments.config import TrainConfig
from eaves.experiments.netconfig import InferConfig, ServeConfig
from eaves.experiments.planconfig import PlanConfig, ProfileConfig
from eaves.experiments.settings import (
    from_environment,
    from_toml,
    from_values,
    read_settings,
    variable,
)


@final
@dataclass(frozen=True, kw_only=True)
class Pan:
    """One field of each type that settings may have."""

    size: int = 1
    lid: bool = False
    heat: float = 0.5
    name: str = "small"
    shelf: Path = Path("here")
    limit: float | None = 2.0
    spare: int | None = None
    label: str | None = "a"
    recipe: Path | None = Path("r")

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"expected --size of 1 or more, got {self.size}")


PREFIX = "PAN_"

# TOML


def test_toml_of_every_type() -> None:
    text = """
    size = 2
    lid = true
    heat = 1
    name = "big"
    shelf = "there"
    limit = 3
    spare = 4
    label = "b"
    recipe = "s"
    """
    read = from_toml(Pan, text, "-")
    assert read == Pan(
        size=2,
        lid=True,
        heat=1.0,
        name="big",
        shelf=Path("there"),
        limit=3.0,
        spare=4,
        label="b",
        recipe=Path("s"),
    )
    assert isinstance(read.heat, float)
    assert isinstance(read.limit, float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("siz = 2", "unknown key in pan.toml 'siz'; choose from: size, "),
        ("[pan]\nsize = 2", "unknown key in pan.toml 'pan'; choose from: "),
        ("size = 2.0", "pan.toml: expected size to be int, got 2.0"),
        ("size = true", "pan.toml: expected size to be int, got True"),
        ("heat = false", "pan.toml: expected heat to be float, got False"),
        ("lid = 1", "pan.toml: expected lid to be true or false, got 1"),
        ("lid = 'true'", "pan.toml: expected lid to be true or false, got 'true'"),
        ("shelf = 1", "pan.toml: expected shelf to be a path, got 1"),
        ("limit = 'no'", "pan.toml: expected limit to be float, got 'no'"),
        ("name = ['a']", "pan.toml: expected name to be str, got ['a']"),
        ("size", "pan.toml is not TOML: "),
        ("size = 1\nsize = 2", "pan.toml is not TOML: "),
        ("size = 0", "expected --size of 1 or more, got 0"),
    ],
)
def test_toml_is_read_strictly(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        from_toml(Pan, text, "pan.toml")
    assert str(refused.value).startswith(message)


def test_values_of_json_are_read_as_strictly_and_may_be_null() -> None:
    values = {"size": 3, "spare": None, "limit": None, "shelf": "x"}
    assert from_values(Pan, values, "-") == Pan(size=3, limit=None, shelf=Path("x"))
    for wrong, message in [
        ({"size": None}, "m.json: expected size to be int, got None"),
        ({"siz": 1}, "unknown key in m.json 'siz'"),
        ([1], r"m.json: expected settings by their names, got \[1\]"),
        (None, "m.json: expected settings by their names, got None"),
    ]:
        with pytest.raises(ConfigError, match=message):
            from_values(Pan, wrong, "m.json")


# The environment


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("size", "12", 12),
        ("heat", "1e-3", 0.001),
        ("heat", "7", 7.0),
        ("name", "", ""),
        ("name", "1", "1"),
        ("shelf", "/var/lib/x", Path("/var/lib/x")),
        ("limit", "9", 9.0),
        ("limit", "", None),
        ("spare", "3", 3),
        ("spare", "", None),
        ("label", "true", "true"),
        ("label", "", None),
        ("recipe", "", None),
        ("recipe", "x", Path("x")),
        *[("lid", word, True) for word in ("true", "True", "YES", "on", "1")],
        *[("lid", word, False) for word in ("false", "FALSE", "no", "Off", "0")],
    ],
)
def test_a_variable_sets_one_field_as_its_type(name: str, text: str, value: Any) -> None:
    base = Pan(size=5, lid=not value) if name == "lid" else Pan(size=5)
    found = from_environment(base, PREFIX, {variable(PREFIX, name): text})
    assert getattr(found, name) == value
    assert type(getattr(found, name)) is type(value)
    others = [field.name for field in fields(Pan) if field.name != name]
    assert [getattr(found, other) for other in others] == [getattr(base, o) for o in others]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"PAN_SIZ": "2"}, "unknown environment variable 'PAN_SIZ'; choose from: PAN_SIZE, "),
        ({"PAN_size": "2"}, "unknown environment variable 'PAN_size'; choose from: PAN_SIZE, "),
        ({"PAN_": "2"}, "unknown environment variable 'PAN_'; choose from: PAN_"),
        ({"PAN_SIZE": "two"}, "expected PAN_SIZE to be int, got 'two'"),
        ({"PAN_SIZE": "2.0"}, "expected PAN_SIZE to be int, got '2.0'"),
        ({"PAN_SIZE": ""}, "expected PAN_SIZE to be int, got ''"),
        ({"PAN_SPARE": "none"}, "expected PAN_SPARE to be int, got 'none'"),
        ({"PAN_LID": "maybe"}, "expected PAN_LID to be true or false, got 'maybe'"),
        ({"PAN_LID": ""}, "expected PAN_LID to be true or false, got ''"),
        ({"PAN_HEAT": "hot"}, "expected PAN_HEAT to be float, got 'hot'"),
        ({"PAN_SHELF": ""}, "expected PAN_SHELF to be a path, got ''"),
        (
            {"PAN_SIZE": "0", "PAN_LID": "1"},
            "expected --size of 1 or more, got 0 (the environment sets PAN_LID, PAN_SIZE)",
        ),
    ],
)
def test_the_environment_is_read_strictly(given: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        from_environment(Pan(), PREFIX, given)
    assert str(refused.value).startswith(message)


def test_the_value_of_an_unknown_variable_is_not_repeated() -> None:
    """It may be a secret in the wrong place."""
    with pytest.raises(ConfigError) as refused:
        from_environment(Pan(), PREFIX, {"PAN_TOKEN": "s3cret"})
    assert "s3cret" not in str(refused.value)


def test_other_variables_are_not_looked_at() -> None:
    others = {"PATH": "/bin", "PANS_SIZE": "x", "SIZE": "3", "pan_size": "4", "PAN": ""}
    assert from_environment(Pan(), PREFIX, others) == Pan()


@given(
    size=st.integers(1, 10**12),
    lid=st.booleans(),
    heat=st.floats(allow_nan=False),
    name=st.text(),
    limit=st.none() | st.floats(allow_nan=False),
    spare=st.none() | st.integers(),
    label=st.none() | st.text(min_size=1),
)
def test_what_is_written_into_the_environment_is_read_back(**values: Any) -> None:
    written = {variable(PREFIX, k): "" if v is None else str(v) for k, v in values.items()}
    assert from_environment(Pan(), PREFIX, written) == Pan(**values)


def test_a_configuration_of_training_can_be_read_as_well() -> None:
    found = from_environment(TrainConfig(), "T_", {"T_TRAIN_SAMPLES": "100", "T_CUT": "conv1"})
    assert found == TrainConfig(train_samples=100, cut="conv1")


# The order


def test_the_environment_counts_more_than_toml_and_toml_more_than_defaults(tmp_path: Path) -> None:
    path = tmp_path / "pan.toml"
    path.write_text("size = 2\nheat = 0.25", encoding="utf-8")
    environ = {"PAN_SIZE": "3", "OTHER": "x"}
    assert read_settings(Pan, prefix=PREFIX, environ={}) == Pan()
    assert read_settings(Pan, prefix=PREFIX, environ={}, path=path) == Pan(size=2, heat=0.25)
    both = read_settings(Pan, prefix=PREFIX, environ=environ, path=path)
    assert both == Pan(size=3, heat=0.25)


def test_what_goes_together_is_looked_at_once_both_are_known(tmp_path: Path) -> None:
    path = tmp_path / "serve.toml"
    path.write_text("merge = 2", encoding="utf-8")
    found = read_settings(ServeConfig, prefix="S_", environ={"S_EDGES": "2"}, path=path)
    assert (found.merge, found.edges) == (2, 2)
    with pytest.raises(ConfigError, match=r"--merge 2 takes .* \(the environment sets S_LOG\)$"):
        read_settings(ServeConfig, prefix="S_", environ={"S_LOG": "json"}, path=path)
    with pytest.raises(ConfigError, match=r"--merge 2 takes .* lower --merge$"):
        read_settings(ServeConfig, prefix="S_", environ={}, path=path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b"name = '\xff'")
    for name in ("none.toml", "latin.toml", "."):
        with pytest.raises(ConfigError, match=rf"cannot read the configuration .*{name}"):
            read_settings(Pan, prefix=PREFIX, environ={}, path=tmp_path / name)


_COUNTS = [
    *((TrainConfig, name) for name in ("threads", "batch_size", "epochs", "copies", "image_size")),
    *((TrainConfig, name) for name in ("train_samples", "max_steps", "cloud_epochs")),
    *((ProfileConfig, name) for name in ("threads", "batch_size", "classes")),
    *((PlanConfig, name) for name in ("samples", "fleet", "epochs", "adversaries", "group")),
    *((ServeConfig, name) for name in ("threads", "max_edges", "max_queries", "edges")),
    *((InferConfig, name) for name in ("batch_size", "samples")),
    (AuditConfig, "threads"),
]


@pytest.mark.parametrize(("cls", "name"), _COUNTS)
def test_every_count_has_an_upper_bound(cls: type[Any], name: str) -> None:
    flag = "--" + name.replace("_", "-")
    with pytest.raises(ConfigError, match=rf"expected {flag} from [0-9]+ to [0-9,.e+]+, got"):
        cls(**{name: 2**40})


@pytest.mark.parametrize("value", [True, "3", 2.0])
def test_a_count_is_a_whole_number(value: object) -> None:
    with pytest.raises(ConfigError, match="expected --epochs of 1 or more"):
        TrainConfig(epochs=value)  # type: ignore[arg-type]
