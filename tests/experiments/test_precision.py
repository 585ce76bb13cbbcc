"""The precision that is faster here: measured, kept with the run, and taken up again."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from eaves.core.net import StagedNet
from eaves.errors import DivergedError, StateError
from eaves.experiments import precision
from eaves.experiments.bundle import read_weights
from eaves.experiments.config import TrainConfig, resumed_config
from eaves.experiments.halves import cloud_half, edge_job, open_origin
from eaves.experiments.precision import FILE, choice_text, measured, settled
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.record import RunRecord
from eaves.experiments.run import run
from eaves.experiments.siameseconfig import SiameseConfig

AUTO = TrainConfig(precision="auto", train_samples=64, batch_size=16, epochs=1)


Takes = Callable[[float, float], Callable[[TrainConfig], Callable[[], None]]]


@pytest.fixture(autouse=True)
def _no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_BUDGET_S", 0.0)


@pytest.fixture
def takes(monkeypatch: pytest.MonkeyPatch) -> Takes:
    """Steps that take so long by a clock that nothing else moves."""
    now_s = [0.0]
    monkeypatch.setattr(precision, "perf_counter", lambda: now_s[0])

    def of(fp32_s: float, bf16_s: float) -> Callable[[TrainConfig], Callable[[], None]]:
        def build(config: TrainConfig) -> Callable[[], None]:
            def step() -> None:
                now_s[0] += {"fp32": fp32_s, "bf16": bf16_s}[config.precision]

            return step

        return build

    return of


def _refuses(config: TrainConfig) -> Callable[[], None]:
    raise AssertionError("it was measured again")


@pytest.mark.parametrize(
    ("fp32_s", "bf16_s", "chosen"), [(0.02, 0.004, "bf16"), (0.004, 0.02, "fp32")]
)
def test_the_faster_one_is_chosen_and_kept(
    tmp_path: Path, takes: Takes, fp32_s: float, bf16_s: float, chosen: str
) -> None:
    config, choice = settled(AUTO, takes(fp32_s, bf16_s), folder=tmp_path)
    assert choice is not None
    assert config == replace(AUTO, precision=chosen)
    assert (choice.fp32_s, choice.bf16_s) == pytest.approx((fp32_s, bf16_s), rel=1e-6)
    assert settled(AUTO, _refuses, folder=tmp_path) == (config, choice)


@pytest.mark.parametrize("bf16_s", [0.0096, 0.01])
def test_equal_times_are_no_reason_for_fewer_digits(takes: Takes, bf16_s: float) -> None:
    assert measured(AUTO, takes(0.01, bf16_s)).precision == "fp32"


def test_another_configuration_is_measured_anew(tmp_path: Path, takes: Takes) -> None:
    settled(AUTO, takes(0.02, 0.004), folder=tmp_path)
    other = replace(AUTO, batch_size=8)
    assert settled(other, takes(0.004, 0.02), folder=tmp_path)[0].precision == "fp32"


def test_a_given_precision_is_not_measured(tmp_path: Path) -> None:
    for name in ("fp32", "bf16"):
        config = replace(AUTO, precision=name)
        assert settled(config, _refuses, folder=tmp_path) == (config, None)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_trained_in_bf16_is_trained_in_fp32() -> None:
    def build(config: TrainConfig) -> Callable[[], None]:
        def step() -> None:
            if config.precision == "bf16":
                raise DivergedError("it is not finite")

        return step

    choice = measured(AUTO, build)
    assert (choice.precision, choice.bf16_s) == ("fp32", None)
    assert "none in bf16" in choice_text({**vars(choice)})


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_a_damaged_choice_is_named(tmp_path: Path, takes: Takes, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(StateError, match=r"precision.json is damaged .*remove it"):
        settled(AUTO, takes(0.0, 0.0), folder=tmp_path)


METHODS: dict[str, dict[str, Any]] = {
    "hierarchical": {},
    "split": {"method": "split"},
    "full-cloud": {"method": "full-cloud", "send": "once"},
    "full-edge": {"method": "full-edge"},
    "priphit": {
        "method": "priphit",
        "data": "digits:parity",
        "privacy": PrivacyConfig(private="high", restarts=1),
    },
    "siamese": {"method": "siamese", "siamese": SiameseConfig(components=4)},
    "datamix": {"method": "datamix"},
}


@pytest.mark.parametrize("name", METHODS)
def test_a_run_that_chooses_is_the_run_of_what_it_chose(tmp_path: Path, name: str) -> None:
    chosen = replace(AUTO, **METHODS[name], out=tmp_path / "chosen")
    *_, record = run(chosen)
    assert isinstance(record, RunRecord)
    named = record.config["precision"]
    assert named in ("fp32", "bf16")
    assert record.hardware["precision_chosen"]["precision"] == named
    assert resumed_config(tmp_path / "chosen").precision == named
    given = replace(AUTO, **METHODS[name], precision=named, out=tmp_path / "given")
    *_, other = run(given)
    assert isinstance(other, RunRecord)
    assert record.config_hash == other.config_hash
    side = "cloud" if name == "full-cloud" else "edge"
    ours, theirs = (read_weights(c.out / "bundle", side) for c in (chosen, given))
    assert all((ours[key] == theirs[key]).all() for key in theirs)


def test_a_net_of_ones_own_is_not_changed_by_measuring(tmp_path: Path) -> None:
    net = StagedNet([("a", nn.Flatten()), ("b", nn.Linear(64, 8)), ("c", nn.Linear(8, 10))])
    config = replace(AUTO, cut="b", max_steps=1, lr=1e-9, out=tmp_path)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    list(run(config, net=net))
    assert all((net.state_dict()[key] - before[key]).abs().max() < 1e-6 for key in before)


def test_over_a_network_each_side_chooses_for_itself(tmp_path: Path) -> None:
    (tmp_path / "train.toml").write_text(replace(AUTO, out=tmp_path / "edge").to_toml())
    origin = open_origin(tmp_path / "train.toml")
    cloud, edge = tmp_path / "cloud", tmp_path / "edge"
    half, _, terms = cloud_half(origin, "cpu", cloud)
    job, others = edge_job(origin)
    assert terms == others
    assert half.learner.part is not None
    kept = json.loads((cloud / FILE).read_text())["precision"]
    assert half.learner.part.schedule.precision == kept
    assert job.config.precision == json.loads((edge / FILE).read_text())["precision"]
    again, _, _ = cloud_half(origin, "cpu", cloud)
    assert again.learner.part is not None
    assert again.learner.part.schedule.precision == kept


def test_answers_alone_are_not_measured(tmp_path: Path) -> None:
    (tmp_path / "train.toml").write_text(replace(AUTO, out=tmp_path / "edge").to_toml())
    origin = open_origin(tmp_path / "train.toml")
    assert edge_job(origin, trains=False)[0].config.precision == "fp32"
    assert cloud_half(origin, "cpu")[0].learner.part is not None
    assert not (tmp_path / "edge").exists()
