"""Recordings of motion as text: columns by name, and what is wrong by line and column."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eaves.data import trials
from eaves.data.trials import read_columns, read_genders
from eaves.errors import DataError

_GOOD = ",a,b,c\n0,0.5,-1e-3,3\n1,1.5,2,4\n"


def _file(folder: Path, text: str | bytes) -> Path:
    path = folder / "sub_1.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def _refused(folder: Path, text: str | bytes, columns: tuple[str, ...] = ("a", "c")) -> str:
    with pytest.raises(DataError) as caught:
        read_columns(_file(folder, text), columns, page="https://example.org")
    message = str(caught.value)
    assert "sub_1.csv" in message
    return message


@pytest.mark.parametrize(
    "text",
    [
        _GOOD,
        _GOOD.replace("\n", "\r\n"),
        "\ufeff" + _GOOD,
        _GOOD.replace(",a,b,c", '"","a","b","c"'),
        _GOOD.replace(",a", "Unnamed: 0,a"),
        _GOOD.rstrip("\n"),
        _GOOD.replace("\n1,", "\n\n1,"),
    ],
)
def test_columns_are_taken_by_name(tmp_path: Path, text: str) -> None:
    values = read_columns(_file(tmp_path, text), ("c", "a"), page="")
    assert values.dtype == np.float64
    assert values.tolist() == [[3.0, 0.5], [4.0, 1.5]]


def test_a_trial_of_one_row_is_a_row(tmp_path: Path) -> None:
    assert read_columns(_file(tmp_path, "a\n7\n"), ("a",), page="").tolist() == [[7.0]]


@pytest.mark.parametrize("wrong", ["nan", "inf", "-Infinity", "walk", "", "1.5.2", "0x10", '"2"'])
def test_what_is_no_finite_number_is_named_with_line_and_column(tmp_path: Path, wrong: str) -> None:
    message = _refused(tmp_path, f",a,b,c\n0,1,2,3\n\n1,1,2,{wrong}\n")
    assert "line 4, column c: expected a finite number, found" in message
    assert repr(wrong) in message
    assert "fetch the file again from https://example.org" in message


def test_a_value_that_is_not_asked_for_may_be_anything(tmp_path: Path) -> None:
    values = read_columns(_file(tmp_path, ",a,b,c\nx,1,nan,3\n"), ("a", "c"), page="")
    assert values.tolist() == [[1.0, 3.0]]


@pytest.mark.parametrize(("row", "found"), [("1,1,2", 3), ("1,1,2,3,4", 5), ("1,1,2,3,", 5)])
def test_a_row_of_another_length_is_named(tmp_path: Path, row: str, found: int) -> None:
    message = _refused(tmp_path, f",a,b,c\n0,1,2,3\n{row}\n")
    assert f"line 3: expected 4 values, found {found}" in message


def test_a_missing_and_a_doubled_column_are_named(tmp_path: Path) -> None:
    message = _refused(tmp_path, ",a,b\n0,1,2\n")
    assert "line 1, column c: expected it once, found it 0 times" in message
    message = _refused(tmp_path, "a,b,c,a\n0,1,2,3\n")
    assert "line 1, column a: expected it once, found it 2 times" in message


@pytest.mark.parametrize("text", ["", "\n", ",a,b,c", ",a,b,c\n", ",a,b,c\n\n \n"])
def test_a_file_without_rows_is_refused(tmp_path: Path, text: str) -> None:
    assert "line 2: expected a row, found none" in _refused(tmp_path, text)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "cannot read" in _refused(tmp_path, b",a,b,c\n0,1,\xff,3\n")
    with pytest.raises(DataError, match=r"cannot read .*gone.csv"):
        read_columns(tmp_path / "gone.csv", ("a",), page="")


def test_no_more_is_read_than_the_largest_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "LARGEST_BYTES", len(_GOOD))
    assert len(read_columns(_file(tmp_path, _GOOD), ("a",), page="")) == 2
    assert f"more than {len(_GOOD)} bytes" in _refused(tmp_path, _GOOD + "\n")


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_altered_bytes_give_finite_numbers_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    altered = bytearray(_GOOD.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(altered) - 1))
        altered[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    path = _file(tmp_path_factory.getbasetemp(), bytes(altered))
    try:
        values = read_columns(path, ("a", "c"), page="")
    except DataError:
        return  # what it says is tested above
    assert np.isfinite(values).all()
    assert values.shape[1] == 2


def test_genders_are_by_person_in_the_order_of_their_codes(tmp_path: Path) -> None:
    text = "code,weight,height,age,gender\n10,70,170,30,1\n2,60,165,25,0\n"
    found = read_genders(_file(tmp_path, text), page="")
    assert list(found.items()) == [(2, 0), (10, 1)]


@pytest.mark.parametrize(
    ("rows", "where"),
    [
        ("1,0\nx,1", "line 3, column code: expected a whole number, found 'x'"),
        ("-1,0", "line 2, column code: expected a whole number, found '-1'"),
        ("1,male", "line 2, column gender: expected 0 or 1, found 'male'"),
        ("1,0\n1,1", "line 3, column code: 1 has a row already"),
        ("1", "line 2: expected 2 values, found 1"),
    ],
)
def test_a_damaged_table_is_named_with_line_and_column(
    tmp_path: Path, rows: str, where: str
) -> None:
    with pytest.raises(DataError, match=where):
        read_genders(_file(tmp_path, f"code,gender\n{rows}\n"), page="")


def test_a_table_without_genders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 1, column gender: expected it once, found it 0"):
        read_genders(_file(tmp_path, "code,age\n1,30\n"), page="")
