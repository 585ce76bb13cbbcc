"""What is written about access: one line each, no forgery, no secret, and never too much of it."""

import json
import logging
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from eaves.errors import StateError
from eaves.network.accesslog import AccessLog, Bounds, read_access_log

_TOKEN = "eaves-token.cam-1." + "x" * 43


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out" / "access.jsonl"


def test_a_line_says_when_what_and_who_and_is_for_its_owner(path: Path) -> None:
    old = os.umask(0)
    try:
        AccessLog(path).write("refused", source="ipv4:192.0.2.1", why="no token was sent", n=1)
    finally:
        os.umask(old)
    (line,) = _lines(path)
    assert line.pop("ts").startswith("20")
    assert len(line.pop("crc")) == 8
    assert line == {
        "event": "refused",
        "source": "ipv4:192.0.2.1",
        "why": "no token was sent",
        "n": 1,
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "words",
    ['x\n{"event": "admitted"}', "\r\n", "\x1b[2J\x07", "\u2028a\u2029", "\ud800", "\x85", "ä" * 5],
)
def test_no_peer_forges_a_line_or_leads_a_terminal(path: Path, words: str) -> None:
    AccessLog(path).write("refused", source=words, why=words)
    content = path.read_bytes()
    assert content.count(b"\n") == 1
    assert all(32 <= byte < 127 or byte == 10 for byte in content)
    assert _lines(path)[0]["why"] == words
    assert _lines(path)[0]["event"] == "refused"


def test_what_is_long_is_cut_and_what_is_secret_goes(path: Path) -> None:
    AccessLog(path).write("refused", source="a", why="y" * 10**6, token=f"sent {_TOKEN}")
    assert path.stat().st_size < 2000
    assert "x" * 43 not in path.read_text()


def test_a_flood_of_one_peer_leaves_others_their_lines_and_is_counted(path: Path) -> None:
    now = [0.0]
    log = AccessLog(path, Bounds(burst=3, every_s=10), clock=lambda: now[0])
    for _ in range(1000):
        log.write("refused", source="loud")
    log.write("refused", source="quiet")
    log.write("token revoked", name="loud")  # the operator's own lines have no limit
    assert [line.get("source") for line in _lines(path)] == ["loud"] * 3 + ["quiet", None]
    now[0] = 11
    log.write("refused", source="loud")
    assert _lines(path)[-1]["left_out"] == 997


def test_a_flood_from_many_addresses_has_an_end_too(path: Path) -> None:
    bounds = Bounds(all_burst=10, all_every_s=1.0, sources=4)
    now = [0.0]
    log = AccessLog(path, bounds, clock=lambda: now[0])
    for n in range(5000):
        log.write("refused", source=f"[2001:db8::{n:x}]")
    assert len(_lines(path)) == 10
    assert len(log._sources) <= 4
    now[0] = 100
    log.write("refused", source="later")
    assert _lines(path)[-1]["left_out"] > 4000


def test_files_are_turned_over_and_do_not_grow_beyond_their_bound(path: Path) -> None:
    log = AccessLog(path, Bounds(file_bytes=1000, files=3))
    for n in range(200):
        log.write("token made", name=f"cam-{n}")
    found = sorted(path.parent.iterdir())
    assert [file.name for file in found] == ["access.jsonl", "access.jsonl.1", "access.jsonl.2"]
    assert sum(file.stat().st_size for file in found) <= 3000
    assert _lines(path)[-1]["name"] == "cam-199"
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in found)


def test_a_disk_that_refuses_is_said_once_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    log = AccessLog(tmp_path / "file" / "access.jsonl")
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            log.write("refused", source="a")
    assert caplog.text.count("cannot write the access log") == 1


def test_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(tmp_path / "elsewhere")
    AccessLog(path).write("refused", source="a")
    assert not (tmp_path / "elsewhere").exists()


def test_lines_of_several_threads_do_not_mix(path: Path) -> None:
    log = AccessLog(path)

    def write() -> None:
        for n in range(50):
            log.write("token made", n=n, words="w" * 100)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(_lines(path)) == 200


def test_every_flipped_bit_of_a_line_is_found(path: Path) -> None:
    AccessLog(path).write("refused", source="ipv4:192.0.2.1", why="no token was sent")
    AccessLog(path).write("token revoked", name="cam-1")
    assert [line["event"] for line in read_access_log(path)] == ["refused", "token revoked"]
    content = path.read_bytes()
    names = range(content.index(b'"crc"'), content.index(b'"crc"') + 5)  # of the checksum itself
    for bit in range(8 * content.index(b"\n")):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        if bit // 8 not in names:
            with pytest.raises(StateError, match=r"line [12] of .* is damaged"):
                read_access_log(path)
    path.write_bytes(content[:-5])
    with pytest.raises(StateError, match="line 2"):
        read_access_log(path)


def test_lines_from_before_there_were_checksums_are_read(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"ts": "2026-01-01", "event": "admitted"}\n')
    assert read_access_log(path) == [{"ts": "2026-01-01", "event": "admitted"}]
