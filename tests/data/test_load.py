"""Data sets by name, and the table that shows which of them are there."""

from pathlib import Path

import pytest
from PIL import Image

from eaves.data.load import DATASETS, dataset_table, interface_of, load_dataset
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


@pytest.mark.parametrize(
    "name",
    ["digits:", "cifar10:7", "images:", "faces:", "spoken-digits:", "spoken-words:", "motion:"],
)
def test_an_option_that_is_empty_or_where_none_belongs_is_refused(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"expected .*got '{name}'"):
        load_dataset(name, root=tmp_path)


def test_a_task_of_the_digits_is_known_without_looking_at_them() -> None:
    assert interface_of("digits").classes == tuple("0123456789")
    assert interface_of("digits:parity").classes == ("even", "odd")
    assert interface_of("digits:high").input_shape == (1, 8, 8)
    with pytest.raises(ConfigError, match="unknown task of the digits '7'"):
        interface_of("digits:7")


def test_a_set_without_attributes_says_so_and_which_have_some(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"cifar10 has no .* have: digits, images, faces, spoken-"
    ):
        load_dataset("cifar10", root=tmp_path, private=("Male",))
    _farm(tmp_path)
    with pytest.raises(ConfigError, match=r"no .*farm/attributes.csv.* take the faces or digits"):
        load_dataset("images:farm", root=tmp_path, private=("Male",))


def test_private_attributes_reach_the_loader_and_are_none_by_default(tmp_path: Path) -> None:
    _farm(tmp_path)
    rows = [f"{name}/{i}.png,{i % 2}" for name in ("ant", "bee") for i in range(5)]
    (tmp_path / "farm" / "attributes.csv").write_text("\n".join(["path,tail", *rows]))
    data = load_dataset("images:farm", root=tmp_path, private=("tail",))
    assert (data.private, dict(data.private_classes)) == (("tail",), {"tail": ("0", "1")})
    assert load_dataset("digits:high", root=None, private=("parity",)).private == ("parity",)
    for name in ("images:farm", "digits:high", "digits"):
        assert load_dataset(name, root=tmp_path).private == ()


def test_private_attributes_are_no_part_of_what_the_cloud_knows() -> None:
    plain = load_dataset("digits:parity", root=None)
    assert load_dataset("digits:parity", root=None, private=("high",)).interface == plain.interface


@pytest.mark.parametrize("name", ["images", "faces"])
def test_what_cannot_be_downloaded_says_where_it_comes_from(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{name} cannot be downloaded .*source: "):
        load_dataset(name, root=tmp_path, download=True)


@pytest.mark.parametrize(
    "name", ["cifar10", "images", "faces", "spoken-digits", "spoken-words", "motion"]
)
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
    assert rows["spoken-digits"].state == "missing: free-spoken-digit-dataset/recordings"
    assert rows["spoken-words"].state.startswith("missing: speech_commands")
    assert rows["motion"].state.startswith("missing: motionsense/A_DeviceMotion_data, ")
    for folder in ("free-spoken-digit-dataset/recordings", "speech_commands"):
        (tmp_path / folder).mkdir(parents=True)
    found = {row.name for row in dataset_table(tmp_path) if row.state == "found"}
    assert {"spoken-digits", "spoken-words"} <= found
    assert {row.name: row.state for row in dataset_table(tmp_path / "farm")}["images"] == "found"


def test_the_table_says_what_may_be_private() -> None:
    described = {row.name: row.description for row in dataset_table(None)}
    assert "private: parity or high" in described["digits"]
    assert "private: columns of attributes.csv" in described["images"]
    assert "private: any attributes but the task's" in described["faces"]
    assert "private: digit or speaker, where" in described["spoken-digits"]
    assert "private: columns of attributes.csv" in described["spoken-words"]
    assert "private: activity, gender, subject, where not" in described["motion"]
    assert "private" not in described["cifar10"]


def test_without_a_root_the_table_says_how_to_give_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EAVES_DATA", raising=False)
    states = {row.name: row.state for row in dataset_table(None)}
    assert states.pop("digits") == "found"
    assert all("EAVES_DATA" in state for state in states.values())
