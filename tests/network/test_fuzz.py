"""What arrives from outside ends in a valid result or in the error that is documented for it.

Runs the targets of benchmarks/fuzz.py on seeded mutations, and on inputs that once broke a promise.
"""

import ctypes
import json
import random
import sqlite3
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import ClassVar, final

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks is no part of the package

from benchmarks.fuzzing.contract import Breach, Target, joined, parted
from benchmarks.fuzzing.loop import Loop, attempt
from benchmarks.fuzzing.payloads import SHAPE, example
from benchmarks.fuzzing.records import chained_again, resealed
from benchmarks.fuzzing.targets import TARGETS
from benchmarks.fuzzing.wire import hello

from eaves.codecs.base import parse_codec
from eaves.codecs.upload import pack_upload
from eaves.network.eaves_pb2 import CloudMessage, Receipt, Welcome

INPUTS = {"spool": 60, "uplink": 60, "service": 60, "position": 60, "checkpoint": 60}
DEEP = b"[" * 3000


@pytest.fixture(autouse=True)
def _fast_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Spools and checkpoints wait for the disk, which is not what is tested here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    if Path("/dev/shm").is_dir():
        monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def made(_fast_disk: None, request: pytest.FixtureRequest) -> Iterator[Target]:
    target = TARGETS[request.param]()
    yield target
    target.close()


# What is refused depends on which thread is faster: it may be nothing.
TIMED = ("crowd",)


@pytest.mark.parametrize("made", TARGETS, indirect=True)
def test_seeded_mutations_end_as_documented(made: Target, tmp_path: Path) -> None:
    loop = Loop(made, 0, tmp_path)
    inputs = INPUTS.get(made.name, 200)
    loop.run(60.0, most=inputs)
    assert loop.findings == {}
    assert loop.outcomes.total() == inputs
    assert len(loop.outcomes) > 1 or made.name in TIMED  # valid ones and others


def spool(statement: str) -> Callable[[bytes], bytes]:
    def changed(seed: bytes) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.db"
            path.write_bytes(seed)
            with closing(sqlite3.connect(path)) as db:
                db.execute("PRAGMA journal_mode = DELETE")
                db.execute(statement)
                db.commit()
            return path.read_bytes()

    return changed


def first(new: bytes) -> Callable[[bytes], bytes]:
    """Replace the first of several parts."""
    return lambda seed: joined([new, *parted(seed)[1:]])


def second(new: bytes) -> Callable[[bytes], bytes]:
    """Replace the second of several parts."""
    return lambda seed: joined([parted(seed)[0], new, *parted(seed)[2:]])


def within(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """Replace text in a seed, in its first part where there are several."""

    def changed(seed: bytes) -> bytes:
        whole = not seed.startswith(struct.pack("<I", len((parted(seed) or [b""])[0])))
        text = seed if whole else parted(seed)[0]
        assert old in text
        text = text.replace(old, new, 1)
        return resealed(text) if whole else first(text)(seed)

    return changed


def whole(data: bytes) -> Callable[[bytes], bytes]:
    return lambda _: data


def rechained(facts: dict[str, object]) -> Callable[[bytes], bytes]:
    """Replace values in the first line of a journal, under a right chain."""

    def changed(seed: bytes) -> bytes:
        record = json.loads(seed.splitlines()[0]) | facts
        return chained_again([json.dumps(record).encode() + b"\n"])

    return changed


def features(value: float, rows: int = 2) -> bytes:
    return parse_codec("fp32").encode(torch.full((rows, *SHAPE), value))


def learnt(value: float) -> bytes:
    labels = torch.zeros(2, dtype=torch.int64)
    payload = pack_upload(torch.full((2, *SHAPE), value), labels, parse_codec("fp32"))
    return struct.pack("<QQ", 1, 0) + payload


def receipts(*messages: CloudMessage) -> bytes:
    return joined([message.SerializeToString() for message in messages])


WELCOME = CloudMessage(welcome=Welcome(session="s", applied=0))
MANY = json.dumps({f"name{i}": "x" * 50 for i in range(1000)}).encode()
BROKEN = [
    ("terms", whole(b'{"\\ud800": 1}'), "ConfigError"),
    ("terms", whole(MANY), "ConfigError"),
    ("terms", whole(DEEP), "PayloadError"),
    ("terms", whole(b'{"a": "' + b"x" * 2**20 + b'"}'), "PayloadError"),
    ("service", second(hello(terms='{"\\ud800": 1}')), "Refused"),
    ("service", second(hello(terms=DEEP.decode())), "Refused"),
    ("service", second(hello(session="x" * 10**6)), "Refused"),
    ("trainer", whole(learnt(1e20)), "PayloadError"),
    ("trainer", whole(learnt(-3e38)), "PayloadError"),
    ("answers", whole(features(3e38)), "PayloadError"),
    ("reply", whole(example("fp16", (4, 3, 3, 2))), "PayloadError"),
    (
        "uplink",
        whole(receipts(WELCOME, CloudMessage(receipt=Receipt(durable=2**63)))),
        "a violation",
    ),
    ("uplink", whole(receipts(CloudMessage(welcome=Welcome(applied=2**64 - 1)))), "a violation"),
    ("spool", spool("UPDATE uploads SET samples = NULL"), "0 uploads"),
    ("spool", spool("UPDATE uploads SET data = NULL"), "0 uploads"),
    ("spool", spool("UPDATE facts SET forgotten = 'x'"), "StateError"),
    ("spool", spool(f"UPDATE facts SET forgotten = {2**63 - 1}"), "StateError"),
    ("spool", spool("DELETE FROM facts"), "StateError"),
    ("spool", spool("ALTER TABLE uploads ADD COLUMN more"), "StateError"),
    ("store", first(struct.pack("<QQ", 2**64 - 1, 200)), "StateError"),
    ("checkpoint", first(DEEP), "StateError"),
    ("checkpoint", within(b'"applied": 3', b'"applied": "3"'), "StateError"),
    ("checkpoint", within(b'"total_steps": 100', b'"total_steps": 1e999'), "StateError"),
    ("position", within(b'"train",\n  "steps": 3', b'"train",\n  "steps": 1e999'), "StateError"),
    ("position", within(b'"wall_s": 0.0', b'"wall_s": {}'), "StateError"),
    ("position", within(b'"run": "ab12"', b'"walk": "ab12"'), "StateError"),
    ("position", within(b'"phase": "train"', b'"step": "train"'), "StateError"),
    ("bundle", first(DEEP), "StateError"),
    ("bundle", within(b'"input_shape": [\n  1', b'"input_shape": [\n  "1"'), "StateError"),
    ("bundle", within(b'"sha256": {', b'"sha256": null, "x": {'), "StateError"),
    ("bundle", within(b'"edge_slowdown": 1.0', b'"edge_slowdown": 1' + b"0" * 400), "StateError"),
    ("issued", whole(DEEP), "StateError"),
    ("issued", within(b"+00:00", b""), "StateError"),
    ("journal", rechained({"event": None}), "StateError"),
    ("journal", rechained({"n": "1"}), "StateError"),
    ("journal", rechained({"event": "learnt"}), "StateError"),
    ("journal", rechained({"event": "rolled back", "lines": "1"}), "StateError"),
    ("journal", rechained({"event": "restarted", "void_from": [1]}), "StateError"),
    ("history", within(b'"edge": "edge"', b'"edge": null'), "StateError"),
    ("history", within(b'"saved_at": ', b'"saved_at": 1e999, "x": '), "StateError"),
    ("history", within(b'"applied": 3', b'"applied": 1e999'), "StateError"),
    ("quarantine", within(b"for what it has sent", b"\\ud800"), "a reason"),
    ("quarantine", within(b"for what it has sent", b"x" * 9000), "a reason"),
    ("quarantine", whole(DEEP), "no reason"),
    ("identity", within(b'"kind": "train"', b'"kin": "train"'), "StateError"),
    ("identity", within(b'"versions": {', b'"versions": [], "x": {'), "StateError"),
    ("identity", within(b'"package": "eaves', b'"package": null, "x": "eaves'), "StateError"),
    ("transaction", first(b'{"files": ["a\\u0000b"]}'), "StateError"),
    ("transaction", first(b'{"files": ["\\ud800"]}'), "StateError"),
    ("transaction", first(b'{"files": ["../x"]}'), "StateError"),
    ("transaction", first(DEEP), "StateError"),
    ("settings", second(b"cloud = " + DEEP), "ConfigError"),
    ("settings", second(b"edges = " + b"9" * 5000), "ConfigError"),
    ("settings", second(b"mb_per_s = 0x" + b"f" * 9000), "ConfigError"),
]


@pytest.mark.parametrize(
    ("made", "change", "expected"),
    [pytest.param(*case, id=f"{i}-{case[0]}") for i, case in enumerate(BROKEN)],
    indirect=["made"],
)
def test_what_once_broke_a_promise(
    made: Target, change: Callable[[bytes], bytes], expected: str
) -> None:
    outcome, message, finding = attempt(made, change(made.seeds()[0]))
    assert finding == ""
    assert outcome == expected, message


@final
class Fragile(Target):
    """Breaks its promises in every way that there is."""

    name: ClassVar[str] = "fragile"
    allowed: ClassVar = (ValueError,)
    spare_bytes: ClassVar[int] = 8 << 20

    def seeds(self) -> Sequence[bytes]:
        return [b"fine"]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        return data[:-1] + rng.choice((b"c", b"m", b"p", b"v", b"ok"))

    def run(self, data: bytes) -> str:
        if data.endswith(b"c"):
            raise KeyError("crash")
        if data.endswith(b"m"):
            bytearray(b"x" * (32 << 20))
        if data.endswith(b"p"):
            raise Breach("a promise")
        if data.endswith(b"v"):
            raise ValueError("as documented")
        return "fine"


def test_what_breaks_a_promise_is_found_shortened_and_kept(tmp_path: Path) -> None:
    # Other tests let malloc keep what is freed; a peak within that would not be seen.
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
    loop = Loop(Fragile(), 0, tmp_path)
    loop.run(60.0, most=60)
    kinds = sorted(finding.split(" ")[0] for finding in loop.findings)
    assert kinds == ["Breach", "KeyError", "memory:"]
    kept = {Path(file).read_bytes()[-1:] for file in loop.findings.values()}
    assert kept == {b"c", b"m", b"p"}
    assert min(len(Path(file).read_bytes()) for file in loop.findings.values()) == 1
    assert loop.outcomes["finding"] > 3
    assert loop.outcomes["ValueError"] > 3


@final
class Endless(Target):
    """Does not come to an end."""

    name: ClassVar[str] = "endless"
    allowed: ClassVar = (Exception,)

    def seeds(self) -> Sequence[bytes]:
        return [b""]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        return data

    def run(self, data: bytes) -> str:
        time.sleep(30)
        return "an end"


def test_an_input_without_an_end_is_found() -> None:
    outcome, _, finding = attempt(Endless(), b"", hang_s=0.05)
    assert (outcome, finding) == ("hang", "hang: more than 0.05 s")


def test_a_target_whose_seeds_are_not_valid_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no seed of stubborn is a valid input"):
        Loop(Stubborn(), 0, tmp_path).run(1.0)


@final
class Stubborn(Target):
    """Takes nothing."""

    name: ClassVar[str] = "stubborn"
    allowed: ClassVar = (ValueError,)

    def seeds(self) -> Sequence[bytes]:
        return [b""]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        return data

    def run(self, data: bytes) -> str:
        raise ValueError("never")
