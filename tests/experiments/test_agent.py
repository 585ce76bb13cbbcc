"""A run of the edge half: its record, what is dropped, and what is refused with all of it kept."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from tests.experiments.conftest import Cloud

from eaves.errors import StateError
from eaves.experiments.agent import AgentProgress, run_agent
from eaves.experiments.config import TrainConfig
from eaves.experiments.halves import Origin, open_origin, write_untrained
from eaves.experiments.netconfig import AgentConfig, ServeConfig
from eaves.experiments.record import RunRecord
from eaves.network.channel import Target, insecure_target
from eaves.network.refusals import RefusedError

TINY = TrainConfig(train_samples=64, batch_size=16, epochs=2)  # 8 steps
STEPS = 8
NOBODY = insecure_target("127.0.0.1:1", "edge-1")
CloudOf = Callable[[Origin, ServeConfig], Cloud]


def _serve(tmp_path: Path, **settings: object) -> ServeConfig:
    values = {"listen": "127.0.0.1:0", "insecure": True, "out": tmp_path / "cloud", **settings}
    return ServeConfig(**values)  # type: ignore[arg-type]


def _agent(tmp_path: Path, **settings: object) -> AgentConfig:
    values = {"insecure": True, "out": tmp_path / "agent", "max_backoff_s": 0.2, **settings}
    return AgentConfig(**values)  # type: ignore[arg-type]


def _run(
    config: AgentConfig,
    target: Target,
    *,
    origin: Origin | None = None,
    until: Callable[[AgentProgress], bool] = lambda _: False,
) -> RunRecord:
    """Run an agent; stop it when ``until`` says so of its progress."""
    stop = threading.Event()
    for event in run_agent(origin or Origin(config=TINY), config, target, stop=stop):
        if isinstance(event, RunRecord):
            return event
        if until(event):
            stop.set()
    raise AssertionError("no record came")


def _done_locally(event: AgentProgress) -> bool:
    return event.training.progress.edge_steps >= STEPS


def _weights(tmp_path: Path) -> str:
    path = tmp_path / "agent" / "bundle" / "edge" / "weights.safetensors"
    return sha256(path.read_bytes()).hexdigest()


def test_a_run_ends_with_a_record_and_the_edges_bundle(tmp_path: Path, cloud_of: CloudOf) -> None:
    cloud = cloud_of(Origin(config=TINY), _serve(tmp_path))
    record = _run(_agent(tmp_path), cloud.target())
    assert record.complete
    assert (record.link, record.codec, record.steps) == ("network", "int8+zstd", STEPS)
    assert record.accuracy["cloud"] is not None
    assert record.accuracy["exit"] is not None
    assert record.network is not None
    assert record.network["session"] == cloud.events[0].session
    assert record.bytes["up"] == cloud.ended().counts.bytes_in > 0
    assert json.loads((tmp_path / "agent" / "record.json").read_bytes()) == record.as_json()
    origin = open_origin(tmp_path / "agent")
    assert origin.session == record.network["session"]
    assert sorted(p.name for p in (tmp_path / "agent" / "bundle").iterdir()) == [
        "edge",
        "manifest.json",
    ]


def test_the_edge_trains_without_a_cloud_and_delivers_later(
    tmp_path: Path, cloud_of: CloudOf
) -> None:
    alone = _run(_agent(tmp_path), NOBODY, until=_done_locally)
    assert not alone.complete
    assert alone.steps == STEPS  # all of its steps, and none delivered
    assert alone.accuracy == {"cloud": None, "exit": None}
    assert alone.bytes["up"] == 0
    assert not (tmp_path / "agent" / "bundle").exists()
    cloud = cloud_of(Origin(config=TINY), _serve(tmp_path))
    later = _run(_agent(tmp_path), cloud.target())
    assert later.complete
    assert later.samples == STEPS * 16  # none was taken twice
    assert cloud.ended().counts.uploads == STEPS

    at_once = cloud_of(Origin(config=TINY), _serve(tmp_path / "b"))
    _run(_agent(tmp_path / "b"), at_once.target())
    assert _weights(tmp_path) == _weights(tmp_path / "b")


def test_a_full_spool_drops_the_oldest_and_says_how_many(tmp_path: Path, cloud_of: CloudOf) -> None:
    small = {"spool_mb": 0.03, "when_full": "drop-oldest"}  # an upload has about 9 kB
    alone = _run(_agent(tmp_path, **small), NOBODY, until=_done_locally)
    assert alone.network is not None
    dropped = alone.network["dropped_uploads"]
    assert 0 < dropped < STEPS
    assert alone.network["dropped_samples"] == 16 * dropped
    cloud = cloud_of(Origin(config=TINY), _serve(tmp_path))
    later = _run(_agent(tmp_path, **small), cloud.target())
    assert later.complete
    assert cloud.ended().counts.uploads == STEPS - dropped


# Refused, and all is kept


def test_a_cloud_of_another_session_is_refused_until_the_right_one_is_back(
    tmp_path: Path, cloud_of: CloudOf
) -> None:
    write_untrained(TINY, tmp_path / "bundle")
    origin = open_origin(tmp_path / "bundle")
    stranger = cloud_of(Origin(config=TINY), _serve(tmp_path / "b"))
    with pytest.raises(RefusedError, match="their halves were not trained together"):
        _run(_agent(tmp_path), stranger.target(), origin=origin)
    assert stranger.ended().counts.uploads == 0
    right = cloud_of(origin, _serve(tmp_path))
    assert _run(_agent(tmp_path), right.target(), origin=origin).complete


def test_another_net_is_refused_by_the_cloud(tmp_path: Path, cloud_of: CloudOf) -> None:
    cloud = cloud_of(Origin(config=TINY), _serve(tmp_path))
    other = Origin(config=replace(TINY, cut="conv1"))
    with pytest.raises(RefusedError, match="cut"):
        _run(_agent(tmp_path), cloud.target(), origin=other)


def test_going_on_with_another_configuration_is_refused(tmp_path: Path) -> None:
    _run(_agent(tmp_path), NOBODY, until=_done_locally)
    other = Origin(config=replace(TINY, lr=0.2))
    with pytest.raises(StateError, match="of another configuration"):
        _run(_agent(tmp_path), NOBODY, origin=other)
    over = _run(_agent(tmp_path, overwrite=True), NOBODY, origin=other, until=_done_locally)
    assert over.config["lr"] == 0.2


def test_starting_over_is_a_new_run_and_sends_nothing_of_the_old_one(
    tmp_path: Path, cloud_of: CloudOf
) -> None:
    old = _run(_agent(tmp_path, spool_memory_mb=0), NOBODY, until=_done_locally)
    cloud = cloud_of(Origin(config=TINY), _serve(tmp_path))
    new = _run(_agent(tmp_path, overwrite=True), cloud.target())
    assert old.network is not None
    assert new.network is not None
    assert new.network["run"] != old.network["run"]
    assert new.complete
    ended = cloud.ended()
    assert [run.run for run in ended.ledger.accounts] == [new.network["run"]]
    assert ended.counts.uploads == STEPS
