"""Files of inputs: what is read, and what is refused before memory is taken."""

import io
from pathlib import Path

import numpy as np
import pytest

from eaves.errors import ConfigError, DataError
from eaves.light.inputs import read_inputs

SHAPE = (1, 4, 4)


def npy(array: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)  # type: ignore[arg-type]
    return buffer.getvalue()


def written(folder: Path, content: bytes) -> Path:
    path = folder / "inputs.npy"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("order", ["C", "F"])
def test_inputs_are_read_as_a_map(tmp_path: Path, order: str) -> None:
    array = np.arange(48, dtype=np.uint8).reshape(3, *SHAPE)
    found = read_inputs(written(tmp_path, npy(np.asarray(array, order=order))), SHAPE)  # type: ignore[call-overload]
    assert isinstance(found, np.memmap)
    assert np.array_equal(found, array)
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 0


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 1, 4, 5), np.uint8),
        np.zeros((1, 4, 4), np.uint8),
        np.zeros((3, 1, 4, 4), np.float32),
        np.zeros((3, 1, 4, 4), np.int8),
        np.uint8(3),
    ],
)
def test_other_inputs_than_the_net_takes_are_refused(tmp_path: Path, array: object) -> None:
    with pytest.raises(ConfigError, match=r"expected uint8 inputs of shape \(N, 1, 4, 4\)"):
        read_inputs(written(tmp_path, npy(array)), SHAPE)


def test_a_file_that_is_not_there_is_a_mistake_in_the_command(tmp_path: Path) -> None:
    for path in (tmp_path / "none.npy", tmp_path):
        with pytest.raises(ConfigError, match="cannot read the inputs"):
            read_inputs(path, SHAPE)


WHOLE = npy(np.zeros((3, *SHAPE), np.uint8))
# As many as 10^18 bytes, says the header.
HUGE = WHOLE.replace(b"(3, 1, 4, 4), }" + 11 * b" ", b"(3" + 15 * b"0" + b",1,4,4),}")
assert len(HUGE) == len(WHOLE)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"not an array",
        WHOLE[:20],
        WHOLE[:-1],
        HUGE,
        WHOLE[:6] + b"\x09\x09" + WHOLE[8:],
        npy(np.array([{"a": 1}], dtype=object)),
        b"PK\x03\x04 an npz file",
    ],
    ids=["empty", "magic", "text", "header", "cut", "huge", "version", "pickle", "npz"],
)
def test_what_is_no_whole_file_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError):
        read_inputs(written(tmp_path, content), SHAPE)
