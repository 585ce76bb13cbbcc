"""CIFAR-10's binary layout: read exactly, damage named, the archive unpacked safely."""

import hashlib
import io
import os
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from eaves.data import cifar
from eaves.data.source import Request
from eaves.errors import ConfigError, DataError

_ROWS = 20
_BYTES = _ROWS * 3073


def _table(seed: int) -> npt.NDArray[np.uint8]:
    table = np.random.default_rng(seed).integers(0, 256, (_ROWS, 3073), dtype=np.uint8)
    table[:, 0] %= 10
    return table


def _files(folder: Path) -> list[npt.NDArray[np.uint8]]:
    folder.mkdir()
    tables = [_table(seed) for seed in range(6)]
    for table, name in zip(tables, (*cifar.TRAIN_FILES, *cifar.TEST_FILES), strict=True):
        (folder / name).write_bytes(table.tobytes())
    return tables


def _archive(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def _published() -> dict[str, bytes]:
    names = (*cifar.TRAIN_FILES, *cifar.TEST_FILES)
    tables = {f"{cifar.FOLDER}/{name}": _table(i).tobytes() for i, name in enumerate(names)}
    return {f"{cifar.FOLDER}/readme.html": b"hello", **tables}


def test_rows_are_read_in_order_and_by_planes(tmp_path: Path) -> None:
    tables = np.concatenate(_files(tmp_path / "set")[:5])
    source = cifar.read_files(tmp_path / "set", cifar.TRAIN_FILES, rows=_ROWS)
    batch = source.fetch(torch.arange(5 * _ROWS))
    assert batch.labels.tolist() == tables[:, 0].tolist()
    assert batch.inputs.shape == (100, 3, 32, 32)
    # Row 63, blue (the third plane), line 5, column 7.
    assert int(batch.inputs[63, 2, 5, 7]) == tables[63, 1 + 2 * 1024 + 5 * 32 + 7]


def test_a_missing_or_cut_file_is_named_with_both_sizes(tmp_path: Path) -> None:
    _files(tmp_path / cifar.FOLDER)
    assert cifar.missing(tmp_path, rows=_ROWS) == []
    os.truncate(tmp_path / cifar.FOLDER / "data_batch_3.bin", 1234)
    with pytest.raises(DataError, match=r"data_batch_3.bin: expected 61,460 bytes, found 1,234; "):
        cifar.read_files(tmp_path / cifar.FOLDER, cifar.TRAIN_FILES, rows=_ROWS)
    (tmp_path / cifar.FOLDER / "test_batch.bin").unlink()
    with pytest.raises(DataError, match=r"test_batch.bin: not there; .*download=True, or unpack"):
        cifar.read_files(tmp_path / cifar.FOLDER, cifar.TEST_FILES, rows=_ROWS)
    assert cifar.missing(tmp_path, rows=_ROWS) == [
        f"{cifar.FOLDER}/data_batch_3.bin (expected 61,460 bytes, found 1,234)",
        f"{cifar.FOLDER}/test_batch.bin (not there)",
    ]


def test_a_label_above_9_is_damage(tmp_path: Path) -> None:
    tables = _files(tmp_path / "set")
    tables[5][13, 0] = 10
    (tmp_path / "set" / "test_batch.bin").write_bytes(tables[5].tobytes())
    with pytest.raises(DataError, match=r"expected labels 0..9, found 10 in row 13"):
        cifar.read_files(tmp_path / "set", cifar.TEST_FILES, rows=_ROWS)


def test_the_published_size_loads_whole(tmp_path: Path) -> None:
    (tmp_path / cifar.FOLDER).mkdir()
    for name in (*cifar.TRAIN_FILES, *cifar.TEST_FILES):  # sparse: nothing is written
        (tmp_path / cifar.FOLDER / name).touch()
        os.truncate(tmp_path / cifar.FOLDER / name, 30_730_000)
    data = cifar.load_cifar10(Request(root=tmp_path, train_samples=70))
    assert (len(data.train), len(data.test), len(data.classes)) == (70, 10_000, 10)
    assert (data.train.input_shape, data.augment, data.valid) == ((3, 32, 32), "crop-flip", None)


def test_what_is_missing_is_downloaded_unpacked_and_then_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (*cifar.TRAIN_FILES, *cifar.TEST_FILES)
    zeros = {f"{cifar.FOLDER}/{name}": bytes(30_730_000) for name in names}
    published = _archive(tmp_path / "cifar-10-binary.tar.gz", zeros).read_bytes()
    root = tmp_path / "root"
    root.mkdir()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(cifar, "ARCHIVE_BYTES", len(published))
    monkeypatch.setattr(cifar, "ARCHIVE_MD5", hashlib.md5(published).hexdigest())

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/cifar-10-binary.tar.gz"
        monkeypatch.setattr(cifar, "URL", url)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            data = cifar.load_cifar10(Request(root=root, download=True))
        finally:
            server.shutdown()
            thread.join()
    assert (len(data.train), len(data.test)) == (50_000, 10_000)
    (root / "cifar-10-binary.tar.gz").unlink()  # no server now, and none is asked
    assert len(cifar.load_cifar10(Request(root=root, download=True)).test) == 10_000


def test_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cifar10 are 32 x 32, got image_size=64"):
        cifar.load_cifar10(Request(root=tmp_path, image_size=64))


def test_the_archive_is_unpacked_and_nothing_else_of_it(tmp_path: Path) -> None:
    archive = _archive(tmp_path / "set.tar.gz", {**_published(), "../evil": b"x", "/evil": b"x"})
    root = tmp_path / "root"
    root.mkdir()
    cifar.extract(archive, root, rows=_ROWS)
    assert cifar.missing(root, rows=_ROWS) == []
    assert {path.name for path in root.iterdir()} == {cifar.FOLDER}
    assert len(list((root / cifar.FOLDER).iterdir())) == 6
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("kind", ["absent", "short", "link"])
def test_an_archive_without_the_six_files_is_refused(tmp_path: Path, kind: str) -> None:
    members, name = _published(), f"{cifar.FOLDER}/test_batch.bin"
    data = members.pop(name)
    if kind == "short":
        members[name] = data[:-1]
    archive = _archive(tmp_path / "set.tar.gz", members)
    if kind == "link":
        with tarfile.open(archive, "w:gz") as tar:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
            tar.addfile(info)
    with pytest.raises(DataError, match=r"does not hold .*test_batch.bin of 61,460 bytes"):
        cifar.extract(archive, tmp_path, rows=_ROWS)
    assert [path.name for path in tmp_path.iterdir()] == ["set.tar.gz"]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_cut_archive_is_damage(tmp_path: Path, share: float) -> None:
    archive = _archive(tmp_path / "set.tar.gz", _published())
    os.truncate(archive, int(share * archive.stat().st_size))
    with pytest.raises(DataError, match=r"set.tar.gz (is damaged|does not hold)"):
        cifar.extract(archive, tmp_path, rows=_ROWS)
    assert [path.name for path in tmp_path.iterdir()] == ["set.tar.gz"]


def test_an_archive_of_something_else_is_damage(tmp_path: Path) -> None:
    (tmp_path / "set.tar.gz").write_bytes(b"<html>not found</html>" * 99)
    with pytest.raises(DataError, match=r"is damaged .*download it again"):
        cifar.extract(tmp_path / "set.tar.gz", tmp_path, rows=_ROWS)


def test_the_real_set_has_the_means_that_we_state() -> None:
    root = os.environ.get("EAVES_DATA", "")
    if not root or cifar.missing(Path(root)):
        pytest.skip("needs CIFAR-10 in the folder that EAVES_DATA names")
    data = cifar.load_cifar10(Request(root=Path(root)))
    batch = data.train.fetch(torch.arange(50_000))
    assert torch.bincount(batch.labels).tolist() == [5000] * 10
    for channel, (mean, std) in enumerate(zip(data.mean, data.std, strict=True)):
        pixels = batch.inputs[:, channel].float().double()
        assert float(pixels.mean()) == pytest.approx(mean, abs=1e-3)
        assert float(pixels.std()) == pytest.approx(std, abs=1e-3)
