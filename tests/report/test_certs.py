"""What `eaves certs` prints says what was made, and never what is secret."""

import json
from pathlib import Path

import pytest

from eaves.errors import ConfigError
from eaves.network.certificates import DAYS
from eaves.report.certs import show_device, show_init, show_list, show_revoked, show_token


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    show_init(tmp_path, ["cloud.example", "192.0.2.7"], days=DAYS, renew=False)
    printed = capsys.readouterr().out
    assert "keep it apart" in printed
    assert f"server: {tmp_path}/server, for cloud.example 192.0.2.7, until 20" in printed
    assert f"eaves certs device NAME --folder {tmp_path}" in printed
    return tmp_path


def test_a_device_is_told_where_its_folder_is_and_nothing_secret(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show_device(folder, "edge-1", days=DAYS, renew=False) == 0
    assert show_token(folder, "edge-2", renew=False) == 0
    printed = capsys.readouterr().out
    assert f"{folder}/devices/edge-1, until 20" in printed
    assert f"{folder}/devices/edge-2, until it is revoked" in printed
    assert "PRIVATE" not in printed
    assert "eaves-token" not in printed


def test_a_renewed_server_keeps_its_hosts_unless_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_init(folder, [], days=DAYS, renew=True)
    assert "for cloud.example 192.0.2.7, until" in capsys.readouterr().out
    show_init(folder, ["other.example"], days=DAYS, renew=True)
    assert "for other.example, until" in capsys.readouterr().out
    show_init(folder, [], days=DAYS, renew=True)
    assert "for other.example, until" in capsys.readouterr().out


def test_nothing_is_renewed_where_nothing_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no authority in"):
        show_init(tmp_path / "certs", [], days=DAYS, renew=True)


def test_revocation_says_what_it_did(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_token(folder, "edge-1", renew=False)
    capsys.readouterr()
    show_revoked(folder, "edge-1")
    assert "revoked: token of edge-1, made 20" in capsys.readouterr().out
    show_revoked(folder, "edge-1")
    assert "edge-1 was revoked before" in capsys.readouterr().out


def test_the_list(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_device(folder, "edge-1", days=DAYS, renew=False)
    show_token(folder, "edge-2", renew=False)
    show_revoked(folder, "edge-2")
    capsys.readouterr()
    show_list(folder, as_json=True)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["name"], row["kind"], row["state"]) for row in rows] == [
        ("authority", "authority", "valid"),
        ("cloud.example 192.0.2.7", "server", "valid"),
        ("edge-1", "device", "valid"),
        ("edge-2", "token", "revoked"),
    ]
    assert rows[3]["expires"] is None
    assert rows[2]["expires"] > rows[2]["made"] <= rows[3]["revoked"]
    show_list(folder, as_json=False)
    table = capsys.readouterr().out
    for row in rows:
        assert row["name"] in table
        assert row["sha256"][:16] in table
