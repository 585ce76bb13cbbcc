"""Bundles of nets of one's own: opened from every folder, and no other code than theirs is run."""

import json
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from eaves.errors import ConfigError, StateError, StorageError
from eaves.experiments import bundle
from eaves.experiments.config import TrainConfig
from eaves.experiments.exporting import export
from eaves.experiments.halves import cloud_half, edge_job, open_origin, write_untrained
from eaves.experiments.inferring import InferRecord, infer
from eaves.experiments.netconfig import InferConfig
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.record import RunRecord
from eaves.experiments.run import run
from eaves.network.wire import expect_same_terms
from eaves.runtime import files
from eaves.runtime.sealed import sealed_json, unsealed_json

Eaves = Callable[..., Any]

CODE = """
from pathlib import Path
from torch import nn

class Net(nn.Module):
    def __init__(self, classes, input_shape):
        super().__init__()
        self.first = nn.Conv2d(input_shape[0], 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        x = self.second(self.first(x).relu()).relu()
        return self.head(x.mean(dim=(2, 3)))
"""
EVIL = CODE + "\nPath({!r}).write_text('this code was run')\n"
SETTINGS = TrainConfig(
    data="digits:parity",
    net="mine.py:Net",
    cut="relu",
    train_samples=64,
    batch_size=16,
    epochs=1,
    privacy=PrivacyConfig(private="high"),
    out=Path("run"),
)


class Passed(nn.Module):
    """A net that is passed in Python."""

    def __init__(self, classes: int = 2, input_shape: tuple[int, int, int] = (1, 8, 8)):
        super().__init__()
        self.flat, self.first = nn.Flatten(), nn.Linear(64, 8)
        self.head = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.first(self.flat(x)).relu())
        return y


def _infer(origin: Any) -> InferRecord:
    *_, record = infer(origin, InferConfig(cloud=None), None)
    assert isinstance(record, InferRecord)
    return record


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run of an own net, which was named by a relative path."""
    here = tmp_path_factory.mktemp("trained") / "here"
    here.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        Path("mine.py").write_text(CODE)
        list(run(SETTINGS))
    return here


@pytest.fixture
def trained(once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of that run for one test alone; the file of its net is gone."""
    here = tmp_path / "here"
    shutil.copytree(once, here)
    (here / "mine.py").rename(here / "kept.py")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    return here / "run"


# Opened


COMMANDS = {
    "infer": ["infer", "RUN", "--cloud", "None", "--samples", "9"],
    "calibrate": ["calibrate", "RUN", "--target-share", "0.5"],
    "export": ["export", "RUN", "--out", "device"],
    "audit": ["audit", "RUN", "--attacks", "labels", "--known", "100", "--effort", "0.02"],
    "report": ["report", "RUN", "-o", "page.html"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_opens_a_bundle_from_another_folder(
    eaves: Eaves, trained: Path, command: str
) -> None:
    ended = eaves(*[str(trained) if word == "RUN" else word for word in COMMANDS[command]])
    assert ended.code == 0, ended.err
    assert "Traceback" not in ended.err


def test_a_bundle_that_was_moved_out_of_its_run_opens(
    eaves: Eaves, trained: Path, tmp_path: Path
) -> None:
    """A report is of runs; all others open what lies in a bundle."""
    place = (trained / "bundle").rename(tmp_path / "copied")
    for command in ("infer", "calibrate", "export", "audit"):
        ended = eaves(*[str(place) if word == "RUN" else word for word in COMMANDS[command]])
        assert ended.code == 0, ended.err
        assert "Traceback" not in ended.err


def test_a_cloud_opens_it_and_leaves_one_that_opens(trained: Path, tmp_path: Path) -> None:
    origin = open_origin(trained)
    half, _, terms = cloud_half(origin, "cpu")
    assert half.predictor is not None
    assert terms["net"] == "own:Net"
    assert terms == edge_job(origin)[1]


def test_an_untrained_bundle_holds_the_code(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained.parent)
    write_untrained(replace(SETTINGS, net="kept.py:Net"), tmp_path / "untrained")
    monkeypatch.chdir(tmp_path)
    origin = open_origin(Path("untrained"))
    assert origin.code == CODE.encode()
    edge_job(origin)


def test_a_run_goes_on_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eaves: Eaves
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("mine.py").write_text(CODE)
    events = run(replace(SETTINGS, checkpoint_s=0.0, epochs=50))
    while not Path("run/checkpoint/checkpoint.json").exists():
        next(events)
    events.close()  # type: ignore[attr-defined]  # as a crash
    monkeypatch.chdir(tmp_path)
    ended = eaves("train", "--resume", "here/run", "--json")
    assert ended.code == 0, ended.err
    Path("moved.py").write_text(CODE)
    Path("here/mine.py").write_text(CODE + "\nx = 1\n")
    ended = eaves("train", "--resume", "here/run", "--json")
    assert ended.code == 1
    assert "the code of the net own:Net has changed" in ended.err
    ended = eaves("train", "--resume", "here/run", "--net", "moved.py:Net", "--json")
    assert ended.code == 0, ended.err  # the same code in another place


# Code that is run, and code that is not


@pytest.mark.parametrize("beside", ["changed", "missing", "named in the manifest"])
def test_no_other_code_is_run(trained: Path, tmp_path: Path, eaves: Eaves, beside: str) -> None:
    bundle, marker = trained / "bundle", tmp_path / "marker"
    manifest = unsealed_json((bundle / "manifest.json").read_bytes())
    if beside == "changed":
        (bundle / "net.py").write_text(EVIL.format(str(marker)))
        message = "is not the code that this bundle was made with, and is not run"
    elif beside == "missing":
        (bundle / "net.py").unlink()
        message = "cannot read"
    else:
        (tmp_path / "evil.py").write_text(EVIL.format(str(marker)))
        manifest["config"]["net"] = f"{tmp_path}/evil.py:Net"
        del manifest["net_sha256"]
        (bundle / "manifest.json").write_bytes(sealed_json(manifest))
        message = "name its file, as in --net FILE.py:Net"
    for command in (
        ["infer", "--cloud", "None"],
        ["export", "--out", "x"],
        ["calibrate", "--target-share", "0.5"],
    ):
        ended = eaves(command[0], trained, *command[1:])
        assert ended.code in (1, 2)
        assert message in ended.err
    assert not marker.exists()


def test_code_may_be_named_where_a_bundle_has_none(trained: Path, tmp_path: Path) -> None:
    (trained / "bundle" / "net.py").unlink()
    kept = trained.parent / "kept.py"
    assert _infer(open_origin(trained, net=f"{kept}:Net")).examples == 360
    (tmp_path / "other.py").write_text(CODE + "\nx = 1\n")
    with pytest.raises(StateError, match=r"is not the code that the bundle in .* was made with"):
        open_origin(trained, net=f"{tmp_path}/other.py:Net")
    with pytest.raises(ConfigError, match=r"expected --net with a net of your own, as FILE\.py"):
        open_origin(trained, net="resnet18")


def test_code_that_changes_within_a_second_is_not_taken_for_the_old(
    trained: Path, tmp_path: Path
) -> None:
    """Python's cache goes by the size and the second; it is neither read nor written."""
    path = tmp_path / "net.py"
    sizes = []
    for width in (3, 5):
        path.write_text(CODE.replace("8", str(width)))
        config = replace(SETTINGS, net=f"{path}:Net", out=tmp_path / "run")
        *_, record = run(config, overwrite=True)
        assert isinstance(record, RunRecord)
        sizes.append(open_origin(tmp_path / "run").code)
    assert sizes[0] != sizes[1]
    assert not (tmp_path / "__pycache__").exists()
    assert sorted(p.name for p in (tmp_path / "run" / "bundle").iterdir()) == [
        "cloud",
        "edge",
        "manifest.json",
        "net.py",
    ]


# Passed in Python


def test_a_net_that_was_passed_in_python_says_how_it_is_opened(
    tmp_path: Path, eaves: Eaves
) -> None:
    config = replace(SETTINGS, net="small", cut="first", out=tmp_path / "run")
    net = Passed()
    *_, record = run(config, net=net)
    assert isinstance(record, RunRecord)
    for words in (
        ["infer", "--cloud", "None"],
        ["serve"],
        ["export", "--out", tmp_path / "x"],
        ["audit"],
    ):
        ended = eaves(words[0], tmp_path / "run", *words[1:])
        assert ended.code == 2, ended.err
        assert "Traceback" not in ended.err
        assert "the net own:Passed was passed in Python" in ended.err
        assert "--net FILE.py:Passed" in ended.err
    answered = _infer(open_origin(tmp_path / "run", net=Passed()))
    assert answered.accuracy().as_json() == record.accuracy["exit"]
    named = f"{__file__}:Passed"
    assert (
        _infer(open_origin(tmp_path / "run", net=named)).as_json()["accuracy"]["all"]
        == (record.accuracy["exit"])
    )
    assert export(tmp_path / "run", tmp_path / "device", net=named).facts.net == "own:Passed"
    with pytest.raises(StateError, match="are of another net"):
        _infer(open_origin(tmp_path / "run", net=f"{__file__}:_wider"))


def _wider(classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    net = Passed(classes, input_shape)
    net.first, net.head = nn.Linear(64, 9), nn.Linear(9, classes)
    return net


# On two machines


def test_the_same_file_may_lie_elsewhere_on_each_machine(tmp_path: Path) -> None:
    terms = {}
    for machine, code in (("edge", CODE), ("cloud", CODE), ("other", CODE + "\nx = 1\n")):
        (tmp_path / machine).mkdir()
        (tmp_path / machine / f"{machine}.py").write_text(code)
        net = f"{tmp_path}/{machine}/{machine}.py:Net"
        (tmp_path / f"{machine}.toml").write_text(replace(SETTINGS, net=net).to_toml())
        origin = open_origin(tmp_path / f"{machine}.toml")
        terms[machine] = cloud_half(origin, "cpu")[2] if machine != "edge" else edge_job(origin)[1]
    expect_same_terms(terms["edge"], terms["cloud"])
    assert str(tmp_path) not in json.dumps(terms)
    with pytest.raises(ConfigError, match="net_sha256 is "):
        expect_same_terms(terms["edge"], terms["other"])
    elsewhere = open_origin(tmp_path / "cloud.toml", net=f"{tmp_path}/edge/edge.py:Net")
    assert cloud_half(elsewhere, "cpu")[2] == terms["edge"]


def test_what_other_machines_get_says_nothing_of_this_one(trained: Path, tmp_path: Path) -> None:
    export(trained, tmp_path / "device")
    config = replace(
        SETTINGS, net=f"{trained.parent}/kept.py:Net", data_root=tmp_path, out=tmp_path / "out"
    )
    write_untrained(config, tmp_path / "untrained")
    folders = [trained / "bundle", tmp_path / "untrained", tmp_path / "device"]
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(found) >= 10
    for path in found:
        content = path.read_bytes()
        for told in (str(tmp_path), tmp_path.name):
            assert told.encode() not in content, path
        if path.suffix == ".json":
            assert socket.gethostname() not in content.decode()
    for folder in folders[:2]:
        told = json.loads((folder / "manifest.json").read_bytes())["config"]
        assert not {"out", "data_root"} & set(told)
        assert "/" not in told["net"]


def test_data_are_found_again_beside_the_run_that_was_trained_on_them(
    trained: Path, tmp_path: Path
) -> None:
    config = replace(SETTINGS, net="small", cut=None, data_root=tmp_path, out=tmp_path / "run")
    list(run(config))
    assert open_origin(tmp_path / "run").config.data_root == tmp_path
    (tmp_path / "run" / "bundle").rename(tmp_path / "alone")
    assert open_origin(tmp_path / "alone").config.data_root is None


def test_a_bundle_is_whole_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However far the next one comes: each write fails once, and the old bundle still opens."""
    list(run(replace(SETTINGS, net="small", cut=None, out=tmp_path / "run")))
    before = open_origin(tmp_path / "run").session
    write = files.write_atomically
    for n in range(1, 4):
        left = [n]

        def failing(path: Path, content: bytes, left: list[int] = left, **how: Any) -> None:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            write(path, content, **how)

        with monkeypatch.context() as patched:
            patched.setattr(bundle, "write_atomically", failing)
            with pytest.raises(KeyboardInterrupt):
                bundle.write_bundle(
                    tmp_path / "run" / "bundle",
                    {"edge": {"a": nn.Linear(2, 2)}, "cloud": {}},
                    {},
                    code=b"",
                )
        assert open_origin(tmp_path / "run").session == before
    edge_job(open_origin(tmp_path / "run"))


def test_what_writes_a_folder_has_it_alone(trained: Path, tmp_path: Path) -> None:
    config = replace(SETTINGS, net=f"{trained.parent}/kept.py:Net")
    for write in (
        lambda: export(trained, tmp_path / "out"),
        lambda: write_untrained(config, tmp_path / "out"),
    ):
        with (
            files.held(tmp_path / "out", beside=True),
            pytest.raises(StorageError, match=r"another process is at work in .* \(number \d+\)"),
        ):
            write()
        assert not (tmp_path / "out").exists()
    export(trained, tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
