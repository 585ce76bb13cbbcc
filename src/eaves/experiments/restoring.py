"""Going back: a cloud rolled back to a state of its history, or without what one edge contributed.

Both are done before the service starts, on its folder alone. Edges do not notice: the session and
the accounts of what was applied stay as they are, for the edges have let go of those uploads.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Final, final

from eaves.core.state import State
from eaves.errors import ConfigError
from eaves.experiments.netconfig import ServeConfig
from eaves.network.group import Alone
from eaves.network.half import Half
from eaves.network.history import History, PastState
from eaves.network.journal import Journal, learnt, read_journal
from eaves.network.keeper import Keeper, Kept
from eaves.network.learning import Learning
from eaves.network.quarantine import Quarantine
from eaves.runtime.files import write_atomically
from eaves.runtime.store import Store

_DRAFT: Final = "forgetting"
_READY: Final = "ready.json"  # in the draft, once it is whole
_SAY: Final = 1000
_PIECES: Final = ("checkpoint", "store", "uploads")
_log = logging.getLogger(__name__)


@final
@dataclass(frozen=True, kw_only=True)
class Undo:
    """What is undone before a cloud serves."""

    rollback: str | None = None
    """Number of a checkpoint in the history, or ``before:EDGE``."""
    forget: str | None = None
    """An edge."""

    def __post_init__(self) -> None:
        if self.rollback is not None and self.forget is not None:
            raise ConfigError("give --rollback or --forget, one at a time")


def roll_back(out: Path, keeper: Keeper, which: str) -> PastState:
    """Make the weights those of a checkpoint in the history, and return it.

    Raises:
        ConfigError: there is no such checkpoint.
        StateError: it is damaged, or the journal is.
        StorageError: the disk is full or refuses; nothing has changed.
    """
    past = History(out / "history", 0).find(which)
    now, then = _loaded(keeper, out), keeper.load(past.folder)
    assert then is not None  # it was found
    facts = _noted(
        out, now, "rolled back", lines=_lines(then), why=f"by the operator, to {past.number}"
    )
    facts["levels"] = then.contributions.get("levels", {})
    keeper.save(replace(now, cloud=_with_uploads_of(then.cloud, now.cloud), contributions=facts))
    return past


def forget(config: ServeConfig, keeper: Keeper, half: Half, edge: str) -> int:
    """Retrain from before an edge's first upload without it; return how many uploads were left out.

    The weights are those, bit for bit, of a cloud that never got the edge's uploads, but all
    others in the same order and steps.

    Raises:
        ConfigError: the edge is unknown, or uploads of others were not kept.
        StateError: something is damaged.
        StorageError: the disk is full or refuses; nothing has changed.
    """
    out = config.out
    now = _loaded(keeper, out)
    records = [r for r in read_journal(out / "journal.jsonl") if r["n"] <= _lines(now)]
    uploads = learnt(records)
    then = keeper.load(_before(out, edge, uploads).folder)
    assert then is not None  # it was found
    later = [one for one in uploads if one["n"] > _lines(then) and not one["undone"]]
    others = [one for one in later if one["edge"] != edge]
    if lost := sum(one["kept"] is None for one in others):
        raise ConfigError(
            f"{lost:,} of {len(others):,} uploads of other edges were not kept, so that the cloud "
            f"cannot learn from them again: roll back instead, with --rollback before:{edge}, and "
            "keep uploads from now on, with --keep-uploads"
        )
    draft = out / _DRAFT
    shutil.rmtree(draft, ignore_errors=True)
    with closing(_store(config, half, now)) as store:
        learning = Learning(replace(half, lessons=None), Alone())
        learning.plan(now.total_steps, edges=config.edges, merge=config.merge)
        learning.load_state(then.cloud)
        _learn_again(learning, store, others)
        cloud = learning.state()
        target = draft / ("uploads" if half.lessons is None else "store")
        sizes = _rewritten(store, target, [one for one in uploads if one["edge"] != edge])
    stored = sum(map(len, sizes.values()))
    if half.lessons is not None:
        of_edge = {name: sum(each) for name, each in sizes.items()}
        lessons = {"stored": stored, "again": 0, "of_edge": of_edge}
        cloud = replace(cloud, facts={**cloud.facts, "lessons": lessons})
    facts = _noted(out, now, "forgot", edge=edge)
    facts["levels"] = then.contributions.get("levels", {})
    if half.lessons is None:
        facts["kept"] = stored
    with closing(Keeper(draft / "checkpoint", keeper.terms, every_s=0)) as written:
        written.save(replace(now, cloud=cloud, contributions=facts))
    Quarantine(out / "quarantine", 0).set_aside(edge, "its contribution was taken back")
    write_atomically(draft / _READY, json.dumps({"edge": edge}).encode())
    finish_forgetting(out)
    return len(later) - len(others)


def _before(out: Path, edge: str, uploads: list[dict[str, Any]]) -> PastState:
    """Return the last state without an edge, in which nothing is that was undone later.

    The first is from before all uploads, so there is one.
    """
    undone = [one["n"] for one in uploads if one["undone"]]
    states = History(out / "history", 0).before(edge)
    return [past for past in states if not any(n <= past.lines for n in undone)][-1]


def finish_forgetting(out: Path) -> None:
    """Put what :func:`forget` has written in its place, also where a crash came in between."""
    draft = out / _DRAFT
    if not draft.exists():
        return
    if (draft / _READY).exists():
        edge = str(json.loads((draft / _READY).read_bytes())["edge"])
        History(out / "history", 0).forget(edge)
        for name in _PIECES:
            if (draft / name).exists():
                shutil.rmtree(out / name, ignore_errors=True)
                (draft / name).rename(out / name)
    shutil.rmtree(draft)


def _loaded(keeper: Keeper, out: Path) -> Kept:
    kept = keeper.load()
    if kept is None:
        raise ConfigError(f"there is no cloud in {out} to take anything back from: check --out")
    return kept


def _lines(kept: Kept) -> int:
    return int(kept.contributions.get("journal", 0))


def _noted(out: Path, now: Kept, event: str, **facts: Any) -> dict[str, Any]:
    """Add a line to the journal; return the contributions with it."""
    with closing(Journal(out / "journal.jsonl", lines=_lines(now))) as journal:
        journal.add(event, **facts)
        journal.flush()
        return {**now.contributions, "journal": journal.lines}


def _with_uploads_of(then: State | None, now: State | None) -> State | None:
    """Return the state of then, with the uploads that are kept now to be learnt from again."""
    if then is None or now is None or "lessons" not in now.facts:
        return then
    before: Mapping[str, Any] = then.facts.get("lessons", {"again": 0})
    kept = {**now.facts["lessons"], "again": before["again"]}
    return replace(then, facts={**then.facts, "lessons": kept})


def _store(config: ServeConfig, half: Half, now: Kept) -> Store:
    """Open the store of uploads, all that the checkpoint has."""
    if half.lessons is None:
        return Store(config.out / "uploads", keep=int(now.contributions.get("kept", 0)))
    facts = {} if now.cloud is None else now.cloud.facts
    return Store(config.out / "store", keep=int(facts["lessons"]["stored"]))


def _learn_again(learning: Learning, store: Store, uploads: list[dict[str, Any]]) -> None:
    """Learn from these uploads, in the steps in which they were learnt from."""
    for done, (_, together) in enumerate(groupby(uploads, key=lambda one: one["step"]), 1):
        learning.step([store.read(one["kept"]) for one in together])
        if done % _SAY == 0:
            _log.info("learning again", extra={"steps": done})


def _rewritten(store: Store, folder: Path, uploads: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Write a store with these uploads alone; return the bytes of each, by edge."""
    sizes: dict[str, list[int]] = {}
    with closing(Store(folder)) as target:
        for one in uploads:
            if one["kept"] is not None:
                payload = store.payload(one["kept"])
                target.append(payload)
                sizes.setdefault(one["edge"], []).append(len(payload))
        target.flush()
    return sizes
