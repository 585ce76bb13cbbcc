"""CIFAR-10 in its official binary version.

Source: Krizhevsky, *Learning Multiple Layers of Features from Tiny Images* (2009); the layout is
described at https://www.cs.toronto.edu/~kriz/cifar.html: rows of one label byte and 3,072 pixels,
the red, green and blue planes one after the other, each row by row.

Dimension key:  N examples   C channels   H, W height and width
"""

import gzip
import os
import shutil
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import torch

from eaves.data.download import download
from eaves.data.source import (
    Dataset,
    InMemory,
    Interface,
    Request,
    data_root,
    lacking,
    refuse_resizing,
    subset,
)
from eaves.errors import DataError, StorageError

FOLDER = "cifar-10-batches-bin"
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ARCHIVE_BYTES = 170_052_171
ARCHIVE_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
TRAIN_FILES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST_FILES = ("test_batch.bin",)
ROWS = 10_000
"""Images in each file."""

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE
_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
# Over the pixels of all 50,000 training images.
_MEAN = (125.3069, 122.9504, 113.8654)
_STD = (62.9932, 62.0887, 66.7049)
INTERFACE = Interface(input_shape=(3, _SIDE, _SIDE), classes=_CLASSES, mean=_MEAN, std=_STD)


def load_cifar10(request: Request) -> Dataset:
    """Return CIFAR-10: 50,000 training and 10,000 test images of (3, 32, 32) in 10 classes.

    Raises:
        DataError: a file is missing or damaged, or the download failed.
        ConfigError: the request does not fit the set.
    """
    refuse_resizing("cifar10", _SIDE, request.image_size)
    root = data_root(request.root)
    if request.download and missing(root):
        archive = root / URL.rpartition("/")[2]
        download(URL, archive, size=ARCHIVE_BYTES, md5=ARCHIVE_MD5)
        extract(archive, root)
    train = read_files(root / FOLDER, TRAIN_FILES)
    notices: tuple[str, ...] = ()
    if request.train_samples is not None:
        kept = train.fetch(subset(len(train), request.train_samples))
        train = InMemory(kept.inputs, kept.labels)
        notices = lacking("class", _CLASSES, {"train": kept.labels}, subset=True)
    return Dataset(
        name="cifar10",
        train=train,
        test=read_files(root / FOLDER, TEST_FILES),
        classes=_CLASSES,
        mean=_MEAN,
        std=_STD,
        augment="crop-flip",
        notices=notices,
    )


def read_files(folder: Path, names: Sequence[str], *, rows: int = ROWS) -> InMemory:
    """Read binary batches of ``rows`` images each: inputs uint8 (N, 3, 32, 32), labels int64 (N,).

    Raises:
        DataError: a file is missing, of another size, or has a label above 9.
    """
    pixels = np.empty((len(names) * rows, _PIXELS), np.uint8)
    labels = np.empty(len(names) * rows, np.int64)
    for i, name in enumerate(names):
        part = slice(i * rows, (i + 1) * rows)
        table = _table(folder / name, rows)
        labels[part], pixels[part] = table[:, 0], table[:, 1:]
    inputs_NCHW = torch.from_numpy(pixels).view(-1, 3, _SIDE, _SIDE)
    return InMemory(inputs_NCHW, torch.from_numpy(labels))


def missing(root: Path, *, rows: int = ROWS) -> list[str]:
    """Return what of CIFAR-10 is not in ``root``, in words; empty where all of it is."""
    paths = [root / FOLDER / name for name in (*TRAIN_FILES, *TEST_FILES)]
    return [f"{FOLDER}/{path.name} ({wrong})" for path in paths if (wrong := _damage(path, rows))]


def extract(archive: Path, root: Path, *, rows: int = ROWS) -> None:
    """Unpack the six binary files of the published archive into ``root``; nothing else of it.

    A file appears under its name only when it is whole.

    Raises:
        DataError: the archive is damaged, or does not hold the six files in their size.
        StorageError: the disk is full.
    """
    wanted = {f"{FOLDER}/{name}" for name in (*TRAIN_FILES, *TEST_FILES)}
    try:
        with TemporaryDirectory(dir=root) as scratch, tarfile.open(archive, "r:gz") as tar:
            # Only the bytes of regular files with the names and sizes that we know are copied,
            # so no link, absolute path or bomb in the archive can do anything.
            for member in tar:
                fits = member.isreg() and member.size == _file_bytes(rows)
                data = tar.extractfile(member) if fits and member.name in wanted else None
                if data is not None:
                    with Path(scratch, Path(member.name).name).open("wb") as file:
                        shutil.copyfileobj(data, file)
                    wanted.remove(member.name)
            if wanted:
                raise DataError(
                    f"{archive} does not hold {', '.join(sorted(wanted))} of "
                    f"{_file_bytes(rows):,} bytes; remove it and download it again from {URL}"
                )
            (root / FOLDER).mkdir(exist_ok=True)
            for path in Path(scratch).iterdir():
                os.replace(path, root / FOLDER / path.name)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{archive} is damaged ({error}); remove it and download it again from {URL}"
        ) from error
    except OSError as error:
        raise StorageError(f"cannot unpack {archive} into {root}: {error}") from error


def _file_bytes(rows: int) -> int:
    return rows * (1 + _PIXELS)


def _damage(path: Path, rows: int) -> str | None:
    """Return what is wrong with the file's presence or size, None where nothing is."""
    if not path.is_file():
        return "not there"
    expected, found = _file_bytes(rows), path.stat().st_size
    return None if found == expected else f"expected {expected:,} bytes, found {found:,}"


def _table(path: Path, rows: int) -> npt.NDArray[np.uint8]:
    wrong = _damage(path, rows)
    if wrong:
        raise DataError(
            f"{path}: {wrong}; fetch CIFAR-10 with download=True, or unpack {URL} "
            f"into the data root, so that it holds {FOLDER}/"
        )
    table = np.memmap(path, np.uint8, mode="r").reshape(rows, 1 + _PIXELS)
    if table[:, 0].max() > 9:
        row = int((table[:, 0] > 9).argmax())
        raise DataError(
            f"{path}: expected labels 0..9, found {table[row, 0]} in row {row}; fetch it again"
        )
    return table
