"""Whole runs on the digits: what they leave, and that interrupting one changes nothing."""

import hashlib
import json
import threading
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import pytest
import torch
from torch import nn

from eaves.core.net import StagedNet
from eaves.errors import ConfigError, DataError, DivergedError, StateError, StorageError
from eaves.experiments.bundle import read_manifest, read_weights
from eaves.experiments.config import TrainConfig
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.record import RunRecord
from eaves.experiments.run import PhaseProgress, run
from eaves.experiments.siameseconfig import SiameseConfig
from eaves.runtime.checkpoint import load_checkpoint
from eaves.runtime.sealed import unsealed_json

BASE = TrainConfig(
    train_samples=256, batch_size=32, epochs=2, bottleneck=16, codec="int4+zstd", seed=5
)
ONCE: dict[str, Any] = {"send": "once", "copies": 2, "cloud_epochs": 4}
TRAININGS: dict[str, dict[str, Any]] = {
    "hierarchical": {},
    "full-cloud": {"method": "full-cloud"},
    "full-edge": {"method": "full-edge"},
    "split": {"method": "split"},
    "hierarchical once": ONCE,
    "full-cloud once": {"method": "full-cloud", "send": "once"},
}
HIDDEN: dict[str, Any] = {
    "method": "priphit",
    "data": "digits:parity",
    "bottleneck": "2x2x2",
    "cloud_epochs": 4,
}
PRIVACY = PrivacyConfig(private="high", adversary_steps=2, restarts=1)
HIDING: dict[str, dict[str, Any]] = {
    "priphit once": {**HIDDEN, "copies": 2, "privacy": PRIVACY},
    "priphit every epoch": {
        **HIDDEN,
        "send": "every-epoch",
        "privacy": replace(PRIVACY, keep_training=True),
    },
    "deepobfuscator": {**HIDDEN, "method": "deepobfuscator", "privacy": PRIVACY},
}
TUNING: dict[str, dict[str, Any]] = {
    "siamese": {
        "method": "siamese",
        "bottleneck": None,
        "siamese": SiameseConfig(components=4, tune_epochs=1, adapt_epochs=1),
    },
}
EPOCH = 8  # steps


def config_of(name: str, out: Path) -> TrainConfig:
    return replace(BASE, out=out, **(TRAININGS | HIDING | TUNING)[name])


def record_of(events: Iterator[PhaseProgress | RunRecord]) -> RunRecord:
    *progress, record = events
    assert all(isinstance(event, PhaseProgress) for event in progress)
    assert isinstance(record, RunRecord)
    return record


def digests(out: Path) -> dict[str, str]:
    """Return the SHA-256 of each weights file of a bundle."""
    return {
        path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((out / "bundle").glob("*/weights.safetensors"))
    }


Whole = Callable[[str], tuple[RunRecord, Path]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Return a function for the uninterrupted run of a training, made once."""
    made: dict[str, tuple[RunRecord, Path]] = {}

    def of(name: str) -> tuple[RunRecord, Path]:
        if name not in made:
            out = tmp_path_factory.mktemp("whole")
            made[name] = record_of(run(config_of(name, out))), out
        return made[name]

    return of


@final
class StopAt(threading.Event):
    """Set once the edge has looked at it so often, and the caller's thread that often after it."""

    def __init__(self, edge_looks: int, own_looks: int = 0):
        super().__init__()
        self._edge_looks, self._own_looks = edge_looks, own_looks

    def is_set(self) -> bool:
        if threading.current_thread().name == "eaves-edge":
            self._edge_looks -= 1
        elif self._edge_looks <= 0:
            self._own_looks -= 1
        if self._edge_looks <= 0 and self._own_looks <= 0:
            self.set()
        return super().is_set()


# What a run leaves


@pytest.mark.parametrize("name", TRAININGS)
def test_a_run_leaves_its_record(whole: Whole, name: str) -> None:
    record, out = whole(name)
    written = unsealed_json((out / "record.json").read_bytes())
    assert written == json.loads(record.to_line())
    assert set(written) >= {
        *("method", "net", "cut", "data", "codec", "link", "epochs", "samples", "seed"),
        *("config_hash", "versions", "hardware", "accuracy", "time", "bytes", "memory", "complete"),
    }
    config = config_of(name, out)
    assert written["config_hash"] == config.hash()
    assert written["complete"] is True
    assert tomllib.loads((out / "config.toml").read_text()) == written["config"]
    assert set(written["versions"]) == {"eaves", "python", "torch", "numpy"}
    assert set(written["hardware"]) >= {"cpu", "cores", "gpu"}
    assert (written["method"], written["seed"], written["train_size"]) == (config.method, 5, 256)
    assert set(written["time"]) >= {"wall_s", "edge_busy_s", "link_busy_s", "cloud_busy_s"}
    assert all(seconds >= 0 for seconds in written["time"].values())


@pytest.mark.parametrize("name", TRAININGS)
def test_the_record_counts_what_happened(whole: Whole, name: str) -> None:
    record, _ = whole(name)
    sends, answers = record.method != "full-edge", record.method == "split"
    up, down, per_sample = (record.bytes[key] for key in ("up", "down", "per_sample_up"))
    assert up is not None
    assert down is not None
    assert (up > 0, down > 0) == (sends, answers)
    copies = {"hierarchical once": 2, "full-cloud once": 1}.get(name, 2)
    assert (per_sample is None) == (not sends)
    assert per_sample is None or per_sample == up / (copies * 256)
    if record.method == "full-cloud":
        assert per_sample is not None
        assert 64 < per_sample < 70  # 8x8 pixels, a label, a share of the headers
    edge_epochs = {"hierarchical once": 2 + 2, "full-cloud once": 1}.get(name, 2)
    assert record.samples == edge_epochs * 256
    steps = {"hierarchical once": 2 + 4, "full-cloud once": 2}.get(name, 2)
    assert record.steps == steps * EPOCH
    assert record.memory["edge_peak_bytes"] > 0
    assert (record.memory["cloud_peak_bytes"] > 0) == sends
    assert record.cut == (None if record.method.startswith("full-") else "conv2")
    for side, answers_there in (
        ("cloud", sends),
        ("exit", "cloud" not in name and name != "split"),
    ):
        rate = record.accuracy[side]
        assert (rate is not None) == answers_there
        assert rate is None or 0 <= rate["low"] <= rate["value"] <= rate["high"] <= 1
        assert rate is None or rate["n"] == 360


@pytest.mark.parametrize("name", TRAININGS)
def test_the_bundle_keeps_the_halves_apart(whole: Whole, name: str) -> None:
    record, out = whole(name)
    manifest = read_manifest(out / "bundle")
    sides = {"full-cloud": {"cloud"}, "full-edge": {"edge"}}.get(record.method, {"edge", "cloud"})
    assert set(manifest["sha256"]) == set(digests(out)) == sides
    assert manifest["sha256"] == digests(out)
    assert manifest["classes"] == list("0123456789")
    assert manifest["input_shape"] == [1, 8, 8]
    weights = {side: read_weights(out / "bundle", side) for side in sides}
    if sides == {"edge", "cloud"}:
        stages = {side: {key.split(".")[0] for key in weights[side]} for side in sides}
        assert "cloud" not in stages["edge"]
        assert stages["cloud"] == {"cloud"}
        everything = [t for part in weights.values() for t in part.values() if t.dim() == 4]
        assert not any(  # the same tensor is in neither of two places
            torch.equal(a, b)
            for i, a in enumerate(everything)
            for b in everything[:i]
            if a.shape == b.shape
        )


def test_accuracy_is_high_after_a_short_while(tmp_path: Path) -> None:
    record = record_of(run(TrainConfig(epochs=6, out=tmp_path, codec="int4+zstd")))
    for side, least in (("cloud", 0.95), ("exit", 0.85)):
        rate = record.accuracy[side]
        assert rate is not None
        assert rate["value"] >= least


def test_max_steps_ends_a_run_that_is_complete(tmp_path: Path) -> None:
    record = record_of(run(replace(BASE, out=tmp_path, max_steps=3)))
    assert (record.steps, record.samples, record.complete) == (3, 96, True)


def test_runs_of_the_same_seed_are_the_same_and_of_another_are_not(
    whole: Whole, tmp_path: Path
) -> None:
    record, out = whole("hierarchical")
    again = replace(config_of("hierarchical", tmp_path / "a"), link="4g,jitter=2ms,loss=5%")
    record_of(run(again))
    assert digests(tmp_path / "a") == digests(out)  # the link costs time, not weights
    record_of(run(replace(config_of("hierarchical", tmp_path / "b"), seed=6)))
    assert not set(digests(tmp_path / "b").values()) & set(digests(out).values())
    assert record.complete


def test_progress_names_phase_and_steps(tmp_path: Path) -> None:
    slow = replace(config_of("hierarchical", tmp_path), edge_slowdown=8.0)
    events = [event for event in run(slow) if isinstance(event, PhaseProgress)]
    assert events
    for event in events:
        assert (event.phase, event.steps, event.epoch_steps) == ("train", 16, EPOCH)
        assert event.first_step == 0


# Interrupted runs

STOPS = [
    *[("hierarchical", StopAt(looks), "train") for looks in (1, 2, 11)],
    *[(name, StopAt(11), "train") for name in ("full-cloud", "full-edge", "split")],
    ("hierarchical once", StopAt(4), "edge"),
    ("hierarchical once", StopAt(2 * EPOCH + 1 + 5), "send"),
    ("hierarchical once", StopAt(2 * (2 * EPOCH + 1), 7), "cloud"),
    ("full-cloud once", StopAt(3), "send"),
    ("full-cloud once", StopAt(EPOCH + 1, 6), "cloud"),
]


@pytest.mark.parametrize(("name", "stop", "phase"), STOPS)
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(
    whole: Whole, tmp_path: Path, name: str, stop: StopAt, phase: str
) -> None:
    config = config_of(name, tmp_path)
    record = record_of(run(config, stop=stop))
    assert record.complete is False
    assert record.accuracy == {"cloud": None, "exit": None}
    assert not (tmp_path / "bundle").exists()
    found = load_checkpoint(tmp_path / "checkpoint")
    assert found is not None
    assert found[1]["phase"] == phase
    resumed = record_of(run(config, resume=True))
    uninterrupted, out = whole(name)
    assert digests(tmp_path) == digests(out)
    for figure in ("steps", "samples", "bytes", "accuracy", "complete", "memory"):
        assert getattr(resumed, figure) == getattr(uninterrupted, figure), figure
    assert resumed.time["wall_s"] > record.time["wall_s"]


# Looks of the edge's thread: one for each step, and one that ends the phase.
HIDING_STOPS = [
    ("priphit once", StopAt(3), "edge"),
    ("priphit once", StopAt(2 * EPOCH + 1 + 5), "send"),
    ("priphit once", StopAt(2 * (2 * EPOCH + 1), 7), "cloud"),
    ("priphit every epoch", StopAt(5), "edge"),
    ("priphit every epoch", StopAt(2 * EPOCH + 1 + 9), "train"),
    ("deepobfuscator", StopAt(11), "edge"),
]
TUNING_STOPS = [
    ("siamese", StopAt(2), "train"),
    ("siamese", StopAt(2 * EPOCH + 1 + 3), "tune"),
    ("siamese", StopAt(3 * EPOCH + 2 + 5), "fit"),
    ("siamese", StopAt(4 * EPOCH + 3 + 2), "adapt"),
]


@pytest.mark.parametrize(("name", "stop", "phase"), HIDING_STOPS + TUNING_STOPS)
def test_what_hides_and_was_stopped_ends_as_if_it_had_not_been(
    whole: Whole, tmp_path: Path, name: str, stop: StopAt, phase: str
) -> None:
    """Adam's moments, adversaries, their restarts, and how far noise was drawn are all kept."""
    config = config_of(name, tmp_path)
    record = record_of(run(config, stop=stop))
    assert not record.complete
    found = load_checkpoint(tmp_path / "checkpoint")
    assert found is not None
    assert found[1]["phase"] == phase
    if phase == "edge" or name in TUNING:
        assert record.bytes["up"] == 0  # nothing travels before the edge has learnt to hide
        assert record.bytes["per_sample_up"] is None
    resumed = record_of(run(config, resume=True))
    uninterrupted, out = whole(name)
    assert digests(tmp_path) == digests(out)
    # Not memory: what one pass of a step frees and the next one takes counts once or twice, as the
    # allocator will.
    for figure in ("steps", "samples", "bytes", "accuracy", "privacy", "complete"):
        assert getattr(resumed, figure) == getattr(uninterrupted, figure), figure


@pytest.mark.parametrize("name", HIDING)
def test_what_hides_sends_when_it_has_learnt_to(whole: Whole, name: str) -> None:
    record, out = whole(name)
    every = record.send == "every-epoch"
    releases = 4 if every else {"priphit once": 2, "deepobfuscator": 1}[name]
    assert record.privacy is not None
    assert record.privacy["releases"] == releases
    assert (record.privacy["private"], record.privacy["values"]) == (["high"], 8)
    assert record.privacy["noise"] == "gaussian"
    # The edge takes 2 epochs alone, then as many as it sends; the cloud 4.
    assert record.samples == (2 + releases) * 256
    assert record.steps == (2 + 4) * EPOCH
    up = record.bytes["up"]
    assert up is not None
    assert record.bytes["per_sample_up"] == up / (releases * 256)
    assert record.bytes["down"] == 0
    # The adversaries stay behind: they are in neither half of the bundle.
    kept = set(read_weights(out / "bundle", "edge"))
    assert {key.split(".")[0] for key in kept} == {"edge", "exit"}
    assert json.loads((out / "record.json").read_bytes())["privacy"] == record.privacy


def test_lessons_are_taken_in_one_place_and_nothing_travels(whole: Whole) -> None:
    record, out = whole("siamese")
    assert record.steps == (2 + 1 + 1 + 1) * EPOCH
    assert record.samples == 5 * 256
    assert (record.bytes["up"], record.bytes["per_sample_up"]) == (0, None)
    assert record.cut == "conv3"
    assert record.accuracy["cloud"] is not None
    assert record.accuracy["exit"] is None
    assert record.privacy is not None
    assert (record.privacy["values"], record.privacy["bound"]) == (4, "l2")
    assert record.privacy["releases"] == 1
    assert "abel" not in " ".join(record.privacy["statement"])  # none are sent
    stages = {side: read_weights(out / "bundle", side) for side in ("edge", "cloud")}
    for side, name in (("edge", "edge.1"), ("cloud", "cloud.0")):
        assert stages[side][f"{name}.projection.basis"].shape == (4, 512)
    both = [
        stages[side][f"{name}.projection.basis"]
        for side, name in (("edge", "edge.1"), ("cloud", "cloud.0"))
    ]
    assert torch.equal(*both)


def test_the_noise_of_two_seeds_differs_and_what_is_sent_with_it(tmp_path: Path) -> None:
    config = config_of("priphit once", tmp_path / "a")
    record_of(run(config))
    again = replace(config, out=tmp_path / "b")
    record_of(run(again))
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    louder = replace(PRIVACY, noise_scale=2.0)
    record_of(run(replace(config, privacy=louder, out=tmp_path / "c")))
    assert not set(digests(tmp_path / "a").values()) & set(digests(tmp_path / "c").values())


def test_a_run_may_be_stopped_again_and_again(whole: Whole, tmp_path: Path) -> None:
    config = config_of("hierarchical once", tmp_path)
    record = record_of(run(config, stop=StopAt(7)))
    rounds = 0
    while not record.complete and rounds < 20:
        record = record_of(run(config, stop=StopAt(6), resume=True))
        rounds += 1
    assert record.complete
    assert rounds > 3
    assert digests(tmp_path) == digests(whole("hierarchical once")[1])


def test_a_run_that_is_left_is_taken_up_from_its_last_checkpoint(
    whole: Whole, tmp_path: Path
) -> None:
    """As after a crash: what came after the checkpoint is done again."""
    slow = "0.05"  # 0.3 s for each upload
    config = replace(config_of("full-cloud once", tmp_path), checkpoint_s=0.0, link=slow)
    events = run(config)
    while (event := next(events)) and isinstance(event, PhaseProgress):
        if event.phase == "send" and (tmp_path / "checkpoint").exists():
            break
    events.close()  # type: ignore[attr-defined]  # it is a generator
    found = load_checkpoint(tmp_path / "checkpoint")
    assert found is not None
    assert found[1]["phase"] == "send"
    record_of(run(config, resume=True))
    assert digests(tmp_path) == digests(whole("full-cloud once")[1])


def test_resuming_what_is_complete_or_not_begun(whole: Whole, tmp_path: Path) -> None:
    config = config_of("split", tmp_path)
    first = record_of(run(config, resume=True))  # nothing was there: it begins
    before = digests(tmp_path)
    again = record_of(run(config, resume=True))
    assert again.complete
    assert (again.steps, again.bytes) == (first.steps, first.bytes)
    assert digests(tmp_path) == before == digests(whole("split")[1])


def test_beginning_anew_forgets_what_was_there(whole: Whole, tmp_path: Path) -> None:
    record_of(run(config_of("hierarchical once", tmp_path), stop=StopAt(20)))
    with pytest.raises(ConfigError, match="holds an interrupted run; go on with --resume"):
        list(run(config_of("hierarchical once", tmp_path)))
    record = record_of(run(config_of("hierarchical once", tmp_path), overwrite=True))
    assert record.samples == whole("hierarchical once")[0].samples
    assert digests(tmp_path) == digests(whole("hierarchical once")[1])


@pytest.mark.parametrize("changes", [{"lr": 0.2}, {"method": "split"}, {"train_samples": 128}])
def test_another_configuration_cannot_go_on_with_a_run(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    record_of(run(config_of("hierarchical", tmp_path), stop=StopAt(3)))
    kept = (tmp_path / "checkpoint" / "checkpoint.json").read_bytes()
    with pytest.raises(StateError, match="is of another configuration"):
        list(run(replace(config_of("hierarchical", tmp_path), **changes), resume=True))
    assert (tmp_path / "checkpoint" / "checkpoint.json").read_bytes() == kept


def test_a_checkpoint_of_another_net_of_the_same_name_is_refused(tmp_path: Path) -> None:
    def mlp(width: int) -> nn.Module:
        layers = [nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10)]
        return nn.Sequential(*layers)

    config = replace(BASE, cut="2", bottleneck=None, out=tmp_path)
    record_of(run(config, net=mlp(8), stop=StopAt(3)))
    with pytest.raises(StateError, match="the saved state belongs to another net"):
        list(run(config, net=mlp(9), resume=True))


def test_a_damaged_store_is_found_when_the_run_goes_on(tmp_path: Path) -> None:
    config = config_of("full-cloud once", tmp_path)
    record_of(run(config, stop=StopAt(5)))
    uploads = tmp_path / "store" / "uploads.bin"
    uploads.write_bytes(uploads.read_bytes()[:-10])
    with pytest.raises(StateError, match="store holds 3 whole uploads, expected 4"):
        list(run(config, resume=True))


# What goes wrong


@pytest.mark.parametrize(
    ("name", "codec"),
    [*((name, "int8+zstd") for name in list(TRAININGS)[:4]), ("hierarchical", "fp16")],
)
def test_training_that_diverges_says_so_and_keeps_a_checkpoint(
    tmp_path: Path, name: str, codec: str
) -> None:
    # A slow rise to a rate that is too high: training diverges after more steps than queues hold,
    # so that a mark has reached the cloud by then.
    config = replace(config_of(name, tmp_path), lr=1e3, epochs=500, checkpoint_s=0.0, codec=codec)
    with pytest.raises(DivergedError, match="learning rate"):
        list(run(config))
    found = load_checkpoint(tmp_path / "checkpoint")
    assert found is not None
    tensors = [t for state in found[0].values() for t in state.tensors.values()]
    assert tensors
    assert not (tmp_path / "record.json").exists()


def test_a_batch_of_one_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a batch of 1"):
        list(run(replace(BASE, batch_size=1, out=tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_missing_data_is_said_before_anything_is_written(tmp_path: Path) -> None:
    config = replace(BASE, data="cifar10", data_root=tmp_path, out=tmp_path / "out")
    with pytest.raises(DataError, match="cifar-10"):
        list(run(config))
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(StorageError, match="taken/out"):
        list(run(replace(BASE, out=tmp_path / "taken" / "out")))


# Nets of your own


@final
class Tied(nn.Module):
    """A net that uses the same weights twice in its cloud part."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.first = nn.Flatten(), nn.Linear(64, 16)
        self.second, self.third, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 10)
        self.third.weight = self.second.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z: torch.Tensor = self.first(self.flat(x)).relu()
        out: torch.Tensor = self.head(self.third(self.second(z).relu()).relu())
        return out


def test_a_net_of_your_own_is_trained_and_kept(tmp_path: Path) -> None:
    net = Tied()
    before = net.head.weight.detach().clone()
    record = record_of(run(replace(BASE, cut="relu", bottleneck=None, out=tmp_path), net=net))
    assert record.net == "own:Tied"
    assert not torch.equal(net.head.weight, before)
    weights = read_weights(tmp_path / "bundle", "cloud")
    assert any(torch.equal(tensor, net.head.weight) for tensor in weights.values())


def test_stages_that_you_list_yourself_are_cut_where_you_say(tmp_path: Path) -> None:
    net = StagedNet([("a", nn.Flatten()), ("b", nn.Linear(64, 16)), ("c", nn.Linear(16, 10))])
    record = record_of(run(replace(BASE, cut="b", bottleneck=8, out=tmp_path), net=net))
    assert (record.cut, record.complete) == ("b", True)
