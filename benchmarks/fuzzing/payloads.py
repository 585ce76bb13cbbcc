"""Targets that take payloads: the codecs, the cloud's trainer, answers on either side."""

import queue
import random
import struct
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, final

import torch
from benchmarks.fuzzing import mutate
from benchmarks.fuzzing.contract import MIB, Breach, Target, expect, expect_words
from torch import Tensor, nn

from eaves.codecs.base import decode, parse_codec
from eaves.codecs.upload import pack_upload, unpack_upload
from eaves.core.optimise import OneCycle, Optimised
from eaves.core.roles import Batch, EdgePredictor
from eaves.errors import DivergedError, EavesError, PayloadError
from eaves.experiments.answering import Answerer, Cloud
from eaves.experiments.build import wire_of
from eaves.experiments.config import TrainConfig
from eaves.methods.baselines import SplitEdge
from eaves.methods.hierarchical import Classifier
from eaves.methods.setup import CloudAnswers
from eaves.network.answers import Answers
from eaves.network.asking import LARGEST_ANSWER_BYTES
from eaves.network.counts import Counts
from eaves.network.eaves_pb2 import Answer
from eaves.network.group import Alone
from eaves.network.half import Accepts, Half
from eaves.network.keeper import Keeper
from eaves.network.ledger import Run
from eaves.network.trainer import Trainer
from eaves.network.waiting import Patience, Policy
from eaves.network.wire import unpack
from eaves.network.workqueue import Line, QueryWork, Receipt, UploadWork
from eaves.runtime.meters import Totals
from eaves.runtime.stages import EdgeStage, Lanes
from eaves.runtime.traffic import Parcel

FEATURES = ["fp32", "fp16", "fp16:scaled", "bf16+zstd", "int8", "int8+zstd"]
FEATURES += ["int4:channel+range", "int2:tensor", "int1+zstd:19"]
INPUTS = ["raw", "raw+range+zstd", "png", "png+zstd", "jpeg"]
SHAPE = (2, 3, 3)
_LIMIT = MIB
_HANG_S = 2.0


def example(codec: str, shape: tuple[int, ...] = (2, 3, 5, 4)) -> bytes:
    """Return a payload that is valid."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(5)).relu()
    if parse_codec(codec).dtype == torch.uint8:
        x = (x * 60).clamp(0, 255).to(torch.uint8)
    return parse_codec(codec).encode(x)


def upload(codec: str = "int8+zstd", batch: int = 4, shape: tuple[int, ...] = SHAPE) -> bytes:
    """Return an upload that :func:`small_half` takes."""
    x = torch.randn((batch, *shape), generator=torch.Generator().manual_seed(batch)).relu()
    return pack_upload(x, torch.arange(batch) % 3, parse_codec(codec))


def small_half() -> Half:
    """Return a cloud half with all that may go wrong: batch statistics, and few weights."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1), nn.Flatten(), nn.Linear(18, 3))
    cpu = torch.device("cpu")
    return Half(
        learner=Classifier(Optimised({"cloud": net}, OneCycle(total_steps=100), cpu)),
        predictor=CloudAnswers(net, cpu),
        accepts=Accepts(feature_shape=SHAPE, dtype=torch.float32, classes=3, max_batch=256),
        reply_codec=parse_codec("fp16"),
    )


@final
class Decode(Target):
    """Any payload, as the codec that it names reads it."""

    name: ClassVar[str] = "decode"
    allowed: ClassVar = (PayloadError,)

    def seeds(self) -> Sequence[bytes]:
        return [example(codec) for codec in FEATURES + INPUTS]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        return mutate.payload(rng, data)

    def run(self, data: bytes) -> str:
        x = decode(data, limit_bytes=_LIMIT)
        expect(x.numel() * x.itemsize <= _LIMIT, "a tensor above the limit")
        expect(bool(x.float().isfinite().all()), "a tensor that is not finite")
        return "a tensor"


@final
class Unpack(Target):
    """Any upload."""

    name: ClassVar[str] = "upload"
    allowed: ClassVar = (PayloadError,)

    def seeds(self) -> Sequence[bytes]:
        return [upload(codec) for codec in FEATURES] + [upload(batch=300)]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        return mutate.upload(rng, data)

    def run(self, data: bytes) -> str:
        features, labels_B = unpack_upload(data, limit_bytes=_LIMIT)
        expect(features.nbytes <= _LIMIT and int(labels_B.min()) >= 0, "more than was allowed")
        expect(labels_B.shape == features.shape[:1], "labels for other examples")
        return "an upload"


@final
class Listening(Line):
    """What the trainer says of an upload."""

    def __init__(self, run: Run):
        self.run = run
        self.said: queue.SimpleQueue[Receipt | EavesError] = queue.SimpleQueue()

    def receipt(self, receipt: Receipt, *, done: int = 0) -> None:
        if done:
            self.said.put(receipt)

    def refuse(self, error: EavesError) -> None:
        self.said.put(error)


@final
class Train(Target):
    """An upload on its whole way into the weights: 8 bytes of seq, 8 of follows, the payload.

    What is refused must leave weights, statistics and optimiser as they were, bit for bit.
    """

    name: ClassVar[str] = "trainer"
    allowed: ClassVar = (EavesError,)

    def __init__(self) -> None:
        self._died: BaseException | None = None
        self._runs = 0
        self._begin()

    def _begin(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._half = small_half()
        self._keeper = Keeper(Path(self._folder.name), "{}", every_s=1e6)
        self._trainer = Trainer(self._half, self._keeper, Alone())
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        self._first = self._half.learner.state()
        self._enter()

    def _enter(self) -> None:
        self._runs += 1
        self._line = Listening(Run("edge", f"run{self._runs}"))
        self._applied = self._trainer.open(self._line, steps=100, memory_bytes=2**60)

    def _work(self) -> None:
        try:
            self._trainer.run()
        except BaseException as error:
            self._died = error

    def seeds(self) -> Sequence[bytes]:
        head = struct.pack("<QQ", 1, 0)
        uploads = [upload(codec, batch) for codec in FEATURES[:5] for batch in (1, 4)]
        return [head + payload for payload in uploads]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        if rng.random() < 0.2:
            extremes = (0, 1, 2, 3, 2**63 - 1, 2**63, 2**64 - 1)
            return struct.pack("<QQ", rng.choice(extremes), rng.choice(extremes)) + data[16:]
        return data[:16] + mutate.upload(rng, data[16:])

    def run(self, data: bytes) -> str:
        learner = self._half.learner
        ahead, follows = struct.unpack("<QQ", data[:16].ljust(16, b"\0"))
        seq, follows = (self._applied + ahead) % 2**64, (self._applied + follows) % 2**64
        self._trainer.work.put(UploadWork(self._line, seq, follows, data[16:]))
        said = self._said()
        state = learner.state()
        if isinstance(said, EavesError):
            same = all(
                bool(torch.equal(v, state.tensors[k])) for k, v in self._first.tensors.items()
            )
            learner.load_state(self._first)
            expect(same, "an upload that was refused has changed the net")
            expect_words(str(said))
            raise said
        learner.load_state(self._first)
        values = (v for v in state.tensors.values() if v.is_floating_point())
        expect(all(bool(v.isfinite().all()) for v in values), "what was learnt is not finite")
        self._applied = said.applied
        if said.applied > 2**32:  # another run; of too many that are not durable there is no room
            self.close()
            self._begin()
        return "learnt"

    def _said(self) -> Receipt | EavesError:
        for _ in range(int(_HANG_S / 0.1)):
            try:
                return self._line.said.get(timeout=0.1)
            except queue.Empty:
                if not self._thread.is_alive():
                    break
        died, self._died = self._died, None
        if died is None:
            raise Breach("no word of an upload")
        self._begin()
        raise died

    def close(self) -> None:
        self._trainer.stop()
        self._thread.join()
        self._keeper.close()
        self._folder.cleanup()


@final
class Ask(Target):
    """A query beside a good one, which has to be answered all the same."""

    name: ClassVar[str] = "answers"
    allowed: ClassVar = (EavesError,)

    def __init__(self) -> None:
        half = small_half()
        answers = Answers(half, Counts(), most=256)
        self._answers, self._good = answers, example("fp32", (3, *SHAPE))
        with torch.no_grad():
            self._right = half.predictor.answer(decode(self._good))

    def seeds(self) -> Sequence[bytes]:
        return [example(codec, (b, *SHAPE)) for codec in FEATURES for b in (1, 5)]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        return mutate.payload(rng, data)

    def run(self, data: bytes) -> str:
        other, good = QueryWork(data), QueryWork(self._good)
        self._answers.give([other, good])
        expect(other.answer.done() and good.answer.done(), "no answer")
        expect(good.answer.exception() is None, "a bad query has spoilt a good one")
        same = torch.allclose(decode(good.answer.result()), self._right, rtol=1e-4, atol=1e-5)
        expect(same, "a bad query has changed the answer of a good one")
        if (error := other.answer.exception()) is not None:
            expect_words(str(error))
            raise error
        return "answered"


@final
class _Said(Cloud):
    """A cloud that says what it is told to."""

    def __init__(self) -> None:
        self.message = b""

    def ask(self, payload: bytes, *, timeout_s: float) -> Tensor:
        answer = unpack(Answer)(self.message)
        if not isinstance(answer, Answer):
            raise PayloadError("no answer")
        return decode(answer.payload, limit_bytes=LARGEST_ANSWER_BYTES)


@final
class _Edge(EdgePredictor):
    """An edge with features and an early answer of 3 classes."""

    def predict(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return inputs, torch.zeros(len(inputs), 3)


@final
class Hear(Target):
    """A cloud's answer, where an edge takes it in."""

    name: ClassVar[str] = "answer"
    allowed: ClassVar = (PayloadError,)
    spare_bytes: ClassVar[int] = 80 * MIB

    def __init__(self) -> None:
        self._cloud = _Said()
        codec = parse_codec("fp32")
        policy = Policy(deadline_s=60.0, patience=Patience(first_s=1e-9, longest_s=1e-9))
        self._answerer, self._unusable = Answerer(_Edge(), self._cloud, codec, policy), 0

    def seeds(self) -> Sequence[bytes]:
        payloads = [example(codec, (2, 3)) for codec in FEATURES]
        return [Answer(payload=payload).SerializeToString() for payload in payloads]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        return mutate.protobuf(mutate.payload)(rng, data)

    def run(self, data: bytes) -> str:
        self._cloud.message = data
        answers = self._answerer.answer(torch.zeros(2, *SHAPE)).answers
        unusable, self._unusable = self._unusable, self._answerer.counts.unusable
        good = all(a.label in (0, 1, 2) and 0 <= (a.confidence or -1) <= 1 for a in answers)
        expect(good and len(answers) == 2, "answers that cannot be")
        return "answers" if unusable == self._unusable else "unusable"


@final
class Reply(Target):
    """The gradient that a cloud sends back to split learning's edge."""

    name: ClassVar[str] = "reply"
    allowed: ClassVar = (PayloadError, DivergedError)
    spare_bytes: ClassVar[int] = 80 * MIB

    def __init__(self) -> None:
        torch.manual_seed(0)
        edge = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU())
        schedule = OneCycle(total_steps=100)
        self._edge = SplitEdge(Optimised({"edge": edge}, schedule, torch.device("cpu")))
        self._first = self._edge.state()

    def seeds(self) -> Sequence[bytes]:
        return [example(codec, (4, *SHAPE)) for codec in FEATURES]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        return mutate.payload(rng, data)

    def run(self, data: bytes) -> str:
        self._edge.load_state(self._first)
        lanes = Lanes(wire_of(TrainConfig(codec="fp16")), Totals())
        lanes.replies.put(Parcel(data, 4, 0.0))
        batch = Batch(torch.ones(4, 1, 3, 3), torch.zeros(4, dtype=torch.int64))
        EdgeStage(self._edge, lanes, sends=True).run(iter([batch]), threading.Event(), 0, 60.0)
        return "a step"
