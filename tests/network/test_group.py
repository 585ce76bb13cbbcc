"""Two real processes that train one half together, against one process with all the examples.

The processes are started once, as torchrun would; each runs :func:`_scenarios` and writes down what
it has seen.

Dimension key:  B batch   C features   K classes
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, final

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from eaves.codecs.base import parse_codec
from eaves.codecs.upload import pack_upload
from eaves.core.optimise import OneCycle, Optimised
from eaves.core.roles import Upload
from eaves.errors import ConfigError, EavesError, StorageError
from eaves.methods.hierarchical import Classifier
from eaves.methods.setup import CloudAnswers
from eaves.network.group import Alone, Group, find_group
from eaves.network.half import Accepts, Half
from eaves.network.keeper import Keeper
from eaves.network.ledger import Account, Run
from eaves.network.opening import open_upload
from eaves.network.policy import TrainingPolicy
from eaves.network.trainer import Trainer
from eaves.network.workqueue import Line, Receipt, UploadWork

CPU = torch.device("cpu")
FP32 = parse_codec("fp32")
TEXTS = ["", "schön" * 50]  # of rank 0, of rank 1
SIZES = {0: [5, 3, 4, 2, 6], 1: [7, 2]}  # examples in the uploads of each rank, step by step
STEPS = 5
TRIALS = ("plain", "normalised", "once", "refused", "diverging")
WEIGHT = "weights/cloud.1.weight"


@final
class Ear(Line):
    """A line that remembers what it was told."""

    def __init__(self, edge: str):
        self.run = Run(edge, "1")
        self.receipts, self.errors = list[Receipt](), list[str]()

    def receipt(self, receipt: Receipt, *, done: int = 0) -> None:
        self.receipts.append(receipt)

    def refuse(self, error: EavesError) -> None:
        self.errors.append(str(error))


@final
class Steep(nn.Module):
    """Pass numbers on nearly as they are, but make infinities of those above 150."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (x - 50).exp()


def net(trial: str) -> nn.Sequential:
    """Return a net; that of rank 1 is another one until it joins the group."""
    norm = nn.Identity() if trial == "plain" else nn.BatchNorm1d(8)
    return nn.Sequential(Steep(), nn.Linear(3, 8), norm, nn.ReLU(), nn.Linear(8, 4))


def half(trial: str, seed: int) -> Half:
    torch.manual_seed(seed)
    layers = net(trial)
    part = Optimised({"cloud": layers}, OneCycle(total_steps=1, lr=0.1), CPU)
    accepts = Accepts(feature_shape=(3,), dtype=torch.float32, classes=4)
    learner, predictor = Classifier(part), CloudAnswers(layers, CPU)
    return Half(
        learner=learner,
        predictor=predictor,
        accepts=accepts,
        reply_codec=FP32,
        policy=TrainingPolicy(run_uploads=STEPS),
    )


def upload(rank: int, seq: int) -> Upload:
    generator = torch.Generator().manual_seed(10 * rank + seq)
    x_BC = torch.randn(SIZES[rank][seq - 1], 3, generator=generator)
    return Upload(x_BC, torch.randint(0, 4, (len(x_BC),), generator=generator))


def joined(*uploads: Upload) -> Upload:
    return Upload(torch.cat([x.features for x in uploads]), torch.cat([x.labels for x in uploads]))


def tensors_of(made: Half) -> dict[str, Tensor]:
    return made.learner.state().tensors


# In each of the processes


def _payload(trial: str, rank: int, seq: int) -> bytes:
    one = upload(rank, seq)
    features = one.features
    if trial == "refused" and (rank, seq) == (1, 2):
        return b"no upload"
    if trial == "diverging" and (rank, seq) == (1, 2):
        features = torch.full_like(features, 1e9)
    return pack_upload(features, one.labels, FP32)


def _opened(made: Half, line: Ear, seq: int, payload: bytes) -> UploadWork:
    """Return work that is open already: what a step takes is not to depend on other threads."""
    work = UploadWork(line, seq, seq - 1, payload)
    work.opened.asked = True
    try:
        work.opened.value = open_upload(made.accepts, payload)
    except EavesError as error:
        work.opened.error = error
    return work


def _train(trial: str, group: Group, folder: Path) -> dict[str, Any]:
    """Train on what this rank has, and write the weights and what its edge heard."""
    made = half(trial, seed=group.rank)
    keeper = Keeper(folder / trial, trial, every_s=1000.0)
    trainer = Trainer(made, keeper, group, edges=2)
    line = Ear(f"edge-{group.rank}")
    if group.rank == 0:
        offsets = [trainer.port_offset(Run(f"edge-{i}", "1")) for i in (0, 1, 2, 0)]
    else:
        offsets = [trainer.port_offset(Run("edge-1", "1"))]
    trainer.open(line, steps=STEPS, memory_bytes=1 << 30)
    last = 1 if trial == "once" else len(SIZES[group.rank])
    for seq in range(1, last + 1):
        trainer.work.put(_opened(made, line, seq, _payload(trial, group.rank, seq)))
    trainer.stop()
    trainer.run()
    keeper.close()
    save_file(tensors_of(made), folder / f"{trial}-{group.rank}.safetensors")
    part = made.learner.part
    assert part is not None
    assert isinstance(part.schedule, OneCycle)
    return {
        "offsets": offsets,
        "errors": line.errors,
        "heard": [(receipt.applied, receipt.durable) for receipt in line.receipts],
        "accounts": trainer.accounts().as_json(),
        "session": trainer.session,
        "total_steps": part.schedule.total_steps,
    }


def _fail_at_the_end(group: Group, folder: Path) -> dict[str, Any]:
    """Let rank 0's disk refuse the last checkpoint."""
    keeper = Keeper(folder / "failing", "failing", every_s=1000.0)
    trainer = Trainer(half("plain", seed=0), keeper, group, edges=2)
    line = Ear(f"edge-{group.rank}")
    trainer.open(line, steps=STEPS, memory_bytes=1 << 30)
    trainer.work.put(UploadWork(line, 1, 0, _payload("plain", group.rank, 1)))
    trainer.stop()
    if group.rank == 0:  # a file where the folder was
        (folder / "failing").rename(folder / "before")
        (folder / "failing").write_bytes(b"")
    problem = ""
    try:
        trainer.run()
    except StorageError as error:
        problem = str(error)
    keeper.close()
    heard = [(receipt.applied, receipt.durable) for receipt in line.receipts]
    return {"heard": heard, "problem": problem}


def _scenarios(folder: Path) -> None:
    torch.set_num_threads(1)
    group = find_group()
    found: dict[str, Any] = {trial: _train(trial, group, folder) for trial in TRIALS}
    found["failing"] = _fail_at_the_end(group, folder)
    found["texts"] = [group.gather_text(TEXTS[group.rank]), group.gather_text("")]
    found["figures"] = group.gather([group.rank, -7, 2**48])
    found["place"] = [group.rank, group.size]
    (folder / f"found-{group.rank}.json").write_text(json.dumps(found))
    group.close()


# In the test's process


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which both processes have left what they found."""
    folder = tmp_path_factory.mktemp("group")
    shared = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            env={**os.environ, **shared, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        ends = [process.communicate(timeout=100)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(ends)
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"found-{rank}.json").read_text()) for rank in (0, 1)]


def weights(folder: Path, trial: str, rank: int) -> dict[str, Tensor]:
    return load_file(folder / f"{trial}-{rank}.safetensors")


def alone(trial: str, steps: list[Upload]) -> dict[str, Tensor]:
    """Return what one process makes of these batches, beginning as rank 0 did."""
    made = half(trial, seed=0)
    part = made.learner.part
    assert part is not None
    part.schedule = part.schedule.over(STEPS)
    taken = 0
    for step, uploads in zip(steps, UPLOADS, strict=True):
        made.learner.step(step)
        taken += uploads
        part.steps = taken // 2  # two processes: a step of the schedule is two uploads
    return tensors_of(made)


UPLOADS = [2, 2, 1, 1, 1]  # in each of the steps
ALL = [joined(upload(0, seq), upload(1, seq)) for seq in (1, 2)]
ALL += [upload(0, seq) for seq in (3, 4, 5)]


@pytest.mark.parametrize("trial", TRIALS)
def test_both_end_with_the_same_weights_bit_for_bit(folder: Path, trial: str) -> None:
    ours, theirs = weights(folder, trial, 0), weights(folder, trial, 1)
    assert set(ours) == set(theirs)
    # Each draws for itself, and counts the batches that it has seen itself.
    own = {"draws/state", "weights/cloud.2.num_batches_tracked"}
    assert [k for k in ours if k not in own and not torch.equal(ours[k], theirs[k])] == []
    assert any(k.startswith("optimiser/") for k in ours)
    assert all(v.isfinite().all() for v in ours.values() if v.is_floating_point())


def test_two_processes_are_one_with_all_the_examples(folder: Path) -> None:
    together, expected = weights(folder, "plain", 0), alone("plain", ALL)
    for name, tensor in expected.items():
        if name != "draws/state":
            # Five steps of sums in another order, of numbers of about 1 with rounding of 6e-8.
            torch.testing.assert_close(together[name], tensor, rtol=0, atol=2e-6)
    only_one = alone("plain", [upload(0, seq) for seq in range(1, 6)])
    gap = max(float((only_one[k] - expected[k]).abs().max()) for k in expected if k[0] == "w")
    assert gap > 1e-3  # what the tolerance would not hide


def test_batchnorm_normalises_each_process_apart(folder: Path) -> None:
    """As torch's DistributedDataParallel does without SyncBatchNorm: it is not one process."""
    together, expected = weights(folder, "normalised", 0), alone("normalised", ALL)
    gap = float((together[WEIGHT] - expected[WEIGHT]).abs().max())
    assert gap > 1e-3


def test_the_mean_of_batchnorm_is_that_of_all_examples(folder: Path) -> None:
    """In the first step, while the weights before it are still the same."""
    torch.manual_seed(0)
    layers = net("normalised")
    before = [layers[:2](upload(rank, 1).features).detach() for rank in (0, 1)]
    found, mean = weights(folder, "once", 0), 0.1 * torch.cat(before).mean(dim=0)
    torch.testing.assert_close(found["weights/cloud.2.running_mean"], mean, rtol=0, atol=1e-6)
    variance = 0.9 + 0.1 * sum(len(x) * x.var(dim=0) for x in before) / 12
    torch.testing.assert_close(found["weights/cloud.2.running_var"], variance, rtol=0, atol=1e-6)


@pytest.mark.parametrize("trial", ["refused", "diverging"])
def test_a_bad_upload_of_one_process_is_refused_there_and_the_others_learn(
    folder: Path, found: list[dict[str, Any]], trial: str
) -> None:
    assert found[0][trial]["errors"] == []
    (error,) = found[1][trial]["errors"]
    words = "expected an upload" if trial == "refused" else "cannot be learnt from: the loss is nan"
    assert words in error
    assert found[0][trial]["heard"][-1] == [5, 5]
    assert found[1][trial]["heard"][-1] == [1, 1]


def test_what_is_refused_leaves_no_trace(folder: Path) -> None:
    refused, diverging = weights(folder, "refused", 0), weights(folder, "diverging", 0)
    assert [k for k in refused if not torch.equal(refused[k], diverging[k])] == []
    assert not torch.equal(weights(folder, "normalised", 0)[WEIGHT], refused[WEIGHT])


def test_the_checkpoint_has_the_accounts_of_all(folder: Path, found: list[dict[str, Any]]) -> None:
    keeper = Keeper(folder / "plain", "plain", every_s=1)
    kept = keeper.load()
    keeper.close()
    assert kept is not None
    samples = [sum(sizes) for sizes in SIZES.values()]
    accounts = {run.edge: account for run, account in kept.ledger.accounts.items()}
    for rank, applied in ((0, 5), (1, 2)):
        assert accounts[f"edge-{rank}"] == Account(
            applied=applied, durable=applied, samples=samples[rank], steps=STEPS
        )
        heard = found[rank]["plain"]["heard"]
        assert heard == [[0, 0], *([seq, 0] for seq in range(1, applied + 1)), [applied, applied]]
    assert kept.session == found[0]["plain"]["session"] == found[1]["plain"]["session"]
    assert kept.cloud is not None
    ours = weights(folder, "plain", 0)
    assert [k for k in ours if not torch.equal(ours[k], kept.cloud.tensors[k])] == []


def test_each_knows_the_accounts_of_all_after_a_checkpoint(found: list[dict[str, Any]]) -> None:
    for one in found:
        applied = {
            row["edge"]: (row["applied"], row["durable"]) for row in one["plain"]["accounts"]
        }
        assert applied["edge-0"] == (5, 5)
        assert applied["edge-1"] == (2, 2)


def test_edges_take_turns_and_stay_where_they_are(found: list[dict[str, Any]]) -> None:
    for trial in TRIALS:
        assert found[0][trial]["offsets"] == [0, 1, 0, 0]
        assert found[1][trial]["offsets"] == [0]


def test_all_have_the_same_schedule(found: list[dict[str, Any]]) -> None:
    # Two edges, learnt from at the same time.
    assert [one["plain"]["total_steps"] for one in found] == [STEPS, STEPS]


def test_nothing_is_durable_anywhere_if_the_last_checkpoint_fails(
    found: list[dict[str, Any]],
) -> None:
    for one in found:
        assert one["failing"]["heard"] == [[0, 0], [1, 0]]
    assert "what was there before is intact" in found[0]["failing"]["problem"]
    assert "rank 0 could not write" in found[1]["failing"]["problem"]


def test_figures_and_texts_are_gathered_by_rank(found: list[dict[str, Any]]) -> None:
    for rank, one in enumerate(found):
        assert one["place"] == [rank, 2]
        assert one["figures"] == [[0, -7, 2**48], [1, -7, 2**48]]
        assert one["texts"] == [TEXTS, ["", ""]]


# Without torchrun


def test_one_process_needs_no_group() -> None:
    complete = {"RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for environ in ({}, {"RANK": "3"}, {**complete, "WORLD_SIZE": "1"}):
        assert isinstance(find_group(environ), Alone)
    group = Alone()
    assert (group.rank, group.size) == (0, 1)
    assert group.gather([3, 4]) == [[3, 4]]
    assert group.gather_text("text") == ["text"]
    made = half("plain", seed=0)
    part = made.learner.part
    assert part is not None
    group.join(part)
    group.share(3, 1)
    assert group.taken() == 1
    group.close()
    assert part.averaging is None


def test_half_of_an_environment_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"RANK, MASTER_PORT not: start several.*torchrun"):
        find_group({"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"})


if __name__ == "__main__":
    _scenarios(Path(sys.argv[1]))
