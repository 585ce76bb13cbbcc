import json
import shlex
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from eaves.commands.audit import Audit
from eaves.commands.main import parse
from eaves.commands.train import Train
from eaves.errors import ConfigError, StateError
from eaves.experiments.auditconfig import AuditConfig
from eaves.experiments.config import TrainConfig
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.report.runs import audit_command, read_runs, train_command

Folder = Callable[..., Path]


def test_a_run_is_read_with_its_audit_and_gallery(run_folder: Folder) -> None:
    (run,) = read_runs([run_folder("my run")])
    assert (run.number, run.name) == (1, "my run")
    assert run.record["method"] == "priphit"
    assert run.audit is not None
    assert sorted(run.audit["attributes"]) == ["Hat", "Male"]
    assert run.gallery["Male/input"].shape == (4, 3, 8, 8)


def test_runs_in_a_folder_are_found_each_once(run_folder: Folder) -> None:
    first, second = run_folder("a"), run_folder("b", audited=False)
    (first / "split").mkdir()
    (first / "split" / "record.json").write_text((first / "record.json").read_text())  # compared
    (first.parent / "no run").mkdir()
    assert [run.folder for run in read_runs([first.parent])] == [first, second]
    found = read_runs([second, first, first.parent])
    assert [run.folder for run in found] == [second, first, first / "split"]
    assert [run.number for run in found] == [1, 2, 3]
    assert found[0].audit is None
    assert found[0].gallery == {}


def test_no_runs_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name the folders of one run or more"):
        read_runs([])
    with pytest.raises(ConfigError, match=r"got .*nowhere, which is none"):
        read_runs([tmp_path / "nowhere"])
    with pytest.raises(StateError, match=r"no run in .*: no record\.json"):
        read_runs([tmp_path])


@pytest.mark.parametrize("name", ["record.json", "audit/audit.json", "bundle/manifest.json"])
@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_damaged_file_is_named(run_folder: Folder, name: str, content: bytes) -> None:
    folder = run_folder()
    (folder / name).write_bytes(content)
    with pytest.raises(StateError, match=f"{name} is damaged"):
        read_runs([folder])


def test_a_damaged_gallery_is_named(run_folder: Folder) -> None:
    folder = run_folder()
    (folder / "audit" / "gallery.safetensors").write_bytes(b"no tensors")
    with pytest.raises(StateError, match=r"gallery\.safetensors is damaged"):
        read_runs([folder])


def test_an_audit_of_what_was_there_before_is_refused(run_folder: Folder) -> None:
    folder = run_folder()
    (folder / "bundle" / "manifest.json").write_text(json.dumps({"session": "trained anew"}))
    with pytest.raises(StateError, match="audit is not of the bundle that is there now"):
        read_runs([folder])
    (folder / "bundle" / "manifest.json").unlink()  # a record can be kept without its weights
    assert read_runs([folder])[0].audit is not None


def _parsed(command: str) -> Any:
    return parse(shlex.split(command)[1:])


def test_the_command_of_a_run_gives_its_configuration() -> None:
    privacy = PrivacyConfig(private="Male,Young", noise_scale=0.5, keep_training=True)
    config = TrainConfig(
        method="nopeek", data="images:a b's", send="every-epoch", lr=0.01, seed=3, privacy=privacy
    )
    command = _parsed(train_command(config.to_dict()))
    assert isinstance(command, Train)
    assert command.settings == config
    assert train_command(TrainConfig().to_dict()) == "eaves train"


def test_the_command_of_an_audit_gives_its_settings() -> None:
    config = AuditConfig(
        private="Male", attacks="labels,gan", known=500, max_attack=0.65, effort=0.5, out=Path("x")
    )
    settings = {field.name: getattr(config, field.name) for field in fields(config)}
    command = _parsed(audit_command(settings))
    assert isinstance(command, Audit)
    assert command.source == Path("RUN")
    assert command.settings == AuditConfig(
        private="Male", attacks="labels,gan", known=500, max_attack=0.65, effort=0.5
    )
