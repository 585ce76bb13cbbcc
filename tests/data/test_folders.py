"""A folder for each class, divided into train and test or not."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from eaves.data.folders import load_images, missing
from eaves.data.source import Request, Source
from eaves.errors import ConfigError, DataError

_COLOURS = {"ant": (250, 0, 0), "bee": (0, 250, 0), "cow": (0, 0, 250)}


def _images(folder: Path, counts: dict[str, int], *, suffix: str = "png") -> None:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (10, 8), _COLOURS[name]).save(folder / name / f"{i}.{suffix}")


def _labels(source: Source) -> list[int]:
    """The labels; fails where an image has not the colour of its class."""
    batch = source.fetch(torch.arange(len(source)))
    assert torch.equal(batch.inputs.amax(dim=(2, 3)).argmax(dim=1), batch.labels)
    return batch.labels.tolist()


def test_divided_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    _images(tmp_path / "train", {"cow": 2, "ant": 3, "bee": 1})
    _images(tmp_path / "test", {"ant": 1, "cow": 2})
    data = load_images(Request(root=tmp_path))
    assert (data.name, data.classes, data.augment) == ("images", ("ant", "bee", "cow"), "crop-flip")
    assert data.train.input_shape == (3, 64, 64)
    assert _labels(data.train) == [0, 0, 0, 1, 2, 2]
    assert _labels(data.test) == [0, 2, 2]
    assert data.valid is None


def test_a_part_to_validate_on_is_taken_where_it_is(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        _images(tmp_path / part, {"ant": 1, "bee": 1})
    data = load_images(Request(root=tmp_path, image_size=16))
    assert data.valid is not None
    assert data.valid.input_shape == (3, 16, 16)


def test_an_undivided_folder_gets_a_fixed_split(tmp_path: Path) -> None:
    _images(tmp_path / "farm", {"ant": 10, "bee": 20})
    request = Request(root=tmp_path, option="farm", image_size=8)
    data, again = load_images(request), load_images(request)
    assert data.name == "images:farm"
    assert (_labels(data.train).count(0), _labels(data.train).count(1)) == (8, 16)
    assert (_labels(data.test).count(0), _labels(data.test).count(1)) == (2, 4)
    assert _labels(data.train) == _labels(again.train)


def test_training_samples_are_drawn_from_every_class(tmp_path: Path) -> None:
    _images(tmp_path, {"ant": 40, "bee": 40})
    data = load_images(Request(root=tmp_path, train_samples=20, image_size=8))
    assert len(data.train) == 20
    assert 4 <= _labels(data.train).count(0) <= 16
    assert len(data.test) == 16


def test_hidden_folders_and_files_are_not_looked_at(tmp_path: Path) -> None:
    _images(tmp_path, {"ant": 3, "bee": 3}, suffix="JPG")
    _images(tmp_path / ".cache", {"cow": 3})
    (tmp_path / "ant" / "._0.JPG").write_text("left by another system")
    data = load_images(Request(root=tmp_path, image_size=8))
    assert data.classes == ("ant", "bee")
    assert len(data.train) + len(data.test) == 6
    assert data.notices == ()


# Nothing is left out without a word


@pytest.mark.parametrize("part", ["", "train/"])
@pytest.mark.parametrize(
    ("inside", "found"),
    [
        (["0.xyz", "1.XYZ", "2.xyz"], r"found 3 files \(3 .xyz\), the first of them '0.xyz'"),
        (["image"], r"found 1 file \(1 without a suffix\), the first of them 'image'"),
        (["more/0.png"], "found 1 folder inside, the first of them 'more'"),
        (["deep.png/0.png"], "found 1 folder inside, the first of them 'deep.png'"),
        ([], "found nothing"),
    ],
)
def test_a_class_folder_without_a_readable_file_is_refused(
    tmp_path: Path, part: str, inside: list[str], found: str
) -> None:
    _images(tmp_path / part, {"ant": 5, "bee": 5})
    if part:
        _images(tmp_path / "test", {"ant": 1, "bee": 1})
    (tmp_path / part / "c").mkdir()
    for name in inside:
        (tmp_path / part / "c" / name).parent.mkdir(exist_ok=True)
        (tmp_path / part / "c" / name).write_bytes(b"what it is does not matter")
    with pytest.raises(DataError, match=rf"{part}c: expected files that end in .*\.tif.*{found}"):
        load_images(Request(root=tmp_path, image_size=8))


@pytest.mark.parametrize(
    "suffix", ["png", "JPG", "jpeg", "bmp", "webp", "gif", "tif", "TIFF", "ppm"]
)
def test_every_suffix_that_is_named_is_read(tmp_path: Path, suffix: str) -> None:
    _images(tmp_path, {"ant": 5, "bee": 5}, suffix="png")
    _images(tmp_path, {"cow": 5}, suffix=suffix)
    data = load_images(Request(root=tmp_path, image_size=8))
    assert data.classes == ("ant", "bee", "cow")
    assert sorted(_labels(data.train)) == [0] * 4 + [1] * 4 + [2] * 4


def test_what_is_not_read_beside_images_is_named_and_counted(tmp_path: Path) -> None:
    _images(tmp_path, {"ant": 5, "bee": 5})
    (tmp_path / "0.png").write_bytes(b"in no class")
    (tmp_path / "README.md").write_text("of no interest")
    for name in ("a.heic", "b.heic", "notes.txt"):
        (tmp_path / "ant" / name).write_bytes(b"?")
    (tmp_path / "bee" / "more").mkdir()
    loose, ant, bee = load_images(Request(root=tmp_path, image_size=8)).notices
    assert loose.startswith(f"{tmp_path}: not read, because they lie in no class folder: 1 file")
    assert "README" not in loose
    assert ant.endswith("ant: not read: 3 files (2 .heic, 1 .txt), the first of them 'a.heic'")
    assert bee.endswith("bee: not read: 1 folder inside, the first of them 'more'")


def test_folders_beside_the_parts_are_named(tmp_path: Path) -> None:
    for part in ("train", "test", "val"):
        _images(tmp_path / part, {"ant": 1, "bee": 1})
    (notice,) = load_images(Request(root=tmp_path, image_size=8)).notices
    assert "beside train, valid, test: 1 folder inside, the first of them 'val'" in notice


def test_links_are_followed_and_one_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    _images(tmp_path / "store", {"ant": 5, "bee": 5})
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "ant").symlink_to(tmp_path / "store" / "ant")
    _images(tmp_path / "set", {"cow": 5})
    (tmp_path / "set" / "cow" / "5.png").symlink_to(tmp_path / "store" / "bee" / "0.png")
    request = Request(root=tmp_path, option="set", image_size=8)
    data = load_images(request)
    assert data.classes == ("ant", "cow")
    assert len(data.train) + len(data.test) == 11
    for place in ("cow/6.png", "dog"):
        link = tmp_path / "set" / place
        link.symlink_to(tmp_path / "gone")
        with pytest.raises(DataError, match=rf"{place} is a link to '.*gone', which is not there"):
            load_images(request)
        link.unlink()


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
def test_every_class_of_two_or_more_images_is_in_both_parts(tmp_path: Path, count: int) -> None:
    for i in range(30):
        (tmp_path / f"{i:02}").mkdir()
        for j in range(count):
            Image.new("RGB", (4, 4)).save(tmp_path / f"{i:02}" / f"{j}.png")
    data = load_images(Request(root=tmp_path, image_size=4))
    for source in (data.train, data.test):
        labels = source.fetch(torch.arange(len(source))).labels
        assert torch.bincount(labels, minlength=30).min() > 0
    assert data.notices == ()


def test_classes_that_a_part_lacks_are_named(tmp_path: Path) -> None:
    _images(tmp_path, {"ant": 6, "bee": 1, "cow": 1})
    (notice,) = load_images(Request(root=tmp_path, image_size=8)).notices
    assert notice.startswith("2 of 3 classes have no test example: 'bee', 'cow'; ")
    notices = load_images(Request(root=tmp_path, image_size=8, train_samples=1)).notices
    assert "2 of 3 classes have no train example among the train_samples: " in notices[0]


def test_classes_that_a_given_test_part_lacks_are_named(tmp_path: Path) -> None:
    _images(tmp_path / "train", {"ant": 2, "bee": 2, "cow": 2})
    _images(tmp_path / "test", {"ant": 2})
    (tmp_path / "test" / "bee").mkdir()
    (notice,) = load_images(Request(root=tmp_path, image_size=8)).notices
    assert notice.startswith("2 of 3 classes have no test example: 'bee', 'cow'; ")


def test_names_from_disks_bring_no_control_characters(tmp_path: Path) -> None:
    _images(tmp_path, {"ant": 6, "bee": 6})
    (tmp_path / "ant" / "a\x1b[31m.txt").write_text("red")
    (notice,) = load_images(Request(root=tmp_path, image_size=8)).notices
    assert "\x1b" not in notice


def test_fewer_than_two_classes_are_refused(tmp_path: Path) -> None:
    assert missing(tmp_path)
    with pytest.raises(ConfigError, match=r"two or more folders of images .* found none"):
        load_images(Request(root=tmp_path))
    _images(tmp_path, {"ant": 3})
    with pytest.raises(ConfigError, match="found ant"):
        load_images(Request(root=tmp_path))
    _images(tmp_path, {"bee": 3})
    assert missing(tmp_path) == []


def test_half_a_division_is_refused(tmp_path: Path) -> None:
    _images(tmp_path / "train", {"ant": 1, "bee": 1})
    with pytest.raises(DataError, match=r"expected both train/ and test/, found only \['train'\]"):
        load_images(Request(root=tmp_path))


def test_a_test_part_with_other_classes_or_none_is_refused(tmp_path: Path) -> None:
    _images(tmp_path / "train", {"ant": 1, "bee": 1})
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match="images of the classes ant, bee, found none"):
        load_images(Request(root=tmp_path))
    _images(tmp_path / "test", {"cow": 1})
    with pytest.raises(DataError, match="found cow"):
        load_images(Request(root=tmp_path))


def test_a_class_that_cannot_be_divided_is_refused(tmp_path: Path) -> None:
    _images(tmp_path, {"ant": 1, "bee": 1})
    with pytest.raises(ConfigError, match=r"each class has a single image, such as 'ant'"):
        load_images(Request(root=tmp_path))


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    _images(tmp_path, {"ant": 3, "bee": 3})
    for path in tmp_path.glob("bee/*"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cannot read the image .*bee/\d.png"):
        load_images(Request(root=tmp_path))


@pytest.mark.parametrize("option", ["..", "a/../../b", "/etc"])
def test_the_folder_lies_under_the_root(tmp_path: Path, option: str) -> None:
    with pytest.raises(ConfigError, match="expected a folder under the data root"):
        load_images(Request(root=tmp_path, option=option))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder .*barn"):
        load_images(Request(root=tmp_path, option="barn"))
