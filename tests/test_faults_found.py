"""The table of faults that were found names tests that exist."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "faults_found.md"
_TEST = re.compile(
    r"(?P<path>(?:tests|src)/[\w/]+\.py)|::(?P<name>test_\w+)|\b(?P<bare>test_\w+)\b"
)


def rows() -> list[list[str]]:
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if "|" in line
    ]
    return [row for row in cells if row[0] != "case" and not row[0].startswith("---")]


def named() -> list[tuple[str, str]]:
    """Return (file, function) of every test in the table; '' for a whole file."""
    found: list[tuple[str, str]] = []
    for row in rows():
        path = ""
        for match in _TEST.finditer(row[2]):
            if match["path"]:
                path = match["path"]
                found.append((path, ""))
            elif path:
                found.append((path, match["name"] or match["bare"]))
    return list(dict.fromkeys(found))


@cache
def source(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def test_every_row_has_its_five_cells_and_a_test() -> None:
    assert len(rows()) > 150
    for row in rows():
        assert len(row) == 5, row
        assert _TEST.search(row[2]) or "same" in row[2], row


@pytest.mark.parametrize(("path", "name"), named())
def test_what_the_table_names_exists(path: str, name: str) -> None:
    assert re.search(rf"def {name}\(", source(path)) if name else (ROOT / path).is_file()
