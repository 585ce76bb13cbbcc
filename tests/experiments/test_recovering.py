"""What an edge whose spool is damaged does: nothing is lost without a word."""

import logging
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from tests.experiments.conftest import Cloud

from eaves.errors import StateError
from eaves.experiments.agent import AgentProgress, run_agent
from eaves.experiments.config import TrainConfig
from eaves.experiments.halves import Origin
from eaves.experiments.netconfig import AgentConfig, ServeConfig
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.record import RunRecord
from eaves.experiments.recovering import back_to_beginning, keep_beginning, numbers_text
from eaves.network.channel import Target, insecure_target

TINY = TrainConfig(train_samples=64, batch_size=16, epochs=2)  # 8 steps
STEPS = 8
HIDING = replace(
    TINY,
    send="once",
    cloud_epochs=4,
    method="priphit",
    data="digits:parity",
    bottleneck="4x2x2",
    privacy=PrivacyConfig(private="high"),
)
NOBODY = insecure_target("127.0.0.1:1", "edge-1")
CloudOf = Callable[[Origin, ServeConfig], Cloud]


def serve_config(folder: Path) -> ServeConfig:
    return ServeConfig(listen="127.0.0.1:0", insecure=True, out=folder)


def agent_config(folder: Path, **settings: float) -> AgentConfig:
    values = {"insecure": True, "out": folder, "max_backoff_s": 0.2, "checkpoint_s": 0.0}
    return AgentConfig(**{**values, **settings})  # type: ignore[arg-type]


def run(
    folder: Path,
    target: Target,
    config: TrainConfig = TINY,
    until: Callable[[AgentProgress], bool] = lambda _: False,
) -> RunRecord:
    stop = threading.Event()
    origin = Origin(config=config)
    for event in run_agent(origin, agent_config(folder), target, stop=stop):
        if isinstance(event, RunRecord):
            return event
        if until(event):
            stop.set()
    raise AssertionError("no record came")


def done(event: AgentProgress) -> bool:
    return event.spool.highest >= 4 and event.training.progress.edge_steps >= event.training.steps


def halves(*bundles: Path) -> list[str]:
    found = [path for bundle in bundles for path in sorted(bundle.rglob("weights.safetensors"))]
    return [sha256(path.read_bytes()).hexdigest() for path in found]


def lose_rows(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "spool.db")) as db:
        db.execute("DELETE FROM uploads WHERE seq IN (3, 4)")
        db.commit()


def change_a_row(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "spool.db")) as db:
        db.execute("UPDATE uploads SET data = zeroblob(length(data)) WHERE seq = 2")
        db.commit()


def remove(folder: Path) -> None:
    for path in folder.glob("spool.db*"):
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "config"),
    [(lose_rows, TINY), (change_a_row, TINY), (remove, TINY), (remove, HIDING)],
)
def test_uploads_that_are_gone_are_made_again_the_same_to_the_bit(
    tmp_path: Path,
    cloud_of: CloudOf,
    damage: Callable[[Path], None],
    config: TrainConfig,
    caplog: pytest.LogCaptureFixture,
) -> None:
    alone = run(tmp_path / "agent", NOBODY, config, until=done)
    assert not alone.complete
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "agent", whole)
    weights = []
    for name in ("whole", "agent"):
        if name == "agent":
            damage(tmp_path / name)
        cloud = cloud_of(Origin(config=config), serve_config(tmp_path / f"cloud-{name}"))
        with caplog.at_level(logging.WARNING):
            record = run(tmp_path / name, cloud.target(), config)
        counts = cloud.ended().counts
        assert record.complete
        assert record.network is not None
        assert record.network["lost_uploads"] == record.network["dropped_uploads"] == 0
        assert counts.uploads == (STEPS if config is TINY else 4)
        weights.append(halves(tmp_path / name / "bundle", tmp_path / f"cloud-{name}" / "bundle"))
    assert weights[0] == weights[1]
    assert any("which are made again" in entry.message for entry in caplog.records)


@pytest.mark.parametrize("damage", [lose_rows, remove])
def test_uploads_that_cannot_be_made_again_are_counted_as_lost(
    tmp_path: Path, cloud_of: CloudOf, damage: Callable[[Path], None]
) -> None:
    run(tmp_path / "agent", NOBODY, until=done)
    damage(tmp_path / "agent")
    shutil.rmtree(tmp_path / "agent" / "checkpoint" / "first")  # as an older version left it
    cloud = cloud_of(Origin(config=TINY), serve_config(tmp_path / "cloud"))
    lost = 2 if damage is lose_rows else STEPS
    for _ in range(2):  # it is not forgotten the next time
        record = run(tmp_path / "agent", cloud.target())
        assert record.network is not None
        assert record.network["lost_uploads"] == lost
        assert not record.complete
        assert (tmp_path / "agent" / "bundle" / "manifest.json").exists()
    assert cloud.ended().counts.uploads == STEPS - lost


def test_a_spool_that_is_no_database_is_refused_and_made_again_once_it_is_removed(
    tmp_path: Path, cloud_of: CloudOf
) -> None:
    run(tmp_path / "agent", NOBODY, until=done)
    path = tmp_path / "agent" / "spool.db"
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    cloud = cloud_of(Origin(config=TINY), serve_config(tmp_path / "cloud"))
    with pytest.raises(StateError, match="the same command makes them again where it can"):
        run(tmp_path / "agent", cloud.target())
    remove(tmp_path / "agent")
    assert run(tmp_path / "agent", cloud.target()).complete
    assert cloud.ended().counts.uploads == STEPS


def test_the_beginning_of_a_run_can_be_gone_back_to(tmp_path: Path) -> None:
    assert not back_to_beginning(tmp_path)
    (tmp_path / "edge-1.safetensors").write_bytes(b"1")
    (tmp_path / "checkpoint.json").write_bytes(b"first")
    keep_beginning(tmp_path)
    (tmp_path / "edge-1.safetensors").unlink()
    (tmp_path / "edge-2.safetensors").write_bytes(b"2")
    (tmp_path / "checkpoint.json").write_bytes(b"second")
    assert back_to_beginning(tmp_path)
    assert (tmp_path / "checkpoint.json").read_bytes() == b"first"
    assert (tmp_path / "edge-1.safetensors").read_bytes() == b"1"


def test_numbers_are_told_without_an_end_to_them() -> None:
    many = tuple(range(n, n + 1) for n in range(1, 40, 2))
    assert numbers_text(many) == "1, 3, 5, 7, 9, 11, 13, 15, 17, 19, ..."
