"""Targets that would have found what one valid edge could do to a cloud, and to the others."""

import queue
import random
import struct
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import ClassVar, final

import torch
from benchmarks.fuzzing import mutate
from benchmarks.fuzzing.contract import MIB, Target, expect, joined, parted
from benchmarks.fuzzing.payloads import (
    FEATURES,
    INPUTS,
    SHAPE,
    Listening,
    example,
    small_half,
    upload,
)

from eaves.codecs.base import decode
from eaves.errors import EavesError, PayloadError
from eaves.network.group import Alone
from eaves.network.half import Accepts
from eaves.network.keeper import Keeper
from eaves.network.ledger import Run
from eaves.network.opening import open_query, open_upload
from eaves.network.policy import TrainingPolicy
from eaves.network.screening import scale_of
from eaves.network.trainer import Trainer
from eaves.network.workqueue import Line, QueryWork, Receipt, UploadWork

_LONGEST_S = 0.5  # of what was agreed, 4 examples of 18 values; a busy machine is borne
_HANG_S = 2.0
_HEAD = struct.Struct("<BBQQ")
_OPEN, _UPLOAD, _FINISH, _CLOSE, _SUPERSEDE, _QUERY = range(6)


@final
class Admission(Target):
    """An upload or a query in a codec, shape or number that was not agreed, or that says it is.

    Whatever its header claims, it takes no more time and memory than what was agreed.
    """

    name: ClassVar[str] = "admission"
    allowed: ClassVar = (PayloadError,)
    spare_bytes: ClassVar[int] = 8 * MIB

    def __init__(self) -> None:
        self._accepts = Accepts(
            feature_shape=SHAPE,
            dtype=torch.float32,
            classes=3,
            max_batch=4,
            query_batch=8,
            codec="int8+zstd",
        )

    def seeds(self) -> Sequence[bytes]:
        uploads = [upload(codec, batch) for codec in FEATURES for batch in (1, 4)]
        queries = [example(codec, (3, *SHAPE)) for codec in FEATURES]
        queries += [example(codec, (3, 3, 5, 4)) for codec in INPUTS]  # another layout
        return [b"u" + data for data in uploads] + [b"q" + data for data in queries]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        change = mutate.upload if data[:1] == b"u" else mutate.payload
        return data[:1] + change(rng, data[1:])

    def run(self, data: bytes) -> str:
        started_s = perf_counter()
        try:
            if data[:1] == b"u":
                opened = open_upload(self._accepts, data[1:])
                features, most = opened.features, self._accepts.max_batch
                expect(len(opened.labels) == len(features), "labels of other examples")
            else:
                features, most = open_query(self._accepts, data[1:]), self._accepts.query_batch
        finally:
            expect(perf_counter() - started_s < _LONGEST_S, "longer than what was agreed takes")
        expect(tuple(features.shape[1:]) == SHAPE, f"features of shape {tuple(features.shape)}")
        expect(0 < len(features) <= most, f"{len(features)} examples")
        expect(bool(features.isfinite().all()), "features that are not finite")
        return "an upload" if data[:1] == b"u" else "a query"


@final
class _Deaf(Line):
    """A hostile edge: it reads nothing."""

    def __init__(self, run: Run):
        self.run = run

    def receipt(self, receipt: Receipt, *, done: int = 0) -> None:
        pass

    def refuse(self, error: EavesError) -> None:
        pass


@final
class Crowd(Target):
    """What three hostile edges do to a cloud that an honest edge trains with.

    Acts, each of one edge: open a run, send an upload, finish, leave, come again beside the old
    stream, ask. After them the honest edge's next upload is learnt from, the trainer lives, and the
    weights are finite.
    """

    name: ClassVar[str] = "crowd"
    allowed: ClassVar = ()

    def __init__(self) -> None:
        self._folder, self._died = tempfile.TemporaryDirectory(), list[BaseException]()
        self._runs, self._seq = 0, 0
        # As `eaves serve` has it, but that no edge is ever set aside: it would act no more.
        probe = scale_of(decode(example("fp32", (8, *SHAPE))))
        policy = TrainingPolicy(gradient_times=20, feature_times=10, probed=probe)
        self._half = replace(small_half(), policy=policy)
        self._keeper = Keeper(Path(self._folder.name), "{}", every_s=1e6)
        self._trainer = Trainer(self._half, self._keeper, Alone(), edges=4)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        self._lines: dict[str, Line] = {}
        self._honest, self._good = Listening(Run("honest", "run")), upload("fp32", 4)
        self._trainer.open(self._honest, steps=2**40, memory_bytes=2**60)

    def _work(self) -> None:
        try:
            self._trainer.run()
        except BaseException as error:
            self._died.append(error)

    def seeds(self) -> Sequence[bytes]:
        def act(edge: int, kind: int, seq: int = 1, follows: int = 0, data: bytes = b"") -> bytes:
            return _HEAD.pack(edge, kind, seq, follows) + data

        good, query = upload("int8+zstd", 4), example("int8", (2, *SHAPE))
        far = upload("fp32", 2)
        return [
            joined([act(0, _OPEN), act(0, _UPLOAD, data=good), act(0, _FINISH)]),
            joined([act(0, _OPEN, 2**47)] + [act(1, _OPEN)] * 6 + [act(1, _CLOSE)]),
            joined([act(0, _UPLOAD, n + 1, n, far) for n in range(4)] + [act(0, _SUPERSEDE)]),
            joined([act(2, _QUERY, data=query), act(2, _UPLOAD, data=good), act(2, _QUERY)]),
            joined([act(0, _SUPERSEDE)] * 4 + [act(0, _UPLOAD, data=good), act(0, _FINISH, 9)]),
        ]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        acts = parted(data) or [_HEAD.pack(0, 0, 1, 0)]
        for _ in range(rng.choice((1, 1, 2, 4))):
            i = rng.randrange(len(acts))
            head, payload = acts[i][: _HEAD.size].ljust(_HEAD.size, b"\0"), acts[i][_HEAD.size :]
            edge, kind, seq, follows = _HEAD.unpack(head)
            numbers = (0, 1, 2, 3, seq, 2**31, 2**47, 2**63, 2**64 - 1)
            changed = rng.choice(
                (
                    (rng.randrange(3), kind, seq, follows),
                    (edge, rng.randrange(6), seq, follows),
                    (edge, kind, rng.choice(numbers), rng.choice(numbers)),
                )
            )
            if payload and rng.random() < 0.5:
                payload = mutate.upload(rng, payload)
            acts[i] = _HEAD.pack(*changed) + payload
            if rng.random() < 0.3:
                acts.insert(rng.randrange(len(acts) + 1), rng.choice(acts))
        return joined(acts[:24])

    def run(self, data: bytes) -> str:
        refused = 0
        for act in parted(data)[:24]:
            edge, kind, seq, follows = _HEAD.unpack(act[: _HEAD.size].ljust(_HEAD.size, b"\0"))
            try:
                self._act(f"edge{edge % 3}", kind % 6, (seq, follows), act[_HEAD.size :])
            except EavesError:
                refused += 1
        self._expect_learnt()
        return "some refused" if refused else "all taken"

    def _act(self, edge: str, kind: int, numbers: tuple[int, int], data: bytes) -> None:
        line = self._lines.get(edge)
        if kind == _QUERY:
            self._trainer.ask(QueryWork(data, edge=edge))
            return
        if line is None or kind in (_OPEN, _SUPERSEDE):
            self._runs += kind == _OPEN
            again = kind != _OPEN and line is not None
            new = _Deaf(line.run if again and line is not None else Run(edge, f"run{self._runs}"))
            self._trainer.open(new, steps=numbers[0], memory_bytes=numbers[1])
            if line is not None:
                self._trainer.close(line, superseded=True)
            self._lines[edge] = line = new
        if kind == _UPLOAD:
            self._trainer.work.put(UploadWork(line, *numbers, data))
        elif kind == _FINISH:
            self._trainer.finish(line.run, numbers[0])
        elif kind == _CLOSE:
            self._trainer.close(line)
            del self._lines[edge]

    def _expect_learnt(self) -> None:
        self._seq += 1
        work = UploadWork(self._honest, self._seq, self._seq - 1, self._good)
        self._trainer.work.put(work)
        until = monotonic() + _HANG_S
        said: Receipt | EavesError | None = None
        while said is None and monotonic() < until and self._thread.is_alive():
            try:
                said = self._honest.said.get(timeout=0.05)
            except queue.Empty:
                continue
        expect(self._thread.is_alive(), f"the trainer has died: {self._died[:1]!r}")
        expect(isinstance(said, Receipt), f"the honest edge got {said!r:.200}")
        while len(self._trainer.work) and monotonic() < until:  # the next input begins alone
            sleep(0.001)
        weights = self._half.learner.state().tensors.values()
        finite = all(bool(x.isfinite().all()) for x in weights if x.is_floating_point())
        expect(finite, "weights that are not finite")

    def close(self) -> None:
        self._trainer.stop()
        self._thread.join()
        self._keeper.close()
        self._folder.cleanup()
