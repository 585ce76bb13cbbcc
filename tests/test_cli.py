"""The command line as a stranger meets it: what it prints, how it ends, what survives a kill."""

import hashlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from eaves.commands.audit import Audit
from eaves.commands.cuts import Cuts
from eaves.commands.data import Data
from eaves.commands.devices import Devices
from eaves.commands.main import main
from eaves.commands.nets import Nets
from eaves.commands.plan import Plan
from eaves.commands.profile import Profile
from eaves.commands.report import Report
from eaves.commands.train import Train
from eaves.data.gait import write_motion
from eaves.experiments.auditconfig import AuditConfig
from eaves.experiments.config import TrainConfig
from eaves.experiments.mixingconfig import MixingConfig
from eaves.experiments.planconfig import DeviceConfig, PlanConfig, ProfileConfig
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.siameseconfig import SiameseConfig
from eaves.report.tables import better_text
from eaves.runtime.sealed import unsealed_json

SHORT = ["train", "--train-samples", "64", "--batch-size", "16", "--epochs", "2"]
# About a second, with a checkpoint ten times in it.
LONG = [
    *("train", "--train-samples", "512", "--batch-size", "64", "--epochs", "5", "--cut", "conv3"),
    *("--bottleneck", "16", "--codec", "int4+zstd", "--link", "wifi", "--edge-slowdown", "2"),
    *("--checkpoint-s", "0.1", "--threads", "1"),
]
FACES = "2\nSmiling Young\n1.jpg  1 -1\n2.jpg -1  1\n"


Eaves = Callable[..., Any]  # the command: takes its words, returns how it ended


def digests(out: Path) -> dict[str, str]:
    found = sorted((out / "bundle").glob("*/weights.safetensors"))
    return {path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def position(out: Path) -> tuple[str, int] | None:
    """Return the phase and step of the last checkpoint."""
    try:
        facts = json.loads((out / "checkpoint" / "checkpoint.json").read_bytes())["facts"]
    except FileNotFoundError:
        return None
    return facts["phase"], facts["steps"]


def wait_for(condition: Callable[[], bool], *, at_most_s: float = 60.0) -> None:
    deadline = monotonic() + at_most_s
    while not condition():
        assert monotonic() < deadline, "what the test waits for never came"
        sleep(0.005)


# Mistakes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "hierachical"], "unknown method 'hierachical'; choose from: hierarchical,"),
        (["--net", "resnet8"], "unknown net 'resnet8'; choose from: resnet18"),
        (["--cut", "conv4"], "unknown cut 'conv4'; choose from: conv1, conv2, conv3"),
        (["--codec", "int8+zst"], "unknown codec stage 'zst'; choose from: zstd"),
        (["--input-codec", "pngg"], "unknown codec stage 'pngg'; choose from: png"),
        (["--codec", "png"], "expected a --codec for features and gradients, such as int8+zstd"),
        (["--input-codec", "int8"], "expected a --input-codec for images, such as raw, got 'int8'"),
        (["--reply-codec", "raw"], "expected a --reply-codec for features and gradients"),
        (["--compare", "split:int9"], "unknown codec stage 'int9'; choose from: int"),
        (["--compare", "full-cloud:int4"], "expected a --input-codec for images"),
        (["--data", "cifar"], "unknown data set 'cifar'; choose from: cifar10"),
        (["--exit", "con"], "unknown exit 'con'; choose from: conv"),
        (["--link", "wfi"], "unknown link 'wfi'; choose from: wifi"),
        (["--link", "3g,delay=2"], "unknown link option 'delay=2'; choose from: delay=50ms"),
        (["--compare", "spli"], "unknown method 'spli'; choose from: split"),
        (["--stem", "cifar"], "small has no choice of stem"),
        (["--net", "none.py:Net"], "expected a Python file at none.py, found none"),
        (["--batch-size", "0"], "expected --batch-size of 1 or more, got 0"),
        (["--batch-size", "1"], "a batch of 1 cannot be trained with BatchNorm"),
        (["--device", "tpu"], "expected --device cpu, cuda, cuda:N or auto, got 'tpu'"),
        (["--config", "none.toml"], "cannot read the configuration none.toml"),
        (["--resume", "nowhere"], "there is no run to resume in nowhere"),
        (["--resume", "x", "--config", "y"], "give --resume or --config, not both"),
    ],
)
def test_a_mistake_is_one_message_with_the_choices(
    eaves: Eaves,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = eaves(*SHORT, *words)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith(f"eaves: {message}")
    assert ended.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []  # nothing was begun


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["train", "--epoch", "3"], "--epochs"),
        (["train", "--mehtod", "split"], "--method"),
        (["cuts", "small", "--inputs", "3x8x8"], "--input"),
    ],
)
def test_an_unknown_flag_is_named_with_those_like_it(
    eaves: Eaves, words: list[str], near: str
) -> None:
    ended = eaves(*words)
    assert ended.code == 2
    assert words[-2] in ended.err
    assert near in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("words", [["trian"], [], ["train", "--epochs", "many"]])
def test_what_is_no_command_is_refused(eaves: Eaves, words: list[str]) -> None:
    ended = eaves(*words)
    assert ended.code == 2
    assert ended.err
    assert "Traceback" not in ended.err


def test_a_key_of_a_file_is_checked_as_a_flag_is(eaves: Eaves, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("epoch = 3")
    ended = eaves("train", "--config", file)
    assert ended.code == 2
    assert ended.err.startswith(f"eaves: unknown key in {file} 'epoch'; choose from: epochs, ")


def test_an_attribute_is_checked_against_the_list(eaves: Eaves, tmp_path: Path) -> None:
    folder = tmp_path / "celeba"
    folder.mkdir()
    (folder / "list_attr_celeba.txt").write_text(FACES)
    (folder / "list_eval_partition.txt").write_text("1.jpg 0\n2.jpg 2\n")
    ended = eaves(*SHORT, "--data", "faces:Smilling", "--data-root", tmp_path)
    assert ended.code == 2
    assert ended.err == "eaves: unknown attribute 'Smilling'; choose from: Smiling, Young\n"


def test_data_that_is_missing_or_damaged_is_named(eaves: Eaves, tmp_path: Path) -> None:
    config = [*SHORT, "--data", "cifar10"]
    ended = eaves(*config)
    assert (ended.code, "EAVES_DATA" in ended.err) == (1, True)
    ended = eaves(*config, "--data-root", tmp_path / "nowhere")
    assert (ended.code, "nowhere" in ended.err) == (1, True)
    ended = eaves(*config, "--data-root", tmp_path)
    assert (ended.code, "data_batch_1.bin" in ended.err) == (1, True)
    (tmp_path / "cifar-10-batches-bin").mkdir()
    (tmp_path / "cifar-10-batches-bin" / "data_batch_1.bin").write_bytes(b"short")
    ended = eaves(*config, "--data-root", tmp_path)
    assert (ended.code, "data_batch_1.bin" in ended.err) == (1, True)
    assert "expected" in ended.err
    assert ended.err.count("\n") == 1


def test_training_that_diverges_is_one_message(eaves: Eaves, tmp_path: Path) -> None:
    ended = eaves(*SHORT, "--epochs", "20", "--lr", "1000", "--out", tmp_path)
    assert ended.code == 1
    assert re.match("eaves: .*learning rate", ended.err)
    assert "Traceback" not in ended.err


# What is printed

GIVEN_AS_THEY_ARE = [(Data, "name"), (Cuts, "net"), (Audit, "source"), (Report, "folders")]


@pytest.mark.parametrize(
    "command", [Train, Plan, Profile, Nets, Cuts, Devices, Data, Audit, Report]
)
def test_help_mentions_every_flag(
    eaves: Eaves, monkeypatch: pytest.MonkeyPatch, command: type[Any]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    ended = eaves(command.__name__.lower(), "--help")
    assert ended.code == 0
    inside: dict[type[Any], list[type[Any]]] = {
        Train: [TrainConfig, PrivacyConfig, MixingConfig, SiameseConfig],
        Audit: [AuditConfig],
        Plan: [ProfileConfig, PlanConfig],
        Profile: [ProfileConfig, DeviceConfig],
    }
    names = [field.name for field in fields(command) if field.name not in ("settings", "question")]
    names += [field.name for config in inside.get(command, []) for field in fields(config)]
    for name in names:
        if (command, name) in GIVEN_AS_THEY_ARE or name in ("privacy", "mixing", "siamese"):
            continue  # these have no flag; three are tables, whose settings are flags
        flag = f"--{name.replace('_', '-')}"
        # A line that begins with the flag and what it takes, if anything; then words, or below.
        short = r"(?:-[a-z](?: PATH)?, )?"
        takes = r"(?: \S*(?:STR|INT|FLOAT|PATH))?+"
        described = re.search(
            rf"^\W*{short}{flag}{takes}[ │\n]+(?!\(default)\w", ended.out, re.MULTILINE
        )
        assert described, f"{flag} is not described"


def test_help_lists_the_commands(eaves: Eaves) -> None:
    ended = eaves("--help")
    assert ended.code == 0
    for command in ("train", "plan", "profile", "nets", "cuts", "devices", "data"):
        assert command in ended.out


def test_nets_are_listed(eaves: Eaves) -> None:
    lines = [json.loads(line) for line in eaves("nets", "--json").out.splitlines()]
    names = [line["net"] for line in lines]
    assert {"small", "resnet18", "vgg16", "mobilevit_xxs"} <= set(names)
    text = eaves("nets").out
    assert all(name in text for name in names)


def test_cuts_are_listed(eaves: Eaves) -> None:
    lines = [
        json.loads(line)
        for line in eaves("cuts", "small", "--input", "1x8x8", "--json").out.splitlines()
    ]
    assert [line["cut"] for line in lines] == ["conv1", "conv2", "conv3"]
    assert lines[1]["feature_shape"] == [64, 4, 4]
    text = eaves("cuts", "small", "--input", "1x8x8").out
    assert "64x4x4" in text
    ended = eaves("cuts", "smal")
    assert (ended.code, "choose from: small," in ended.err) == (2, True)
    for wrong in ("8x8", "3x0x8", "axbxc"):
        ended = eaves("cuts", "small", "--input", wrong)
        assert (ended.code, "expected --input as CxHxW" in ended.err) == (2, True)


def test_data_sets_are_listed(eaves: Eaves, tmp_path: Path) -> None:
    listed = eaves("data", "--json", "--data-root", tmp_path).out.splitlines()
    lines = {line["name"]: line["state"] for line in map(json.loads, listed)}
    assert lines["digits"] == "found"
    assert lines["cifar10"].startswith("missing: ")
    assert "digits" in eaves("data").out
    assert "1,437 to train, 360 to test" in eaves("data", "digits").out
    ended = eaves("data", "digit")
    assert (ended.code, "choose from: digits," in ended.err) == (2, True)
    ended = eaves("data", "--download")
    assert (ended.code, "name the data set to download" in ended.err) == (2, True)
    ended = eaves("data", "faces:Smiling", "--download", "--data-root", tmp_path)
    assert (ended.code, "cannot be downloaded" in ended.err) == (2, True)


def test_data_are_made_up_once(
    eaves: Eaves, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = partial(write_motion, subjects=6, seconds=6)
    monkeypatch.setattr("eaves.data.gait.write_motion", small)
    made = ["data", "motion", "--synthetic", "--data-root", tmp_path]
    ended = eaves(*made)
    assert (ended.code, "motion (synthetic): 132 to train, 66 to test" in ended.out) == (0, True)
    ended = eaves(*made)
    assert (ended.code, "motionsense is there already" in ended.err) == (2, True)
    for words, wrong in (
        (["--synthetic"], "name the data set to make up"),
        (["digits", "--synthetic"], "digits is not generated here; these are: motion"),
        (["motion", "--synthetic", "--download"], "give --download or --synthetic, not both"),
    ):
        ended = eaves("data", *words)
        assert (ended.code, wrong in ended.err) == (2, True)
    short = ["--net", "motion", "--epochs", "1", "--data-root", tmp_path, "--out", tmp_path / "out"]
    assert eaves("train", "--data", "motion:activity,trials", *short).code == 0


def test_a_comparison_is_one_table_and_a_folder_for_each_run(eaves: Eaves, tmp_path: Path) -> None:
    out = tmp_path / "[out]"  # brackets are markup to some
    words = [*SHORT, "--compare", "full-cloud,full-cloud:png,split,hierarchical", "--out", out]
    ended = eaves(*words)
    assert ended.code == 0
    assert ended.out.count("accuracy %") == 1
    rows = [line.split()[0] for line in ended.out.splitlines() if "±" in line and " s " in line]
    assert rows == ["hierarchical", "full-cloud", "full-cloud:png", "split"]
    assert str(out) in ended.out
    for folder in ("", "full-cloud", "full-cloud-png", "split"):
        assert json.loads((out / folder / "record.json").read_bytes())["complete"]
    before = (out / "split" / "record.json").read_bytes()
    again = eaves("train", "--resume", out)  # all is there: nothing is trained again
    assert again == ended
    assert (out / "split" / "record.json").read_bytes() == before


def test_it_is_said_after_the_table_which_half_is_better(eaves: Eaves, tmp_path: Path) -> None:
    ended = eaves(*SHORT, "--compare", "full-cloud", "--out", tmp_path)
    record = json.loads((tmp_path / "record.json").read_bytes())
    assert record["better"]["half"] in ("exit", "cloud", "equal within the interval")
    said = [
        line for line in ended.out.splitlines() if line.startswith(("hier", "full")) and ":" in line
    ]
    assert said == [f"hierarchical: {better_text(record)}"]  # full-cloud has one half only


def test_json_prints_the_record_of_the_method_last(eaves: Eaves, tmp_path: Path) -> None:
    ended = eaves(*SHORT, "--compare", "full-edge", "--json", "--out", tmp_path)
    first, last = (json.loads(line) for line in ended.out.splitlines())
    assert (first["method"], last["method"]) == ("full-edge", "hierarchical")
    assert last == unsealed_json((tmp_path / "record.json").read_bytes())


def test_flags_win_over_the_file(eaves: Eaves, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("lr = 0.05\nseed = 7\nmethod = 'split'\ncodec = 'fp16'\n")
    ended = eaves(*SHORT, "--config", file, "--seed", "8", "--json", "--out", tmp_path / "o")
    config = json.loads(ended.out)["config"]
    assert (config["lr"], config["seed"], config["method"]) == (0.05, 8, "split")
    assert config["codec"] == "fp16"


# Interrupted


class Forked:
    """The command in a process that can be killed, with torch already imported: that is quick."""

    context = multiprocessing.get_context("forkserver")

    def __init__(self, words: list[str]):
        self.context.set_forkserver_preload(
            ["eaves.commands.main", "eaves.report.session", "sklearn.datasets"]
        )
        self.process = self.context.Process(target=main, args=(words,))
        self.process.start()

    def killed_after_checkpoint(self, phase: str, out: Path) -> bool:
        """Return whether it was killed, and had not ended, after its first checkpoint in a phase.

        A run that goes on has to write one of its own first.
        """
        before = position(out)

        def there() -> bool:
            found = position(out)
            return found is not None and found != before and found[0] == phase

        wait_for(lambda: there() or not self.process.is_alive())
        self.process.kill()
        self.process.join()
        return self.process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("words", "phases"),
    [
        ([], ["train", "train"]),
        pytest.param(["--method", "split"], ["train", "train"], marks=pytest.mark.slow),
        (["--send", "once", "--cloud-epochs", "20"], ["edge", "send", "cloud"]),
    ],
)
def test_killed_runs_end_with_the_weights_of_one_that_was_not(
    eaves: Eaves, tmp_path: Path, words: list[str], phases: list[str]
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "killed"
    assert eaves(*LONG, *words, "--out", whole).code == 0
    command = [*LONG, *words, "--out", str(out)]
    for phase in phases:
        assert Forked(command).killed_after_checkpoint(phase, out)
        assert not (out / "record.json").exists()
        command = ["train", "--resume", str(out)]
    assert eaves(*command).code == 0
    assert digests(out) == digests(whole)
    records = [json.loads((folder / "record.json").read_bytes()) for folder in (out, whole)]
    for figure in ("samples", "steps", "accuracy", "bytes"):
        assert records[0][figure] == records[1][figure], figure


def test_ctrl_c_leaves_a_run_to_go_on_with(eaves: Eaves, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert eaves(*LONG, "--out", whole).code == 0
    words = [sys.executable, "-m", "eaves", *LONG, "--out", str(out)]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    wait_for(lambda: position(out) is not None or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stdout == ""
    assert stderr.splitlines()[-1] == f"interrupted; go on with: eaves train --resume {out}"
    assert not json.loads((out / "record.json").read_bytes())["complete"]
    stopped_at = position(out)
    refused = eaves(*LONG, "--out", out)
    assert refused.code == 2
    assert f"{out} holds an interrupted run; go on with --resume {out}" in refused.err
    assert position(out) == stopped_at
    ended = eaves("train", "--resume", out, "--json")
    assert json.loads(ended.out)["complete"]
    assert digests(out) == digests(whole)


def test_a_run_may_be_started_over(eaves: Eaves, tmp_path: Path) -> None:
    words = [*SHORT, "--out", tmp_path]
    diverging = ["--lr", "1000", "--epochs", "30", "--checkpoint-s", "0"]
    assert eaves(*words, *diverging).code == 1
    assert eaves(*words).code == 2
    ended = eaves(*words, "--overwrite")
    assert ended.code == 0
    refused = eaves(*words)  # what is complete is replaced when that is asked for, and only then
    assert refused.code == 2
    assert "holds a finished run" in refused.err
    assert "--overwrite" in refused.err
    assert eaves(*words, "--overwrite").code == 0


def test_going_on_with_other_flags_is_refused(eaves: Eaves, tmp_path: Path) -> None:
    assert eaves(*SHORT, "--out", tmp_path).code == 0
    ended = eaves("train", "--resume", tmp_path, "--lr", "0.3")
    assert ended.code == 1
    assert "is of another configuration" in ended.err


# One folder, one owner


def _waiting_in(out: Path) -> "subprocess.Popen[str]":
    """Start a training that takes a while, and wait until it is at work."""
    words = [sys.executable, "-m", "eaves", *LONG, "--epochs", "400", "--out", str(out)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: position(out) is not None or process.poll() is not None)
    return process


def test_two_trainings_in_one_folder(eaves: Eaves, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = _waiting_in(out)
    try:
        before = (out / "config.toml").read_bytes()
        refused = f"another process is at work in {out} (number {process.pid}): "
        for how in ([], ["--overwrite"], ["--lr", "0.2"]):
            second = eaves(*SHORT, *how, "--out", out)
            assert second.code == 1
            assert refused in second.err
            assert (out / "config.toml").read_bytes() == before
            assert process.poll() is None
        resumed = eaves("train", "--resume", out)
        assert resumed.code == 1
        assert refused in resumed.err
    finally:
        process.kill()
        process.communicate()
    assert eaves(*SHORT, "--overwrite", "--out", out).code == 0  # the lock ended with it


def test_a_finished_run_is_kept_and_so_are_those_it_is_compared_with(
    eaves: Eaves, tmp_path: Path
) -> None:
    assert eaves(*SHORT, "--method", "split", "--out", tmp_path / "a" / "split").code == 0
    before = digests(tmp_path / "a" / "split")
    refused = eaves(*SHORT, "--compare", "split", "--out", tmp_path / "a")
    assert refused.code == 2
    assert f"{tmp_path}/a/split holds a finished run (split, small on digits)" in refused.err
    assert not (tmp_path / "a" / "record.json").exists()  # said before anything was trained
    assert digests(tmp_path / "a" / "split") == before


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_an_out_that_is_a_file_is_said(eaves: Eaves, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("precious")
    ended = eaves(*SHORT, "--out", tmp_path / place)
    assert ended.code == 1
    assert ended.err.startswith(f"eaves: cannot use {tmp_path / place}: ")
    assert "choose another --out" in ended.err
    assert (tmp_path / "file").read_text() == "precious"
