"""Downloads from a real server on the loopback: whole, resumed, cut short, wrong, refused."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from eaves.data import download as module
from eaves.data.download import download
from eaves.errors import DataError, StorageError

_BODY = bytes(range(256)) * 4000  # about 1 MB: several chunks
_MD5 = hashlib.md5(_BODY).hexdigest()


@dataclass
class Server:
    """How the server behaves, and what it was asked."""

    body: bytes = _BODY
    ranges: bool = True
    refuse_ranges: bool = False
    stop_after: int | None = None
    """Close the connection after so many bytes of the answer."""
    send_length: bool = True
    status: int = 200
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


def _answer(server: Server, handler: BaseHTTPRequestHandler) -> None:
    wanted = handler.headers["Range"]
    server.asked.append(wanted)
    if server.status != 200 or (wanted and server.refuse_ranges):
        handler.send_error(416 if wanted and server.refuse_ranges else server.status)
        return
    start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
    body = server.body[start:]
    handler.send_response(206 if start else 200)
    if start:
        end = len(server.body)
        handler.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
    if server.send_length:
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    with suppress(BrokenPipeError, ConnectionResetError):  # the client has seen enough
        handler.wfile.write(body[: server.stop_after])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    settings = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(settings, self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        settings.url = f"http://127.0.0.1:{listening.server_address[1]}/set.tar.gz"
        yield settings
        listening.shutdown()
        thread.join()


@contextmanager
def _refused(target: Path, match: str) -> Iterator[None]:
    """Expect a ``DataError``, and nothing under the name of the target."""
    with pytest.raises(DataError, match=match):
        yield
    assert not target.exists()


def _part(target: Path) -> Path:
    return target.with_name(target.name + ".part")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "set.tar.gz"


def test_a_whole_file_gets_its_name(server: Server, target: Path) -> None:
    download(server.url, target, size=len(_BODY), md5=_MD5)
    assert target.read_bytes() == _BODY
    assert not _part(target).exists()


def test_a_file_that_is_there_is_not_fetched_again(server: Server, target: Path) -> None:
    target.write_bytes(_BODY)
    download(server.url, target, size=len(_BODY), md5=_MD5)
    assert server.asked == []


def test_a_damaged_file_under_the_name_is_replaced(server: Server, target: Path) -> None:
    target.write_bytes(_BODY[:-1] + b"x")
    download(server.url, target, size=len(_BODY), md5=_MD5)
    assert target.read_bytes() == _BODY


@pytest.mark.parametrize("send_length", [True, False])
def test_a_broken_connection_is_gone_on_from(
    server: Server, target: Path, send_length: bool
) -> None:
    server.stop_after, server.send_length = 300_000, send_length
    with _refused(target, r"ended after 300,000 of 1,024,000 bytes .*run the same again"):
        download(server.url, target, size=len(_BODY), md5=_MD5)
    server.stop_after = None
    download(server.url, target, size=len(_BODY), md5=_MD5)
    assert server.asked == [None, "bytes=300000-"]
    assert target.read_bytes() == _BODY


def test_a_server_without_ranges_sends_it_all_again(server: Server, target: Path) -> None:
    _part(target).write_bytes(_BODY[:1000])
    server.ranges = False
    download(server.url, target, size=len(_BODY), md5=_MD5)
    assert server.asked == ["bytes=1000-"]
    assert target.read_bytes() == _BODY


def test_a_range_that_is_refused_is_begun_again(server: Server, target: Path) -> None:
    _part(target).write_bytes(_BODY[:1000])
    server.refuse_ranges = True
    download(server.url, target, size=len(_BODY), md5=_MD5)
    assert server.asked == ["bytes=1000-", None]
    assert target.read_bytes() == _BODY


def test_a_partial_file_that_is_whole_or_too_long(server: Server, target: Path) -> None:
    _part(target).write_bytes(_BODY)
    download(server.url, target, size=len(_BODY), md5=_MD5)
    assert server.asked == []
    target.unlink()
    _part(target).write_bytes(_BODY + b"more")
    download(server.url, target, size=len(_BODY), md5=_MD5)
    assert server.asked == [None]


def test_a_wrong_checksum_names_both_and_leaves_nothing(server: Server, target: Path) -> None:
    server.body = _BODY[:-1] + b"x"
    found = hashlib.md5(server.body).hexdigest()
    with _refused(target, f"expected the MD5 sum {_MD5}, found {found}"):
        download(server.url, target, size=len(_BODY), md5=_MD5)
    assert not _part(target).exists()


def test_damage_in_the_part_is_found_and_the_next_run_heals_it(
    server: Server, target: Path
) -> None:
    _part(target).write_bytes(b"x" * 1000)
    with _refused(target, "run the same again"):
        download(server.url, target, size=len(_BODY), md5=_MD5)
    download(server.url, target, size=len(_BODY), md5=_MD5)
    assert target.read_bytes() == _BODY


def test_a_file_of_another_size_is_refused_unread(server: Server, target: Path) -> None:
    server.body = _BODY + b"x"
    with _refused(target, "offers a file of 1,024,001 bytes, expected 1,024,000"):
        download(server.url, target, size=len(_BODY), md5=_MD5)
    assert not _part(target).exists()


def test_no_more_than_the_size_is_written(server: Server, target: Path) -> None:
    server.body, server.send_length = _BODY * 3, False
    download(server.url, target, size=len(_BODY), md5=_MD5)
    assert target.read_bytes() == _BODY


def test_an_error_of_the_server_is_told(server: Server, target: Path) -> None:
    server.status = 404
    with _refused(target, f"answered 404 .*place the file by hand at {target}"):
        download(server.url, target, size=len(_BODY), md5=_MD5)


def test_nobody_listening(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        url = f"http://127.0.0.1:{closed.server_address[1]}/set.tar.gz"
    with _refused(target, rf"cannot reach {url} \(.*refused.*place the file by hand at {target}"):
        download(url, target, size=len(_BODY), md5=_MD5)


def test_a_silent_server_is_given_up(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(module, "_TIMEOUT_S", 0.2)
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as silent:
        url = f"http://127.0.0.1:{silent.server_address[1]}/set.tar.gz"  # accepts, never answers
        with _refused(target, "timed out"):
            download(url, target, size=len(_BODY), md5=_MD5)


def test_a_full_disk_is_told(server: Server, target: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, where every write meets a full disk")
    _part(target).symlink_to("/dev/full")
    with pytest.raises(StorageError, match="No space left on device"):
        download(server.url, target, size=len(_BODY), md5=_MD5)
