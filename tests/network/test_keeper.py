"""Checkpoints of the cloud: when one is written, what it makes durable, and what it refuses."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any, final

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eaves.core.state import State
from eaves.errors import StateError, StorageError
from eaves.network import keeper as module
from eaves.network.keeper import Keeper, Kept, new_session
from eaves.network.ledger import Account, Ledger, Run
from eaves.runtime.checkpoint import save_checkpoint

TERMS = '{"net": "tiny"}'
A, B = Run("attic", "a1"), Run("barn.2-x_y", "b1")


@contextmanager
def opened(folder: Path, *, every_s: float = 1000.0, terms: str = TERMS) -> Iterator[Keeper]:
    keeper = Keeper(folder, terms, every_s=every_s)
    try:
        yield keeper
    finally:
        keeper.close()


def kept(applied: int = 5) -> Kept:
    return Kept(
        session="5e551011",
        total_steps=40,
        ledger=Ledger({A: Account(applied=applied, durable=1, samples=9, steps=20, last=20)}),
        cloud=State({"weights/w": torch.full((3,), float(applied))}, {"steps": applied}),
        replies={A: (applied, b"\x00reply"), B: (1, b"")},
    )


def test_what_is_kept_is_found_again(tmp_path: Path) -> None:
    with opened(tmp_path) as keeper:
        assert keeper.load() is None
        keeper.save(kept())
        found = keeper.load()
    assert found is not None
    assert found.cloud is not None
    assert torch.equal(found.cloud.tensors["weights/w"], torch.full((3,), 5.0))
    assert found.cloud.facts == {"steps": 5}
    assert (found.session, found.total_steps) == ("5e551011", 40)
    assert found.ledger.of(A) == Account(applied=5, durable=5, samples=9, steps=20, last=20)
    assert found.replies == {A: (5, b"\x00reply"), B: (1, b"")}


def test_a_cloud_that_has_learnt_nothing_keeps_its_session(tmp_path: Path) -> None:
    with opened(tmp_path) as keeper:
        keeper.save(Kept(session="s", total_steps=0, ledger=Ledger()))
        assert keeper.load() == Kept(session="s", total_steps=0, ledger=Ledger())


def test_sessions_are_random() -> None:
    names = {new_session() for _ in range(100)}
    assert len(names) == 100
    assert all(len(name) == 16 and name.isalnum() for name in names)


# Damage


def damaged(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "checkpoint.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


DAMAGE: Mapping[str, Callable[[dict[str, Any]], Any]] = {
    "no facts": lambda index: index.pop("facts"),
    "facts of another kind": lambda index: index.update(facts=[TERMS]),
    "no session": lambda index: index["facts"].pop("session"),
    "no ledger": lambda index: index["facts"].pop("ledger"),
    "a ledger of another kind": lambda index: index["facts"].update(ledger=[3]),
    "no replies": lambda index: index["facts"].pop("replies"),
    "replies of another kind": lambda index: index["facts"].update(replies=[]),
    "a reply without a run": lambda index: index["facts"].update(replies={"attic": [1, "00"]}),
    "a reply that is no hex": lambda index: index["facts"].update(replies={"a/b": [1, "xy"]}),
    "steps of another kind": lambda index: index["facts"].update(total_steps="many"),
    "the digest of another file": lambda index: index["states"]["cloud"].update(sha256="00"),
    "no such file": lambda index: index["states"]["cloud"].update(file="gone"),
}


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    with opened(tmp_path) as keeper:
        keeper.save(kept())
        damaged(tmp_path, change)
        with pytest.raises(StateError, match=r"damaged|cannot read|another training|no accounts"):
            keeper.load()


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1), bit=st.integers(0, 7), cut=st.booleans())
def test_a_bit_that_flips_in_the_weights_or_a_file_that_is_cut_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, place: float, bit: int, cut: bool
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    with opened(folder) as keeper:
        keeper.save(kept())
        (path,) = folder.glob("*.safetensors")
        content = bytearray(path.read_bytes())
        at = int(place * (len(content) - 1))
        if cut:
            del content[at:]
        else:
            content[at] ^= 1 << bit
        path.write_bytes(content)
        with pytest.raises(StateError, match="damaged"):
            keeper.load()


def test_a_checkpoint_of_other_terms_is_refused_and_says_of_which(tmp_path: Path) -> None:
    with opened(tmp_path) as keeper:
        keeper.save(kept())
    with opened(tmp_path, terms='{"net": "vgg"}') as keeper:
        with pytest.raises(StateError, match="of another training") as found:
            keeper.load()
        assert TERMS in str(found.value)
        assert "--out" in str(found.value)


# When


def test_one_is_due_when_wanted_or_after_a_while(tmp_path: Path) -> None:
    with opened(tmp_path, every_s=0.1) as keeper:
        assert keeper.due(wanted=True)
        assert not keeper.due(wanted=False)
        sleep(0.15)
        assert keeper.due(wanted=False)
        keeper.begin(kept()).result(timeout=10)
        assert not keeper.due(wanted=True)  # it is not settled yet
        assert keeper.end() == {A: 5}
        assert not keeper.due(wanted=False)
        assert keeper.due(wanted=True)
        assert keeper.end() is None


@final
class Disk:
    """A disk that may be slow or full: stands in for what writes a checkpoint."""

    def __init__(self) -> None:
        self.ready, self.problem = threading.Event(), list[Exception]()
        self.ready.set()

    def save(
        self, folder: Path, steps: int, states: Mapping[str, State], facts: Mapping[str, Any]
    ) -> None:
        assert self.ready.wait(10)
        if self.problem:
            raise self.problem.pop()
        save_checkpoint(folder, steps, states, facts)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    found = Disk()
    monkeypatch.setattr(module, "save_checkpoint", found.save)
    return found


def test_one_is_written_at_a_time_and_durable_when_it_is_done(tmp_path: Path, disk: Disk) -> None:
    with opened(tmp_path, every_s=0) as keeper:
        disk.ready.clear()
        content = kept(7)
        keeper.begin(content)
        assert keeper.end() is None  # it is being written
        assert not keeper.due(wanted=True)
        assert not keeper.due(wanted=False)
        content.ledger.of(A).applied = 8  # learnt meanwhile: it is not what became durable
        disk.ready.set()
        keeper.join()
        assert keeper.end() == {A: 7}


def test_a_failed_one_makes_nothing_durable_and_is_tried_again_soon(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RETRY_S", 0.2)
    with opened(tmp_path, every_s=1000.0) as keeper:
        keeper.save(kept(3))
        disk.problem.append(StorageError("no space left"))
        keeper.begin(kept(5))
        keeper.join()
        failed_at = monotonic()
        with pytest.raises(StorageError, match="no space left"):
            keeper.end()
        assert keeper.end() is None
        if monotonic() - failed_at < 0.15:  # else this machine is too busy to see it
            assert not keeper.due(wanted=True)
        sleep(0.25)
        assert keeper.due(wanted=False)  # nobody has to ask again
        found = keeper.load()
        assert found is not None
        assert found.ledger.of(A).applied == 3
        keeper.begin(kept(6))
        keeper.join()
        assert keeper.end() == {A: 6}
        assert not keeper.due(wanted=False)


def test_what_is_no_matter_of_the_disk_is_not_tried_again(tmp_path: Path, disk: Disk) -> None:
    with opened(tmp_path) as keeper:
        disk.problem.append(TypeError("a defect"))
        keeper.begin(kept())
        keeper.join()
        with pytest.raises(TypeError, match="a defect"):
            keeper.end()


def test_slow_writing_makes_them_rarer(tmp_path: Path, disk: Disk) -> None:
    with opened(tmp_path, every_s=0) as keeper:
        disk.ready.clear()
        keeper.begin(kept())
        sleep(0.1)
        disk.ready.set()
        keeper.join()
        keeper.end()
        # 0.1 s and more of writing may be a tenth of the time: none for 1 s, unless asked for.
        assert not keeper.due(wanted=False)
        assert keeper.due(wanted=True)


def test_closing_waits_for_what_is_being_written(tmp_path: Path, disk: Disk) -> None:
    with opened(tmp_path) as keeper:
        disk.ready.clear()
        keeper.begin(kept(9))
        threading.Timer(0.05, disk.ready.set).start()
    with opened(tmp_path) as keeper:
        found = keeper.load()
    assert found is not None
    assert found.ledger.of(A).applied == 9
