"""Short trainings of what a plan leaves: which are trained, for how long, and what comes of it."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from eaves.core.rates import Rate
from eaves.errors import ConfigError, DivergedError
from eaves.experiments.config import TrainConfig
from eaves.experiments.planconfig import PlanConfig, ProfileConfig
from eaves.experiments.planning import plan
from eaves.experiments.probing import probe
from eaves.experiments.record import RunRecord
from eaves.experiments.run import run
from eaves.planner.profile import Profile
from eaves.planner.scenario import Candidate

DIGITS = ProfileConfig(data="digits", device="cpu")
TEST_SIZE = 360


def probed(
    figures: Profile, data: str = "digits", **settings: Any
) -> tuple[list[str], dict[Candidate, Rate]]:
    """Return what is said, and what comes in the end."""
    config = PlanConfig(**settings)
    codecs = {where: costs[:1] for where, costs in figures.codecs.items()}
    unprobed = replace(config, probe=None, max_drop=None, min_accuracy=None)
    found = plan(unprobed, replace(figures, codecs=codecs))
    *said, last = probe(replace(DIGITS, data=data), config, found)
    assert isinstance(last, dict)
    return [str(event) for event in said], last


def trained(tmp_path: Path, **settings: Any) -> dict[str, Any]:
    """Return the accuracies of a run of our own."""
    *_, record = run(TrainConfig(device="cpu", out=tmp_path, **settings))
    assert isinstance(record, RunRecord)
    return record.accuracy


def test_every_way_that_can_be_trained_is_trained_once(figures: Profile) -> None:
    methods = "hierarchical,full-edge,split,priphit"
    said, found = probed(
        figures, "digits:parity", probe=1, methods=methods, cuts="conv3", private="high"
    )
    assert [line.partition(":")[0] for line in said] == [f"probe {i} of 4" for i in (1, 2, 3, 4)]
    assert {line.partition(": ")[2] for line in said} == {
        "full-edge, 1 batches",
        "hierarchical conv3 int8, 1 batches",
        "split conv3 int8, 1 batches",
        "priphit conv3 int8, 1 batches",
    }
    for method in ("hierarchical", "priphit"):
        once = Candidate(method=method, cut="conv3", codec="int8", send="once")
        assert found[once] == found[replace(once, send="every-epoch")]
    assert {way.method for way in found} == {"hierarchical", "full-edge", "split", "priphit"}
    for rate in found.values():
        assert rate.n == TEST_SIZE
        assert 0 <= rate.low <= rate.value <= rate.high <= 1
        assert rate.low < rate.high


@pytest.mark.parametrize("samples", [128, 50_000])
def test_a_probe_is_the_training_that_its_way_names(
    figures: Profile, tmp_path: Path, samples: int
) -> None:
    """It takes as many batches as asked for, however many the plan thinks that an epoch has."""
    settings: dict[str, Any] = {"methods": "hierarchical,full-cloud", "cuts": "conv2"}
    _, found = probed(figures, probe=12, samples=samples, link="3g", edge_slowdown=100, **settings)
    answers = {way.method: rate.as_json() for way, rate in found.items()}
    own: dict[str, Any] = {"data": "digits", "epochs": 12, "max_steps": 12}
    divided = trained(tmp_path / "1", cut="conv2", codec="int8", **own)
    assert divided["cloud"] != divided["exit"]
    assert answers["hierarchical"] == divided["cloud"]
    assert answers["full-cloud"] == trained(tmp_path / "2", method="full-cloud", **own)["cloud"]


def test_a_probe_waits_for_no_link(figures: Profile) -> None:
    """A batch of 65 kB would take 26 s."""
    started = monotonic()
    probed(figures, probe=1, methods="hierarchical", cuts="conv3", link="0.02,delay=500ms")
    assert monotonic() - started < 15


def test_what_limits_refuse_is_not_trained_but_to_compare_with(figures: Profile) -> None:
    settings: dict[str, Any] = {"methods": "full-cloud,full-edge", "max_bytes": 0, "probe": 1}
    said, found = probed(figures, **settings)
    assert [way.method for way in found] == ["full-edge"]
    assert len(said) == 1
    _, compared = probed(figures, max_drop=0.5, **settings)
    assert {way.method for way in compared} == {"full-edge", "full-cloud"}


def test_what_diverges_has_no_accuracy_and_ends_nothing(
    figures: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverging(config: TrainConfig) -> Iterator[RunRecord]:
        if config.method == "split":
            raise DivergedError("the loss is nan")
        return (event for event in run(config) if isinstance(event, RunRecord))

    monkeypatch.setattr("eaves.experiments.probing.run", diverging)
    said, found = probed(figures, probe=1, methods="full-edge,split", cuts="conv3")
    assert len(said) == 2
    assert {way.method for way in found} == {"full-edge"}


def test_nothing_is_left_behind(
    figures: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    probed(figures, probe=1, methods="full-edge")
    assert list(tmp_path.iterdir()) == []


def test_a_probe_needs_data(figures: Profile) -> None:
    config = PlanConfig(probe=1, methods="full-edge")
    with pytest.raises(ConfigError, match="training needs data"):
        list(probe(ProfileConfig(), config, plan(replace(config, probe=None), figures)))
