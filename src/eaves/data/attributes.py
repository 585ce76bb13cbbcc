"""Attributes of your own images, in a table beside them: ``attributes.csv``.

::

    path,gender,glasses
    ant/0.png,0,1
    ant/1.png,1,1

A path begins at the folder of the table; the value of an attribute is a whole number, one for each
of its classes. Rows of images that are not there are passed over, and counted in a notice.

Dimension key:  N images   A attributes
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import torch

from eaves.core.roles import PrivateLabels
from eaves.data.files import Listing
from eaves.data.private import choose_private
from eaves.data.source import some
from eaves.errors import ConfigError, DataError

FILE = "attributes.csv"

_WHOLE = re.compile(r"-?[0-9]{1,9}")  # not 1.0, not 1e3, and within int64

Rows = Mapping[str, Sequence[int]]
"""The values of each image (A,), by its path."""


def with_private(
    listings: Mapping[str, Listing], folder: Path, wanted: Sequence[str]
) -> tuple[dict[str, Listing], dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Return the listings with private labels from the table in ``folder``, and their classes.

    The classes of an attribute are the values that it has on the images of all parts, in order. The
    third part of what is returned are sentences about rows of the table that are of no image.

    Raises:
        ConfigError: there is no table, or an attribute is not in it or given twice.
        DataError: the table is damaged, or lacks an image.
    """
    file = folder / FILE
    names, rows = read_table(file)
    chosen = choose_private(wanted, names)
    paths = [path for listing in listings.values() for path in listing.paths]
    wanted_paths = [path.relative_to(folder).as_posix() for path in paths]
    _refuse_unlisted(file, rows, wanted_paths)
    given_NA = torch.tensor([rows[path] for path in wanted_paths])
    found = [torch.unique(given_NA[:, names.index(name)], return_inverse=True) for name in chosen]
    labels_NA = torch.stack([classes_N for _, classes_N in found], dim=1)
    parts = torch.split(labels_NA, [len(listing.paths) for listing in listings.values()])
    labelled = {
        part: listing._replace(private=PrivateLabels(labels, chosen))
        for (part, listing), labels in zip(listings.items(), parts, strict=True)
    }
    values = [tuple(map(str, values.tolist())) for values, _ in found]
    notices = _unused(file, rows, wanted_paths)
    return labelled, dict(zip(chosen, values, strict=True)), notices


def read_table(file: Path) -> tuple[tuple[str, ...], Rows]:
    """Return the names (A,) and rows of ``attributes.csv`` (UTF-8, with commas).

    Raises:
        ConfigError: there is no such file.
        DataError: it cannot be read, or a line is not in the layout above.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:  # spreadsheets write a BOM
            # Blank lines may stand anywhere; the numbers are those of the file all the same.
            reader = csv.reader(text, strict=True)
            lines = (
                (reader.line_num, [word.strip() for word in row]) for row in reader if _full(row)
            )
            names = _names(file, *next(lines, (1, [""])))
            return names, _rows(file, lines, len(names))
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no {file}, so these images have no attributes that could be private: write "
            "one ('path' and names, then a row for each image), or take the faces or digits"
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {file} ({error}); save it as CSV in UTF-8") from error


def _names(file: Path, line: int, header: Sequence[str]) -> tuple[str, ...]:
    first, *names = header
    if first != "path" or not names or len({name.lower() for name in names} - {""}) != len(names):
        raise DataError(
            f"{file}, line {line}: expected 'path' and the names of attributes, each once, with "
            f"commas between them, found {','.join(header)[:60]!r}"
        )
    return tuple(names)


def _rows(file: Path, lines: Iterator[tuple[int, list[str]]], count: int) -> Rows:
    rows: dict[str, list[int]] = {}
    for line, (written, *values) in lines:
        path = PurePosixPath(written).as_posix()
        if len(values) != count or not all(map(_WHOLE.fullmatch, values)):
            raise DataError(
                f"{file}, line {line}: expected a path and {count} whole numbers, "
                f"found {','.join([written, *values])[:60]!r}"
            )
        if path in rows:
            raise DataError(f"{file}, line {line}: {path} has a row already; remove one")
        rows[path] = [int(value) for value in values]
    return rows


def _full(row: Sequence[str]) -> bool:
    """Return whether a line is more than blanks."""
    return len(row) > 1 or bool(row and row[0].strip())


def _refuse_unlisted(file: Path, rows: Rows, paths: Sequence[str]) -> None:
    unlisted = [path for path in paths if path not in rows]
    if unlisted:
        others = f" and of {len(unlisted) - 1:,} others" if len(unlisted) > 1 else ""
        raise DataError(
            f"{file} has no row for the image {unlisted[0]}{others}, of {len(paths):,}; add a row "
            "for each (paths begin at the folder of the table, with /, and case matters)"
        )


def _unused(file: Path, rows: Rows, paths: Sequence[str]) -> tuple[str, ...]:
    used = set(paths)
    unused = [path for path in rows if path not in used]
    if not unused:
        return ()
    return (f"{file}: {len(unused):,} of {len(rows):,} rows are of no image: {some(unused)}",)
