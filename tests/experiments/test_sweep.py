import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eaves.audit.findings import Finding
from eaves.errors import ConfigError, StateError
from eaves.experiments.config import TrainConfig
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.run import PhaseProgress
from eaves.experiments.sweep import EFFORT, At, Setting, SweepRecord, audit_of, sweep, swept
from eaves.runtime.sealed import sealed_json, unsealed_json

QUICK = 0.02  # of the effort of a full audit: what is found counts for nothing here
BASE = TrainConfig(
    method="priphit",
    data="digits:parity",
    train_samples=200,
    epochs=1,
    privacy=PrivacyConfig(private="high"),
)


def asking(text: str, **changes: Any) -> TrainConfig:
    return replace(BASE, sweep=text, **changes)


def test_every_combination_is_a_run_in_a_folder_of_its_own() -> None:
    runs = swept(asking("noise=0.5,none bottleneck=4x2x2,8"))
    assert list(runs) == [
        "noise=0.5 bottleneck=4x2x2",
        "noise=0.5 bottleneck=8",
        "noise=none bottleneck=4x2x2",
        "noise=none bottleneck=8",
    ]
    one, _, _, last = runs.values()
    assert (one.privacy.noise, one.privacy.noise_scale, one.bottleneck) == (
        "gaussian",
        0.5,
        "4x2x2",
    )
    assert (last.privacy.noise, last.privacy.noise_scale, last.bottleneck) == ("none", 1.0, 8)
    assert len({config.out for config in runs.values()}) == 4
    assert {config.out.parent for config in runs.values()} == {BASE.out}
    for config in runs.values():  # nothing but what its name says
        changed = replace(config.privacy, noise="gaussian", noise_scale=1.0)
        assert replace(config, privacy=changed, bottleneck=None, out=BASE.out) == BASE


def test_a_sweep_is_no_part_of_what_a_run_is() -> None:
    assert asking("noise=1").hash() == BASE.hash()
    assert swept(asking("noise=1"))["noise=1"].hash() == BASE.hash()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nois=1", "unknown key in --sweep 'nois'; choose from: noise"),
        ("seed=1,2", "unknown key in --sweep 'seed'"),
        ("noise", "commas between values and spaces between keys; got 'noise'"),
        ("noise=", "got 'noise='"),
        ("noise=,", "got 'noise=,'"),
        ("noise = 1", "got 'noise'"),
        (" ; ", "expected a --sweep such as"),
        ("noise=loud", "expected noise_scale to be a number, got 'loud'"),
        ("noise=nan", "--sweep, noise=nan: expected --noise-scale from 0"),
        ("noise=-1", "--sweep, noise=-1: expected --noise-scale from 0"),
        ("adversaries=1.5", "expected adversaries to be an integer, got '1.5'"),
        ("bottleneck=4x", "--sweep, bottleneck=4x: "),
        ("bottleneck=0", "--sweep, bottleneck=0: expected a --bottleneck of 1"),
        ("codec=int9", "--sweep, codec=int9: unknown codec stage"),
        ("noise=1,1", "names noise=1,1 twice"),
        ("noise=1 noise=2", "names noise twice"),
        ("aim=peace", "--sweep, aim=peace: unknown aim 'peace'"),
        ("noise=" + ",".join(map(str, range(101))), "100 settings at most, got 101"),
    ],
)
def test_what_cannot_be_swept_is_said(text: str, why: str) -> None:
    with pytest.raises(ConfigError) as error:
        swept(asking(text))
    assert why in str(error.value)


def test_a_sweep_is_of_methods_that_hide_a_named_attribute() -> None:
    with pytest.raises(ConfigError, match="name the attribute that is to be read"):
        swept(TrainConfig(sweep="noise=1"))
    plain = TrainConfig(sweep="noise=1", data="digits:parity", privacy=BASE.privacy)
    with pytest.raises(ConfigError, match="hierarchical hides nothing in what it sends"):
        swept(plain)
    with pytest.raises(ConfigError, match="--sweep and --compare do not go together"):
        swept(asking("noise=1", compare="nopeek"))
    for method in ("nopeek", "disco", "deepobfuscator", "siamese"):
        assert list(swept(asking("noise=1,2", method=method))) == ["noise=1", "noise=2"]


def test_a_setting_that_cannot_be_built_is_said_before_any_training(tmp_path: Path) -> None:
    config = asking("cut=conv1,conv9", out=tmp_path / "sweep")
    with pytest.raises(ConfigError, match="--sweep, cut=conv9: unknown cut 'conv9'"):
        list(sweep(config, stop=threading.Event()))
    assert not (tmp_path / "sweep" / "cut-conv1").exists()


def test_a_folder_that_holds_a_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("{}")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="a sweep has a folder of its own for each setting"):
            list(
                sweep(asking("noise=1", out=tmp_path), stop=threading.Event(), overwrite=overwrite)
            )
    assert (tmp_path / "record.json").read_text() == "{}"


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """Let the audits of sweeps be even shorter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eaves.experiments.sweep.EFFORT", QUICK)
        yield


@pytest.fixture(scope="module")
def done(quick: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, SweepRecord]:
    """Return a sweep that was interrupted in training, in an audit and between, and went on."""
    config = asking("noise=0.5,2", out=tmp_path_factory.mktemp("sweep"))
    for interrupting in (At, Finding, Setting):
        stop, kinds = threading.Event(), list[type]()
        for event in sweep(config, stop=stop):
            kinds.append(type(event))
            if isinstance(event, interrupting):
                stop.set()
        assert SweepRecord not in kinds
        assert not (config.out / "sweep.json").exists()
    *_, record = sweep(config, stop=threading.Event())
    assert isinstance(record, SweepRecord)
    return config, record


def test_each_setting_is_trained_and_audited(done: tuple[TrainConfig, SweepRecord]) -> None:
    config, record = done
    assert [row["setting"] for row in record.rows] == ["noise=0.5", "noise=2"]
    for row, one in zip(record.rows, swept(config).values(), strict=True):
        trained = unsealed_json((one.out / "record.json").read_bytes())
        audit = unsealed_json((one.out / "sweep-audit" / "audit.json").read_bytes())
        found = audit["attributes"]["high"]
        assert trained["complete"]
        assert audit["complete"]
        assert trained["config_hash"] == one.hash()
        assert row["accuracy"] == trained["accuracy"]["cloud"]
        assert row["attack"]["value"] == max(f["rate"]["value"] for f in found["findings"])
        assert row["balanced"]["value"] == max(f["balanced"]["value"] for f in found["findings"])
        assert row["label_alone"]["n"] == row["attack"]["n"] == 360
        assert (audit["settings"]["effort"], audit["settings"]["seeds"]) == (QUICK, 1)
    written = unsealed_json((config.out / "sweep.json").read_bytes())
    assert written == json.loads(json.dumps(record.as_json()))
    assert (written["effort"], written["attacks"]) == (EFFORT, "labels,attribute")


def test_what_is_finished_is_not_done_again(done: tuple[TrainConfig, SweepRecord]) -> None:
    config, record = done
    events = list(sweep(config, stop=threading.Event()))
    assert {type(event) for event in events} == {At, Setting, SweepRecord}
    assert events[-1] == record


@pytest.mark.slow
def test_an_audit_of_another_bundle_or_effort_is_made_again(
    done: tuple[TrainConfig, SweepRecord],
) -> None:
    config, record = done
    path = next(iter(swept(config).values())).out / "sweep-audit" / "audit.json"
    audit = unsealed_json(path.read_bytes())
    for stale in (
        b"{}",
        sealed_json({**audit, "complete": False}),
        sealed_json({**audit, "subject": {**audit["subject"], "session": "another"}}),
        sealed_json({**audit, "settings": {**audit["settings"], "effort": 0.1}}),
        path.read_bytes().replace(b"priphit", b"priphot"),
    ):
        path.write_bytes(stale)
        events = list(sweep(replace(config, sweep="noise=0.5"), stop=threading.Event()))
        assert PhaseProgress not in {type(event) for event in events}
        assert isinstance(last := events[-1], SweepRecord)
        assert last.rows == record.rows[:1]
        assert unsealed_json(path.read_bytes())["complete"]


def test_a_folder_of_a_setting_that_is_of_another_run_is_refused(
    done: tuple[TrainConfig, SweepRecord],
) -> None:
    config, _ = done
    with pytest.raises(StateError, match="another configuration"):
        list(sweep(replace(config, seed=5), stop=threading.Event()))


def test_the_short_audit_is_never_in_the_place_of_a_full_one() -> None:
    audit = audit_of(BASE)
    assert audit.out == BASE.out / "sweep-audit"
    assert audit.effort < 1
    assert EFFORT == 0.25  # as README says
