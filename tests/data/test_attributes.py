"""The table of attributes beside one's own images: read, joined by path, and what can be wrong."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from eaves.core.roles import Batch
from eaves.data.attributes import read_table
from eaves.data.batches import batches
from eaves.data.folders import load_images
from eaves.data.source import Dataset, Request
from eaves.errors import ConfigError, DataError

_CLASSES = ("ant", "bee")


def _paths(parts: tuple[str, ...], count: int) -> list[str]:
    return [f"{part}{name}/{i}.png" for part in parts for name in _CLASSES for i in range(count)]


def _age(path: str) -> int:
    return 10 * (int(path[-5]) % 3)


def _write(folder: Path, *, parts: tuple[str, ...] = ("",), count: int = 10) -> Path:
    """Images whose red channel is 20 times the number in their name, and their table."""
    paths = _paths(parts, count)
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (20 * int(path[-5]), 0, 0)).save(folder / path)
    rows = [f"{path},{int(path[-5]) % 2},{_age(path)}" for path in reversed(paths)]
    table = folder / "attributes.csv"
    table.write_text("\n".join(["path,Tail,age", *rows]) + "\n", encoding="utf-8")
    return table


def _load(folder: Path, *private: str) -> Dataset:
    return load_images(Request(root=folder, image_size=8, private=private))


def _check(batch: Batch) -> None:
    """Fails where private labels are not those of the image."""
    numbers = (batch.inputs[:, 0].float().mean(dim=(1, 2)) / 20).round().long()
    assert batch.private is not None
    assert batch.private.names == ("age", "Tail")
    assert torch.equal(batch.private.of("age"), numbers % 3)
    assert torch.equal(batch.private.of("Tail"), numbers % 2)


@pytest.mark.parametrize("parts", [("",), ("train/", "test/"), ("train/", "valid/", "test/")])
def test_every_image_of_every_part_gets_its_row(tmp_path: Path, parts: tuple[str, ...]) -> None:
    _write(tmp_path, parts=parts)
    data = _load(tmp_path, "age", "tail")
    assert dict(data.private_classes) == {"age": ("0", "10", "20"), "Tail": ("0", "1")}
    assert (data.valid is None) == ("valid/" not in parts)
    for source in (data.train, data.test, data.valid or data.test):
        _check(source.fetch(torch.arange(len(source))))


def test_batches_are_those_of_the_same_images_without_a_table(tmp_path: Path) -> None:
    _write(tmp_path)
    runs = [
        list(batches(data.train, batch_size=4, seed=5, epoch=0, augment="none"))
        for data in (_load(tmp_path), _load(tmp_path, "age", "Tail"))
    ]
    for plain, batch in zip(*runs, strict=True):
        assert plain.private is None
        assert torch.equal(plain.inputs, batch.inputs)
        assert torch.equal(plain.labels, batch.labels)
        _check(batch)


def test_what_spreadsheets_write_is_read(tmp_path: Path) -> None:
    table = tmp_path / "attributes.csv"
    text = 'path , age\r\n\r\n"./ant/a, b.png", -1\r\nbee//c.png,7\r\n\r\n'
    table.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_table(table) == (("age",), {"ant/a, b.png": [-1], "bee/c.png": [7]})


def test_values_are_classes_by_their_order_and_rows_of_other_images_are_none(
    tmp_path: Path,
) -> None:
    table = _write(tmp_path)
    table.write_text(table.read_text().replace(",10\n", ",-5\n") + "cow/0.png,0,99\n")
    data = _load(tmp_path, "age")
    assert data.notices == (f"{table}: 1 of 21 rows are of no image: 'cow/0.png'",)
    assert dict(data.private_classes) == {"age": ("-5", "0", "20")}
    batch = data.test.fetch(torch.arange(len(data.test)))
    numbers = (batch.inputs[:, 0].float().mean(dim=(1, 2)) / 20).round().long()
    assert batch.private is not None
    assert batch.private.of("age").tolist() == [[1, 0, 2][int(number) % 3] for number in numbers]


@pytest.mark.parametrize(
    ("private", "message"),
    [
        (("tale",), "unknown private attribute 'tale'; choose from: Tail, age"),
        (("age", "AGE"), "age is given twice"),
        (("path",), "unknown private attribute 'path'"),
    ],
)
def test_attributes_that_are_no_columns_are_refused(
    tmp_path: Path, private: tuple[str, ...], message: str
) -> None:
    _write(tmp_path)
    with pytest.raises(ConfigError, match=message):
        _load(tmp_path, *private)


def test_a_column_that_follows_the_classes_or_never_changes_is_refused(tmp_path: Path) -> None:
    table = _write(tmp_path)
    rows = [f"{path},{int('bee' in path)},3" for path in _paths(("",), 10)]
    table.write_text("\n".join(["path,legs,eyes", *rows]))
    with pytest.raises(ConfigError, match="legs follows from the task's label on all 16 training"):
        _load(tmp_path, "legs")
    with pytest.raises(ConfigError, match="eyes is the same on all 16 training"):
        _load(tmp_path, "eyes")


def test_without_a_table_there_is_nothing_private(tmp_path: Path) -> None:
    _write(tmp_path).unlink()
    assert _load(tmp_path).private == ()
    with pytest.raises(ConfigError, match=r"there is no .*attributes.csv, .*the faces or digits"):
        _load(tmp_path, "age")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("path,Tail,age", "path,Tail", r"line 2: expected a path and 1 whole numbers"),
        ("path,Tail,age", "path;Tail;age", r"line 1: expected 'path' .* found 'path;Tail;age'"),
        ("path,Tail,age", "file,Tail,age", r"line 1: expected 'path' .*found 'file,Tail,age'"),
        ("path,Tail,age", "path", r"line 1: expected 'path' and the names"),
        ("path,Tail,age", "path,Age,age", r"line 1: .*each once"),
        ("path,Tail,age", "path,,age", r"line 1: .*each once"),
        ("path,Tail,age", '"path,Tail,age', r"cannot read .*save it as CSV"),
        ("bee/9.png,1,0", "bee/9.png,1", r"line 2: .*2 whole numbers, found 'bee/9.png,1'"),
        ("bee/8.png,0,20", "bee/8.png,0,1.5", r"line 3: .*found 'bee/8.png,0,1.5'"),
        ("bee/8.png,0,20", "bee/8.png,yes,20", r"line 3: .*found 'bee/8.png,yes,20'"),
        ("bee/8.png,0,20", "bee/8.png,0,\u0661", r"line 3: expected a path and 2 whole numbers"),
        ("bee/8.png,0,20", "bee/8.png,0,1_0", r"line 3: "),
        ("bee/8.png,0,20", "bee/8.png,0," + "9" * 30, r"line 3: "),
        ("bee/8.png,0,20", "\nbee/8.png,0,x", r"line 4: "),
        ("bee/8.png,0,20", "./bee/9.png,0,20", r"line 3: bee/9.png has a row already"),
        (
            "bee/8.png,0,20\n",
            "",
            r"attributes.csv has no row for the image bee/8.png, of 20; add a row",
        ),
    ],
)
def test_a_table_in_another_layout_is_refused_with_its_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    table = _write(tmp_path)
    table.write_text(table.read_text().replace(old, new, 1), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        _load(tmp_path, "age")


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xff\xfe\x00", b"path,age\n\x00\xe9,1\n"])
def test_bytes_that_are_no_table_are_refused(tmp_path: Path, data: bytes) -> None:
    table = _write(tmp_path)
    table.write_bytes(data)
    with pytest.raises(DataError, match=r"attributes.csv"):
        _load(tmp_path, "age")


def test_a_folder_of_that_name_is_no_table(tmp_path: Path) -> None:
    _write(tmp_path).unlink()
    (tmp_path / "attributes.csv").mkdir()
    with pytest.raises(DataError, match=r"cannot read .*attributes.csv"):
        _load(tmp_path, "age")
