import json
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eaves.core.state import State
from eaves.errors import StateError, StorageError
from eaves.runtime.checkpoint import (
    discard_checkpoint,
    load_checkpoint,
    read_tensors,
    save_checkpoint,
    tensors_to_bytes,
)
from eaves.runtime.sealed import sealed_json, unsealed_json

FilesEndAt = Callable[[int], AbstractContextManager[None]]
INDEX = "checkpoint.json"


def states(value: float) -> dict[str, State]:
    """Return two states that only ``value`` tells apart from others."""
    return {
        "edge": State({"weights/a.weight": torch.full((3, 2), value)}, {"steps": int(value)}),
        "cloud": State({"weights/b": torch.full((400,), value)}, {"steps": int(value)}),
    }


def loaded_value(folder: Path) -> float:
    """Return the ``value`` of the states in ``folder``, all of which must agree."""
    found = load_checkpoint(folder)
    assert found is not None
    tensors = [t for state in found[0].values() for t in state.tensors.values()]
    values = {float(x) for t in tensors for x in t.flatten()} | {float(found[1]["value"])}
    assert len(values) == 1, f"halves of different checkpoints: {values}"
    return values.pop()


@settings(deadline=None, max_examples=25)
@given(
    shape=st.lists(st.integers(0, 3), max_size=4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool]),
    facts=st.dictionaries(st.text(), st.integers() | st.text(), max_size=3),
)
def test_what_is_saved_is_loaded(
    shape: list[int], dtype: torch.dtype, facts: dict[str, object]
) -> None:
    tensor = (torch.rand(shape) * 9).to(dtype)
    with tempfile.TemporaryDirectory() as name:
        state = State({"weights/x.y": tensor, "shared": tensor}, facts)
        save_checkpoint(Path(name), 7, {"edge": state, "none": State()}, facts)
        found = load_checkpoint(Path(name))
    assert found is not None
    (edge, none), found_facts = (found[0]["edge"], found[0]["none"]), found[1]
    assert found_facts == facts == edge.facts
    assert none == State()
    assert edge.tensors["weights/x.y"].dtype == dtype
    assert torch.equal(edge.tensors["weights/x.y"], tensor)
    assert torch.equal(edge.tensors["shared"], tensor)


def test_strided_tensors_keep_their_values() -> None:
    x = torch.arange(48.0).reshape(2, 3, 2, 4)
    for strided in (x.to(memory_format=torch.channels_last), x[:, :, :, ::2], x.transpose(0, 1)):
        content = tensors_to_bytes({"x": strided})
        assert len(content) < 400  # the values of the view, not of all its storage


def test_nothing_saved_is_no_checkpoint(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    assert load_checkpoint(tmp_path / "nowhere") is None


def test_only_the_files_of_the_last_checkpoint_are_kept(tmp_path: Path) -> None:
    for value in (1.0, 2.0, 3.0):
        save_checkpoint(tmp_path, int(value), states(value), {"value": value})
        assert loaded_value(tmp_path) == value
        assert len([p for p in tmp_path.iterdir() if p.name != "begun"]) == 3


@pytest.mark.parametrize("steps", [2, 1])
def test_a_crash_before_the_index_leaves_the_checkpoint_before(
    tmp_path: Path, files_end_at: FilesEndAt, steps: int
) -> None:
    """Also where the next phase of a run has a checkpoint after as many steps as the last."""
    save_checkpoint(tmp_path, 1, states(1.0), {"value": 1.0})
    with files_end_at(10_000), pytest.raises(StorageError, match="what was there before is intact"):
        # The tensors fit; the index does not.
        save_checkpoint(tmp_path, steps, states(2.0), {"value": 2.0, "long": "x" * 10_000})
    assert loaded_value(tmp_path) == 1.0
    save_checkpoint(tmp_path, steps, states(3.0), {"value": 3.0})
    assert loaded_value(tmp_path) == 3.0
    assert len([p for p in tmp_path.iterdir() if p.name != "begun"]) == 3


def test_a_disk_full_at_the_first_file_leaves_the_checkpoint_before(
    tmp_path: Path, files_end_at: FilesEndAt
) -> None:
    save_checkpoint(tmp_path, 1, states(1.0), {"value": 1.0})
    with files_end_at(10), pytest.raises(StorageError, match="cannot write"):
        save_checkpoint(tmp_path, 2, states(2.0), {"value": 2.0})
    assert loaded_value(tmp_path) == 1.0


def test_a_crash_while_a_draft_is_written_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, states(1.0), {"value": 1.0})
    (tmp_path / ".cloud-2.safetensors.draft").write_bytes(b"half")
    (tmp_path / f".{INDEX}.draft").write_bytes(b'{"format": 1, "st')
    assert loaded_value(tmp_path) == 1.0
    save_checkpoint(tmp_path, 2, states(2.0), {"value": 2.0})
    assert loaded_value(tmp_path) == 2.0
    assert len([p for p in tmp_path.iterdir() if p.name != "begun"]) == 3


@pytest.mark.parametrize("name", ["edge", "cloud"])
@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_a_flipped_bit_is_found_and_the_file_named(tmp_path: Path, name: str, place: float) -> None:
    save_checkpoint(tmp_path, 1, states(1.0), {"value": 1.0})
    path = next(tmp_path.glob(f"{name}-*.safetensors"))
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(StateError, match=f"{path.name} is damaged: expected SHA-256"):
        load_checkpoint(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, states(1.0), {"value": 1.0})
    path = next(tmp_path.glob("cloud-*.safetensors"))
    path.unlink()
    with pytest.raises(StateError, match=f"cannot read .*{path.name}: No such file"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_index_is_named(tmp_path: Path, share: float) -> None:
    save_checkpoint(tmp_path, 1, states(1.0), {"value": 1.0})
    content = (tmp_path / INDEX).read_bytes()
    (tmp_path / INDEX).write_bytes(content[: int(share * len(content))])
    with pytest.raises(StateError, match=r"checkpoint\.json is damaged"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "index",
    [
        [],
        3,
        {},
        {"states": 3, "facts": {}},
        {"states": {"edge": {}}, "facts": {}},
        {"states": {"edge": {"file": 3, "sha256": "", "facts": {}}}, "facts": {}},
        {"states": {}},
    ],
)
def test_an_index_of_another_kind_is_named(tmp_path: Path, index: object) -> None:
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(StateError, match=r"checkpoint\.json is damaged"):
        load_checkpoint(tmp_path)


def test_an_index_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_bytes(b"\xff\x00\xfe")
    with pytest.raises(StateError, match=r"checkpoint\.json is damaged"):
        load_checkpoint(tmp_path)


def test_a_file_of_another_format_is_refused_although_its_digest_fits(tmp_path: Path) -> None:
    import hashlib

    (tmp_path / "x").write_bytes(b"PK not tensors")
    digest = hashlib.sha256(b"PK not tensors").hexdigest()
    with pytest.raises(StateError, match="is no safetensors file"):
        read_tensors(tmp_path / "x", digest)


def test_tensors_are_written_the_same_every_time() -> None:
    tensors: dict[str, Tensor] = {"b": torch.ones(2), "a": torch.zeros(3)}
    backwards = dict(reversed(tensors.items()))
    assert tensors_to_bytes(tensors) == tensors_to_bytes(backwards)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (99, "expected a checkpoint of format 1, got 99: a newer Eaves has written it: install"),
        ("1", "got '1': it is damaged"),
        (True, "got True: it is damaged"),
        (None, "got None: it is damaged"),
        (1.5, "got 1.5: it is damaged"),
    ],
)
def test_a_checkpoint_of_an_unknown_format_is_refused(
    tmp_path: Path, written: object, message: str
) -> None:
    save_checkpoint(tmp_path, 1, states(1), {"value": 1})
    index = unsealed_json((tmp_path / INDEX).read_bytes())
    (tmp_path / INDEX).write_bytes(sealed_json(index | {"format": written}))
    with pytest.raises(StateError, match=message):
        load_checkpoint(tmp_path)
    del index["format"]
    (tmp_path / INDEX).write_bytes(sealed_json(index))
    with pytest.raises(StateError, match="is damaged"):
        load_checkpoint(tmp_path)


def test_an_index_that_the_disk_has_lost_is_an_error_and_no_new_beginning(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 3, {"edge": State({"w": torch.ones(2)}, {})}, {})
    index = (tmp_path / "checkpoint.json").read_bytes()
    for content in (None, b"", b"\0" * len(index), index[:-9], index.replace(b"3", b"4", 1)):
        (tmp_path / "checkpoint.json").unlink(missing_ok=True)
        if content is not None:
            (tmp_path / "checkpoint.json").write_bytes(content)
        with pytest.raises(StateError, match=r"checkpoint\.json is (gone|damaged)"):
            load_checkpoint(tmp_path)
    discard_checkpoint(tmp_path)
    assert load_checkpoint(tmp_path) is None


def test_weights_of_a_first_checkpoint_that_a_crash_broke_off_are_no_checkpoint(
    tmp_path: Path,
) -> None:
    (tmp_path / "edge-0123.safetensors").write_bytes(b"some")
    assert load_checkpoint(tmp_path) is None


def test_nobody_else_can_read_a_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 3, {"edge": State({"w": torch.ones(2)}, {})}, {})
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
