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


def test_hidden_and_empty_folders_and_other_files_are_left_out(tmp_path: Path) -> None:
    _images(tmp_path, {"ant": 3, "bee": 3}, suffix="JPG")
    _images(tmp_path / ".cache", {"cow": 3})
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "read.txt").write_text("hello")
    (tmp_path / "ant" / "._0.JPG").write_text("left by another system")
    data = load_images(Request(root=tmp_path, image_size=8))
    assert data.classes == ("ant", "bee")
    assert len(data.train) + len(data.test) == 6


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
    with pytest.raises(ConfigError, match=r"class '(ant|bee)' has a single image"):
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
