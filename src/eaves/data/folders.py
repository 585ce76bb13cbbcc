"""Any images, in a folder for each class."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

import torch

from eaves.data import attributes
from eaves.data.files import Listing, dataset_of_files
from eaves.data.source import Dataset, Request, data_root, stratified_split
from eaves.errors import ConfigError, DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")

ClassFiles = Mapping[str, list[Path]]
"""The files of each class, classes and files in the order of their names."""


def load_images(request: Request) -> Dataset:
    """Return the images of a folder for each class, as RGB of ``image_size`` (64) squared.

    The option of the request names a folder under the data root; without one it is the root. There
    lie ``train/CLASS/*`` and ``test/CLASS/*`` (and perhaps ``valid/CLASS/*``), or ``CLASS/*``, of
    which a fixed fifth of every class is held out for the test. Classes are numbered by the order
    of their names. Hidden folders and those without images are no classes. The columns of an
    ``attributes.csv`` in the folder (see ``eaves.data.attributes``) may be private.

    Raises:
        ConfigError: there are fewer than two classes, a private attribute is unknown or known from
            the task's labels, or the request does not fit the set.
        DataError: a part is missing or lacks images; also by ``fetch``: an image cannot be read.
    """
    folder = folder_below(data_root(request.root), request.option, name="images")
    parts = [part for part in ("train", "valid", "test") if (folder / part).is_dir()]
    if "train" not in parts and "test" not in parts:
        found = class_files(folder)
        classes = _classes(found, folder)
        listings = _divided(_listing(found, classes, folder), classes)
    elif "train" in parts and "test" in parts:
        files = {part: class_files(folder / part) for part in parts}
        classes = _classes(files["train"], folder / "train")
        listings = {part: _listing(files[part], classes, folder / part) for part in parts}
    else:
        raise DataError(f"{folder}: expected both train/ and test/, found only {parts}")
    private_classes: dict[str, tuple[str, ...]] = {}
    if request.private:
        listings, private_classes = attributes.with_private(listings, folder, request.private)
    name = f"images:{request.option}" if request.option else "images"
    return dataset_of_files(name, classes, listings, request, private_classes=private_classes)


def class_files(folder: Path, suffixes: tuple[str, ...] = SUFFIXES) -> ClassFiles:
    """Return the files of each class folder in ``folder``: those with one of ``suffixes``.

    Hidden folders and files are left out, and folders without such files.

    Raises:
        DataError: a folder cannot be listed.
    """
    classes = sorted(entry.name for entry in entries(folder) if entry.is_dir())
    files = {
        name: sorted(
            Path(entry.path)
            for entry in entries(folder / name)
            if entry.name.lower().endswith(suffixes)
        )
        for name in classes
    }
    return {name: paths for name, paths in files.items() if paths}


def missing(root: Path) -> list[str]:
    """Return what ``root`` lacks to be read as ``images``, in words; empty where nothing."""
    divided = (root / "train").is_dir() and (root / "test").is_dir()
    found = class_files(root / "train" if divided else root)
    return [] if len(found) >= 2 else ["two or more folders of images, one for each class"]


def folder_below(root: Path, option: str, *, name: str) -> Path:
    """Return the folder ``option`` of the data set ``name`` below ``root``.

    Raises:
        ConfigError: the folder is not below the root.
        DataError: there is no such folder.
    """
    if PurePath(option).is_absolute() or ".." in PurePath(option).parts:
        raise ConfigError(f"expected a folder under the data root after '{name}:', got {option!r}")
    if not (root / option).is_dir():
        raise DataError(f"there is no folder {root / option}; name one under the data root {root}")
    return root / option


def entries(folder: Path) -> list["os.DirEntry[str]"]:
    """Return what lies in ``folder`` and is not hidden; raises ``DataError`` where it cannot."""
    try:
        return [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"cannot list the folder {folder}: {error.strerror}") from error


def _classes(found: ClassFiles, folder: Path) -> tuple[str, ...]:
    if len(found) < 2:
        raise ConfigError(
            f"expected two or more folders of images ({', '.join(SUFFIXES)}) in {folder}, one for "
            f"each class, found {', '.join(found) or 'none'}"
        )
    return tuple(found)


def _listing(found: ClassFiles, classes: Sequence[str], folder: Path) -> Listing:
    stray = [name for name in found if name not in classes]
    if stray or not found:
        raise DataError(
            f"{folder}: expected images of the classes {', '.join(classes)}, "
            f"found {', '.join(stray) or 'none'}"
        )
    paths = [path for name in found for path in found[name]]
    labels = [classes.index(name) for name in found for _ in found[name]]
    return Listing(paths, torch.tensor(labels))


def _divided(listing: Listing, classes: Sequence[str]) -> dict[str, Listing]:
    train_N, test_N = stratified_split(listing.labels)
    untrained = torch.bincount(listing.labels[train_N], minlength=len(classes)) == 0
    if untrained.any():
        raise ConfigError(
            f"the class {classes[int(untrained.int().argmax())]!r} has a single image; add more, "
            "or make train/ and test/ yourself"
        )
    return {"train": listing.take(train_N), "test": listing.take(test_N)}
