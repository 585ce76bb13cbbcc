"""What is damaged on a disk is found, whatever it is, and nothing is changed by looking."""

import json
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from tests.experiments.conftest import Cloud

from eaves.commands.main import main
from eaves.errors import ConfigError
from eaves.experiments.agent import run_agent
from eaves.experiments.config import TrainConfig
from eaves.experiments.halves import Origin
from eaves.experiments.netconfig import AgentConfig, ServeConfig
from eaves.experiments.verifying import FORMATS, verify
from eaves.network.certificates import initialise, make_device
from eaves.network.channel import insecure_target
from eaves.network.quarantine import Quarantine

ONCE = TrainConfig(train_samples=64, batch_size=16, epochs=2, send="once", cloud_epochs=4)
CloudOf = Callable[[Origin, ServeConfig], Cloud]


def content_of(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all that an edge and its cloud have left in the midst of a run."""
    root = tmp_path_factory.mktemp("made")
    config = ServeConfig(listen="127.0.0.1:0", insecure=True, out=root / "cloud")
    cloud = Cloud(Origin(config=ONCE), config)
    settings = AgentConfig(insecure=True, out=root / "agent", max_backoff_s=0.2)
    for _ in run_agent(Origin(config=ONCE), settings, cloud.target(), stop=threading.Event()):
        pass
    cloud.ended()
    away = AgentConfig(insecure=True, out=root / "away", checkpoint_s=0.0, cloud="127.0.0.1:1")
    stop = threading.Event()
    for event in run_agent(
        Origin(config=ONCE), away, insecure_target("127.0.0.1:1", "edge-1"), stop=stop
    ):
        if getattr(getattr(event, "spool", None), "highest", 0) == 4:
            stop.set()
    Quarantine(root / "cloud" / "quarantine", 1).set_aside("edge-9", "for what it has sent")
    initialise(root / "certs", ["localhost"])
    make_device(root / "certs", "edge-1")
    return root


def test_all_that_a_run_leaves_is_recognised_whole_and_unchanged(made: Path) -> None:
    before = content_of(made)
    verdicts = list(verify(made))
    assert [v for v in verdicts if not v.whole] == []
    kinds = {v.kind for v in verdicts}
    assert kinds >= {"spool", "store", "checkpoint", "bundle", "record", "configuration"}
    assert kinds >= {"authority", "lists", "credentials", "access log"}
    assert kinds >= {"journal", "quarantine", "identity"}
    assert kinds <= FORMATS.keys()
    assert content_of(made) == before
    assert any("4 uploads wait" in v.says for v in verdicts)


DAMAGED = [
    "agent/record.json",
    "agent/bundle/manifest.json",
    "agent/bundle/edge/weights.safetensors",
    "agent/checkpoint/checkpoint.json",
    "away/spool.db",
    "cloud/store/uploads.bin",
    "cloud/store/uploads.idx",
    "cloud/checkpoint/checkpoint.json",
    "cloud/bundle/cloud/weights.safetensors",
    "cloud/journal.jsonl",
    "cloud/quarantine/edge-9.json",
    "agent/identity.json",
    "agent/config.toml",
    "certs/access.jsonl",
    "certs/authority/issued.json",
    "certs/server/revoked.json",
    "certs/server/tokens.json",
]


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_byte_that_has_changed_is_found(made: Path, name: str, share: float) -> None:
    path = made / name
    content = path.read_bytes()
    damaged = bytearray(content)
    at = int(share * len(content))
    if name.endswith((".json", ".jsonl", ".toml")):
        at = next(i for i in range(at, -1, -1) if content[i : i + 1].isalnum() or i == 0)
    if name == "away/spool.db":  # within an upload: much of a database is empty
        at = content.rindex(b"EAVU") + int(share * 200)
    damaged[at] ^= 1
    path.write_bytes(damaged)
    try:
        bad = [v for v in verify(path.parent.parent) if not v.whole]
        if name.endswith((".json", ".toml")) and not bad:  # the name of the checksum itself
            assert b"checksum" in content
            assert b"checksum" not in bytes(damaged)
            return
        assert bad
        assert all(v.says for v in bad)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("name", DAMAGED)
def test_a_file_cut_in_half_is_found(made: Path, name: str) -> None:
    path = made / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    try:
        assert any(not v.whole for v in verify(made))
    finally:
        path.write_bytes(content)


def test_a_checkpoint_whose_index_is_gone_is_found(made: Path) -> None:
    path = made / "cloud" / "checkpoint" / "checkpoint.json"
    content = path.read_bytes()
    path.unlink()
    try:
        (bad,) = [v for v in verify(path.parent) if not v.whole]
        assert "checkpoint.json is gone" in bad.says
    finally:
        path.write_bytes(content)


def test_a_configuration_that_is_not_that_of_the_record_is_found(made: Path) -> None:
    path = made / "agent" / "config.toml"
    content = path.read_text()
    assert "batch_size = 16" in content
    path.write_text(content.replace("batch_size = 16", "batch_size = 17"))
    try:
        (bad,) = [v for v in verify(path) if not v.whole]
        assert "is not the configuration that record.json is of" in bad.says
    finally:
        path.write_text(content)


def test_a_setting_that_no_result_depends_on_is_found_too(made: Path) -> None:
    path = made / "agent" / "config.toml"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"/agent", b"/agens", 1))  # of --out
    try:
        (bad,) = [v for v in verify(path) if not v.whole]
        assert "in a setting that no result depends on" in bad.says
        path.write_bytes(content[: content.index(b"\n", 200) + 1])  # cut after a line
        (bad,) = [v for v in verify(path) if not v.whole]
        assert "config.toml is not" in bad.says
        path.write_bytes(content.replace(b"/agent", b"/agens", 1).partition(b"\n")[2])
        assert all(v.whole for v in verify(path))  # of an older version: nothing can be compared
    finally:
        path.write_bytes(content)


def test_a_journal_shorter_than_its_checkpoint_is_found(made: Path) -> None:
    path = made / "cloud" / "journal.jsonl"
    content = path.read_bytes()
    path.write_bytes(b"".join(content.splitlines(keepends=True)[:-1]))
    try:
        (bad,) = [v for v in verify(path) if not v.whole]
        assert "the checkpoint belongs to" in bad.says
    finally:
        path.write_bytes(content)


def test_where_nothing_of_ours_is_there_is_nothing_to_verify(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing of Eaves"):
        list(verify(tmp_path))
    with pytest.raises(ConfigError, match="which is not there"):
        list(verify(tmp_path / "x"))


def test_the_command_says_what_is_damaged_and_exits_with_1(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(made)]) == 0
    assert "uploads wait" in capsys.readouterr().out
    path = made / "agent" / "record.json"
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"steps": ', b'"steps": 1', 1))
    try:
        assert main(["verify", str(made / "agent"), "--json"]) == 1
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["kind"] for line in lines if not line["whole"]] == ["record"]
        assert main(["verify", str(made)]) == 1
        assert "the checksum does not fit" in capsys.readouterr().out
    finally:
        path.write_bytes(content)
