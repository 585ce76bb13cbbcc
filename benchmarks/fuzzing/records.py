"""Targets that read what a cloud or an edge has written down: who, what, when, and what it is."""

import json
import random
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, final

from benchmarks.fuzzing import mutate
from benchmarks.fuzzing.contract import expect, expect_words, joined, one_part, parted
from benchmarks.fuzzing.files import InFolder

from eaves.errors import AccessError, ConfigError, StateError, StorageError
from eaves.experiments.build import build_job
from eaves.experiments.config import TrainConfig
from eaves.experiments.identity import NAME as IDENTITY
from eaves.experiments.identity import differences, notices, read_identity, settings_changed
from eaves.experiments.position import fingerprint
from eaves.network.accesslog import AccessLog, read_access_log
from eaves.network.history import History
from eaves.network.journal import Journal, _chained, learnt, read_journal
from eaves.network.keeper import Keeper, Kept
from eaves.network.ledger import Account, Ledger, Run
from eaves.network.quarantine import Quarantine
from eaves.runtime.sealed import sealed_json
from eaves.runtime.transaction import Content, commit, finish

_PRIVATE = "outside the folder"


def resealed(data: bytes) -> bytes:
    """Return a JSON object under a right checksum, where it can have one."""
    try:
        values = json.loads(data)
        return sealed_json(values) if isinstance(values, dict) else data
    except (ValueError, TypeError, RecursionError):
        return data


def _sealed_or_not(rng: random.Random, data: bytes) -> bytes:
    changed = mutate.json_values(rng, data)
    return resealed(changed) if rng.random() < 0.7 else changed


@final
class JournalFile(InFolder):
    """A cloud's journal, read, and then written on; lines with a right chain among them."""

    name: ClassVar[str] = "journal"
    allowed: ClassVar = (StateError, StorageError)

    def seeds(self) -> Sequence[bytes]:
        path = self.folder / "seed.jsonl"
        with closing(Journal(path, lines=0)) as journal:
            facts: dict[str, Any] = {"edge": "a", "run": "r", "examples": 3, "step": 1, "kept": 0}
            journal.add("learnt", b"payload", seq=1, **facts)
            journal.add("refused", edge="b", why="damaged")
            journal.add("rolled back", lines=1, why="nan")
            journal.add("restarted", void_from=3)
            journal.add("forgot", edge="a")
        return [path.read_bytes()]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        if rng.random() < 0.4:
            return mutate.any_bytes(rng, data)
        lines = data.splitlines(keepends=True)
        i = rng.randrange(len(lines) or 1)
        lines[i : i + 1] = [mutate.json_values(rng, lines[i]) + b"\n"] if lines else []
        return chained_again(lines) if rng.random() < 0.8 else b"".join(lines)

    def run(self, data: bytes) -> str:
        self.write({"journal.jsonl": data})
        path = self.folder / "journal.jsonl"
        found = read_journal(path)
        for record in learnt(found):
            expect(isinstance(record["undone"], bool), "an upload that cannot be")
        with closing(Journal(path, lines=0)) as journal:
            journal.add("refused", edge="c")
            lines = journal.lines
        again = read_journal(path)
        expect(again[-1]["n"] == lines and len(again) > len(found), "a line is lost")
        return "a journal" if found else "none"


def chained_again(lines: list[bytes]) -> bytes:
    """Return lines of a journal with the chain that they would have."""
    chain, out = "", []
    for line in lines:
        try:
            record = json.loads(line)
            record.pop("chain", None)
            chain = _chained(chain, record)
            out.append(json.dumps({**record, "chain": chain}).encode() + b"\n")
        except (ValueError, TypeError, AttributeError, RecursionError):
            out.append(line)
    return b"".join(out)


@final
class Past(InFolder):
    """The index of a checkpoint in the history, from which an operator goes back."""

    name: ClassVar[str] = "history"
    allowed: ClassVar = (StateError, ConfigError)

    def seeds(self) -> Sequence[bytes]:
        folder = self.folder / "seed"
        accounts = {
            Run("edge", "ab"): Account(applied=3, durable=3, samples=9, last=0),
            Run("idle", "cd"): Account(applied=0, durable=0, samples=0, last=0),
        }
        ledger = Ledger(accounts)
        kept = Kept(session="s", total_steps=100, ledger=ledger, contributions={"journal": 4})
        Keeper(folder, "{}", every_s=1.0).save(kept)
        return [(folder / "checkpoint.json").read_bytes()]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        return _sealed_or_not(rng, data)

    def run(self, data: bytes) -> str:
        self.write({"history/00000001/checkpoint.json": data})
        history = History(self.folder / "history", 4)
        for state in history.states():
            good = (state.number, *state.applied.values(), state.lines, state.steps)
            expect(all(type(n) is int for n in good), "numbers that cannot be")
            expect(all(isinstance(edge, str) for edge in state.applied), "an edge without a name")
        history.find("1")
        history.before("idle")
        return "a history"


@final
class SetAside(InFolder):
    """The file of an edge in quarantine: whatever is in it, the edge stays out."""

    name: ClassVar[str] = "quarantine"
    allowed: ClassVar = ()

    def seeds(self) -> Sequence[bytes]:
        Quarantine(self.folder / "seed", 1).set_aside("edge", "for what it has sent")
        return [(self.folder / "seed" / "edge.json").read_bytes()]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        return _sealed_or_not(rng, data)

    def run(self, data: bytes) -> str:
        self.write({"quarantine/edge.json": data})
        quarantine = Quarantine(self.folder / "quarantine", 1)
        why = quarantine.edges()["edge"]
        try:
            quarantine.expect_free("edge")
        except AccessError as error:
            expect_words(str(error))
            return "no reason" if "no longer be read" in why else "a reason"
        expect(False, "the edge is let in")
        return ""


@final
class Identity(InFolder):
    """What a run is, compared with what it is now."""

    name: ClassVar[str] = "identity"
    allowed: ClassVar = (StateError,)

    def __init__(self) -> None:
        super().__init__()
        job = build_job(TrainConfig(out=self.folder, train_samples=8, device="cpu"))
        self._now = fingerprint(job)

    def seeds(self) -> Sequence[bytes]:
        return [json.dumps(self._now).encode()]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        return mutate.json_values(rng, data)

    def run(self, data: bytes) -> str:
        self.write({IDENTITY: data})
        before = read_identity(self.folder)
        told = [*settings_changed(before, self._now), *differences(before, self._now)]
        told += notices(before, self._now)
        for words in told:
            expect(isinstance(words, str), "a difference without words")
            words.encode(errors="backslashreplace")
        return "another" if told else "the same"


@final
class WhoCame(InFolder):
    """An access log, read; and one line more, of a peer that chooses its words."""

    name: ClassVar[str] = "access"
    allowed: ClassVar = (StateError,)

    def seeds(self) -> Sequence[bytes]:
        path = self.folder / "seed.jsonl"
        log = AccessLog(path)
        log.write("refused", source="ipv4:192.0.2.1", why="no token was sent", n=1)
        log.write("token revoked", name="cam-1")
        return [joined([path.read_bytes(), b"why"])]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        kinds: tuple[Callable[[random.Random, bytes], bytes], ...] = (mutate.any_bytes, mutate.text)
        return one_part(rng.choice(kinds))(rng, data)

    def run(self, data: bytes) -> str:
        content, words = parted(data, 2)
        self.write({"access.jsonl": b""})
        path = self.folder / "access.jsonl"
        text = words.decode(errors="surrogateescape")
        AccessLog(path).write("refused", source=text or "a", why=text)
        (line,) = read_access_log(path)
        expect(line["event"] == "refused" and path.stat().st_size < 8000, "a line was forged")
        self.write({"access.jsonl": content})
        return f"{min(len(read_access_log(path)), 3)} lines"


@final
class HalfDone(InFolder):
    """A change of credentials that was interrupted after it had happened; damaged since."""

    name: ClassVar[str] = "transaction"
    allowed: ClassVar = (StateError, StorageError)

    def seeds(self) -> Sequence[bytes]:
        commit(self.folder, {"server/a.json": Content(b"{}"), "b": Content(b"secret")})
        return [joined([b'{"files": ["server/a.json", "b"]}', b"{}", b"secret"])]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        index, *rest = parted(data, 3)
        change = rng.choice((mutate.json_values, mutate.any_bytes, _paths))
        return joined([change(rng, index), *rest])

    def run(self, data: bytes) -> str:
        index, first, second = parted(data, 3)
        place = self.folder / "in" / "certs"
        self.write({"in/certs/.ready/index.json": index})
        self.write({"in/certs/.ready/0": first, "in/certs/.ready/1": second})
        try:
            finish(place)
        finally:
            beside = {path.name for path in (self.folder / "in").iterdir()}
            _remove(self.folder / "in")
            expect(beside == {"certs"}, _PRIVATE)
        return "finished"


def _paths(rng: random.Random, _: bytes) -> bytes:
    names = (
        "../x",
        "/dev/shm/eaves-x",
        "a/../../x",
        "",
        ".",
        "a\0b",
        "x" * 300,
        "server",
        "b",
        "b/c",
    )
    return json.dumps({"files": [rng.choice(names), rng.choice(names)]}).encode()


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
