"""Who gets in by which settings: made for one machine, demanded for a network."""

import logging
from pathlib import Path

import pytest

from eaves.errors import ConfigError
from eaves.experiments.access import gate_of, target_of
from eaves.experiments.netconfig import AgentConfig, InferConfig, ServeConfig
from eaves.network.certificates import initialise, make_device, make_token


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


# On one machine


def test_credentials_for_this_machine_are_made_once_and_fit() -> None:
    _, credentials = gate_of(ServeConfig())
    assert credentials is not None
    made = {path: path.read_bytes() for path in Path("certs").rglob("*") if path.is_file()}
    assert Path("certs/devices/edge-1/key.pem") in made
    gate_of(ServeConfig())
    assert {path: path.read_bytes() for path in made} == made
    for config in (AgentConfig(), InferConfig()):
        target = target_of(config)
        assert target is not None
        assert (target.name, target.address) == ("edge-1", "localhost:7443")
        assert target.credentials is not None


def test_an_agent_makes_none_and_says_who_does() -> None:
    with pytest.raises(ConfigError, match="`eaves serve` on this machine makes credentials"):
        target_of(AgentConfig())
    assert list(Path().iterdir()) == []


def test_what_a_killed_command_has_left_is_finished_first() -> None:
    initialise(Path("certs"), ["localhost"])
    made = Path("certs/server/cert.pem").read_bytes()
    ready = Path("certs/.ready")  # as after a kill between the first move and the second
    ready.mkdir()
    (ready / "1").write_bytes(made)
    (ready / "index.json").write_text('{"files": ["server/key.pem", "server/cert.pem"]}')
    Path("certs/server/cert.pem").unlink()
    assert gate_of(ServeConfig())[1] is not None
    assert Path("certs/server/cert.pem").read_bytes() == made
    assert not ready.exists()


def test_a_proxy_on_the_way_is_named_and_none_is_to_this_machine(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    target_of(AgentConfig(insecure=True, cloud="localhost:7443"))
    assert caplog.text == ""
    target_of(AgentConfig(insecure=True, cloud="cloud.example:7443"))
    assert "goes through the proxy http://127.0.0.1:9, which the environment" in caplog.text
    assert "secret" not in caplog.text


# For a network


@pytest.mark.parametrize("listen", ["0.0.0.0:7443", "[::]:7443", "192.168.0.1:7443"])
def test_for_a_network_credentials_are_given_not_made(listen: str) -> None:
    with pytest.raises(ConfigError, match="give --credentials FOLDER for"):
        gate_of(ServeConfig(listen=listen))
    assert list(Path().iterdir()) == []


def test_a_device_is_named_by_what_was_made_for_it() -> None:
    initialise(Path("c"), ["cloud.example"])
    device, token = make_device(Path("c"), "cam-1"), make_token(Path("c"), "cam-2")
    named = {}
    for folder in (device, token):
        target = target_of(AgentConfig(cloud="cloud.example:7443", credentials=folder))
        assert target is not None
        named[target.name] = target
    assert sorted(named) == ["cam-1", "cam-2"]
    assert named["cam-1"].metadata == ()
    assert "Bearer" in str(named["cam-2"].metadata)
    assert "eaves-token" not in repr(named["cam-2"])
    for auth in ("certificates", "tokens"):
        config = ServeConfig(listen="0.0.0.0:7443", credentials=Path("c/server"), auth=auth)
        assert gate_of(config)[1] is not None


def test_a_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        gate_of(ServeConfig(credentials=Path("nowhere")))
    with pytest.raises(ConfigError, match="nowhere"):
        target_of(AgentConfig(credentials=Path("nowhere")))
    with pytest.raises(ConfigError, match="nowhere"):
        target_of(InferConfig(credentials=Path("nowhere")))


# In plaintext


@pytest.mark.parametrize(("host", "warnings"), [("127.0.0.1", 0), ("0.0.0.0", 1)])
def test_plaintext_is_loud_beyond_this_machine(
    host: str, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    _, credentials = gate_of(ServeConfig(insecure=True, listen=f"{host}:7443"))
    assert credentials is None
    found = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(found) == warnings
    target = target_of(AgentConfig(insecure=True, cloud=f"{host}:7443", name="cam-1"))
    assert target is not None
    assert (target.credentials, target.name) == (None, "cam-1")
    found = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(found) == 2 * warnings
    assert all(record.getMessage().startswith("INSECURE: ") for record in found)
    assert list(Path().iterdir()) == []


def test_without_a_cloud_there_is_nowhere_to_go() -> None:
    assert target_of(InferConfig(cloud=None)) is None
