"""JSON files that are damaged on a disk, bit by bit."""

import json
from typing import Any

import pytest

from eaves.runtime.sealed import sealed_json, unsealed_json

VALUES: dict[str, Any] = {"steps": 12, "loss": 0.25, "names": ["a", "\u00e9"], "none": None}


def test_what_is_sealed_is_read_and_is_json() -> None:
    sealed = sealed_json({**VALUES, "shape": (1, 2)})
    assert unsealed_json(sealed) == {**VALUES, "shape": [1, 2]}
    assert list(json.loads(sealed)) == [*VALUES, "shape", "checksum"]
    assert sealed_json(json.loads(sealed)) == sealed  # a checksum is not sealed again


def test_no_flipped_bit_changes_a_value_silently() -> None:
    sealed = sealed_json(VALUES)
    for bit in range(8 * len(sealed)):
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            found = unsealed_json(bytes(damaged))
        except ValueError:
            continue
        # Blanks between values; or the name of the checksum, and then all values are there.
        assert {name: found.get(name) for name in VALUES} == VALUES


def test_a_file_cut_anywhere_is_no_json() -> None:
    sealed = sealed_json(VALUES)
    for length in range(len(sealed)):
        with pytest.raises(ValueError, match=r"."):
            unsealed_json(sealed[:length])


def test_files_from_before_there_were_checksums_are_read() -> None:
    assert unsealed_json(json.dumps(VALUES).encode()) == VALUES
    assert unsealed_json(b"[1]") == [1]


@pytest.mark.parametrize("values", [{"x": float("nan")}, {"x": float("inf")}])
def test_what_is_no_figure_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        sealed_json(values)
