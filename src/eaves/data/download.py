"""Fetch one published file over HTTP: resumable, and checked before it gets its name.

pooch would check the sum too, but it begins again after a broken connection, and writes as many
bytes as the server sends.
"""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from eaves.errors import DataError, StorageError

_CHUNK_BYTES = 1 << 18
_TIMEOUT_S = 30.0
_PARTIAL, _RANGE_REFUSED = 206, 416


def download(url: str, target: Path, *, size: int, md5: str) -> None:
    """Bring the file at ``url`` to ``target``; nothing is fetched where it already lies whole.

    The bytes go to ``target`` + ``.part``. What an interrupted run left there is continued (HTTP
    Range) where the server can, and begun again where it cannot. Only a file of ``size`` bytes
    with the checksum ``md5`` is renamed to ``target``; more than ``size`` are never written.

    Guarantee: ``target`` is whole, or as it was before. Not guaranteed: an MD5 sum finds damage, it
    does not protect from a publisher who means harm.

    Raises:
        DataError: the server cannot be reached, refuses, stops early, or sends another file.
        StorageError: the disk is full, or the file cannot be written.
    """
    if _difference(target, size, md5) is None:
        return
    part = target.with_name(target.name + ".part")
    if _bytes_of(part) > size:
        part.unlink()
    if _bytes_of(part) < size:
        try:
            _fetch(url, part, size)
        except DataError as error:
            raise DataError(f"{error}; or place the file by hand at {target}") from error
    wrong = _difference(part, size, md5)
    if wrong:
        part.unlink()  # going on from damaged bytes could never succeed
        raise DataError(
            f"what came from {url} is not the expected file: {wrong}; it has been removed, "
            "so run the same again"
        )
    os.replace(part, target)


def _bytes_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _difference(path: Path, size: int, md5: str) -> str | None:
    """Return how the file differs from the expected one, None where it does not."""
    if _bytes_of(path) != size:
        return f"expected {size:,} bytes, found {_bytes_of(path):,}"
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return None if found == md5 else f"expected the MD5 sum {md5}, found {found}"


def _fetch(url: str, part: Path, size: int) -> None:
    """Bring ``part`` to ``size`` bytes, going on from those it holds if the server can."""
    with _ask(url, part) as response:
        done = _bytes_of(part) if response.status == _PARTIAL else 0
        if response.length is not None and done + response.length != size:
            raise DataError(
                f"{url} offers a file of {done + response.length:,} bytes, expected {size:,}; "
                "it may have moved"
            )
        chunks = _chunks(response, url, done, size)
        with _writing(part), part.open("ab" if done else "wb") as file, _bar() as bar:
            task = bar.add_task(url.rpartition("/")[2], total=size, completed=done)
            for chunk in chunks:
                file.write(chunk)
                bar.advance(task, len(chunk))


def _ask(url: str, part: Path) -> http.client.HTTPResponse:
    """Ask for what ``part`` lacks; where that range is refused, remove ``part`` and ask for all."""
    done = _bytes_of(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
        return response
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == _RANGE_REFUSED and done:
            part.unlink()
            return _ask(url, part)
        raise DataError(f"{url} answered {error.code} {error.reason}; try later") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise DataError(f"cannot reach {url} ({reason}); check the connection") from error


def _chunks(response: http.client.HTTPResponse, url: str, done: int, size: int) -> Iterator[bytes]:
    """Yield the body up to ``size`` bytes in all, ``done`` of which are there already."""
    reason = "the server closed it"
    while done < size:
        try:
            chunk = response.read(min(_CHUNK_BYTES, size - done))
        except (OSError, http.client.HTTPException) as error:
            chunk, reason = b"", str(error) or type(error).__name__
        if not chunk:
            raise DataError(
                f"the connection to {url} ended after {done:,} of {size:,} bytes ({reason}); "
                "run the same again to go on from there"
            )
        done += len(chunk)
        yield chunk


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write {path} ({error.strerror}); free some space or choose another data root"
        ) from error


def _bar() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    return Progress(
        *columns, TransferSpeedColumn(), console=console, disable=not console.is_terminal
    )
