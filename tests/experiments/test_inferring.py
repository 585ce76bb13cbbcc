"""Answers to the test set of a device: by whom, how right, and by which rule."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from tests.experiments.conftest import Cloud

from eaves.core.rules import ConfidenceAbove, EntropyBelow
from eaves.errors import ConfigError, StateError
from eaves.experiments.calibrating import NAME
from eaves.experiments.config import TrainConfig
from eaves.experiments.halves import Origin, edge_job, open_origin
from eaves.experiments.inferring import Answered, InferRecord, infer, rule_of
from eaves.experiments.mixingconfig import MixingConfig
from eaves.experiments.netconfig import InferConfig, ServeConfig
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.record import RunRecord
from eaves.experiments.run import run
from eaves.network.channel import insecure_target
from eaves.network.refusals import RefusedError
from eaves.network.waiting import Answer, Answers

TINY = TrainConfig(train_samples=64, batch_size=16, epochs=1)
ALONE = InferConfig(cloud=None)
CALM = replace(ALONE, deadline_ms=30_000.0, batch_size=60)
CloudOf = Callable[[Origin, ServeConfig], Cloud]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Origin:
    out = tmp_path_factory.mktemp("trained")
    list(run(replace(TINY, out=out)))
    return open_origin(out)


def _serve(tmp_path: Path) -> ServeConfig:
    return ServeConfig(listen="127.0.0.1:0", insecure=True, out=tmp_path / "cloud", edges=0)


def _record(events: list[Answered | InferRecord]) -> InferRecord:
    assert isinstance(events[-1], InferRecord)
    return events[-1]


def _median_confidence(origin: Origin) -> float:
    *answered, _ = infer(origin, CALM, None)
    events = [event for event in answered if isinstance(event, Answered)]
    found = [answer.confidence for event in events for answer in event.answers.answers]
    return median(value for value in found if value is not None)


# Who answers


def test_without_a_cloud_the_exit_answers_all(trained: Origin) -> None:
    *answered, record = infer(trained, replace(ALONE, batch_size=100), None)
    assert [event.first for event in answered if isinstance(event, Answered)] == [0, 100, 200, 300]
    assert isinstance(record, InferRecord)
    assert (record.examples, dict(record.by)) == (360, {"exit-late": 360})
    assert record.bytes_up == 0
    assert trained.accuracy is not None
    assert record.accuracy().as_json() == trained.accuracy["exit"]


def test_the_cloud_answers_as_it_did_in_training(
    trained: Origin, tmp_path: Path, cloud_of: CloudOf
) -> None:
    cloud = cloud_of(trained, _serve(tmp_path))
    record = _record(list(infer(trained, CALM, cloud.target())))
    assert dict(record.by) == {"cloud": 360}
    assert trained.accuracy is not None
    assert record.accuracy().as_json() == trained.accuracy["cloud"]
    assert record.asked == {"asked": 6, "late": 0, "skipped": 0, "overdue": 0, "unusable": 0}
    threshold = _median_confidence(trained)
    config = replace(CALM, rule="confidence", threshold=threshold)
    mixed = _record(list(infer(trained, config, cloud.target())))
    assert set(mixed.by) == {"exit", "cloud"}
    assert abs(mixed.by["exit"] - 180) <= 2  # which are as sure as the median
    assert mixed.accuracy("cloud").n == mixed.by["cloud"] == 360 - mixed.by["exit"]
    assert 0 < mixed.bytes_up < record.bytes_up
    cloud.ended()
    gone = _record(list(infer(trained, replace(ALONE, samples=20), cloud.target())))
    assert dict(gone.by) == {"exit-late": 20}
    assert gone.asked["late"] >= 1


def test_a_cloud_of_another_session_is_no_help(
    trained: Origin, tmp_path: Path, cloud_of: CloudOf
) -> None:
    cloud = cloud_of(replace(trained, session="another"), _serve(tmp_path))
    with pytest.raises(RefusedError, match="their halves were not trained together"):
        list(infer(trained, CALM, cloud.target()))


@pytest.fixture(scope="module")
def mixing(tmp_path_factory: pytest.TempPathFactory) -> Origin:
    """Return a bundle whose edge mixes four inputs; trained until it is right."""
    out = tmp_path_factory.mktemp("mixing")
    config = TrainConfig(
        method="datamix", cut="conv1", epochs=8, mixing=MixingConfig(group=4, shuffle=True), out=out
    )
    list(run(config))
    return open_origin(out)


def test_a_cloud_that_sees_mixtures_alone_answers_as_well(
    mixing: Origin, tmp_path: Path, cloud_of: CloudOf
) -> None:
    """The coefficients are others than when it was trained, so the answers are nearly the same."""
    cloud = cloud_of(mixing, replace(_serve(tmp_path), edges=1))  # which is none, for nobody trains
    record = _record(list(infer(mixing, replace(CALM, batch_size=50), cloud.target())))
    assert dict(record.by) == {"cloud": 360}
    assert mixing.accuracy is not None
    assert record.accuracy().value >= 0.9
    assert abs(record.accuracy().value - mixing.accuracy["cloud"]["value"]) <= 0.05
    # 7 batches of 50 take 13 groups and 2 dummies each, one of 10 takes 3 groups and 2 dummies.
    assert {k: v for k, v in record.shield.items() if k != "redrawn"} == {
        "groups": 94,
        "dummies": 16,
    }
    assert record.as_json()["shield"] == record.shield
    by_default = _record(
        list(infer(mixing, replace(CALM, batch_size=None, samples=12), cloud.target()))
    )
    assert by_default.shield["groups"] == 3
    assert by_default.shield["dummies"] == 0


def test_a_few_numbers_are_enough_for_a_cloud_far_away(tmp_path: Path, cloud_of: CloudOf) -> None:
    noise = PrivacyConfig(noise_scale=0.2)
    config = TrainConfig(
        method="siamese", epochs=6, codec="int8", privacy=noise, out=tmp_path / "run"
    )
    list(run(config))
    trained = open_origin(tmp_path / "run")
    cloud = cloud_of(trained, replace(_serve(tmp_path), edges=1))
    record = _record(list(infer(trained, replace(CALM, batch_size=60), cloud.target())))
    assert dict(record.by) == {"cloud": 360}
    assert record.accuracy().value >= 0.9
    assert record.bytes_up < 360 * (8 + 1)  # eight numbers of one byte, and a share of the envelope


def test_without_a_cloud_nobody_answers_for_an_edge_that_mixes(mixing: Origin) -> None:
    record = _record(list(infer(mixing, replace(CALM, samples=8), None)))
    assert dict(record.by) == {"none": 8}


def test_a_device_in_use_draws_other_coefficients_each_time(mixing: Origin) -> None:
    features = torch.randn(8, 32, 8, 8)
    sent = [edge_job(mixing, trains=False)[0].method.shield.protect(features)[0] for _ in range(2)]
    assert not sent[0].allclose(sent[1], atol=1e-3)


@pytest.mark.parametrize(("size", "samples"), [(1, 3), (7, 7), (7, 10), (500, 10), (500, 9_999)])
def test_as_many_are_answered_as_are_wanted(trained: Origin, size: int, samples: int) -> None:
    *answered, record = infer(trained, replace(ALONE, batch_size=size, samples=samples), None)
    assert isinstance(record, InferRecord)
    assert record.examples == min(samples, 360)
    sizes = [len(event.labels) for event in answered if isinstance(event, Answered)]
    assert (
        sum(sizes)
        == record.examples
        == len(record.latencies_s) * size - (size * len(sizes) - sum(sizes))
    )
    assert all(given == size for given in sizes[:-1])


def test_a_configuration_answers_nothing() -> None:
    with pytest.raises(ConfigError, match="expected a bundle to answer with"):
        list(infer(Origin(config=TINY), ALONE, insecure_target("127.0.0.1:1", "edge-1")))


# The rule


def test_a_rule_comes_from_the_flags_or_the_bundle(trained: Origin, tmp_path: Path) -> None:
    bundle = trained.bundle
    assert bundle is not None
    assert rule_of(ALONE, bundle) is None
    given = replace(ALONE, rule="entropy", threshold=0.25)
    assert rule_of(given, bundle) == EntropyBelow(threshold=0.25)
    given = replace(ALONE, rule="confidence", threshold=0.0)
    assert rule_of(given, bundle) == ConfidenceAbove(threshold=0.0)
    (bundle / NAME).write_text("{}")
    try:
        with pytest.raises(StateError, match="is no rule, or damaged"):
            rule_of(ALONE, bundle)
        assert rule_of(given, bundle) == ConfidenceAbove(threshold=0.0)
    finally:
        (bundle / NAME).unlink()


@pytest.mark.parametrize("given", [{"rule": "entropy"}, {"threshold": 0.5}])
def test_half_a_rule_is_none(trained: Origin, given: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="give --rule and --threshold together"):
        list(infer(trained, replace(ALONE, **given), None))  # type: ignore[arg-type]


# The record


def _answered(labels: list[int], given: list[tuple[int | None, str]], latency_s: float) -> Answered:
    answers = tuple(
        Answer(label=label, confidence=None, answered_by=who)  # type: ignore[arg-type]
        for label, who in given
    )
    made = Answers(answers=answers, latency_s=latency_s, bytes_up=10)
    return Answered(0, tuple(labels), made)


def test_a_record_adds_up() -> None:
    record = InferRecord()
    record.add(_answered([1, 2, 3], [(1, "exit"), (2, "cloud"), (9, "cloud")], 0.1))
    record.add(_answered([4, 5], [(None, "none"), (5, "exit-late")], 0.3))
    facts = json.loads(json.dumps(record.as_json(), allow_nan=False))
    assert facts["answered_by"] == {"exit": 1, "cloud": 2, "none": 1, "exit-late": 1}
    values = {who: (rate["value"], rate["n"]) for who, rate in facts["accuracy"].items()}
    assert values == {
        "all": (3 / 5, 5),
        "exit": (1.0, 1),
        "cloud": (0.5, 2),
        "none": (0.0, 1),  # no answer is no right answer
        "exit-late": (1.0, 1),
    }
    assert facts["bytes_up"] == 20
    assert facts["latency_s"]["p50"] == pytest.approx(0.2)
    assert facts["latency_s"]["p99"] == pytest.approx(0.298)


# Answers that depend on what is asked together

_BY_BATCH = """
from torch import nn
from eaves import StagedNet

def Net(*, classes, input_shape):
    norm = nn.BatchNorm2d(8, track_running_stats={tracks})
    return StagedNet([
        ("a", nn.Sequential(nn.Conv2d(1, 8, 3), norm, nn.ReLU())),
        ("b", nn.Conv2d(8, 8, 3)),
        ("c", nn.Sequential(nn.Flatten(), nn.Linear(8 * 16, classes))),
    ])
"""


@pytest.mark.parametrize("tracks", [True, False])
@pytest.mark.parametrize("method", ["hierarchical", "split", "priphit"])
def test_a_net_that_answers_by_its_batch_is_noticed_and_refused(
    tmp_path: Path, method: str, tracks: bool
) -> None:
    (tmp_path / "net.py").write_text(_BY_BATCH.format(tracks=tracks))
    changes: dict[str, Any] = {"method": method, "net": f"{tmp_path / 'net.py'}:Net", "cut": "a"}
    if method == "priphit":
        hidden = PrivacyConfig(private="high", restarts=1)
        changes |= {"data": "digits:parity", "privacy": hidden}
    config = replace(TINY, **changes, out=tmp_path / "run")
    *_, record = run(config)
    assert isinstance(record, RunRecord)
    answers = infer(open_origin(config.out), CALM, None)
    if tracks:
        assert record.notices == []
        if method != "split":  # which needs a cloud
            assert _record(list(answers)).examples == 360
        return
    assert len(record.notices) == 1
    assert (
        "the part 'edge' of the net: its answer for an example depends on the batch"
        in (record.notices[0])
    )
    assert "track_running_stats=False" in record.notices[0]
    with pytest.raises(ConfigError, match=r"cannot answer one example .*'edge'.*train it"):
        next(answers)
