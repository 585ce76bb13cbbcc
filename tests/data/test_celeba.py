"""CelebA's lists and folders, made small: read and joined, and what can be wrong with them."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from eaves.data import celeba, files
from eaves.data.batches import batches
from eaves.data.source import Request
from eaves.errors import ConfigError, DataError

_NAMES = "Bald Male Smiling Young"
_N = 24


def _flags(i: int) -> list[bool]:
    """No face is bald; the others are the low bits of the number."""
    return [False, bool(i & 1), bool(i & 2), bool(i & 4)]


def _part(i: int) -> int:
    return 0 if i < 16 else 1 + i % 2


def _write(root: Path, *, images: int = _N, flags: Callable[[int], list[bool]] = _flags) -> Path:
    """Faces whose red channel is ten times their number."""
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    rows = [
        f"{i:06d}.jpg " + " ".join(" 1" if flag else "-1" for flag in flags(i)) for i in range(_N)
    ]
    listed = "\n".join([str(_N), _NAMES + " ", *rows, ""])
    (folder / "list_attr_celeba.txt").write_text(listed)
    # In another order than the attributes: the lists are joined by name.
    parts = "".join(f"{i:06d}.jpg {_part(i)}\n" for i in reversed(range(_N)))
    (folder / "list_eval_partition.txt").write_text(parts)
    for i in range(images):
        face = Image.new("RGB", (17, 21), (10 * i, 100, 100))
        face.save(folder / "img_align_celeba" / f"{i:06d}.jpg", quality=95)
    return folder


def test_the_lists_are_read_and_joined(tmp_path: Path) -> None:
    _write(tmp_path)
    table = celeba.celeba_attributes(tmp_path)
    assert table.names == ("Bald", "Male", "Smiling", "Young")
    assert table.files == [f"{i:06d}.jpg" for i in range(_N)]
    assert table.partition.tolist() == [_part(i) for i in range(_N)]
    assert table.attributes.tolist() == [[int(flag) for flag in _flags(i)] for i in range(_N)]
    assert table.attributes.dtype.name == "uint8"


def test_faces_come_in_the_official_partition_with_their_attribute(tmp_path: Path) -> None:
    _write(tmp_path)
    data = celeba.load_faces(Request(root=tmp_path, image_size=8))
    assert (data.name, data.classes) == ("faces:Smiling", ("not Smiling", "Smiling"))
    assert data.valid is not None
    for source, part in ((data.train, 0), (data.valid, 1), (data.test, 2)):
        batch = source.fetch(torch.arange(len(source)))
        numbers = [i for i in range(_N) if _part(i) == part]
        assert batch.labels.tolist() == [int(_flags(i)[2]) for i in numbers]
        reds = batch.inputs[:, 0].float().mean(dim=(1, 2))
        assert (reds - 10 * torch.tensor(numbers)).abs().max() < 5
    assert data.train.input_shape == (3, 8, 8)


def test_without_a_validation_part_there_is_none(tmp_path: Path) -> None:
    path = _write(tmp_path) / "list_eval_partition.txt"
    path.write_text(path.read_text().replace(" 1\n", " 0\n"))
    assert celeba.load_faces(Request(root=tmp_path)).valid is None


def test_two_attributes_name_the_same_faces_in_the_same_order(tmp_path: Path) -> None:
    _write(tmp_path)
    runs = []
    for attribute in ("Smiling", "Male"):
        request = Request(root=tmp_path, option=attribute, train_samples=9, image_size=8)
        faces = celeba.load_faces(request).train
        runs.append(list(batches(faces, batch_size=4, seed=1, epoch=2, augment="crop-flip")))
    for smiling, male in zip(*runs, strict=True):
        assert torch.equal(smiling.inputs, male.inputs)
    assert any(not torch.equal(a.labels, b.labels) for a, b in zip(*runs, strict=True))


def test_private_attributes_come_with_every_part_in_any_case(tmp_path: Path) -> None:
    _write(tmp_path)
    request = Request(root=tmp_path, image_size=8, private=("young", "MALE"))
    data = celeba.load_faces(request)
    assert data.private == ("Young", "Male")
    assert dict(data.private_classes) == {
        "Young": ("not Young", "Young"),
        "Male": ("not Male", "Male"),
    }
    assert data.valid is not None
    for source, part in ((data.train, 0), (data.valid, 1), (data.test, 2)):
        batch = source.fetch(torch.arange(len(source)))
        faces = [_flags(i) for i in range(_N) if _part(i) == part]
        assert batch.private is not None
        assert batch.private.names == ("Young", "Male")
        assert batch.private.labels_BA.tolist() == [[int(f[3]), int(f[1])] for f in faces]
        assert batch.labels.tolist() == [int(f[2]) for f in faces]


def test_private_attributes_do_not_have_a_face_decoded_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path)
    taken = []

    def read_image(path: Path, size: int) -> npt.NDArray[np.uint8]:
        taken.append(path.name)
        return original(path, size)

    original = files.read_image
    monkeypatch.setattr(files, "read_image", read_image)
    data = celeba.load_faces(Request(root=tmp_path, image_size=8, private=("Male", "Young")))
    for _ in range(2):
        for source in (data.train, data.valid, data.test):
            assert source is not None
            source.fetch(torch.arange(len(source)))
    assert sorted(taken) == [f"{i:06d}.jpg" for i in range(_N)]


@pytest.mark.parametrize(
    ("private", "message"),
    [
        (("Mole",), "unknown private attribute 'Mole'; choose from: Male, "),
        (("smiling",), "the private attribute is the task itself: Smiling"),
        (("Male", "male"), "the private attribute Male is given twice"),
        (("Male", "Bald"), "the private attribute Bald is the same on all 16 training examples"),
    ],
)
def test_a_private_attribute_that_cannot_be_hidden_is_refused(
    tmp_path: Path, private: tuple[str, ...], message: str
) -> None:
    _write(tmp_path)
    with pytest.raises(ConfigError, match=message):
        celeba.load_faces(Request(root=tmp_path, private=private))


@pytest.mark.parametrize("inverted", [False, True])
def test_a_private_attribute_that_equals_the_task_on_training_faces_is_refused(
    tmp_path: Path, inverted: bool
) -> None:
    def flags(i: int) -> list[bool]:
        bald, male, smiling, young = _flags(i)
        return [bald, smiling != inverted if _part(i) == 0 else male, smiling, young]

    _write(tmp_path, flags=flags)
    with pytest.raises(ConfigError, match="Male follows from the task's label on all 16 training"):
        celeba.load_faces(Request(root=tmp_path, private=("Male",)))
    young = celeba.load_faces(Request(root=tmp_path, option="Young", private=("Male",)))
    assert young.private == ("Male",)


def test_an_attribute_is_found_in_any_case_and_else_the_closest_is_offered(tmp_path: Path) -> None:
    _write(tmp_path)
    assert celeba.load_faces(Request(root=tmp_path, option="mALE")).name == "faces:Male"
    with pytest.raises(ConfigError, match="unknown attribute 'Smiley'; choose from: Smiling, "):
        celeba.load_faces(Request(root=tmp_path, option="Smiley"))


def test_a_constant_attribute_is_refused(tmp_path: Path) -> None:
    _write(tmp_path)
    with pytest.raises(ConfigError, match="the attribute Bald is the same on all training faces"):
        celeba.load_faces(Request(root=tmp_path, option="Bald"))


def test_absent_images_are_counted_and_the_first_named(tmp_path: Path) -> None:
    _write(tmp_path, images=20)
    with pytest.raises(DataError, match=r"lacks 4 of the 24 images .* 000020.jpg"):
        celeba.load_faces(Request(root=tmp_path))


def test_a_name_that_leaves_the_folder_counts_as_absent(tmp_path: Path) -> None:
    folder = _write(tmp_path)
    (folder / "secret.jpg").write_bytes(b"x")
    for name in ("list_attr_celeba.txt", "list_eval_partition.txt"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace("000003.jpg", "../secret.jpg"))
    with pytest.raises(DataError, match=r"lacks 1 of the 24 images .* \.\./secret.jpg"):
        celeba.load_faces(Request(root=tmp_path))


def test_what_is_missing_is_listed(tmp_path: Path) -> None:
    assert len(celeba.missing(tmp_path)) == 3
    folder = _write(tmp_path)
    assert celeba.missing(tmp_path) == []
    (folder / "list_attr_celeba.txt").unlink()
    assert celeba.missing(tmp_path) == ["celeba/list_attr_celeba.txt"]
    with pytest.raises(DataError, match=r"cannot read .*list_attr_celeba.txt"):
        celeba.load_faces(Request(root=tmp_path))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("24\n", "25\n", r"as many rows as the count, found '25', 4 names and 24 rows"),
        ("000005.jpg -1", "000005.jpg  2", r"line 8: expected a file name and 4 values 1 or -1"),
        ("000005.jpg -1", "000005.jpg ", r"line 8: .*4 values"),
        ("000005.jpg -1", "000005.jpg -1 1", r"line 8: .*4 values"),
        ("000005.jpg -1", "000005.jpg \u0661", r"line 8: .*4 values"),
    ],
)
def test_an_attribute_list_in_another_layout_is_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = _write(tmp_path) / "list_attr_celeba.txt"
    path.write_text(path.read_text().replace(old, new, 1), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        celeba.celeba_attributes(tmp_path)


@pytest.mark.parametrize("data", [b"", b"1\n", b"1\nA B\n", b"\xff\xfe\x00", b"\n\n\n\n"])
def test_an_attribute_list_of_nothing_is_refused(tmp_path: Path, data: bytes) -> None:
    (_write(tmp_path) / "list_attr_celeba.txt").write_bytes(data)
    with pytest.raises(DataError, match=r"list_attr_celeba.txt"):
        celeba.celeba_attributes(tmp_path)


def test_a_partition_list_in_another_layout_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path) / "list_eval_partition.txt"
    whole = path.read_text()
    path.write_text(whole.replace("000005.jpg 0", "000005.jpg 3"))
    with pytest.raises(DataError, match=r"line 19: expected a file name and 0, 1 or 2"):
        celeba.celeba_attributes(tmp_path)
    path.write_text(whole.replace("000005.jpg 0\n", ""))
    with pytest.raises(DataError, match=r"lacks 1 of the faces .* 000005.jpg"):
        celeba.celeba_attributes(tmp_path)
    path.write_text(whole.replace(" 2\n", " 1\n"))
    with pytest.raises(DataError, match="has no test faces"):
        celeba.load_faces(Request(root=tmp_path))


def test_the_real_lists_have_forty_attributes() -> None:
    root = os.environ.get("EAVES_DATA", "")
    if not root or celeba.missing(Path(root)):
        pytest.skip("needs CelebA in the folder that EAVES_DATA names")
    table = celeba.celeba_attributes(Path(root))
    assert len(table.names) == 40
    assert 0.4 < table.attributes[:, table.names.index("Smiling")].mean() < 0.6


def test_images_that_are_not_listed_are_counted(tmp_path: Path) -> None:
    folder = _write(tmp_path) / "img_align_celeba"
    (folder / "999999.jpg").write_bytes(b"a face that no list knows")
    data = celeba.load_faces(Request(root=tmp_path, image_size=8))
    assert len(data.notices) == 1
    assert "1 files are not in list_attr_celeba.txt and not read: '999999.jpg'" in data.notices[0]
