"""Who may come in, by the commands: certificates and tokens; bundles that go without the data."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from PIL import Image
from tests.conftest import Machine

from eaves.experiments.bundle import read_weights

RUN = "train_samples = 64\nbatch_size = 32\nepochs = 1\n"
Eaves = Callable[..., Any]
Machines = Callable[..., Machine]
FreePort = Callable[[], int]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def _entries(eaves: Eaves, folder: Path) -> dict[tuple[str, str], str]:
    lines = eaves("certs", "list", "--folder", folder, "--json").out.splitlines()
    rows = [json.loads(line) for line in lines]
    return {(row["name"], row["kind"]): row["state"] for row in rows}


def test_tokens_let_devices_in_until_they_are_revoked(
    eaves: Eaves, machines: Machines, free_port: FreePort
) -> None:
    machine, port = machines(run=RUN), free_port()
    certs = machine.folder / "certs"
    made = eaves("certs", "init", "--host", "localhost", "--folder", certs)
    assert (made.code, made.err) == (0, "")
    printed = eaves("certs", "token", "cam-1", "--folder", certs)
    device = certs / "devices" / "cam-1"
    token = (device / "token").read_text().strip()
    assert printed.code == 0
    assert token not in printed.out + printed.err
    words = ("serve", "run.toml", "--listen", f"127.0.0.1:{port}", "--log", "json", "--json")
    cloud = machine.start(*words, "--credentials", "certs/server", "--auth", "tokens")
    cloud.says("with TLS")
    access = ("--cloud", f"localhost:{port}", "--credentials", device)
    agent = machine.start("agent", "run.toml", *access, "--json", "--log", "json")
    assert agent.ended() == 0, agent.err
    assert agent.result["network"]["edge"] == "cam-1"

    asks = ("infer", machine.folder / "runs" / "agent", *access, "--samples", 5)
    assert eaves(*asks, "--deadline-ms", 30_000).code == 0
    revoked = eaves("certs", "revoke", "cam-1", "--folder", certs)
    assert (revoked.code, "revoked: token of cam-1" in revoked.out) == (0, True)
    refused = _until_refused(eaves, asks)
    assert refused.err.startswith(f"eaves: the cloud at localhost:{port} refuses: the token is rev")
    assert refused.err.count("\n") == 1
    assert _entries(eaves, certs)["cam-1", "token"] == "revoked"

    assert cloud.signal(signal.SIGTERM).ended() == 0
    for text in (cloud.err, cloud.out, agent.err, agent.out, refused.err):
        assert token not in text
    for line in cloud.err.splitlines():
        assert {"ts", "level", "logger", "message"} <= set(json.loads(line))


def _until_refused(eaves: Eaves, asks: tuple[Any, ...]) -> Any:
    """Ask until a cloud has seen its new list of tokens, which it reads again every second."""
    for _ in range(30):
        ended = eaves(*asks, "--deadline-ms", 30_000)
        if ended.code:
            break
    assert ended.code == 1
    return ended


def test_certs_are_made_listed_and_revoked(eaves: Eaves, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    at = ("--folder", folder)
    assert eaves("certs", "init", *at, "--host", "cloud.example", "10.0.0.1").code == 0
    assert eaves("certs", "device", "cam-1", *at).code == 0
    assert eaves("certs", "token", "cam-2", *at).code == 0
    assert _entries(eaves, folder)["cam-1", "device"] == "valid"
    table = eaves("certs", "list", *at).out
    assert all(name in table for name in ("cam-1", "cam-2", "cloud.example"))
    again = eaves("certs", "device", "cam-1", *at)
    assert (again.code, "--renew" in again.err) == (2, True)
    assert eaves("certs", "device", "cam-1", "--renew", *at).code == 0
    assert eaves("certs", "revoke", "cam-1", *at).code == 0
    assert _entries(eaves, folder)["cam-1", "device"] == "revoked"
    unknown = eaves("certs", "revoke", "cam-9", *at)
    assert unknown.code == 2
    assert unknown.err.startswith("eaves: unknown device 'cam-9'; choose from: cam-")
    assert eaves("certs", "device", "../cam", *at).code == 2
    assert eaves("certs", "init", *at, "--host", "cloud.example").code == 2  # there is one


def test_plaintext_beyond_this_machine_is_said_loudly(machines: Machines) -> None:
    machine = machines(run=RUN)
    cloud = machine.start("serve", "run.toml", "--insecure", "--listen", "0.0.0.0:0")
    cloud.says("in plaintext").signal(signal.SIGTERM)
    assert cloud.ended() == 0
    warned = [line for line in cloud.err.splitlines() if "WARNING" in line]
    assert len(warned) == 1
    assert "INSECURE: 0.0.0.0:0 is open to the network" in warned[0]
    here = machine.start("serve", "run.toml", "--insecure", "--listen", "127.0.0.1:0")
    here.says("in plaintext").signal(signal.SIGTERM)
    assert here.ended() == 0
    assert "INSECURE" not in here.err


def test_a_bundle_goes_to_machines_that_do_not_have_the_data(
    eaves: Eaves, machines: Machines, free_port: FreePort, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    generator = torch.Generator().manual_seed(0)
    for name, level in (("dark", 0), ("light", 128)):
        (data / name).mkdir(parents=True)
        for i in range(40):
            pixels = torch.randint(level, level + 127, (16, 16, 3), generator=generator)
            Image.fromarray(pixels.byte().numpy()).save(data / name / f"{i}.png")
    config = tmp_path / "run.toml"
    config.write_text(
        f"data = 'images'\ndata_root = '{data}'\nimage_size = 16\nmethod = 'full-cloud'\n"
        "batch_size = 16\nepochs = 4\n"
    )
    assert eaves("bundle", config, "--out", tmp_path / "b").code == 0
    manifest = (tmp_path / "b" / "manifest.json").read_bytes()
    assert json.loads(manifest)["classes"] == ["dark", "light"]

    cloud_machine, port = machines(), free_port()
    copytree(tmp_path / "b" / "cloud", cloud_machine.folder / "b" / "cloud")
    (cloud_machine.folder / "b" / "manifest.json").write_bytes(manifest)
    moved = data.rename(tmp_path / "elsewhere")
    cloud = cloud_machine.start("serve", "b", "--listen", f"127.0.0.1:{port}", "--json")
    cloud.says("serving b")

    device = machines()
    (device.folder / "b").mkdir()
    (device.folder / "b" / "manifest.json").write_bytes(manifest)
    credentials = cloud_machine.folder / "certs" / "devices" / "edge-1"
    access = ("--cloud", f"localhost:{port}", "--credentials", credentials)
    words = ("agent", "b", *access, "--json")
    lost = device.run(*words)
    assert lost.ended() == 1
    assert "pass --data-root" in lost.err  # a bundle names no folder of another machine
    agent = device.run(*words, "--data-root", moved)
    assert agent.ended() == 0, agent.err
    assert agent.result["accuracy"]["cloud"]["value"] > 0.9  # light from dark
    assert cloud.signal(signal.SIGTERM).ended() == 0
    before = read_weights(tmp_path / "b", "cloud")
    after = read_weights(cloud_machine.folder / "runs" / "cloud" / "bundle", "cloud")
    assert any(not torch.equal(before[name], after[name]) for name in before)

    (moved / "dark").rename(moved / "dim")
    other = eaves("agent", tmp_path / "b", *access, "--data-root", moved, "--out", tmp_path / "o")
    assert other.code == 2
    assert "the bundle is for inputs (3, 16, 16) of the classes dark, light" in other.err
    assert "of the classes dim, light" in other.err
