"""Uploads that travel once: kept, learnt from again in a fixed order, whatever is interrupted.

Dimension key:  B batch   C features
"""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, final

import pytest
import torch
from tests.network.conftest import FP32, wait_until
from torch import Tensor, nn

from eaves.codecs.upload import pack_upload, unpack_upload
from eaves.core.optimise import OneCycle, Optimised
from eaves.core.roles import Upload
from eaves.core.state import State
from eaves.errors import ConfigError, DivergedError, EavesError, StateError, StorageError
from eaves.methods.hierarchical import Classifier
from eaves.methods.setup import CloudAnswers
from eaves.network.group import Alone
from eaves.network.half import Accepts, Half
from eaves.network.keeper import Keeper
from eaves.network.ledger import Run
from eaves.network.lessons import Lessons, Rounds
from eaves.network.policy import TrainingPolicy
from eaves.network.refusals import FATAL, code_of
from eaves.network.trainer import Trainer
from eaves.network.workqueue import Line, Receipt, UploadWork
from eaves.runtime.store import Store

CPU = torch.device("cpu")
UPLOADS = 4
AMPLE = 1 << 30


def rounds(folder: Path, **changes: Any) -> Rounds:
    usual = {"folder": folder, "limit_bytes": AMPLE, "epochs": 4, "seed": 3}
    return Rounds(**{**usual, **changes})


def payload(seq: int, size: int = 5) -> bytes:
    generator = torch.Generator().manual_seed(seq)
    x_BC = torch.randn(size, 3, generator=generator)
    return pack_upload(x_BC, torch.randint(0, 4, (size,), generator=generator), FP32)


# How many steps


@pytest.mark.parametrize(
    ("changes", "uploads", "steps"),
    [
        ({}, 5, 20),
        ({"epochs": 1}, 5, 5),
        ({"epochs": 5, "copies": 2}, 8, 20),  # 4 examples, each twice
        ({"epochs": 3, "copies": 3}, 9, 9),
        ({"max_steps": 7}, 5, 7),
        ({"max_steps": 3}, 3, 3),
        ({"max_steps": 3}, 6, 6),  # of two edges, each with as many as it may
    ],
)
def test_steps_of_learning(
    tmp_path: Path, changes: dict[str, Any], uploads: int, steps: int
) -> None:
    assert rounds(tmp_path, **changes).steps(uploads) == steps


@pytest.mark.parametrize(
    "changes", [{"copies": 0}, {"copies": 5}, {"epochs": 0}, {"limit_bytes": 0}]
)
def test_rounds_that_make_no_sense_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected 1 <= copies <= epochs and limit_bytes >= 1"):
        rounds(tmp_path, **changes)


# What is kept


@contextmanager
def opened(folder: Path, facts: dict[str, int] | None = None, **changes: Any) -> Iterator[Lessons]:
    with closing(Lessons(rounds(folder, **changes))) as lessons:
        lessons.open(facts)
        yield lessons


def drawn(lessons: Lessons, batches: int) -> list[list[float]]:
    return [lessons.next().features.flatten().tolist() for _ in range(batches)]


def in_order_of_a_store(folder: Path, epochs: int, steps: int) -> list[list[float]]:
    with closing(Store(folder, keep=UPLOADS)) as store:
        return [
            upload.features.flatten().tolist()
            for epoch in range(epochs)
            for upload in store.epoch(seed=3, epoch=epoch, steps=steps)
        ]


def test_damage_to_what_is_kept_is_said_each_time(tmp_path: Path) -> None:
    with opened(tmp_path) as lessons:
        for seq in range(UPLOADS):
            lessons.keep(payload(seq))
        lessons.facts()
        content = bytearray((tmp_path / "uploads.bin").read_bytes())
        content[-1] ^= 1
        (tmp_path / "uploads.bin").write_bytes(content)
        for _ in range(2):
            with pytest.raises(StateError, match="damaged"):
                lessons.next()


@pytest.mark.parametrize(("copies", "steps"), [(1, 4), (2, 2)])
def test_the_order_is_that_of_a_store_wherever_it_was_interrupted(
    tmp_path: Path, copies: int, steps: int
) -> None:
    with opened(tmp_path, copies=copies) as lessons:
        for seq in range(UPLOADS):
            lessons.keep(payload(seq))
        assert len(lessons) == UPLOADS
        begun = lessons.facts()
    expected = in_order_of_a_store(tmp_path, 3, steps)
    assert len({tuple(batch) for batch in expected}) == len(expected)  # mixed anew each time
    for cut in range(len(expected) + 1):
        with opened(tmp_path, begun, copies=copies) as lessons:
            found, facts = drawn(lessons, cut), lessons.facts()
        assert facts == {"stored": UPLOADS, "again": cut}
        with opened(tmp_path, facts, copies=copies) as lessons:
            assert found + drawn(lessons, len(expected) - cut) == expected


def test_what_is_learnt_again_is_changed_by_its_step_wherever_it_was_interrupted(
    tmp_path: Path,
) -> None:
    def change(upload: Upload, step: int) -> Upload:
        return Upload(upload.features + 1000 * step, upload.labels)

    def following(
        facts: dict[str, Any] | None, batches: int
    ) -> tuple[list[Tensor], dict[str, Any]]:
        with closing(Lessons(rounds(tmp_path), change)) as lessons:
            lessons.open(facts)
            for seq in range(0 if facts else UPLOADS):
                lessons.keep(payload(seq))
            return [lessons.next().features for _ in range(batches)], lessons.facts()

    _, begun = following(None, 0)
    whole, _ = following(begun, 6)
    with opened(tmp_path, begun) as plain:
        came = [plain.next().features for _ in range(6)]
    for step, (x, given) in enumerate(zip(came, whole, strict=True)):
        assert torch.equal(given, x + 1000 * step)
    first, facts = following(begun, 5)
    rest, _ = following(facts, 1)
    assert all(torch.equal(a, b) for a, b in zip(first + rest, whole, strict=True))


def test_an_upload_that_comes_late_is_part_of_what_follows(tmp_path: Path) -> None:
    with opened(tmp_path) as lessons:
        lessons.keep(payload(0))
        lessons.next()
        lessons.keep(payload(1))
        following = torch.tensor(drawn(lessons, 3))
    assert torch.isin(unpack_upload(payload(1))[0], following).any()


def test_what_no_checkpoint_knows_is_dropped(tmp_path: Path) -> None:
    with opened(tmp_path) as lessons:
        lessons.keep(payload(1))
        known = lessons.facts()
        lessons.keep(payload(2))
    with opened(tmp_path, known) as lessons:
        assert len(lessons) == 1
        assert lessons.facts() == {"stored": 1, "again": 0}
    with opened(tmp_path) as lessons:  # anew
        assert len(lessons) == 0


@pytest.mark.parametrize(
    "facts", [{}, {"stored": 1}, {"stored": -1, "again": 0}, {"stored": "1", "again": 0}, 7]
)
def test_a_checkpoint_with_no_count_is_damaged(tmp_path: Path, facts: Any) -> None:
    with pytest.raises(StateError, match="the checkpoint keeps no count of uploads"):
        Lessons(rounds(tmp_path)).open(facts)


def test_less_on_disk_than_the_checkpoint_says_is_said(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="holds 0 whole uploads, expected 2"):
        Lessons(rounds(tmp_path)).open({"stored": 2, "again": 0})


def test_an_upload_for_which_there_is_no_room_is_named_with_what_to_do(tmp_path: Path) -> None:
    size = len(payload(1))
    with opened(tmp_path, limit_bytes=2 * size) as lessons:
        lessons.keep(payload(1))
        lessons.expect_room(size)
        lessons.keep(payload(2))
        with pytest.raises(ConfigError, match=r"would take .* raise its --store-mb"):
            lessons.expect_room(1)
        with pytest.raises(ConfigError, match="--store-mb"):
            lessons.expect_room(size)


def test_each_edge_has_its_share_of_the_room_also_after_a_restart(tmp_path: Path) -> None:
    size = len(payload(1))
    room: Any = {"limit_bytes": 4 * size, "edges": 2}
    with opened(tmp_path, **room) as lessons:
        for seq in (1, 2):
            lessons.expect_room(size, "evil")
            lessons.keep(payload(seq), "evil")
        with pytest.raises(ConfigError, match=r"of edge evil .* of each of its 2 edges: raise its"):
            lessons.expect_room(1, "evil")
        lessons.expect_room(size, "honest")
        known = lessons.facts()
        lessons.keep(payload(3), "honest")
    with opened(tmp_path, known, **room) as lessons:
        with pytest.raises(ConfigError, match="of edge evil"):
            lessons.expect_room(1, "evil")
        for seq in (3, 4):  # what no checkpoint knows is not counted either
            lessons.expect_room(size, "honest")
            lessons.keep(payload(seq), "honest")
        with pytest.raises(ConfigError, match="--store-mb"):
            lessons.expect_room(1, "honest")
        with pytest.raises(ConfigError, match="--store-mb"):
            lessons.expect_room(1, "third")


@pytest.mark.parametrize("of_edge", [[1], {"a": -1}, {"a": "x"}, 3, {"a": 1.5}])
def test_shares_that_cannot_be_are_damage(tmp_path: Path, of_edge: Any) -> None:
    facts = {"stored": 0, "again": 0, "of_edge": of_edge}
    with pytest.raises(StateError, match="the checkpoint keeps no count of uploads"):
        Lessons(rounds(tmp_path)).open(facts)


# In the trainer


@final
class Ear(Line):
    """A line that remembers what it was told; ``heard`` is called for each receipt."""

    def __init__(self, edge: str = "attic", heard: Callable[[], object] = int):
        self.run, self._heard = Run(edge, "1"), heard
        self.receipts, self.errors = list[Receipt](), list[EavesError]()

    def receipt(self, receipt: Receipt, *, done: int = 0) -> None:
        self.receipts.append(receipt)
        self._heard()

    def refuse(self, error: EavesError) -> None:
        self.errors.append(error)


def classifier() -> Classifier:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 4))
    return Classifier(Optimised({"cloud": net}, OneCycle(total_steps=1, lr=0.1), CPU))


@contextmanager
def cloud(
    folder: Path, *, every_s: float = 1000.0, edges: int = 1, **kinds: Any
) -> Iterator[Trainer]:
    learner = classifier()
    with closing(Lessons(rounds(folder / "store", **kinds))) as lessons:
        half = Half(
            learner=learner,
            predictor=CloudAnswers(learner.part.modules["cloud"], CPU),
            accepts=Accepts(feature_shape=(3,), dtype=torch.float32, classes=4),
            reply_codec=FP32,
            lessons=lessons,
            policy=TrainingPolicy(run_uploads=UPLOADS),
        )
        with closing(Keeper(folder / "checkpoint", "{}", every_s=every_s)) as keeper:
            yield Trainer(half, keeper, Alone(), edges=edges)


@contextmanager
def working(trainer: Trainer) -> Iterator[None]:
    """Let it work; afterwards it has stopped."""
    thread = threading.Thread(target=trainer.run)
    thread.start()
    try:
        yield
    finally:
        trainer.stop()
        thread.join()


def send(trainer: Trainer, line: Ear, first: int = 1, last: int = UPLOADS) -> None:
    trainer.open(line, steps=UPLOADS, memory_bytes=AMPLE)
    for seq in range(first, last + 1):
        trainer.work.put(UploadWork(line, seq, seq - 1, payload(seq)))
    if last == UPLOADS:
        trainer.finish(line.run, last)


def learnt(trainer: Trainer, again: int) -> None:
    """Wait until so many steps were taken from what is kept, in this process."""
    assert wait_until(lambda: trainer.counts.again >= again)


def kept_by(trainer: Trainer) -> State:
    return trainer._kept().cloud or State()


def plain(folder: Path) -> State:
    """Return what a learner is after the uploads and three epochs of a store, without a cloud."""
    learner = classifier()
    learner.part.schedule = learner.part.schedule.over(4 * UPLOADS)
    with closing(Store(folder)) as store:
        for seq in range(1, UPLOADS + 1):
            store.append(payload(seq))
            learner.step(store.read(seq - 1))
        for epoch in range(3):
            for upload in store.epoch(seed=3, epoch=epoch, steps=UPLOADS):
                learner.step(upload)
    return learner.state()


def expect_equal(one: State, other: State) -> None:
    """Bit for bit: weights, BatchNorm, momentum, generator."""
    assert set(one.tensors) == set(other.tensors)
    assert [k for k, v in one.tensors.items() if not torch.equal(v, other.tensors[k])] == []


def test_when_all_have_sent_their_last_it_learns_on_to_the_end_of_the_schedule(
    tmp_path: Path,
) -> None:
    with cloud(tmp_path / "cloud") as trainer:
        line = Ear()
        with working(trainer):
            send(trainer, line)
            learnt(trainer, 3 * UPLOADS)
            assert wait_until(lambda: trainer.left == 0)
        counts = trainer.counts
        assert (counts.uploads, counts.steps, counts.again) == (UPLOADS, UPLOADS, 3 * UPLOADS)
        assert trainer.figures.steps == 4 * UPLOADS
        expect_equal(kept_by(trainer), plain(tmp_path / "store"))
    assert line.receipts[-1] == Receipt(UPLOADS, UPLOADS)


def test_an_edge_that_goes_on_sending_does_not_keep_it_from_learning_on(tmp_path: Path) -> None:
    again: dict[int, int] = {}  # steps taken again by the time of so many duplicates

    with cloud(tmp_path) as trainer:
        line = Ear(heard=lambda: again.setdefault(counts.duplicates, counts.again))
        counts = trainer.counts
        for _ in range(4):  # all of it waits before the trainer takes the first
            send(trainer, line)
        with working(trainer):
            learnt(trainer, 3 * UPLOADS)
    assert set(again) == set(range(3 * UPLOADS + 1))
    assert again[3 * UPLOADS] >= 3 * UPLOADS - 1  # one for each upload that brings nothing new


@pytest.mark.parametrize("at", [0, 1, 6, 11])
def test_stopped_and_started_again_it_ends_with_the_same_weights(tmp_path: Path, at: int) -> None:
    with cloud(tmp_path / "cloud") as trainer, working(trainer):
        send(trainer, Ear())
        learnt(trainer, at)
    done = trainer.counts.again
    with cloud(tmp_path / "cloud") as trainer:
        assert trainer.left == 3 * UPLOADS - done
        with working(trainer):
            learnt(trainer, 3 * UPLOADS - done)
        expect_equal(kept_by(trainer), plain(tmp_path / "store"))


def test_after_a_crash_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    """Its store has grown since the checkpoint, and what it learnt since is lost."""
    with cloud(tmp_path / "cloud") as trainer, working(trainer):
        send(trainer, Ear(), last=2)
        assert wait_until(lambda: trainer.counts.uploads == 2)
    shutil.copytree(tmp_path / "cloud" / "checkpoint", tmp_path / "kept")
    with cloud(tmp_path / "cloud") as trainer, working(trainer):
        send(trainer, Ear(), first=3)
        learnt(trainer, 5)
    shutil.rmtree(tmp_path / "cloud" / "checkpoint")
    shutil.copytree(tmp_path / "kept", tmp_path / "cloud" / "checkpoint")
    with cloud(tmp_path / "cloud") as trainer:
        with working(trainer):
            send(trainer, Ear(), first=3)
            learnt(trainer, 3 * UPLOADS)
        expect_equal(kept_by(trainer), plain(tmp_path / "store"))


def test_it_waits_for_the_last_of_all_edges(tmp_path: Path) -> None:
    with cloud(tmp_path, edges=2) as trainer, working(trainer):
        send(trainer, Ear("attic"))
        assert wait_until(lambda: trainer.accounts().finished() == 1)
        assert not wait_until(lambda: trainer.counts.again > 0, 0.5)
        assert trainer.left == 0
        send(trainer, Ear("cellar"))
        learnt(trainer, 2 * 3 * UPLOADS)
        assert wait_until(lambda: trainer.left == 0)
    assert trainer.counts.again == 2 * 3 * UPLOADS


def test_what_it_learns_on_is_in_a_checkpoint_now_and_then(tmp_path: Path) -> None:
    with cloud(tmp_path / "cloud", every_s=0.05, epochs=10_000) as trainer, working(trainer):
        send(trainer, Ear())
        learnt(trainer, 1)
        before = trainer.counts.checkpoints
        assert wait_until(lambda: trainer.counts.checkpoints > before + 2)
        assert trainer.left > 0


def test_an_upload_without_room_is_refused_for_good_and_not_learnt_from(tmp_path: Path) -> None:
    room = len(payload(1)) + len(payload(2))
    with cloud(tmp_path, limit_bytes=room) as trainer:
        line = Ear()
        with working(trainer):
            send(trainer, line)
            assert wait_until(lambda: len(line.errors) > 0)
        assert trainer.accounts().applied() == {line.run: 2}
    assert "--store-mb" in str(line.errors[0])
    assert code_of(line.errors[0]) in FATAL


def until_it_fails(trainer: Trainer, line: Ear) -> None:
    """Let it work on all uploads, and raise what ended it."""
    send(trainer, line)
    trainer.run()


def test_a_disk_that_refuses_ends_it_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(store: Store, content: bytes) -> None:
        raise StorageError("cannot store an upload: no space left")

    line = Ear()
    with cloud(tmp_path / "cloud") as trainer, monkeypatch.context() as broken:
        broken.setattr(Store, "append", refuse)
        with pytest.raises(StorageError):
            until_it_fails(trainer, line)
    assert line.receipts[-1] == Receipt(0, 0)
    with cloud(tmp_path / "cloud") as trainer:
        with working(trainer):
            send(trainer, Ear())
            learnt(trainer, 3 * UPLOADS)
        expect_equal(kept_by(trainer), plain(tmp_path / "store"))


def test_a_loss_that_is_not_finite_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Upload(torch.full((2, 3), float("nan")), torch.zeros(2, dtype=torch.int64))
    monkeypatch.setattr(Lessons, "next", lambda _: lost)
    with cloud(tmp_path) as trainer, pytest.raises(DivergedError):
        until_it_fails(trainer, Ear())
    assert trainer.counts.uploads == UPLOADS
