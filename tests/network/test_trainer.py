"""The cloud at work: everything is learnt once, in order, and nothing is durable before it is.

Uploads are put before the trainer runs and the trainer is told to stop before it starts, so that a
test knows what happens in which step; the laws at the end let threads run free.

Dimension key:  B batch   C features   K classes
"""

import re
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from eaves.codecs.base import decode, parse_codec
from eaves.codecs.upload import pack_upload
from eaves.core.optimise import OneCycle, Optimised
from eaves.core.roles import CloudLearner, Upload
from eaves.core.state import State
from eaves.errors import (
    ConfigError,
    DivergedError,
    EavesError,
    PayloadError,
    StateError,
    StorageError,
)
from eaves.methods.baselines import SplitCloud
from eaves.methods.hierarchical import Classifier
from eaves.methods.setup import CloudAnswers
from eaves.network import keeper as keeper_module
from eaves.network import workqueue
from eaves.network.group import Alone
from eaves.network.half import Accepts, Half
from eaves.network.keeper import Keeper
from eaves.network.ledger import Run
from eaves.network.policy import TrainingPolicy
from eaves.network.refusals import FATAL, OutOfOrderError, code_of
from eaves.network.trainer import Trainer
from eaves.network.workqueue import Line, QueryWork, Receipt, UploadWork
from eaves.runtime.checkpoint import save_checkpoint

CPU = torch.device("cpu")
FP32 = parse_codec("fp32")
TERMS = '{"net": "tiny"}'
STEPS = 6
AMPLE = 1 << 30


@final
class Ear(Line):
    """A line that remembers what it was told."""

    def __init__(self, edge: str = "attic", run: str = "1"):
        self.run = Run(edge, run)
        self.receipts, self.errors = list[Receipt](), list[EavesError]()
        self._answered, self._changed = 0, threading.Condition()

    def receipt(self, receipt: Receipt, *, done: int = 0) -> None:
        with self._changed:
            self.receipts.append(receipt)
            self._answered += done
            self._changed.notify_all()

    def refuse(self, error: EavesError) -> None:
        with self._changed:
            self.errors.append(error)
            self._answered += 1
            self._changed.notify_all()

    def expect(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, timeout=20)

    def expect_answered(self, uploads: int) -> None:
        self.expect(lambda: self._answered >= uploads)

    @property
    def last(self) -> tuple[int, int]:
        """Numbers applied and durable, as last heard."""
        return self.receipts[-1].applied, self.receipts[-1].durable


@final
class Disk:
    """Lets a number of checkpoints be written; none after that."""

    def __init__(self) -> None:
        self.left, self.written = 10**9, 0

    def save(
        self, folder: Path, steps: int, states: Mapping[str, State], facts: Mapping[str, Any]
    ) -> None:
        if self.left <= 0:
            raise StorageError("no space left")
        self.left -= 1
        save_checkpoint(folder, steps, states, facts)
        self.written += 1


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    found = Disk()
    monkeypatch.setattr(keeper_module, "save_checkpoint", found.save)
    return found


@final
class Steep(nn.Module):
    """Pass numbers on nearly as they are, but make infinities of those above 150."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (x - 50).exp()


def net(dropout: float = 0.3) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        Steep(), nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 4)
    )


def half(
    net: nn.Module,
    kind: Callable[[Optimised], CloudLearner] = Classifier,
    codec: str = "fp32",
    **policy: Any,
) -> Half:
    torch.manual_seed(2)  # dropout's
    part = Optimised({"cloud": net}, OneCycle(total_steps=1, lr=0.1), CPU)
    return Half(
        learner=kind(part),
        predictor=CloudAnswers(net, CPU),
        accepts=Accepts(feature_shape=(3,), dtype=torch.float32, classes=4),
        reply_codec=parse_codec(codec),
        policy=TrainingPolicy(**{"run_uploads": STEPS, "merge_rule": "mean", **policy}),
    )


@pytest.fixture(autouse=True)
def _all_are_opened_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine as well: which uploads make a step must not depend on it here."""
    monkeypatch.setattr(workqueue, "_PATIENCE_S", 20.0)


@contextmanager
def cloud(
    folder: Path,
    made: Half | None = None,
    *,
    every_s: float = 1000.0,
    edges: int = 1,
    merge: int = 1,
    session: str = "",
) -> Iterator[Trainer]:
    keeper = Keeper(folder, TERMS, every_s=every_s)
    made = made or half(net())
    try:
        yield Trainer(made, keeper, Alone(), edges=edges, merge=merge, session=session)
    finally:
        keeper.close()


def upload(seq: int, edge: int = 0, size: int = 5) -> Upload:
    generator = torch.Generator().manual_seed(100 * edge + seq)
    x_BC = torch.randn(size, 3, generator=generator)
    return Upload(x_BC, torch.randint(0, 4, (size,), generator=generator))


def packed(one: Upload) -> bytes:
    return pack_upload(one.features, one.labels, FP32)


def put(trainer: Trainer, line: Line, seq: int, follows: int, payload: bytes | None = None) -> None:
    content = packed(upload(seq)) if payload is None else payload
    trainer.work.put(UploadWork(line, seq, follows, content))


def entered(trainer: Trainer, line: Ear, *, steps: int = STEPS, memory: int = AMPLE) -> Ear:
    trainer.open(line, steps=steps, memory_bytes=memory)
    return line


def do_all(trainer: Trainer) -> None:
    trainer.stop()
    trainer.run()


def state_of(made: Half) -> State:
    return made.learner.state()


def joined(*uploads: Upload) -> Upload:
    return Upload(torch.cat([x.features for x in uploads]), torch.cat([x.labels for x in uploads]))


def plain(
    uploads: list[Upload], total_steps: int = STEPS, dropout: float = 0.3, at_once: int = 1
) -> State:
    """Return what a learner is after these uploads, without a cloud around it.

    A step of the schedule takes ``at_once`` uploads of 5 examples.
    """
    made = half(net(dropout))
    part = made.learner.part
    assert part is not None
    part.schedule = part.schedule.over(total_steps)
    taken = 0
    for one in uploads:
        made.learner.step(one)
        taken += len(one.labels)
        part.steps = taken // (5 * at_once)
    return state_of(made)


def expect_equal(one: State, other: State) -> None:
    """Bit for bit: weights, BatchNorm, momentum, generator, steps."""
    assert one.facts == other.facts
    assert set(one.tensors) == set(other.tensors)
    unequal = [k for k, v in one.tensors.items() if not torch.equal(v, other.tensors[k])]
    assert unequal == []


# Learning once, and in order


def test_uploads_are_learnt_from_in_order_and_acknowledged(tmp_path: Path) -> None:
    made = half(net())
    with cloud(tmp_path, made) as trainer:
        line = entered(trainer, Ear())
        for seq in range(1, STEPS + 1):
            put(trainer, line, seq, seq - 1)
        do_all(trainer)
    expect_equal(state_of(made), plain([upload(seq) for seq in range(1, STEPS + 1)]))
    heard = [receipt.applied for receipt in line.receipts]
    assert heard == [0, 1, 2, 3, 4, 5, 6, 6]  # as it entered, for each, and as it became durable
    assert line.last == (STEPS, STEPS)
    assert {receipt.reply for receipt in line.receipts} == {b""}
    counts = trainer.counts
    assert (counts.uploads, counts.steps, counts.samples) == (STEPS, STEPS, 5 * STEPS)
    assert counts.bytes_in == sum(len(packed(upload(seq))) for seq in range(1, STEPS + 1))
    assert (counts.duplicates, counts.refused, counts.step_uploads) == (0, 0, 1)
    assert counts.step_s > 0
    assert trainer.figures.steps == STEPS


def test_a_duplicate_is_acknowledged_again_and_not_learnt_from(tmp_path: Path) -> None:
    made = half(net())
    with cloud(tmp_path, made) as trainer:
        line = entered(trainer, Ear())
        for seq, follows in ((1, 0), (1, 0), (2, 1), (1, 0), (2, 1), (3, 2)):
            put(trainer, line, seq, follows)
        do_all(trainer)
    expect_equal(state_of(made), plain([upload(seq) for seq in (1, 2, 3)]))
    assert [receipt.applied for receipt in line.receipts] == [0, 1, 1, 2, 2, 2, 3, 3]
    assert trainer.counts.duplicates == 3
    assert line.errors == []


def test_a_gap_that_nobody_says_is_one_is_refused(tmp_path: Path) -> None:
    made = half(net())
    with cloud(tmp_path, made) as trainer:
        line = entered(trainer, Ear())
        for seq, follows in ((1, 0), (3, 2), (4, 3)):
            put(trainer, line, seq, follows)
        do_all(trainer)
        applied = trainer.open(Ear(), steps=STEPS, memory_bytes=AMPLE)
    expect_equal(state_of(made), plain([upload(1)]))
    assert applied == 1
    assert isinstance(line.errors[0], OutOfOrderError)
    assert str(line.errors[0]) == "upload 3 follows 2, but 1 was the last here"
    assert code_of(line.errors[0]) not in FATAL  # the edge comes back, and sends it in order


def test_a_gap_of_what_the_edge_had_to_drop_is_none(tmp_path: Path) -> None:
    made = half(net())
    with cloud(tmp_path, made) as trainer:
        line = entered(trainer, Ear())
        for seq, follows in ((1, 0), (4, 1), (6, 4)):
            put(trainer, line, seq, follows)
        do_all(trainer)
    expect_equal(state_of(made), plain([upload(seq) for seq in (1, 4, 6)]))
    assert line.errors == []
    assert line.last == (6, 6)


def test_another_run_of_the_same_edge_begins_at_its_beginning(tmp_path: Path) -> None:
    with cloud(tmp_path) as trainer:
        old, new = entered(trainer, Ear(run="old")), entered(trainer, Ear(run="new"))
        put(trainer, old, 1, 0)
        put(trainer, old, 2, 1)
        put(trainer, new, 1, 0)
        do_all(trainer)
    assert (old.last, new.last) == ((2, 2), (1, 1))
    assert trainer.accounts().applied() == {old.run: 2, new.run: 1}


# Who comes and goes


def test_an_edge_hears_where_it_stands_as_it_enters(tmp_path: Path) -> None:
    with cloud(tmp_path) as trainer:
        put(trainer, entered(trainer, Ear()), 1, 0)
        do_all(trainer)
        later = Ear()
        assert trainer.open(later, steps=STEPS, memory_bytes=AMPLE) == 1
    # All is durable, so no checkpoint will say so: a full spool would wait for ever.
    assert later.receipts == [Receipt(1, 1)]


def test_only_the_line_of_now_is_connected(tmp_path: Path) -> None:
    with cloud(tmp_path) as trainer:
        older, newer = entered(trainer, Ear()), entered(trainer, Ear())
        assert trainer.connected() == {newer.run}
        trainer.close(older)
        assert trainer.connected() == {newer.run}
        put(trainer, newer, 1, 0)
        do_all(trainer)
        assert newer.receipts == [Receipt(0, 0), Receipt(1, 0), Receipt(1, 1)]
        assert older.receipts == [Receipt(0, 0)]
        trainer.close(newer)
        trainer.close(newer)
        assert trainer.connected() == set()


def test_a_cloud_without_edges_does_not_train_but_answers(tmp_path: Path) -> None:
    with cloud(tmp_path, edges=0) as trainer:
        with pytest.raises(ConfigError, match="does not train"):
            trainer.open(Ear(), steps=STEPS, memory_bytes=AMPLE)
        trainer.work.put(work := QueryWork(FP32.encode(torch.ones(2, 3))))
        do_all(trainer)
    assert decode(work.answer.result(timeout=0)).shape == (2, 4)


def test_alone_no_edge_is_sent_elsewhere(tmp_path: Path) -> None:
    with cloud(tmp_path) as trainer:
        assert [trainer.port_offset(Run(edge, "1")) for edge in "abc"] == [0, 0, 0]


# What cannot be learnt from


def checked(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


GOOD = packed(upload(2))
X_BC, Y_B = upload(2).features, upload(2).labels
NAN = bytearray(FP32.encode(X_BC)[:-4])
NAN[-4:] = struct.pack("<f", float("nan"))
LABELS = checked(b"EAVU" + struct.pack("<BBI", 1, 1, 5) + bytes(5))
BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "expected an upload"),
    "a truncated head": (GOOD[:7], "expected an upload"),
    "truncated labels": (GOOD[:12], "cut in its 5 labels"),
    "truncated features": (GOOD[:-1], "damaged or cut"),
    "a byte that flipped": (GOOD[:-9] + b"\xff" + GOOD[-8:], "checksum"),
    "no examples": (checked(b"EAVU" + struct.pack("<BBI", 1, 1, 0)) + FP32.encode(X_BC), "labels"),
    "a NaN": (LABELS + checked(bytes(NAN)), "NaN|finite"),
    "another shape": (pack_upload(torch.ones(5, 4), Y_B, FP32), r"expected .* of shape \(B, 3\)"),
    "more dimensions": (pack_upload(torch.ones(5, 3, 1), Y_B, FP32), r"of shape \(B, 3\)"),
    "another dtype": (
        pack_upload(torch.ones(5, 3, 1, 1, dtype=torch.uint8), Y_B, parse_codec("raw")),
        "expected torch.float32",
    ),
    "a label too large": (pack_upload(X_BC, Y_B + 4, FP32), "expected labels below 4"),
    "a huge label": (pack_upload(X_BC, Y_B + 2**62, FP32), "expected labels below 4"),
    "a batch too large": (
        pack_upload(torch.ones(5000, 3), torch.zeros(5000, dtype=torch.int64), FP32),
        "above the limit",
    ),
    "a loss that is not finite": (
        pack_upload(torch.full((5, 3), 1e3), Y_B, FP32),
        "upload 2 cannot be learnt from: the loss is",
    ),
}
BLAMED = "a loss that is not finite"  # it is noticed in the step


@pytest.mark.parametrize("merge", [1, 3])
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_upload_is_refused_with_words_and_harms_nobody(
    tmp_path: Path, kind: str, merge: int
) -> None:
    payload, words = BAD[kind]
    made = half(net(dropout=0.0))  # a step that fails may have drawn
    with cloud(tmp_path, made, edges=3, merge=merge) as trainer:
        bad, one, two = (entered(trainer, Ear(edge)) for edge in ("bad", "one", "two"))
        for line in (bad, one, two):
            put(trainer, line, 1, 0)
        put(trainer, bad, 2, 1, payload)
        put(trainer, bad, 3, 2)
        for line in (one, two):
            put(trainer, line, 2, 1)
        do_all(trainer)
    assert [line.last for line in (bad, one, two)] == [(1, 1), (2, 2), (2, 2)]
    assert one.errors == two.errors == []
    first, *rest = bad.errors
    assert isinstance(first, PayloadError)
    assert code_of(first) in FATAL
    assert re.search(words, str(first))
    assert [type(error) for error in rest] == [OutOfOrderError]  # what follows it is no more
    assert (trainer.counts.uploads, trainer.counts.refused) == (5, 2)
    together = [joined(*[upload(1)] * 3)] if merge == 3 else [upload(1)] * 3
    pair = [upload(2)] * 2 if merge == 1 or kind == BLAMED else [joined(upload(2), upload(2))]
    total_steps = STEPS * 3 // merge
    expect_equal(state_of(made), plain(together + pair, total_steps, 0.0, at_once=merge))


def test_one_example_alone_is_refused_by_batchnorm_with_its_words(tmp_path: Path) -> None:
    with cloud(tmp_path) as trainer:
        line = entered(trainer, Ear())
        put(trainer, line, 1, 0, packed(upload(1, size=1)))
        do_all(trainer)
    assert isinstance(line.errors[0], PayloadError)
    assert "upload 1 cannot be learnt from: Expected more than 1 value" in str(line.errors[0])


def test_who_is_to_blame_is_found_among_several_and_merging_goes_on(tmp_path: Path) -> None:
    made = half(net(dropout=0.0))
    names = "abcd"
    with cloud(tmp_path, made, edges=4, merge=4) as trainer:
        lines = {edge: entered(trainer, Ear(edge)) for edge in names}
        for edge in names:
            put(trainer, lines[edge], 1, 0, BAD[BLAMED][0] if edge in "bd" else None)
        for edge in "ac":
            put(trainer, lines[edge], 2, 1)
        do_all(trainer)
    assert [len(lines[edge].errors) for edge in names] == [0, 1, 0, 1]
    assert (trainer.counts.refused, trainer.counts.steps, trainer.counts.step_uploads) == (2, 3, 2)
    uploads = [upload(1), upload(1), joined(upload(2), upload(2))]
    expect_equal(state_of(made), plain(uploads, STEPS, dropout=0.0, at_once=4))


@final
class Faulty(CloudLearner):
    """A classifier whose steps fail as its ``fault`` does, before or while the weights change."""

    def __init__(self, part: Optimised):
        self._classifier = Classifier(part)
        self.fault: Callable[[], Any] = lambda: None

    @property
    def part(self) -> Optimised:
        return self._classifier.part

    def step(self, upload: Upload) -> tuple[Tensor | None, Mapping[str, float]]:
        self.part.modules.train()
        if bool((upload.features > 90).any()):  # which the others have not
            with self.part.forward():
                self.part.modules["cloud"](upload.features)  # BatchNorm and dropout have run
            self.fault()
        return self._classifier.step(upload)


def too_large() -> Tensor:
    return torch.empty(2**61, dtype=torch.uint8)  # RuntimeError: can't allocate memory


FAULTS: dict[str, Callable[[], Any]] = {
    "out of memory": too_large,
    "out of Python's memory": lambda: bytearray(2**62),
    "a wrong key": lambda: dict[str, int]()["x"],
    "an assertion": lambda: (_ for _ in ()).throw(AssertionError()),
    "an index": lambda: list[int]()[0],
}


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("merge", [1, 2])
def test_whatever_a_step_fails_with_is_the_end_of_its_upload_alone(
    tmp_path: Path, kind: str, merge: int
) -> None:
    made = half(net(), Faulty)
    assert isinstance(made.learner, Faulty)
    made.learner.fault = FAULTS[kind]
    with cloud(tmp_path, made, edges=2, merge=merge) as trainer:
        evil, honest = (entered(trainer, Ear(edge)) for edge in ("evil", "honest"))
        bad = Upload(torch.full((2, 3), 99.0), torch.zeros(2, dtype=torch.int64))
        put(trainer, evil, 1, 0, packed(bad))
        for seq in range(1, 4):
            put(trainer, honest, seq, seq - 1)
        do_all(trainer)
        counts = trainer.counts
    assert honest.last == (3, 3)
    assert honest.errors == []
    assert (counts.uploads, counts.refused) == (3, 1)
    assert counts.faults >= 1
    assert "upload 1 cannot be learnt from" in str(evil.errors[0])
    assert code_of(evil.errors[0]) in FATAL
    # Bit for bit as if it had never come: random numbers of dropout and BatchNorm, too.
    uploads = [upload(seq) for seq in (1, 2, 3)]
    expect_equal(state_of(made), plain(uploads, STEPS * 2 // merge, at_once=merge))


def test_weights_that_were_changed_in_part_are_not_kept(tmp_path: Path) -> None:
    made = half(net())
    part = made.learner.part
    assert part is not None
    with cloud(tmp_path, made) as trainer:
        line = entered(trainer, Ear())
        put(trainer, line, 1, 0)

        def step() -> None:
            with torch.no_grad():
                next(part.modules.parameters()).add_(1)
            raise MemoryError

        part._optimiser.step = step  # type: ignore[assignment, method-assign]
        before = (tmp_path / "checkpoint.json").read_bytes()
        with pytest.raises(DivergedError, match="failed while it changed the cloud's weights"):
            do_all(trainer)
    assert (tmp_path / "checkpoint.json").read_bytes() == before
    again = half(net())
    with cloud(tmp_path, again) as trainer:  # from the checkpoint all goes on
        line = entered(trainer, Ear())
        put(trainer, line, 1, 0)
        do_all(trainer)
    expect_equal(state_of(again), plain([upload(1)]))


def test_a_step_that_fails_before_it_draws_does_not_end_the_drawing(tmp_path: Path) -> None:
    made = half(net())
    with cloud(tmp_path, made) as trainer:
        first, second = (entered(trainer, Ear(edge)) for edge in ("one", "two"))
        put(trainer, first, 1, 0, packed(upload(1, size=1)))  # BatchNorm refuses it, before dropout
        for seq in (1, 2):
            put(trainer, second, seq, seq - 1)
        do_all(trainer)
    torch.manual_seed(99)
    expect_equal(state_of(made), plain([upload(1), upload(2)]))


# Several edges


def test_uploads_of_several_edges_are_one_step_if_so_wanted(tmp_path: Path) -> None:
    made = half(net())
    with cloud(tmp_path, made, edges=3, merge=2) as trainer:
        a, b, c = (entered(trainer, Ear(edge)) for edge in "abc")
        for seq in (1, 2):
            for line in (a, b):
                put(trainer, line, seq, seq - 1)
        put(trainer, c, 1, 0)
        do_all(trainer)
    # c has its turn before a and b have another.
    steps = [joined(upload(1), upload(1)), joined(upload(1), upload(2)), upload(2)]
    expect_equal(state_of(made), plain(steps, STEPS * 3 // 2, at_once=2))
    assert [line.last for line in (a, b, c)] == [(2, 2), (2, 2), (1, 1)]
    assert (trainer.counts.steps, trainer.counts.uploads) == (3, 5)


@pytest.mark.parametrize(
    ("edges", "merge", "length"), [(1, 1, 6), (3, 1, 18), (3, 3, 6), (3, 2, 9), (2, 5, 6)]
)
def test_the_schedule_is_as_long_as_the_steps_of_all_edges(
    tmp_path: Path, edges: int, merge: int, length: int
) -> None:
    made = half(net())
    part = made.learner.part
    assert part is not None
    with cloud(tmp_path, made, edges=edges, merge=merge) as trainer:
        assert part.schedule == OneCycle(total_steps=length, lr=0.1)
        entered(trainer, Ear("b"), steps=1)  # which changes nothing
        assert part.schedule == OneCycle(total_steps=length, lr=0.1)
        do_all(trainer)
    again = half(net())
    with cloud(tmp_path, again, edges=9) as trainer:
        assert again.learner.part is not None
        assert again.learner.part.schedule == OneCycle(total_steps=length, lr=0.1)


def test_edges_that_have_finished_are_counted(tmp_path: Path) -> None:
    with cloud(tmp_path, edges=2) as trainer:
        line = entered(trainer, Ear())
        put(trainer, line, 1, 0)
        trainer.finish(line.run, 1)
        do_all(trainer)
        assert trainer.accounts().finished() == 1
        assert trainer.accounts().all_durable(1)
        trainer.accounts().of(line.run).applied = 99  # a copy
        assert trainer.accounts().of(line.run).applied == 1


# Checkpoints


@contextmanager
def running(trainer: Trainer, *, fails: bool = False) -> Iterator[None]:
    """Let the trainer run free; at the end it stops, and writes its last checkpoint or fails."""
    problems = list[BaseException]()

    def run() -> None:
        try:
            trainer.run()
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        trainer.stop()
        thread.join(20)
    assert not thread.is_alive()
    assert [type(problem) for problem in problems] == ([StorageError] if fails else [])


def test_nothing_is_written_before_it_is_due(tmp_path: Path, disk: Disk) -> None:
    with cloud(tmp_path) as trainer, running(trainer):
        line = entered(trainer, Ear())
        for seq in (1, 2):
            put(trainer, line, seq, seq - 1)
        line.expect_answered(2)
        assert disk.written == 1  # the session's
        assert line.last == (2, 0)
    assert line.last == (2, 2)
    assert disk.written == 2


def test_a_checkpoint_is_written_every_so_often_if_there_is_anything_new(
    tmp_path: Path, disk: Disk
) -> None:
    with cloud(tmp_path, every_s=0.01) as trainer, running(trainer):
        line = entered(trainer, Ear())
        for seq in (1, 2):
            put(trainer, line, seq, seq - 1)
            line.expect(lambda seq=seq: line.last == (seq, seq))  # type: ignore[misc]
        written = disk.written
        line.expect_answered(2)
        threading.Event().wait(0.3)
        assert disk.written == written
    assert trainer.counts.checkpoints >= 2


def test_an_edge_that_has_finished_does_not_wait_for_its_checkpoint(tmp_path: Path) -> None:
    with cloud(tmp_path) as trainer, running(trainer):
        early, late = entered(trainer, Ear("early")), entered(trainer, Ear("late"))
        trainer.finish(early.run, 2)  # said before its last upload is learnt from
        put(trainer, early, 1, 0)
        put(trainer, early, 2, 1)
        early.expect(lambda: early.last == (2, 2))
        put(trainer, late, 1, 0)
        put(trainer, late, 2, 1)
        late.expect_answered(2)
        assert late.last == (2, 0)
        trainer.finish(late.run, 2)
        late.expect(lambda: late.last == (2, 2))


def test_an_edge_whose_memory_is_half_full_does_not_wait_for_its_checkpoint(
    tmp_path: Path, disk: Disk
) -> None:
    size = len(packed(upload(1)))
    with cloud(tmp_path, half(net(), run_uploads=7)) as trainer, running(trainer):
        line = entered(trainer, Ear(), memory=6 * size)
        for seq in (1, 2, 3):  # half of six
            put(trainer, line, seq, seq - 1)
        line.expect_answered(3)
        assert line.last == (3, 0)
        put(trainer, line, 4, 3)
        line.expect(lambda: line.last == (4, 4))
        for seq in (5, 6, 7):  # what is durable is no burden any more
            put(trainer, line, seq, seq - 1)
        line.expect_answered(7)
        assert line.last == (7, 4)
        assert disk.written == 2


def test_a_disk_that_fails_is_tried_again_and_nothing_is_durable_meanwhile(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "_RETRY_S", 0.05)
    with cloud(tmp_path) as trainer, running(trainer):
        line = entered(trainer, Ear())
        disk.left = 0
        put(trainer, line, 1, 0)
        trainer.finish(line.run, 1)
        line.expect_answered(1)
        while trainer.counts.failed_checkpoints < 3:
            threading.Event().wait(0.01)
        assert trainer.counts.checkpoints == 0
        assert {receipt.durable for receipt in line.receipts} == {0}
        disk.left = 10
        line.expect(lambda: line.last == (1, 1))


def test_a_last_checkpoint_that_fails_is_said_and_makes_nothing_durable(
    tmp_path: Path, disk: Disk
) -> None:
    with cloud(tmp_path) as trainer, running(trainer, fails=True):
        line = entered(trainer, Ear())
        put(trainer, line, 1, 0)
        line.expect_answered(1)
        disk.left = 0
    assert line.last == (1, 0)


def test_stopping_learns_from_what_waits_and_takes_no_more(tmp_path: Path) -> None:
    made = half(net())
    with cloud(tmp_path, made) as trainer:
        line = entered(trainer, Ear())
        for seq in (1, 2, 3):
            put(trainer, line, seq, seq - 1)
        trainer.work.put(work := QueryWork(FP32.encode(torch.ones(2, 3))))
        trainer.stop()
        put(trainer, line, 4, 3)  # an edge that never pauses
        trainer.run()
    assert line.last == (3, 3)
    assert work.answer.done()
    expect_equal(state_of(made), plain([upload(seq) for seq in (1, 2, 3)]))


# Going on


def test_the_session_is_kept_and_another_is_refused(tmp_path: Path) -> None:
    with cloud(tmp_path / "new") as trainer:
        made_up = trainer.session
    assert made_up  # on disk before the first edge hears of it
    with cloud(tmp_path / "new") as trainer:
        assert trainer.session == made_up
    with cloud(tmp_path / "given", session="5e55") as trainer:
        assert trainer.session == "5e55"
    with cloud(tmp_path / "given") as trainer:
        assert trainer.session == "5e55"
    with (
        pytest.raises(StateError, match=r"of session 5e55, the bundle of 0ther.*--out"),
        cloud(tmp_path / "given", session="0ther"),
    ):
        pass
    keeper = Keeper(tmp_path / "given", '{"net": "vgg"}', every_s=1)
    with pytest.raises(StateError, match="of another training"):
        Trainer(half(net()), keeper, Alone())
    keeper.close()


def test_a_checkpoint_of_another_net_of_the_same_terms_is_refused(tmp_path: Path) -> None:
    with cloud(tmp_path) as trainer:
        do_all(trainer)
    with pytest.raises(StateError, match="another net"), cloud(tmp_path, half(nn.Linear(3, 4))):
        pass


def test_all_accounts_are_there_after_a_restart(tmp_path: Path) -> None:
    with cloud(tmp_path) as trainer:
        line = entered(trainer, Ear())
        put(trainer, line, 1, 0)
        trainer.finish(line.run, 1)
        do_all(trainer)
        before = trainer.accounts()
    with cloud(tmp_path) as trainer:
        assert trainer.accounts() == before
        later = Ear()
        assert trainer.open(later, steps=STEPS, memory_bytes=AMPLE) == 1
        assert later.last == (1, 1)


# Methods that reply


def split_half(codec: str = "fp32") -> Half:
    return half(net(), SplitCloud, codec)


def test_the_reply_is_given_with_its_upload_and_again_for_a_duplicate(tmp_path: Path) -> None:
    other = split_half()
    part = other.learner.part
    assert part is not None
    part.schedule = part.schedule.over(STEPS)
    replies = [other.learner.step(upload(seq))[0] for seq in (1, 2)]
    expected = [FP32.encode(reply) for reply in replies if reply is not None]
    made = split_half()
    with cloud(tmp_path, made) as trainer:
        line = entered(trainer, Ear())
        for seq, follows in ((1, 0), (1, 0), (2, 1), (1, 0), (2, 1)):
            put(trainer, line, seq, follows)
        do_all(trainer)
    expect_equal(state_of(made), state_of(other))
    heard = [(receipt.applied, receipt.reply) for receipt in line.receipts]
    first, second = (1, expected[0]), (2, expected[1])
    assert heard == [(0, b""), first, first, second, second, second, second]
    with cloud(tmp_path, split_half()) as trainer:  # and after a restart
        later = entered(trainer, Ear())
        put(trainer, later, 2, 1)
        put(trainer, later, 1, 0)
        do_all(trainer)
    again = [(receipt.applied, receipt.reply) for receipt in later.receipts]
    assert again == [second] * 3  # as it enters, for two duplicates; all was durable before


@final
class Overflowing(CloudLearner):
    """A learner that learns, and whose reply is too large for its codec."""

    def __init__(self, part: Optimised):
        self._classifier = Classifier(part)

    @property
    def part(self) -> Optimised:
        return self._classifier.part

    def step(self, upload: Upload) -> tuple[Tensor, Mapping[str, float]]:
        _, losses = self._classifier.step(upload)
        return torch.full((1,), 1e6), losses


def test_a_reply_that_cannot_be_sent_ends_the_line_with_words(tmp_path: Path) -> None:
    made = half(net(), Overflowing, "fp16")
    with cloud(tmp_path, made) as trainer:
        line = entered(trainer, Ear())
        put(trainer, line, 1, 0)
        do_all(trainer)
    assert isinstance(line.errors[0], PayloadError)
    assert "there is no reply to upload 1" in str(line.errors[0])
    assert line.last == (1, 1)  # it was learnt from, all the same
    expect_equal(state_of(made), plain([upload(1)]))


# Exactly once, whatever happens


def undisturbed() -> State:
    """Return what the uploads make in order, with as many threads as there are now."""
    return plain([upload(seq) for seq in range(1, STEPS + 1)])


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 3)),
        st.tuples(st.just("replay"), st.integers(1, STEPS)),
        st.tuples(st.just("skip"), st.just(0)),
        st.tuples(st.just("reconnect"), st.just(0)),
        st.tuples(st.just("settle"), st.just(0)),
        st.tuples(st.just("crash"), st.integers(0, 3)),
    ),
    max_size=14,
)


@final
class World:
    """An edge and its cloud, to which things happen."""

    def __init__(self, folder: Path, disk: Disk):
        self.folder, self.disk = folder, disk
        self.disk.left = 10**9
        self.boot()

    def boot(self) -> None:
        self.made = half(net())
        self.keeper = Keeper(self.folder, TERMS, every_s=0.0)
        self.trainer = Trainer(self.made, self.keeper, Alone())
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        self.reconnect(0)

    def _run(self) -> None:
        try:
            self.trainer.run()
            self.ended = "well"
        except StorageError:
            self.ended = "crashed"

    def end(self) -> None:
        self.trainer.stop()
        self.thread.join(20)
        assert not self.thread.is_alive()
        self.keeper.close()

    def reconnect(self, _: int) -> None:
        self.line, self.sent = Ear(), 0
        self.at = self.trainer.open(self.line, steps=STEPS, memory_bytes=AMPLE)

    def send(self, count: int) -> None:
        for _ in range(min(count, STEPS - self.at)):
            put(self.trainer, self.line, self.at + 1, self.at)
            self.at, self.sent = self.at + 1, self.sent + 1

    def replay(self, seq: int) -> None:
        if seq <= self.at:
            put(self.trainer, self.line, seq, seq - 1)
            self.sent += 1

    def skip(self, _: int) -> None:
        """Leave a gap, also behind what an older line has still to deliver."""
        put(self.trainer, self.line, STEPS + 2, STEPS + 1, packed(upload(99)))
        self.sent += 1
        self.settle(0)
        assert isinstance(self.line.errors[0], OutOfOrderError)
        self.reconnect(0)

    def settle(self, _: int) -> None:
        self.line.expect_answered(self.sent)

    def crash(self, more: int) -> None:
        """End the cloud after so many more checkpoints; what it says after that, nobody hears."""
        self.disk.left, heard = more, self.line
        self.end()
        assert self.ended == "crashed" or more > 0
        durable = heard.receipts[-1].durable
        self.disk.left = 10**9
        self.boot()
        assert self.at >= durable, "what was called durable is lost"


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(events=EVENTS)
def test_whatever_happens_every_upload_is_learnt_from_once(
    tmp_path_factory: pytest.TempPathFactory, disk: Disk, events: list[tuple[str, int]]
) -> None:
    world = World(tmp_path_factory.mktemp("cloud"), disk)
    try:
        for name, number in events:
            getattr(world, name)(number)
        world.reconnect(0)
        world.send(STEPS)
        world.trainer.finish(world.line.run, STEPS)
        world.line.expect(lambda: world.line.last == (STEPS, STEPS))
    finally:
        world.end()
    assert world.line.errors == []
    expect_equal(state_of(world.made), undisturbed())
    assert world.trainer.accounts().of(world.line.run).samples == 5 * STEPS
    with cloud(world.folder, restored := half(net())):
        expect_equal(state_of(restored), undisturbed())


def test_weights_that_are_no_longer_finite_end_the_cloud_and_keep_the_last_checkpoint(
    tmp_path: Path,
) -> None:
    made = half(net())
    with cloud(tmp_path, made) as trainer:
        line = entered(trainer, Ear())
        put(trainer, line, 1, 0, packed(upload(1)))
        do_all(trainer)
    before = (tmp_path / "checkpoint.json").read_bytes()
    made = half(net())
    with cloud(tmp_path, made) as trainer:
        line = entered(trainer, Ear())
        assert made.learner.part is not None
        with torch.no_grad():
            next(made.learner.part.modules.parameters()).fill_(float("nan"))
        put(trainer, line, 2, 1, packed(upload(2)))
        with pytest.raises(DivergedError, match="the last checkpoint is from before"):
            do_all(trainer)
        assert not line.errors  # it was not the edge's fault
    assert (tmp_path / "checkpoint.json").read_bytes() == before
