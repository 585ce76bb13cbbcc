"""Any images, in a folder for each class."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple, final

import torch

from eaves.data import attributes
from eaves.data.files import Listing, dataset_of_files
from eaves.data.source import Dataset, Request, data_root, stratified_split
from eaves.errors import ConfigError, DataError

SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm"),
)
PARTS = ("train", "valid", "test")

ClassFiles = Mapping[str, list[Path]]
"""The files of each class, classes and files in the order of their names."""


@final
class Found(NamedTuple):
    """The class folders in a folder, and sentences about what is not read of them."""

    files: ClassFiles
    notices: tuple[str, ...] = ()


def load_images(request: Request) -> Dataset:
    """Return the images of a folder for each class, as RGB of ``image_size`` (64) squared.

    The option of the request names a folder under the data root; without one it is the root. There
    lie ``train/CLASS/*`` and ``test/CLASS/*`` (and perhaps ``valid/CLASS/*``), or ``CLASS/*``, of
    which a fixed fifth of every class is held out for the test, and at least one image of two or
    more. Classes are numbered by the order of their names. Folders and files that begin with a dot
    are not looked at. The columns of an ``attributes.csv`` in the folder (see
    ``eaves.data.attributes``) may be private. ``notices`` of the data set name what else lies there
    and is not read.

    Raises:
        ConfigError: there are fewer than two classes, no class can be divided, a private attribute
            is unknown or known from the task's labels, or the request does not fit the set.
        DataError: a part is missing or lacks images, or a folder holds none that can be read; also
            by ``fetch``: an image cannot be read.
    """
    folder = folder_below(data_root(request.root), request.option, name="images")
    parts = [part for part in PARTS if (folder / part).is_dir()]
    if "train" not in parts and "test" not in parts:
        found = find_classes(folder, is_class=lambda name: name != attributes.FILE)
        classes, notices = _classes(found.files, folder), found.notices
        listings = _divided(_listing(found.files, classes, folder), classes)
    elif "train" in parts and "test" in parts:
        by_part = {p: find_classes(folder / p, empty_too=p != "train") for p in parts}
        classes = _classes(by_part["train"].files, folder / "train")
        listings = {p: _listing(by_part[p].files, classes, folder / p) for p in parts}
        notices = (*_beside(folder), *(n for p in parts for n in by_part[p].notices))
    else:
        raise DataError(f"{folder}: expected both train/ and test/, found only {parts}")
    private_classes: dict[str, tuple[str, ...]] = {}
    if request.private:
        listings, private_classes, unused = attributes.with_private(
            listings, folder, request.private
        )
        notices += unused
    name = f"images:{request.option}" if request.option else "images"
    return dataset_of_files(
        name, classes, listings, request, private_classes=private_classes, notices=notices
    )


def find_classes(
    folder: Path,
    suffixes: tuple[str, ...] = SUFFIXES,
    *,
    is_class: Callable[[str], bool] = lambda name: True,
    empty_too: bool = False,
) -> Found:
    """Return the files of each class folder in ``folder``: those with one of ``suffixes``.

    Case does not matter in a suffix. What begins with a dot is not looked at, nor are folders that
    are no class by ``is_class``. A link is followed. With ``empty_too`` an empty folder is a class
    without files.

    Raises:
        DataError: a folder cannot be listed, is empty, or holds no such file; a link leads nowhere.
    """
    inside = sorted(entries(folder), key=lambda entry: entry.name)
    for entry in inside:
        _refuse_dangling(entry)
    names = [entry.name for entry in inside if entry.is_dir() and is_class(entry.name)]
    files: dict[str, list[Path]] = {}
    notices = [*_loose(folder, [e for e in inside if not e.is_dir()], suffixes)]
    for name in names:
        kept, rest = _sorted_out(folder / name, suffixes)
        if not kept and (rest or not empty_too):
            raise _nothing_in(folder / name, rest, suffixes)
        if kept:
            files[name] = kept
        if rest:
            notices.append(f"{folder / name}: not read: {_kinds(rest)}")
    return Found(files, tuple(notices))


def missing(root: Path) -> list[str]:
    """Return what ``root`` lacks to be read as ``images``, in words; empty where nothing."""
    divided = (root / "train").is_dir() and (root / "test").is_dir()
    folder = root / "train" if divided else root
    usable = [
        entry.name
        for entry in entries(folder)
        if entry.is_dir() and any(_is_read(e, SUFFIXES) for e in entries(folder / entry.name))
    ]
    return [] if len(usable) >= 2 else ["two or more folders of images, one for each class"]


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


def unread(folder: Path, rest: Iterable["os.DirEntry[str]"]) -> tuple[str, ...]:
    """Return a sentence about entries of ``folder`` that are not read; none where there are none.

    Raises:
        DataError: one is a link that leads nowhere.
    """
    rest = sorted(rest, key=lambda entry: entry.name)
    for entry in rest:
        _refuse_dangling(entry)
    return (f"{folder}: not read: {_kinds(rest)}",) if rest else ()


def _is_read(entry: "os.DirEntry[str]", suffixes: tuple[str, ...]) -> bool:
    return entry.name.lower().endswith(suffixes) and entry.is_file()


def _sorted_out(
    folder: Path, suffixes: tuple[str, ...]
) -> tuple[list[Path], list["os.DirEntry[str]"]]:
    """Return the files with ``suffixes``, and everything else."""
    kept, rest = [], []
    for entry in sorted(entries(folder), key=lambda entry: entry.name):
        _refuse_dangling(entry)
        if _is_read(entry, suffixes):
            kept.append(Path(entry.path))
        else:
            rest.append(entry)
    return kept, rest


def _refuse_dangling(entry: "os.DirEntry[str]") -> None:
    if entry.is_symlink() and not os.path.exists(entry.path):
        raise DataError(
            f"{entry.path} is a link to {os.readlink(entry.path)!r}, which is not there; remove "
            "it, or put there what it leads to"
        )


def _kinds(rest: Sequence["os.DirEntry[str]"]) -> str:
    """Return how many entries there are of each kind, and the first.

    As in ``3 files (2 .txt, 1 without a suffix), the first of them notes.txt; 1 folder ('old')``.
    """
    files = [entry.name for entry in rest if not entry.is_dir()]
    folders = [entry.name for entry in rest if entry.is_dir()]
    parts = []
    if files:
        counted = Counter(PurePath(name).suffix.lower() or "without a suffix" for name in files)
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in counted.most_common(5))
        parts.append(
            f"{len(files):,} file{'s' * (len(files) > 1)} ({kinds}), the first of them {files[0]!r}"
        )
    if folders:
        parts.append(
            f"{len(folders):,} folder{'s' * (len(folders) > 1)} inside, the first of them "
            f"{folders[0]!r}"
        )
    return "; ".join(parts)


def _nothing_in(
    folder: Path, rest: Sequence["os.DirEntry[str]"], suffixes: tuple[str, ...]
) -> DataError:
    return DataError(
        f"{folder}: expected files that end in {', '.join(suffixes)}, one folder for each class, "
        f"found {_kinds(rest) or 'nothing'}; convert them, move them there, or take this folder "
        "away (a name that begins with a dot hides it)"
    )


def _loose(
    folder: Path, files: Sequence["os.DirEntry[str]"], suffixes: tuple[str, ...]
) -> Iterable[str]:
    """Yield a sentence about files beside the class folders that would be read inside of one."""
    loose = [entry for entry in files if _is_read(entry, suffixes)]
    if loose:
        yield f"{folder}: not read, because they lie in no class folder: {_kinds(loose)}"


def _beside(folder: Path) -> Iterable[str]:
    """Yield a sentence about folders beside those of the parts, and about images there."""
    inside = sorted(entries(folder), key=lambda entry: entry.name)
    others = [entry for entry in inside if entry.is_dir() and entry.name not in PARTS]
    loose = [entry for entry in inside if _is_read(entry, SUFFIXES)]
    if others or loose:
        yield f"{folder}: not read, beside {', '.join(PARTS)}: {_kinds([*others, *loose])}"


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
    if not len(test_N):
        raise ConfigError(
            f"each class has a single image, such as {classes[0]!r}: none is left to test on; add "
            "more, or make train/ and test/ yourself"
        )
    return {"train": listing.take(train_N), "test": listing.take(test_N)}
