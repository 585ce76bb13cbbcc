"""Recordings of motion as text: one CSV for each trial, and the table of the people in them.

Of a file no more is read than :data:`LARGEST_BYTES`. What is wrong in it is named with its line,
of which the header is the first, and its column.

Dimension key:  T moments   C channels
"""

import io
from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import NamedTuple, Never, final

import numpy as np
import numpy.typing as npt

from eaves.errors import DataError

LARGEST_BYTES = 1 << 26

Values = npt.NDArray[np.float64]
"""Numbers by moment and channel, (T, C)."""


@final
class Text(NamedTuple):
    """A CSV as text: where it is from, its header, and what stands below that."""

    path: Path
    names: list[str]
    body: str
    page: str
    """Where another copy is published."""

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the number and the fields of each line that is not blank.

        Raises:
            DataError: a line has more or fewer fields than the header.
        """
        for number, line in enumerate(self.body.split("\n"), start=2):
            fields = [field.strip() for field in line.split(",")]
            if fields != [""]:
                if len(fields) != len(self.names):
                    found = f"expected {len(self.names)} values, found {len(fields)}"
                    self.refuse(number, None, found)
                yield number, fields

    def places(self, columns: Sequence[str]) -> list[int]:
        """Return where the columns stand, which are known by their names.

        Raises:
            DataError: one is not there, or more than once.
        """
        for column in columns:
            if (count := self.names.count(column)) != 1:
                header = ",".join(self.names)[:80]
                found = f"expected it once, found it {count} times in {header!r}"
                self.refuse(1, column, found)
        return [self.names.index(column) for column in columns]

    def refuse(self, line: int, column: str | None, found: str) -> Never:
        """Raise a ``DataError`` that says where it is, what was expected, and what to do."""
        where = f"{self.path}, line {line}" + (f", column {column}" if column else "")
        raise DataError(f"{where}: {found}; repair it, or fetch the file again from {self.page}")


def read_text(path: Path, *, page: str) -> Text:
    """Return a CSV (UTF-8, commas, no quotes but in the header) that has rows.

    Raises:
        DataError: it cannot be read, is too large, or has no row below its header.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
        if len(data) > LARGEST_BYTES:
            raise DataError(
                f"{path} has more than {LARGEST_BYTES:,} bytes; divide it into several trials"
            )
        whole = data.decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path} ({error}); fetch it from {page}") from error
    header, _, body = whole.partition("\n")
    text = Text(path, [name.strip(' "') for name in header.split(",")], body, page)
    if not body.strip():
        text.refuse(2, None, "expected a row, found none")
    return text


def read_columns(path: Path, columns: Sequence[str], *, page: str) -> Values:
    """Return ``columns`` of a trial, in this order, float64 (T, C).

    Raises:
        DataError: the file or a column is missing, or a value is not a finite number.
    """
    text = read_text(path, page=page)
    places = text.places(columns)
    try:
        values_TC = np.loadtxt(
            io.StringIO(text.body), delimiter=",", comments=None, usecols=places, ndmin=2
        )
    except ValueError as error:
        _refuse_row(text, columns, str(error))
    commas = len(values_TC) * (len(text.names) - 1)  # numpy does not mind a field too many
    if not np.isfinite(values_TC).all() or text.body.count(",") != commas:
        _refuse_row(text, columns, "a row that is not in the layout")
    return values_TC


def read_genders(path: Path, *, page: str) -> dict[int, int]:
    """Return the gender of each person by their code, in the order of the codes: 0 or 1.

    Raises:
        DataError: the table or one of its columns ``code`` and ``gender`` is missing, a value is
            no such number, or a person has two rows.
    """
    text = read_text(path, page=page)
    code_at, gender_at = text.places(("code", "gender"))
    genders: dict[int, int] = {}
    for line, fields in text.rows():
        code, gender = fields[code_at], fields[gender_at]
        if not (code.isdecimal() and code.isascii() and len(code) < 10):
            text.refuse(line, "code", f"expected a whole number, found {code[:20]!r}")
        if gender not in ("0", "1"):
            text.refuse(line, "gender", f"expected 0 or 1, found {gender[:20]!r}")
        if int(code) in genders:
            text.refuse(line, "code", f"{code} has a row already")
        genders[int(code)] = int(gender)
    return dict(sorted(genders.items()))


def _refuse_row(text: Text, columns: Sequence[str], why: str) -> Never:
    """Find the first value that is not a finite number, and raise a ``DataError`` that names it."""
    places = dict(zip(columns, text.places(columns), strict=True))
    for line, fields in text.rows():
        for column, place in places.items():
            if not _is_number(fields[place]):
                found = f"expected a finite number, found {fields[place][:20]!r}"
                text.refuse(line, column, found)
    text.refuse(2, None, why)  # what numpy alone refuses


def _is_number(field: str) -> bool:
    try:
        return isfinite(float(field))
    except ValueError:
        return False
