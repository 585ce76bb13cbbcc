"""Faces with forty attributes, in the layout of CelebA (aligned and cropped images).

Source: Liu et al., *Deep Learning Face Attributes in the Wild* (ICCV 2015).

Dimension key:  N faces   A attributes
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import numpy.typing as npt
import torch

from eaves.core.roles import PrivateLabels
from eaves.data.files import DEFAULT_SIZE, Listing, dataset_of_files
from eaves.data.private import choose_private, named
from eaves.data.source import Dataset, Interface, Request, data_root, some
from eaves.errors import ConfigError, DataError

FOLDER = "celeba"
IMAGES = "img_align_celeba"
ATTRIBUTES_FILE = "list_attr_celeba.txt"
PARTITION_FILE = "list_eval_partition.txt"
PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
DEFAULT_ATTRIBUTE = "Smiling"

_PARTS = ("train", "valid", "test")  # 0, 1 and 2 in the partition file


@final
class FaceTable(NamedTuple):
    """What the two lists say: one row for each face, in the order of the attribute list."""

    names: tuple[str, ...]
    """The attributes (A,)."""
    files: list[str]
    """The file names (N,)."""
    partition: npt.NDArray[np.uint8]
    """0 train, 1 validation, 2 test: (N,)."""
    attributes: npt.NDArray[np.uint8]
    """1 where the face has the attribute, else 0: (N, A)."""


def load_faces(request: Request) -> Dataset:
    """Return faces labelled with one attribute, as RGB of ``image_size`` (64) squared.

    The option of the request names the attribute (``Smiling``); class 1 has it. Any others may be
    private. The partition is the official one. The same request with other attributes gives the
    same faces in the same order.

    Raises:
        ConfigError: no such attribute, one that is the same on all training faces, a private one
            that is known from the task's labels, or the request does not fit the set.
        DataError: a list or an image is missing or not in its layout.
    """
    root = data_root(request.root)
    table = celeba_attributes(root)
    attribute = named("attribute", request.option or DEFAULT_ATTRIBUTE, table.names)
    private = choose_private(request.private, table.names, task=attribute)
    notices = _check_images(root / FOLDER / IMAGES, table.files)
    listings = {
        part: _listing(root, table, part, task=attribute, private=private)
        for part in _PARTS
        if part != "valid" or (table.partition == 1).any()
    }
    trained_N = listings["train"].labels
    if bool((trained_N == trained_N[0]).all()):
        raise ConfigError(
            f"the attribute {attribute} is the same on all training faces, so there is nothing to "
            "learn; choose another"
        )
    faces = dataset_of_files(
        f"faces:{attribute}",
        _classes(attribute),
        listings,
        request,
        private_classes={name: _classes(name) for name in private},
        notices=notices,
    )
    return replace(faces, augment="flip")  # they are aligned: a shift would undo that


def interface(request: Request) -> Interface:
    """Return what a net for the faces is made for, without looking at any."""
    size = request.image_size or DEFAULT_SIZE
    return Interface(
        input_shape=(3, size, size), classes=_classes(request.option or DEFAULT_ATTRIBUTE)
    )


def _classes(attribute: str) -> tuple[str, str]:
    return f"not {attribute}", attribute


def celeba_attributes(root: Path) -> FaceTable:
    """Read the lists of attributes and partitions in ``root``/celeba.

    Raises:
        DataError: a list is missing or not in its layout.
    """
    names, files, attributes = _read_attributes(root / FOLDER / ATTRIBUTES_FILE)
    parts = _read_partition(root / FOLDER / PARTITION_FILE)
    unlisted = [file for file in files if file not in parts]
    if unlisted:
        raise DataError(
            f"{root / FOLDER / PARTITION_FILE} lacks {len(unlisted):,} of the faces in "
            f"{ATTRIBUTES_FILE}, the first of them {unlisted[0]}; fetch both again from {PAGE}"
        )
    partition = np.fromiter((parts[file] for file in files), np.uint8, len(files))
    return FaceTable(names, files, partition, attributes)


def missing(root: Path) -> list[str]:
    """Return what of the layout is not in ``root``, in words; empty where all of it is."""
    return [
        f"{FOLDER}/{name}"
        for name in (IMAGES, ATTRIBUTES_FILE, PARTITION_FILE)
        if not (root / FOLDER / name).exists()
    ]


def _check_images(folder: Path, files: Sequence[str]) -> tuple[str, ...]:
    """Return a sentence about images that are not listed; refuse where a listed one is absent."""
    present = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
    absent = [file for file in files if file not in present]
    if absent:
        raise DataError(
            f"{folder} lacks {len(absent):,} of the {len(files):,} images that are listed, the "
            f"first of them {absent[0]}; fetch {IMAGES}.zip from {PAGE}"
        )
    unlisted = sorted(name for name in present - set(files) if not name.startswith("."))
    if not unlisted:
        return ()
    return (
        f"{folder}: {len(unlisted):,} files are not in {ATTRIBUTES_FILE} and not read: "
        f"{some(unlisted)}",
    )


def _listing(
    root: Path, table: FaceTable, part: str, *, task: str, private: Sequence[str]
) -> Listing:
    rows = np.flatnonzero(table.partition == _PARTS.index(part))
    if not len(rows):
        raise DataError(f"{root / FOLDER / PARTITION_FILE} has no {part} faces; fetch it again")
    labels_N, *hidden = (
        torch.from_numpy(table.attributes[rows, table.names.index(name)]).long()
        for name in (task, *private)
    )
    labels = PrivateLabels(torch.stack(hidden, dim=1), tuple(private)) if hidden else None
    return Listing([root / FOLDER / IMAGES / table.files[row] for row in rows], labels_N, labels)


def _read_attributes(path: Path) -> tuple[tuple[str, ...], list[str], npt.NDArray[np.uint8]]:
    lines = _lines(path)
    names = tuple(lines[1].split()) if len(lines) > 1 else ()
    rows = lines[2:]
    if not (names and rows and lines[0].strip() == str(len(rows))):
        raise DataError(
            f"{path}: expected a count, a line of names and as many rows as the count, found "
            f"{lines[0] if lines else 'nothing'!r}, {len(names)} names and {len(rows):,} rows"
        )
    files, flags = [], []
    for number, row in enumerate(rows, start=3):
        file, _, values = row.partition(" ")
        digits = values.replace("-1", "0").replace(" ", "")
        if len(digits) != len(names) or digits.strip("01"):
            raise DataError(
                f"{path}, line {number}: expected a file name and {len(names)} values 1 or -1, "
                f"found {row[:60]!r}"
            )
        files.append(file)
        flags.append(digits)
    bits = np.frombuffer("".join(flags).encode(), np.uint8) - ord("0")
    return names, files, bits.reshape(len(files), len(names))


def _read_partition(path: Path) -> dict[str, int]:
    parts = {}
    for number, line in enumerate(_lines(path), start=1):
        file, _, part = line.strip().rpartition(" ")
        if part not in ("0", "1", "2"):
            raise DataError(
                f"{path}, line {number}: expected a file name and 0, 1 or 2, found {line[:60]!r}"
            )
        parts[file.strip()] = int(part)
    return parts


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path} ({error}); fetch it from {PAGE}") from error
