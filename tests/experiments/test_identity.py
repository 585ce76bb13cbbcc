"""What a run is, by what it holds: each change is named, and where things lie is none."""

import json
import logging
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from eaves.core.net import StagedNet, staged
from eaves.data.load import load_dataset
from eaves.data.source import Dataset, InMemory
from eaves.errors import StateError
from eaves.experiments import identity
from eaves.experiments.build import build_job
from eaves.experiments.config import TrainConfig
from eaves.experiments.identity import (
    Facts,
    differences,
    identity_of,
    net_facts,
    notices,
    read_identity,
    settings_changed,
    write_identity,
)
from eaves.experiments.position import fingerprint
from eaves.experiments.record import RunRecord
from eaves.experiments.run import run
from eaves.runtime.sealed import sealed_json, unsealed_json

SMALL = StagedNet([("a", nn.Flatten()), ("b", nn.Linear(192, 2))])
CONFIG = TrainConfig(data="images:d", image_size=8, train_samples=None, batch_size=4, epochs=2)


def _image(path: Path, shade: int) -> Path:
    """Write an image whose size in bytes does not depend on its shade."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(path, format="bmp")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a data root with two classes of ten images in `d`, which have attributes too."""
    folder = tmp_path / "data" / "d"
    for name, shade in (("cat", 40), ("dog", 200)):
        for i in range(10):
            _image(folder / name / f"{i}.bmp", shade + i)
    _attributes(folder, {})
    return tmp_path / "data"


def _attributes(folder: Path, others: dict[str, int]) -> None:
    rows = [
        f"{name}/{i}.bmp,{others.get(f'{name}/{i}.bmp', i % 2)}"
        for name in sorted(p.name for p in folder.iterdir() if p.is_dir())
        for i in range(10)
    ]
    (folder / "attributes.csv").write_text("\n".join(["path,old", *rows]) + "\n")


def _of(root: Path, private: tuple[str, ...] = (), **changes: Any) -> Facts:
    config = replace(CONFIG, data_root=root, **changes)
    dataset = load_dataset(config.data, root=root, image_size=8, private=private)
    return identity_of(config, dataset, net_facts("small", SMALL), kind="train")


# The data

Change = Callable[[Path], object]


def _relabel(d: Path) -> None:
    (d / "cat" / "3.bmp").rename(d / "dog" / "30.bmp")


CHANGES: dict[str, tuple[Change, str]] = {
    "renamed class": (lambda d: (d / "cat").rename(d / "ant"), "class 'cat' is now 'ant'"),
    "renamed to the end, so that numbers swap": (
        lambda d: (d / "cat").rename(d / "zebra"),
        "class 'cat' is now 'zebra'",
    ),
    "renamed classes, both": (
        lambda d: [(d / "cat").rename(d / "x"), (d / "dog").rename(d / "w")],
        "class 'cat' is now 'x'; class 'dog' is now 'w'",
    ),
    "two that swapped": (
        lambda d: [
            (d / "cat").rename(d / "t"),
            (d / "dog").rename(d / "cat"),
            (d / "t").rename(d / "dog"),
        ],
        "20 files were changed in d/cat, d/dog, such as 0.bmp",
    ),
    "a class more": (
        lambda d: [_image(d / "eel" / f"{i}.bmp", i) for i in range(4)],
        "class 'eel' is new; 4 files were added under d/eel, such as 0.bmp",
    ),
    "images more": (
        lambda d: [_image(d / "dog" / f"x{i}.bmp", 9) for i in range(12)],
        "12 files were added under d/dog, such as x0.bmp",
    ),
    "an image less": (
        lambda d: (d / "dog" / "4.bmp").unlink(),
        "1 file was removed from d/dog, such as 4.bmp",
    ),
    "an image of another size": (
        lambda d: (d / "dog" / "4.bmp").write_bytes((d / "dog" / "4.bmp").read_bytes() + b" "),
        "1 file was changed in d/dog, such as 4.bmp",
    ),
    "another image of the same size": (
        lambda d: _image(d / "dog" / "4.bmp", 7),
        "1 file was changed in d/dog, such as 4.bmp",
    ),
    "moved to another class": (
        _relabel,
        "1 file was added under d/dog, such as 30.bmp; 1 file was removed from d/cat",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_has_changed_is_named(root: Path, name: str) -> None:
    change, message = CHANGES[name]
    before = _of(root)
    change(root / "d")
    told = "; ".join(differences(before, _of(root)))
    assert told.startswith(message) or message in told
    assert not settings_changed(before, _of(root))
    if "renamed" in name:
        assert told == message  # and not twenty files that came and went


def test_a_split_that_was_changed_is_named(root: Path) -> None:
    for part, numbers in (("train", range(8)), ("test", range(8, 10))):
        for name in ("cat", "dog"):
            for i in numbers:
                path = root / "d" / part / name / f"{i}.bmp"
                path.parent.mkdir(parents=True, exist_ok=True)
                (root / "d" / name / f"{i}.bmp").rename(path)
    for name in ("cat", "dog"):
        (root / "d" / name).rmdir()
    (root / "d" / "attributes.csv").unlink()
    before = _of(root)
    (root / "d/train/cat/0.bmp").rename(root / "d/test/cat/0.bmp")
    assert differences(before, _of(root)) == [
        "1 file was added under d/test/cat, such as 0.bmp",
        "1 file was removed from d/train/cat, such as 0.bmp",
    ]


def test_private_labels_that_have_changed_are_named(root: Path) -> None:
    before = _of(root, ("old",))
    _attributes(root / "d", {"cat/1.bmp": 0, "cat/2.bmp": 1, "cat/4.bmp": 1})
    told = differences(before, _of(root, ("old",)))
    assert told
    assert all(text.startswith("private labels of the ") for text in told)
    assert differences(_of(root), _of(root)) == []  # who does not use them does not mind


def test_where_data_lie_does_not_count(root: Path, tmp_path: Path) -> None:
    before = _of(root)
    shutil.copytree(root, tmp_path / "elsewhere")
    assert differences(before, _of(tmp_path / "elsewhere")) == []
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert differences(before, _of(tmp_path / "link")) == []
    (root / "d" / "cat" / "1.bmp").unlink()
    (root / "d" / "cat" / "1.bmp").symlink_to(tmp_path / "elsewhere" / "d" / "cat" / "1.bmp")
    assert differences(before, _of(root)) == []
    os.utime(root / "d" / "cat" / "2.bmp", (1, 1))
    assert differences(before, _of(root)) == []


@pytest.mark.parametrize("relative", ["data", "./data", "../{here}/data"])
def test_a_relative_root_is_the_same(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: str
) -> None:
    before = _of(root)
    monkeypatch.chdir(tmp_path)
    assert differences(before, _of(Path(relative.format(here=tmp_path.name)))) == []


def test_of_a_large_set_names_and_sizes_and_some_contents_are_known(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "HASHED_BYTES", 100)
    monkeypatch.setattr(identity, "HASHED_FILES", 5)
    before = _of(root)
    rows = [row for part in before["parts"].values() for row in part["files"]]
    read = [path for path, _, digest, _ in rows if digest is not None]
    assert 0 < len(read) < len(rows) == 20
    _image(root / "d" / read[0], 3)
    assert "1 file was changed in" in differences(before, _of(root))[0]
    _image(root / "d" / "dog" / "new.bmp", 3)
    assert "1 file was added under d/dog, such as new.bmp" in differences(before, _of(root))


def _in_memory(inputs: torch.Tensor, labels: torch.Tensor, classes: tuple[str, ...]) -> Facts:
    part = InMemory(inputs, labels)
    shade = (1.0,)
    dataset = Dataset(
        name="m", train=part, test=part, classes=classes, mean=shade, std=shade, augment="none"
    )
    return identity_of(TrainConfig(), dataset, net_facts("small", SMALL), kind="train")


def test_a_set_in_memory_is_known_by_its_tensors() -> None:
    inputs, labels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    before = _in_memory(inputs, labels, ("a", "b"))
    assert differences(before, _in_memory(inputs.clone(), labels.clone(), ("a", "b"))) == []
    other = inputs.clone()
    other[3, 0, 7, 7] = 1
    (told, _) = differences(before, _in_memory(other, labels, ("a", "b")))
    assert told == "inputs of the test examples have changed"
    (told, _) = differences(before, _in_memory(inputs, 1 - labels, ("a", "b")))
    assert told == "labels of the test examples have changed"
    more = differences(before, _in_memory(inputs[:3], labels[:3], ("a", "b")))
    assert more[1] == "the training examples were 4, are 3"
    swapped = differences(before, _in_memory(inputs, labels, ("b", "a")))
    assert swapped == ["the classes have another order: a, b, ... are now b, a, ..."]


# Settings, nets, versions


def test_settings_that_differ_are_named_and_places_are_none(tmp_path: Path) -> None:
    def of(config: TrainConfig) -> Facts:
        return fingerprint(build_job(config))

    base = TrainConfig(train_samples=64, batch_size=16, epochs=2)
    before = of(base)
    assert settings_changed(before, of(replace(base, lr=0.2))) == ["lr was None, is 0.2"]
    assert settings_changed(before, of(replace(base, out=tmp_path, data_root=tmp_path))) == []
    (told,) = settings_changed(before, before | {"kind": "agent"})
    assert "is a run of `eaves train`, this is `eaves agent`" in told


def test_the_code_of_a_net_counts_and_its_place_does_not(tmp_path: Path) -> None:
    code = "from torch import nn\nclass Net(nn.Sequential):\n    pass\n"
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "net.py").write_text(code)
    (tmp_path / "c" / "net.py").write_text(code + "\n# other\n")
    a, b, c = (net_facts(f"{tmp_path / f}/net.py:Net", SMALL) for f in ("a", "b", "c"))
    assert a == b
    assert a.name == "own:Net"
    assert a.terms()["net_sha256"] != c.terms()["net_sha256"]
    assert str(tmp_path) not in json.dumps([a.as_json(), a.terms()])


class _One(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.f(x)
        return y


class _Other(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.f(x).relu()
        return y


def test_nets_passed_in_python_are_known_by_the_code_of_their_classes() -> None:
    one, again, other = (net_facts("own:N", staged(n), n) for n in (_One(), _One(), _Other()))
    assert one == again
    assert one.source != other.source
    wider = net_facts("own:N", StagedNet([("a", nn.Linear(2, 3))]), nn.Linear(2, 3))
    assert wider.structure != one.structure
    assert net_facts("small", SMALL).terms() == {}  # the name says it all


def test_other_versions_are_told_and_no_reason_to_refuse() -> None:
    now = _in_memory(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"))
    before = now | {"versions": {"eaves": "0.0.9", "torch": "1.2.3"}}
    assert differences(before, now) == []
    assert notices(now, now) == []
    told = notices(before, now)
    assert told[0].startswith("Eaves was 0.0.9, is ")
    assert told[1].startswith("torch was 1.2, is ")
    patch = now | {"versions": now["versions"] | {"torch": torch.__version__ + ".post1"}}
    assert notices(patch, now) == []


# On disk


def test_the_fingerprint_is_for_its_owner_alone(tmp_path: Path) -> None:
    versions, net = {"eaves": "0.1", "torch": "2.13"}, {"package": "eaves"}
    facts = {"format": 1, "kind": "train", "config": {}, "versions": versions, "net": net}
    sha256 = write_identity(tmp_path, facts)
    assert read_identity(tmp_path, sha256) == facts
    assert (tmp_path / "identity.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot read"),
        (b"[]", "is damaged"),
        (b'{"format": 99}', "a newer Eaves has written it: install"),
        (b'{"format": "1"}', "got '1': it is damaged"),
        (b'{"format": true}', "got True: it is damaged"),
        (b"{}", "got None: it is damaged"),
        (b'{"format": 1, "a": [2]}', "is not that of the checkpoint"),
    ],
)
def test_a_fingerprint_that_cannot_be_used_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    sha256 = write_identity(tmp_path, {"format": 1, "a": [1]})
    (tmp_path / "identity.json").write_bytes(content)
    with pytest.raises(StateError, match=message):
        read_identity(tmp_path, sha256)


# Whole runs


class _StopAfter(threading.Event):
    """Set once the edge has looked at it so often."""

    def __init__(self, looks: int):
        super().__init__()
        self._left = looks

    def is_set(self) -> bool:
        if threading.current_thread().name == "eaves-edge":
            self._left -= 1
            if self._left <= 0:
                self.set()
        return super().is_set()


def _run(config: TrainConfig, **how: Any) -> RunRecord:
    *_, record = run(config, **how)
    assert isinstance(record, RunRecord)
    return record


@pytest.mark.parametrize("looks", [2, 1_000])  # interrupted, and finished
@pytest.mark.parametrize("name", ["renamed class", "images more", "another image of the same size"])
def test_a_run_goes_on_with_its_own_data_only(
    root: Path, tmp_path: Path, name: str, looks: int
) -> None:
    config = replace(CONFIG, data_root=root, out=tmp_path / "run")
    first = _run(config, stop=_StopAfter(looks))
    assert first.complete == (looks > 2)
    shutil.copytree(root, tmp_path / "kept")
    change, message = CHANGES[name]
    change(root / "d")
    kept = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(StateError, match=message.partition(";")[0]):
        list(run(config, resume=True))
    assert kept == {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    # Where the same data lie elsewhere, it goes on.
    assert _run(replace(config, data_root=tmp_path / "kept"), resume=True).complete
    assert _run(config, overwrite=True).complete


def test_a_run_of_an_older_eaves_goes_on_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = TrainConfig(train_samples=64, batch_size=16, epochs=2, out=tmp_path / "old")
    _run(config, stop=_StopAfter(3))
    index = tmp_path / "old" / "checkpoint" / "checkpoint.json"
    facts = unsealed_json(index.read_bytes())
    del facts["facts"]["identity"]
    index.write_bytes(sealed_json(facts))
    (tmp_path / "old" / "identity.json").unlink()
    with caplog.at_level(logging.WARNING):
        assert _run(config, resume=True).complete
    assert "is of an older Eaves, which did not note its data" in caplog.text
    whole = replace(config, out=tmp_path / "whole")
    _run(whole)
    weights = "bundle/edge/weights.safetensors"
    assert (tmp_path / "old" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


def test_other_versions_are_said_when_a_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = TrainConfig(train_samples=64, batch_size=16, epochs=2, out=tmp_path)
    _run(config, stop=_StopAfter(3))
    before = read_identity(tmp_path)
    sha256 = write_identity(tmp_path, before | {"versions": {"eaves": "0.0.1", "torch": "1.0.0"}})
    index = tmp_path / "checkpoint" / "checkpoint.json"
    facts = unsealed_json(index.read_bytes())
    facts["facts"]["identity"] = sha256
    index.write_bytes(sealed_json(facts))
    with caplog.at_level(logging.WARNING):
        assert _run(config, resume=True).complete
    assert "Eaves was 0.0.1" in caplog.text
    assert "torch was 1.0" in caplog.text
