"""Going back: to a state of the history, or without an edge, and the edges do not notice."""

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import pytest
import torch
from tests.experiments.conftest import Cloud

from eaves.errors import ConfigError
from eaves.experiments import restoring as module
from eaves.experiments.agent import run_agent
from eaves.experiments.bundle import read_weights
from eaves.experiments.config import TrainConfig
from eaves.experiments.halves import Origin
from eaves.experiments.netconfig import AgentConfig, ServeConfig
from eaves.experiments.record import RunRecord
from eaves.experiments.restoring import Undo, finish_forgetting
from eaves.experiments.serve import serve
from eaves.network.channel import Target
from eaves.network.credentials import Gate
from eaves.network.history import History
from eaves.network.journal import learnt, read_journal
from eaves.network.learning import Learning

TINY = TrainConfig(train_samples=64, batch_size=16, epochs=1)  # 4 uploads of each edge
ONCE = replace(TINY, send="once", cloud_epochs=3)
_FOLDER = TemporaryDirectory()
_TRAINED: dict[str, Path] = {}
CloudOf = Callable[[Origin, ServeConfig], Cloud]


def _serve(out: Path, **settings: Any) -> ServeConfig:
    usual = {"listen": "127.0.0.1:0", "insecure": True, "edges": 3, "keep_uploads": 10.0}
    return ServeConfig(**{**usual, "out": out, **settings})


def _agent(out: Path, target: Target, config: TrainConfig) -> RunRecord:
    """Train one edge to its end; it does not stay until the cloud has learnt on."""
    settings = AgentConfig(insecure=True, out=out, max_backoff_s=0.2)
    stop = threading.Event()
    for event in run_agent(Origin(config=config), settings, target, stop=stop):
        if not isinstance(event, RunRecord) and event.training.phase == "cloud":
            stop.set()
    assert isinstance(event, RunRecord)
    return event


def trained(
    folder: Path, cloud_of: CloudOf, edges: str, config: TrainConfig = TINY, **settings: Any
) -> ServeConfig:
    """Let edges train, one after the other, each in an order of its own; a checkpoint each.

    What was trained once is copied after that.
    """
    made, kept = _serve(folder / "cloud", **settings), str((edges, config, sorted(settings)))
    if kept in _TRAINED:
        shutil.copytree(_TRAINED[kept], made.out)
        return made
    for edge in edges:
        cloud = cloud_of(Origin(config=config), made)
        own = replace(config, seed=ord(edge))
        _agent(folder / edge, cloud.target(edge), own)
        cloud.ended()
    _TRAINED[kept] = Path(mkdtemp(dir=_FOLDER.name)) / "cloud"
    shutil.copytree(made.out, _TRAINED[kept])
    return made


def undone(config: ServeConfig, undo: Undo, train: TrainConfig = TINY) -> None:
    """Start a cloud that undoes something, and stop it."""
    stop = threading.Event()
    stop.set()
    for _ in serve(Origin(config=train), config, Gate(None), None, stop=stop, undo=undo):
        pass


def weights(config: ServeConfig) -> dict[str, torch.Tensor]:
    return read_weights(config.out / "bundle", "cloud")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def accounts(config: ServeConfig) -> dict[str, int]:
    facts = json.loads((config.out / "checkpoint" / "checkpoint.json").read_bytes())["facts"]
    return {row["edge"]: row["applied"] for row in facts["ledger"]}


# Rolling back


def test_weights_are_those_of_then_and_accounts_those_of_now(
    tmp_path: Path, cloud_of: CloudOf
) -> None:
    first = trained(tmp_path / "one", cloud_of, "a")
    both = trained(tmp_path / "two", cloud_of, "ab")
    assert not equal(weights(first), weights(both))
    undone(both, Undo(rollback="before:b"))
    assert equal(weights(both), weights(first))
    assert accounts(both) == {"a": 4, "b": 4}
    session = json.loads((both.out / "bundle" / "manifest.json").read_bytes())["session"]
    cloud = cloud_of(Origin(config=TINY), both)  # and it goes on
    assert cloud.events[0].session == session
    _agent(tmp_path / "two" / "c", cloud.target("c"), TINY)
    cloud.ended()
    assert accounts(both) == {"a": 4, "b": 4, "c": 4}
    assert not equal(weights(both), weights(first))
    events = [r["event"] for r in read_journal(both.out / "journal.jsonl")]
    assert events.count("rolled back") == 1


def test_every_number_of_the_history_can_be_gone_back_to(tmp_path: Path, cloud_of: CloudOf) -> None:
    config = trained(tmp_path, cloud_of, "ab")
    newest = weights(config)
    states = History(config.out / "history", 0).states()
    assert states[0].steps == 0
    for state in (states[0], states[-1]):
        undone(config, Undo(rollback=str(state.number)))
        assert _state(config)["facts"]["steps"] == state.steps
    assert equal(weights(config), newest)


def test_what_cannot_be_gone_back_to_is_refused_and_nothing_changes(
    tmp_path: Path, cloud_of: CloudOf
) -> None:
    config = trained(tmp_path, cloud_of, "a")
    before = weights(config)
    for undo in (Undo(rollback="99"), Undo(rollback="before:x"), Undo(forget="x")):
        with pytest.raises(ConfigError):
            undone(config, undo)
    undone(config, Undo())
    assert equal(weights(config), before)
    with pytest.raises(ConfigError, match="one at a time"):
        Undo(rollback="1", forget="a")


# Forgetting


@pytest.mark.parametrize(
    ("config", "edge"), [(TINY, "a"), (TINY, "b"), (ONCE, "b")], ids=["first", "second", "once"]
)
def test_an_edge_is_forgotten_bit_for_bit(
    tmp_path: Path,
    cloud_of: CloudOf,
    monkeypatch: pytest.MonkeyPatch,
    config: TrainConfig,
    edge: str,
) -> None:
    without = trained(tmp_path / "never", cloud_of, "abc".replace(edge, ""), config)
    with_all = trained(tmp_path / "all", cloud_of, "abc", config, exit_when_done=False)
    if config.sends_once:  # it has learnt on from what it kept, also of that edge
        if not _state(with_all)["facts"]["lessons"]["again"]:
            last = cloud_of(Origin(config=config), with_all)
            while last.events[-1].counts.again < 1:
                last.stop.wait(0.05)
            last.ended()
        assert _state(with_all)["facts"]["lessons"]["again"] > 0
    with monkeypatch.context() as paused:  # it would learn on from the beginning: compare before
        paused.setattr(Learning, "left", property(lambda learning: 0))
        undone(with_all, Undo(forget=edge), config)
    if config.sends_once:
        kept = _state(with_all)["facts"]["lessons"]
        assert (kept["stored"], kept["again"], set(kept["of_edge"])) == (8, 0, {"a", "c"})
        assert kept == _state(without)["facts"]["lessons"]
    assert equal(weights(with_all), weights(without))
    left = learnt(read_journal(with_all.out / "journal.jsonl"))
    assert {one["edge"] for one in left} == set("abc") - {edge}
    assert [one["kept"] for one in left] == list(range(8))
    store = "store" if config.sends_once else "uploads"
    assert (with_all.out / store / "uploads.bin").read_bytes() == (
        without.out / store / "uploads.bin"
    ).read_bytes()
    for state in History(with_all.out / "history", 0).states():
        assert not state.applied.get(edge) or state.lines > left[-1]["n"]


def _state(config: ServeConfig) -> Any:
    index = json.loads((config.out / "checkpoint" / "checkpoint.json").read_bytes())
    return index["states"]["cloud"]


def test_a_forgotten_edge_is_set_aside_and_the_others_go_on(
    tmp_path: Path, cloud_of: CloudOf
) -> None:
    config = trained(tmp_path, cloud_of, "ab")
    undone(config, Undo(forget="a"))
    cloud = cloud_of(Origin(config=TINY), config)
    _agent(tmp_path / "c", cloud.target("c"), replace(TINY, seed=ord("c")))
    cloud.ended()
    never = trained(tmp_path / "never", cloud_of, "bc")
    assert equal(weights(config), weights(never))
    assert next((config.out / "quarantine").iterdir()).name == "a.json"


def test_what_was_not_kept_cannot_be_learnt_from_again(tmp_path: Path, cloud_of: CloudOf) -> None:
    config = trained(tmp_path, cloud_of, "ab", keep_uploads=0.0)
    before = weights(config)
    with pytest.raises(ConfigError, match=r"4 of 4 uploads of other edges were not kept.*before:a"):
        undone(config, Undo(forget="a"))
    undone(config, Undo(forget="b"))  # the last one: there is nothing to learn again
    assert not equal(weights(config), before)


def test_undone_uploads_stay_undone(tmp_path: Path, cloud_of: CloudOf) -> None:
    config = trained(tmp_path, cloud_of, "ab")
    undone(config, Undo(rollback="before:b"))
    cloud = cloud_of(Origin(config=TINY), config)
    _agent(tmp_path / "c", cloud.target("c"), replace(TINY, seed=ord("c")))
    cloud.ended()
    undone(config, Undo(forget="c"))
    first = trained(tmp_path / "one", cloud_of, "a")
    assert equal(weights(config), weights(first))


@pytest.mark.parametrize("moment", ["before it is whole", "before it is in place", "in between"])
def test_a_crash_while_forgetting_leaves_one_or_the_other(
    tmp_path: Path, cloud_of: CloudOf, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    config = trained(tmp_path, cloud_of, "ab")
    never = trained(tmp_path / "never", cloud_of, "b")
    before = weights(config)

    class Killed(BaseException):
        pass

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    name = {"before it is whole": "write_atomically", "before it is in place": "finish_forgetting"}
    with monkeypatch.context() as killing:
        if moment == "in between":
            removing, calls = shutil.rmtree, list[Any]()

            def second(path: Path, **kinds: Any) -> None:
                calls.append(path)
                if path.name == "uploads" and path.parent == config.out:
                    die()
                removing(path, **kinds)

            killing.setattr(shutil, "rmtree", second)
        else:
            finish = finish_forgetting

            def at_the_start(out: Path) -> None:
                if not (out / "forgetting").exists():
                    return finish(out)
                return die()

            patched = at_the_start if name[moment] == "finish_forgetting" else die
            killing.setattr(module, name[moment], patched)
        with pytest.raises(Killed):
            undone(config, Undo(forget="a"))
    undone(config, Undo())
    assert equal(weights(config), before if moment == "before it is whole" else weights(never))
    assert not (config.out / "forgetting").exists()
    cloud = cloud_of(Origin(config=TINY), config)  # and it goes on
    _agent(tmp_path / "c", cloud.target("c"), TINY)
    assert cloud.ended().finished == 3
