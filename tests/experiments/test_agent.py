"""A run of the edge half: its record, what is dropped, and what is refused with all of it kept."""

import json
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.experiments.conftest import Cloud

from eaves.codecs.base import parse_codec
from eaves.errors import ConfigError, PayloadError, StateError, StorageError
from eaves.experiments import agent
from eaves.experiments.agent import AgentProgress, run_agent
from eaves.experiments.build import Job, build_job
from eaves.experiments.bundle import read_weights
from eaves.experiments.config import TrainConfig
from eaves.experiments.halves import Origin, open_origin, write_untrained
from eaves.experiments.inferring import InferRecord, infer
from eaves.experiments.netconfig import AgentConfig, InferConfig, ServeConfig
from eaves.experiments.position import Position, save
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.record import RunRecord
from eaves.experiments.run import run
from eaves.network.asking import CloudClient, NoAnswerError
from eaves.network.channel import Target, insecure_target
from eaves.network.refusals import RefusedError
from eaves.network.spool import Spool
from eaves.runtime.checkpoint import load_checkpoint
from eaves.runtime.sealed import unsealed_json
from eaves.runtime.traffic import Snapshot

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
    written = unsealed_json((tmp_path / "agent" / "record.json").read_bytes())
    assert written == record.as_json()
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
    assert (alone.network or {})["uploads_waiting"] == STEPS
    before = _weights(tmp_path)  # the edge's half is there, for its exit
    *_, answered = infer(open_origin(tmp_path / "agent"), InferConfig(cloud=None), None)
    assert isinstance(answered, InferRecord)
    assert dict(answered.by) == {"exit-late": 360}
    cloud = cloud_of(Origin(config=TINY), _serve(tmp_path))
    later = _run(_agent(tmp_path), cloud.target())
    assert later.complete
    assert later.samples == STEPS * 16  # none was taken twice
    assert cloud.ended().counts.uploads == STEPS
    assert _weights(tmp_path) == before

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


# Every example travels once

ONCE = replace(TINY, send="once", cloud_epochs=20)  # 8 steps alone, 4 that send, 76 in the cloud
HIDING = replace(
    ONCE,
    method="priphit",
    data="digits:parity",
    bottleneck="4x2x2",
    privacy=PrivacyConfig(private="high"),
)


def _halves(*folders: Path) -> dict[str, str]:
    """Return digests of the weights in bundles, by the half."""
    paths = [path for folder in folders for path in folder.glob("bundle/*/weights.safetensors")]
    return {path.parent.name: sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"copies": 2, "cloud_epochs": 5},
        {"method": "full-cloud", "max_steps": 9},
        {"feature_augment": "crop-flip"},
    ],
)
def test_sending_once_ends_with_the_weights_and_the_record_of_one_process(
    tmp_path: Path, cloud_of: CloudOf, changes: dict[str, Any]
) -> None:
    config = replace(ONCE, **changes)
    *_, whole = run(replace(config, out=tmp_path / "whole"))
    assert isinstance(whole, RunRecord)
    write_untrained(config, tmp_path / "untrained")
    origin = open_origin(tmp_path / "untrained")
    cloud = cloud_of(origin, _serve(tmp_path))
    record = _run(_agent(tmp_path), cloud.target(), origin=origin)
    ended = cloud.ended()
    assert record.accuracy == whole.accuracy  # the agent has waited for the cloud to learn on
    assert (record.send, record.samples) == ("once", whole.samples)
    assert ended.counts.samples == 64 * config.copies
    assert ended.counts.uploads + ended.counts.again == whole.steps - (
        0 if config.method == "full-cloud" else STEPS
    )
    assert _halves(tmp_path / "agent", tmp_path / "cloud") == _halves(tmp_path / "whole")


def _saves(
    monkeypatch: pytest.MonkeyPatch, dies_at: tuple[str, int] = ("", 0)
) -> list[tuple[str, int]]:
    """Return a list that notes checkpoints, by phase and steps; one of them ends the process."""
    noted: list[tuple[str, int]] = []

    def note(job: Job, position: Position, snapshot: Snapshot) -> None:
        if (position.phase, snapshot.steps) == dies_at:
            raise KeyboardInterrupt
        save(job, position, snapshot)
        noted.append((position.phase, snapshot.steps))

    monkeypatch.setattr(agent, "save", note)
    return noted


def test_the_edge_learns_alone_without_a_cloud_and_goes_on_after_a_crash(
    tmp_path: Path, cloud_of: CloudOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin, often = Origin(config=HIDING), _agent(tmp_path, checkpoint_s=0)
    noted = _saves(monkeypatch, dies_at=("edge", 4))
    with pytest.raises(KeyboardInterrupt):
        _run(often, NOBODY, origin=origin)
    assert noted == [("edge", n) for n in range(4)]

    noted, seen = _saves(monkeypatch), list[tuple[str, int]]()

    def has_sent(event: AgentProgress) -> bool:
        seen.append((event.training.phase, event.training.steps))
        return event.spool.highest == 4 and event.training.progress.edge_steps == 4

    alone = _run(often, NOBODY, origin=origin, until=has_sent)
    assert noted[:5] == [("edge", n) for n in range(4, STEPS + 1)]
    assert noted[5:8] == [("edge", STEPS), ("send", 1), ("send", 2)]
    assert seen[-1] == ("send", 4)
    assert (alone.complete, alone.steps, alone.samples) == (False, STEPS + 4, 16 * (STEPS + 4))
    assert (alone.bytes["up"], alone.network and alone.network["connections"]) == (0, 0)
    cloud = cloud_of(origin, _serve(tmp_path))
    assert _run(often, cloud.target(), origin=origin).complete
    assert cloud.ended().counts.uploads == 4

    other = cloud_of(origin, _serve(tmp_path / "b"))
    assert _run(_agent(tmp_path / "b"), other.target(), origin=origin).complete
    assert _weights(tmp_path) == _weights(tmp_path / "b")  # of the edge; each has noise of its own


def _spooled(tmp_path: Path) -> list[bytes]:
    """Return the uploads that an agent has left on its disk."""
    path = tmp_path / "agent" / "spool.db"
    sizes = {"limit_bytes": 2**30, "memory_bytes": 0, "when_full": "block", "keep_through": 99}
    with closing(Spool(path, **sizes)) as spool:  # type: ignore[arg-type]
        found, seq = [], 0
        while (entry := spool.after(seq, timeout_s=0)) is not None:
            found.append(entry.data)
            seq = entry.seq
        return found


def _crash_after_sending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run an agent that has sent all, and whose last checkpoint is from before."""
    _saves(monkeypatch, dies_at=("send", 4))
    with pytest.raises(KeyboardInterrupt):
        _run(_agent(tmp_path), NOBODY, origin=Origin(config=HIDING))
    monkeypatch.undo()


def test_what_is_made_again_after_a_crash_is_no_second_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _crash_after_sending(tmp_path, monkeypatch)
    before = _spooled(tmp_path)
    (tmp_path / "agent" / "spool.db").unlink()
    record = _run(
        _agent(tmp_path),
        NOBODY,
        origin=Origin(config=HIDING),
        until=lambda event: event.spool.highest == 4,
    )
    assert record.steps == STEPS + 4
    assert len(before) == 4
    assert _spooled(tmp_path) == before  # with the very same noise
    _crash_after_sending(tmp_path / "b", monkeypatch)
    assert not set(_spooled(tmp_path / "b")) & set(before)  # another run has another key


def _files(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


def test_the_key_of_the_noise_stays_on_the_edge_and_ends_with_the_run(
    tmp_path: Path, cloud_of: CloudOf
) -> None:
    config = replace(HIDING, cloud_epochs=2)
    origin = Origin(config=config)
    _run(_agent(tmp_path), NOBODY, origin=origin, until=lambda event: event.spool.highest == 4)
    states, _ = load_checkpoint(tmp_path / "agent" / "checkpoint") or ({}, {})
    key = bytes(states["edge"].tensors["noise/sent"][:32].tolist())
    assert any(key in content for content in _files(tmp_path / "agent"))
    cloud = cloud_of(origin, _serve(tmp_path))
    record = _run(_agent(tmp_path), cloud.target(), origin=origin)
    cloud.ended()
    assert record.complete
    assert not any(key in content for content in _files(tmp_path))
    again = _run(_agent(tmp_path), NOBODY, origin=origin)  # a finished run is not run again
    assert again == record


def test_what_is_private_is_in_the_edges_record_and_no_class_of_it_in_the_clouds(
    tmp_path: Path, cloud_of: CloudOf
) -> None:
    config = replace(HIDING, cloud_epochs=2)
    cloud = cloud_of(Origin(config=config), _serve(tmp_path))
    record = _run(_agent(tmp_path), cloud.target(), origin=Origin(config=config))
    manifest = json.loads((tmp_path / "agent" / "bundle" / "manifest.json").read_bytes())
    assert record.privacy == manifest["privacy"]
    assert record.privacy is not None
    assert record.privacy["private"] == ["high"]
    assert (record.privacy["releases"], record.privacy["values"]) == (1, 16)
    assert "a secret key of this device" in record.privacy["source"]
    assert record.accuracy["cloud"] is not None
    asked = InferConfig(deadline_ms=30_000.0, batch_size=120)
    *_, answered = infer(open_origin(tmp_path / "agent"), asked, cloud.target())
    assert isinstance(answered, InferRecord)
    assert dict(answered.by) == {"cloud": 360}
    cloud.ended()
    text = (tmp_path / "cloud" / "bundle" / "manifest.json").read_text()
    for name in build_job(config).dataset.private_classes["high"]:
        assert f'"{name}"' not in text


# A cloud that is broken or lies


def _says(words: Exception | bytes | int) -> Callable[..., Any]:
    def say(*_: object, **__: object) -> Any:
        if isinstance(words, Exception):
            raise words
        return words

    return say


LIES: list[tuple[Exception | bytes, str]] = [
    (b"garbage", "expected a payload beginning with"),
    (parse_codec("fp32").encode(torch.zeros(256, 99)), "expected an answer of shape"),
    (parse_codec("raw+range").encode(torch.zeros(256, 1, 9, 9, dtype=torch.uint8)), "in fp32"),
    (RefusedError("the cloud refuses: no"), "refuses: no"),
    (NoAnswerError("nobody there"), "nobody there"),
]


@pytest.mark.parametrize(("words", "problem"), LIES)
def test_whatever_answers_the_closing_measurement_a_run_leaves_its_record_and_bundle(
    tmp_path: Path,
    cloud_of: CloudOf,
    monkeypatch: pytest.MonkeyPatch,
    words: Exception | bytes,
    problem: str,
) -> None:
    cloud = cloud_of(Origin(config=TINY), _serve(tmp_path))
    monkeypatch.setattr(CloudClient, "ask", _says(words))
    record = _run(_agent(tmp_path), cloud.target())
    assert record.complete
    assert record.accuracy["cloud"] is None
    assert record.accuracy["exit"] is not None
    assert record.network is not None
    assert "no accuracy of the cloud: " in record.network["problem"]
    assert problem in record.network["problem"]
    assert (tmp_path / "agent" / "record.json").exists()
    assert open_origin(tmp_path / "agent").bundle == tmp_path / "agent" / "bundle"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (PayloadError("nonsense"), "was not waited for: nonsense"),
        (RefusedError("refused"), "was not waited for: refused"),
        (7, "it stays at 7 steps left"),
    ],
)
def test_a_cloud_that_does_not_learn_on_is_not_waited_for_without_an_end(
    tmp_path: Path,
    cloud_of: CloudOf,
    monkeypatch: pytest.MonkeyPatch,
    words: Exception | int,
    problem: str,
) -> None:
    cloud = cloud_of(Origin(config=ONCE), _serve(tmp_path))
    monkeypatch.setattr(agent, "_STUCK_S", 1.0)
    monkeypatch.setattr(CloudClient, "steps_left", _says(words))
    record = _run(_agent(tmp_path), cloud.target(), origin=Origin(config=ONCE))
    assert record.complete
    assert record.network is not None
    assert problem in record.network["problem"]


def test_a_run_that_its_cloud_refuses_leaves_a_record_of_why(
    tmp_path: Path, cloud_of: CloudOf
) -> None:
    cloud = cloud_of(Origin(config=TINY), _serve(tmp_path))
    other = Origin(config=replace(TINY, cut="conv1"))
    with pytest.raises(RefusedError):
        _run(_agent(tmp_path), cloud.target(), origin=other)
    record = unsealed_json((tmp_path / "agent" / "record.json").read_bytes())
    assert record["complete"] is False
    assert "refuses: edge and cloud do not fit" in record["network"]["problem"]


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


# The folder and what it holds


def test_a_finished_run_is_not_run_again_and_new_data_are_said_at_once(
    tmp_path: Path, cloud_of: CloudOf
) -> None:
    from PIL import Image

    folder = tmp_path / "data" / "d"
    for name, shade in (("cat", 40), ("dog", 200)):
        (folder / name).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (8, 8), (shade + i,) * 3).save(folder / name / f"{i}.png")
    config = TrainConfig(
        data="images:d", data_root=tmp_path / "data", image_size=8, batch_size=4, epochs=1
    )
    write_untrained(config, tmp_path / "untrained")  # a cloud has to know the classes
    untrained = open_origin(tmp_path / "untrained")
    origin = replace(untrained, config=replace(untrained.config, data_root=tmp_path / "data"))
    cloud = cloud_of(origin, _serve(tmp_path))
    record = _run(_agent(tmp_path), cloud.target(), origin=origin)
    assert record.complete
    assert _run(_agent(tmp_path), NOBODY, origin=origin) == record
    for i in range(300):
        Image.new("RGB", (8, 8), (i % 256,) * 3).save(folder / "dog" / f"new{i}.png")
    with pytest.raises(
        StateError, match=r"300 files were added under d/dog, such as new0.png.*--ov"
    ):
        _run(_agent(tmp_path), NOBODY, origin=origin)
    names = [*(tmp_path / "agent" / "bundle").rglob("*"), *(tmp_path / "cloud").rglob("*")]
    contents = [path.read_bytes() for path in names if path.is_file()]
    assert contents
    assert not any(b"0.png" in content or b"new0" in content for content in contents)
    (folder / "dog").rename(folder / "eel")
    with pytest.raises(ConfigError, match=r"of the classes cat, dog; .* classes cat, eel"):
        _run(_agent(tmp_path), NOBODY, origin=origin)


def test_each_folder_has_one_owner(tmp_path: Path) -> None:
    stop = threading.Event()
    events = run_agent(Origin(config=TINY), _agent(tmp_path), NOBODY, stop=stop)
    next(events)
    for other in (
        lambda: _run(_agent(tmp_path), NOBODY),
        lambda: list(run(replace(TINY, out=tmp_path / "agent"))),
        lambda: list(run(replace(TINY, out=tmp_path / "agent"), overwrite=True)),
        lambda: list(run(replace(TINY, out=tmp_path / "agent"), resume=True)),
    ):
        with pytest.raises(StorageError, match=r"another process is at work in .* \(number \d+\)"):
            other()
    stop.set()
    assert len(list(events)) >= 1
    for resume in (False, True):  # what an agent began, it alone goes on with
        with pytest.raises((ConfigError, StateError), match=r"interrupted run|`eaves agent`"):
            list(run(replace(TINY, out=tmp_path / "agent"), resume=resume))


def test_the_edges_half_answers_at_every_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the run was killed in the middle, and whatever a learner keeps in its state."""
    for name, config, step in (("plain", TINY, 3), ("hides", HIDING, 5)):
        _saves(monkeypatch, dies_at=("edge" if config is HIDING else "train", step))
        with pytest.raises(KeyboardInterrupt):
            _run(_agent(tmp_path / name, checkpoint_s=0), NOBODY, origin=Origin(config=config))
        monkeypatch.undo()
        folder = tmp_path / name / "agent"
        states, facts = load_checkpoint(folder / "checkpoint") or ({}, {})
        assert facts["steps"] == step - 1
        kept = read_weights(folder / "bundle", "edge")
        tensors = states["edge"].tensors
        prefix = "part/weights/" if config is HIDING else "weights/"
        assert all(torch.equal(value, tensors[prefix + key]) for key, value in kept.items())
        *_, answered = infer(open_origin(folder), InferConfig(cloud=None, samples=20), None)
        assert isinstance(answered, InferRecord)
        assert answered.examples == 20
        assert f"not finished: {step - 1} of 8 steps of the phase" in caplog.text
    key = bytes(tensors["noise/sent"][:32].tolist())
    assert not any(key in content for content in _files(folder / "bundle"))


def test_a_finished_run_of_another_kind_is_not_replaced(tmp_path: Path, cloud_of: CloudOf) -> None:
    config = replace(HIDING, cloud_epochs=2)  # its checkpoint is removed at the end
    cloud = cloud_of(Origin(config=config), _serve(tmp_path))
    assert _run(_agent(tmp_path), cloud.target(), origin=Origin(config=config)).complete
    before = _weights(tmp_path)
    for other in (replace(config, lr=0.01), TINY):
        with pytest.raises(ConfigError, match=r"holds a finished run .*--overwrite"):
            _run(_agent(tmp_path), NOBODY, origin=Origin(config=other))
    assert _weights(tmp_path) == before
