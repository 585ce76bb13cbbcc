"""Targets that read states: checkpoints of either side, bundles, their rules."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Final, final

import torch
from benchmarks.fuzzing import mutate
from benchmarks.fuzzing.contract import expect, joined, parted
from benchmarks.fuzzing.files import InFolder
from benchmarks.fuzzing.payloads import small_half
from torch import nn

from eaves.core.calibration import Scored
from eaves.core.state import State
from eaves.errors import (
    ConfigError,
    StateError,
)
from eaves.experiments.build import Job, build_job
from eaves.experiments.bundle import write_bundle
from eaves.experiments.calibrating import Target as Aim
from eaves.experiments.calibrating import choose, read_rule, write_rule
from eaves.experiments.config import TrainConfig
from eaves.experiments.halves import load_weights, open_origin
from eaves.experiments.position import Position, restore, save
from eaves.network.group import Alone
from eaves.network.keeper import Keeper, Kept
from eaves.network.ledger import Account, Ledger, Run
from eaves.network.trainer import Trainer
from eaves.runtime.meters import Totals
from eaves.runtime.traffic import Snapshot

_DIGEST: Final = b"DIGEST"  # stands for the SHA-256 of the tensors that follow


class Tensors(InFolder):
    """JSON that names a file of tensors by its digest, and that file; the digest is right."""

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        facts, tensors = parted(data, 2)
        if rng.random() < 0.75:
            return joined([mutate.json_values(rng, facts), tensors])
        return joined([facts, _tensors(rng, tensors)])

    def sealed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return both files, the digest in its place."""
        facts, tensors = parted(data, 2)
        return facts.replace(_DIGEST, hashlib.sha256(tensors).hexdigest().encode()), tensors


def _tensors(rng: random.Random, data: bytes) -> bytes:
    """Change the header of safetensors, which is JSON behind its length, or bytes."""
    length = int.from_bytes(data[:8], "little")
    if rng.random() < 0.3 or length > len(data):
        return mutate.any_bytes(rng, data)
    header = mutate.json_values(rng, data[8 : 8 + length])
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def _unsealed(index: Path, tensors: Path) -> bytes:
    content = tensors.read_bytes()
    digest = hashlib.sha256(content).hexdigest().encode()
    return joined([index.read_bytes().replace(digest, _DIGEST), content])


@final
class CloudCheckpoint(Tensors):
    """A cloud's checkpoint, and a trainer that goes on from it."""

    name: ClassVar[str] = "checkpoint"
    allowed: ClassVar = (StateError,)

    def seeds(self) -> Sequence[bytes]:
        folder, half = self.folder / "seed", small_half()
        assert half.learner is not None
        run = Run("edge", "ab12")
        kept = Kept(
            session="s",
            total_steps=100,
            ledger=Ledger({run: Account(applied=3, durable=3, samples=9, steps=100, last=0)}),
            cloud=half.learner.state(),
            replies={run: (3, b"reply")},
        )
        Keeper(folder, "{}", every_s=1.0).save(kept)
        self._file = next(folder.glob("*.safetensors")).name
        return [_unsealed(folder / "checkpoint.json", folder / self._file)]

    def run(self, data: bytes) -> str:
        facts, tensors = self.sealed(data)
        self.write({"checkpoint.json": facts, self._file: tensors})
        trainer = Trainer(small_half(), Keeper(self.folder, "{}", every_s=1.0), Alone())
        for account in trainer.accounts().accounts.values():
            numbers = (account.applied, account.durable, account.samples, account.steps)
            good = all(type(n) is int and n >= 0 for n in (*numbers, account.last))
            expect(good, "an account that cannot be")
        expect(isinstance(trainer.session, str), "a session that cannot be")
        return "a trainer"


@final
class EdgeCheckpoint(Tensors):
    """An agent's checkpoint: where its run stands."""

    name: ClassVar[str] = "position"
    allowed: ClassVar = (StateError,)

    def __init__(self) -> None:
        super().__init__()
        config = TrainConfig(out=self.folder, train_samples=64, device="cpu")
        built = build_job(config)
        method = replace(built.method, cloud=None, cloud_predictor=None, cloud_modules={})
        self._job: Job = replace(built, method=method)
        self._home = self.folder / "checkpoint"

    def seeds(self) -> Sequence[bytes]:
        enrolled = {"run": "ab12", "session": "s"}
        position = Position("train", 3, Totals(), 0, enrolled)
        edge = State(self._job.method.edge.state().tensors, {"steps": 3})
        save(self._job, position, Snapshot(3, edge, None, Totals()))
        self._file = next(self._home.glob("*.safetensors")).name
        return [_unsealed(self._home / "checkpoint.json", self._home / self._file)]

    def run(self, data: bytes) -> str:
        facts, tensors = self.sealed(data)
        names = {"checkpoint.json": facts, self._file: tensors}
        self.write({f"checkpoint/{name}": content for name, content in names.items()})
        position = restore(self._job)
        good = type(position.steps) is int and position.steps >= 0
        expect(good and isinstance(position.phase, str), "steps or a phase that cannot be")
        enrolled = position.enrolled  # without them, an agent begins anew
        good = not enrolled or all(isinstance(enrolled[k], str) for k in ("run", "session"))
        expect(good, "names that cannot be")
        totals = (position.totals.wall_s, position.totals.edge.busy_s, position.totals.bytes_up)
        expect(all(type(n) in (int, float) for n in totals), "totals that cannot be")
        return "a position"


@final
class Bundle(Tensors):
    """A bundle that somebody gave: manifest, the cloud's weights, and the exit's rule."""

    name: ClassVar[str] = "bundle"
    allowed: ClassVar = (StateError, ConfigError)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self._modules = {"cloud": nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))}

    def seeds(self) -> Sequence[bytes]:
        facts = {
            "method": "hierarchical",
            "config": TrainConfig().to_dict(),
            "input_shape": [1, 8, 8],
            "classes": ["a", "b"],
            "accuracy": None,
        }
        folder = self.folder / "seed"
        write_bundle(folder, {"cloud": self._modules}, facts, session="s")
        return [_unsealed(folder / "manifest.json", folder / "cloud/weights.safetensors")]

    def run(self, data: bytes) -> str:
        facts, tensors = self.sealed(data)
        self.write({"manifest.json": facts, "cloud/weights.safetensors": tensors})
        origin = open_origin(self.folder)
        interface = origin.interface
        assert interface is not None
        good = all(type(n) is int and n > 0 for n in interface.input_shape)
        expect(good and isinstance(origin.session, str), "a shape or session that cannot be")
        expect(all(isinstance(name, str) for name in interface.classes), "classes without names")
        load_weights(origin, "cloud", self._modules)
        return "a bundle"


@final
class Rule(InFolder):
    """The rule of a bundle's exit."""

    name: ClassVar[str] = "rule"
    allowed: ClassVar = (StateError,)

    def seeds(self) -> Sequence[bytes]:
        write_bundle(self.folder, {}, {}, session="s")
        scores = torch.linspace(0, 1, 8)
        scored = Scored(scores=scores, exit_right=scores > 0.2, cloud_right=scores >= 0)
        write_rule(self.folder, choose(scored, Aim(rule="confidence", share=0.5)))
        return [(self.folder / "rule.json").read_bytes()]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        return mutate.json_values(rng, data)

    def run(self, data: bytes) -> str:
        self.write({"rule.json": data})
        return type(read_rule(self.folder)).__name__
