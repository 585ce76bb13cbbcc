"""Where a run stands, on disk: what was saved is what comes back, of the same run only."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from eaves.errors import StateError
from eaves.experiments.build import Job, build_job
from eaves.experiments.config import TrainConfig, load_config
from eaves.experiments.phases import edge_phases
from eaves.experiments.position import Position, begin, restore, save
from eaves.runtime.meters import Totals
from eaves.runtime.traffic import Snapshot


@pytest.fixture
def job(tmp_path: Path) -> Job:
    config = TrainConfig(train_samples=64, batch_size=16, epochs=2, out=tmp_path / "out")
    return build_job(config)


def _step(job: Job, steps: int) -> None:
    for _, batch in zip(range(steps), edge_phases(job)[0].batches(job), strict=False):
        upload, _ = job.method.edge.step(batch)
        assert upload is not None
        assert job.method.cloud is not None
        job.method.cloud.step(upload)


def _weights(job: Job) -> list[torch.Tensor]:
    halves = [*job.method.edge_modules.values(), *job.method.cloud_modules.values()]
    return [p.detach().clone() for half in halves for p in half.parameters()]


def _saved(job: Job, steps: int = 3) -> Position:
    position = begin(job)
    position.phase, position.stored = "train", 2
    position.enrolled = {"run": "a1", "session": "b2"}
    _step(job, steps)
    totals = Totals(samples=48, bytes_up=7, wall_s=0.5)
    save(job, position, Snapshot(steps, None, None, totals))
    return position


def test_a_new_run_begins_at_nothing_and_leaves_its_configuration(job: Job) -> None:
    found = restore(job)
    assert found == Position("", 0, Totals(), 0, {})
    assert load_config(job.config.out / "config.toml") == job.config


def test_what_was_saved_comes_back(job: Job) -> None:
    _saved(job)
    fresh = build_job(job.config)
    assert not all(map(torch.equal, _weights(fresh), _weights(job)))
    found = restore(fresh)
    assert (found.phase, found.steps, found.stored) == ("train", 3, 2)
    assert found.enrolled == {"run": "a1", "session": "b2"}
    assert found.totals == Totals(samples=48, bytes_up=7, wall_s=0.5)
    assert all(map(torch.equal, _weights(fresh), _weights(job)))


def test_an_edge_alone_is_saved_and_restored_without_a_cloud(job: Job) -> None:
    alone = replace(
        job, method=replace(job.method, cloud=None, cloud_predictor=None, cloud_modules={})
    )
    save(alone, Position("train", 0, Totals()), Snapshot(1, None, None, Totals()))
    names = {path.name for path in (job.config.out / "checkpoint").iterdir()}
    assert not [name for name in names if name.startswith("cloud")]
    assert restore(alone).steps == 1


def test_a_checkpoint_of_another_configuration_is_refused(job: Job) -> None:
    _saved(job)
    other = build_job(replace(job.config, lr=0.2))
    before = _weights(other)
    with pytest.raises(StateError, match="of another configuration or version"):
        restore(other)
    assert all(map(torch.equal, _weights(other), before))


def test_what_does_not_change_the_result_may_differ(job: Job) -> None:
    _saved(job)
    moved = build_job(replace(job.config, checkpoint_s=1.0, data_root=Path("elsewhere")))
    assert restore(moved).steps == 3


def test_beginning_anew_forgets_the_old_run(job: Job) -> None:
    _saved(job)
    (job.config.out / "record.json").write_text("{}")
    assert begin(job).steps == 0
    assert not (job.config.out / "record.json").exists()
    assert restore(build_job(job.config)).phase == ""


def test_a_damaged_checkpoint_is_refused(job: Job) -> None:
    _saved(job)
    path = job.config.out / "checkpoint" / "checkpoint.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(StateError):
        restore(build_job(job.config))
