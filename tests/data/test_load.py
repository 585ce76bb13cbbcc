"""Data sets by name, and the table that shows which of them are there."""

from pathlib import Path

import pytest
from PIL import Image

from eaves.data.load import DATASETS, dataset_table, load_dataset
from eaves.errors import ConfigError, DataError


def _farm(root: Path) -> None:
    for name in ("ant", "bee"):
        (root / "farm" / name).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (8, 8)).save(root / "farm" / name / f"{i}.png")


def test_a_name_with_an_option_reaches_its_loader(tmp_path: Path) -> None:
    _farm(tmp_path)
    data = load_dataset("images:farm", root=tmp_path, train_samples=3, image_size=24)
    assert (data.name, len(data.train), len(data.test)) == ("images:farm", 3, 2)
    assert data.train.input_shape == (3, 24, 24)


def test_an_unknown_name_lists_the_known_ones_closest_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown data set 'cifar'; choose from: cifar10, "):
        load_dataset("cifar", root=tmp_path)


@pytest.mark.parametrize("name", ["digits:7", "cifar10:", "images:", "faces:"])
def test_an_option_that_is_empty_or_where_none_belongs_is_refused(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"expected .*got '{name}'"):
        load_dataset(name, root=tmp_path)


@pytest.mark.parametrize("name", ["images", "faces"])
def test_what_cannot_be_downloaded_says_where_it_comes_from(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{name} cannot be downloaded .*source: "):
        load_dataset(name, root=tmp_path, download=True)


@pytest.mark.parametrize("name", ["cifar10", "images", "faces"])
def test_sets_on_disk_need_a_root(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EAVES_DATA", raising=False)
    with pytest.raises(DataError, match="no data root is given"):
        load_dataset(name, root=None)


def test_the_variable_names_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _farm(tmp_path)
    monkeypatch.setenv("EAVES_DATA", str(tmp_path))
    assert load_dataset("images:farm", root=None).classes == ("ant", "bee")


def test_more_training_samples_than_there_are_name_the_size() -> None:
    with pytest.raises(ConfigError, match="at most 1437 train_samples"):
        load_dataset("digits", root=None, train_samples=1438)


def test_the_table_says_what_is_found_and_what_is_missing(tmp_path: Path) -> None:
    _farm(tmp_path)
    rows = {row.name: row for row in dataset_table(tmp_path)}
    assert list(rows) == list(DATASETS)
    assert rows["digits"].state == "found"
    assert rows["cifar10"].state.startswith("missing: cifar-10-batches-bin/data_batch_1.bin")
    assert rows["images"].state.startswith("missing: two or more folders")
    assert "list_attr_celeba.txt" in rows["faces"].state
    assert {row.name: row.state for row in dataset_table(tmp_path / "farm")}["images"] == "found"


def test_without_a_root_the_table_says_how_to_give_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EAVES_DATA", raising=False)
    states = {row.name: row.state for row in dataset_table(None)}
    assert states.pop("digits") == "found"
    assert all("EAVES_DATA" in state for state in states.values())
