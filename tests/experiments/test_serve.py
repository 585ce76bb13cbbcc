"""The cloud half as a service: it goes on from its checkpoint, ends when asked or when done."""

import json
import socket
import threading
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.experiments.conftest import Cloud

from eaves.errors import ConfigError, StateError
from eaves.experiments import serve as module
from eaves.experiments.agent import AgentProgress, run_agent
from eaves.experiments.bundle import read_weights
from eaves.experiments.config import TrainConfig
from eaves.experiments.halves import Origin, open_origin, write_untrained
from eaves.experiments.netconfig import AgentConfig, ServeConfig
from eaves.experiments.record import RunRecord
from eaves.experiments.serve import shifted
from eaves.network.channel import Target
from eaves.network.group import Alone

TINY = TrainConfig(train_samples=64, batch_size=16, epochs=1)  # 4 steps
CloudOf = Callable[[Origin, ServeConfig], Cloud]


def _serve(tmp_path: Path, **settings: object) -> ServeConfig:
    values = {"listen": "127.0.0.1:0", "insecure": True, "out": tmp_path / "cloud", **settings}
    return ServeConfig(**values)  # type: ignore[arg-type]


def _train(out: Path, target: Target, origin: Origin | None = None) -> RunRecord:
    config = AgentConfig(insecure=True, out=out, max_backoff_s=0.2)
    *_, record = run_agent(origin or Origin(config=TINY), config, target, stop=threading.Event())
    assert isinstance(record, RunRecord)
    return record


def test_it_says_what_it_does_and_leaves_its_half(tmp_path: Path, cloud_of: CloudOf) -> None:
    cloud = cloud_of(Origin(config=TINY), _serve(tmp_path))
    first = cloud.events[0]
    assert (first.connected, first.finished, first.counts.steps) == (0, 0, 0)
    assert first.port > 0
    _train(tmp_path / "agent", cloud.target())
    last = cloud.ended()
    assert (last.session, last.finished, last.counts.uploads) == (first.session, 1, 4)
    assert last.counts.samples == 64
    assert set(last.figures) == {"loss", "accuracy"}
    folder = tmp_path / "cloud" / "bundle"
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert manifest["session"] == last.session
    assert manifest["uploads"] == last.ledger.as_json()
    assert sorted(manifest["sha256"]) == ["cloud"]
    assert read_weights(folder, "cloud")


def test_it_goes_on_with_its_session_its_edges_and_its_weights(
    tmp_path: Path, cloud_of: CloudOf
) -> None:
    first = cloud_of(Origin(config=TINY), _serve(tmp_path))
    _train(tmp_path / "agent", first.target())
    before = first.ended()
    weights = read_weights(tmp_path / "cloud" / "bundle", "cloud")
    after = cloud_of(Origin(config=TINY), _serve(tmp_path)).ended()
    assert after.session == before.session
    assert after.ledger.as_json() == before.ledger.as_json()
    again = read_weights(tmp_path / "cloud" / "bundle", "cloud")
    assert all(torch.equal(again[name], weights[name]) for name in weights)


def test_a_folder_of_another_training_is_refused(tmp_path: Path, cloud_of: CloudOf) -> None:
    cloud_of(Origin(config=TINY), _serve(tmp_path)).ended()
    other = Origin(config=replace(TINY, cut="conv1"))
    with pytest.raises(StateError):
        cloud_of(other, _serve(tmp_path))
    write_untrained(TINY, tmp_path / "bundle")
    with pytest.raises(StateError, match=r"the checkpoint is of session .*, the bundle of"):
        cloud_of(open_origin(tmp_path / "bundle"), _serve(tmp_path))


@pytest.mark.parametrize("setting", ["listen", "metrics"])
def test_an_address_that_is_taken_is_named_and_nothing_goes_on(
    tmp_path: Path, cloud_of: CloudOf, setting: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        before = set(threading.enumerate())
        with pytest.raises(ConfigError, match=f"cannot listen on {address}"):
            cloud_of(Origin(config=TINY), _serve(tmp_path, **{setting: address}))
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert [name for name in left if "_poll_wrapper" not in name] == []  # which is gRPC's own
    assert cloud_of(Origin(config=TINY), _serve(tmp_path)).ended().port > 0


def test_what_a_cloud_cannot_serve_is_refused(tmp_path: Path, cloud_of: CloudOf) -> None:
    with pytest.raises(ConfigError, match="full-edge sends nothing"):
        cloud_of(Origin(config=TrainConfig(method="full-edge")), _serve(tmp_path))


def test_its_figures_are_there_for_prometheus(tmp_path: Path, cloud_of: CloudOf) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    cloud = cloud_of(Origin(config=TINY), _serve(tmp_path, metrics=address))
    _train(tmp_path / "agent", cloud.target())
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    assert "eaves_uploads_total 4.0" in text
    assert "eaves_finished_edges 1.0" in text


def test_it_leaves_its_half_as_soon_as_all_have_trained(tmp_path: Path, cloud_of: CloudOf) -> None:
    cloud = cloud_of(Origin(config=TINY), _serve(tmp_path, edges=2))
    folder = tmp_path / "cloud" / "bundle"
    _train(tmp_path / "a", cloud.target("a"))
    seen = len(cloud.events)
    while len(cloud.events) < seen + 2:
        cloud.stop.wait(0.1)
    assert not folder.exists()  # one of two is not all
    _train(tmp_path / "b", cloud.target("b"))
    seen = len(cloud.events)
    while len(cloud.events) < seen + 2:
        cloud.stop.wait(0.1)
    assert read_weights(folder, "cloud")
    assert cloud.ended().finished == 2


ONCE = replace(TINY, send="once", cloud_epochs=100)  # 4 uploads, 396 steps after them


def test_it_is_done_when_it_has_learnt_on_from_what_travelled_once(
    tmp_path: Path, cloud_of: CloudOf
) -> None:
    cloud = cloud_of(Origin(config=ONCE), _serve(tmp_path, exit_when_done=True))
    stop = threading.Event()
    config = AgentConfig(insecure=True, out=tmp_path / "agent", max_backoff_s=0.2)
    for event in run_agent(Origin(config=ONCE), config, cloud.target(), stop=stop):
        if isinstance(event, AgentProgress) and event.training.phase == "cloud":
            stop.set()  # it need not stay
            assert 0 < event.training.steps <= 396
    assert isinstance(event, RunRecord)
    assert not event.complete  # the accuracy of the cloud is not known yet
    assert not (tmp_path / "cloud" / "bundle").exists()
    ended = cloud.waited()
    assert (ended.counts.uploads, ended.counts.again) == (4, 396)
    assert read_weights(tmp_path / "cloud" / "bundle", "cloud")


def test_a_group_does_not_keep_uploads(
    tmp_path: Path, cloud_of: CloudOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = Alone()
    two.size = 2
    monkeypatch.setattr(module, "find_group", lambda: two)
    with pytest.raises(ConfigError, match="start `eaves serve` without torchrun"):
        cloud_of(Origin(config=ONCE), _serve(tmp_path))


@pytest.mark.parametrize(
    ("address", "ports", "expected"),
    [
        ("127.0.0.1:7443", 0, "127.0.0.1:7443"),
        ("[::1]:7443", 1, "[::1]:7444"),
        ("0.0.0.0:0", 3, "0.0.0.0:0"),  # any free port is as free for the next process
    ],
)
def test_the_next_process_listens_on_the_next_port(address: str, ports: int, expected: str) -> None:
    assert shifted(address, ports) == expected
