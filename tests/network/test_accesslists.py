"""Lists that change while they are watched; what is in them is tested with the gate."""

import json
import os
from pathlib import Path

import pytest

from eaves.errors import StateError
from eaves.network.accesslists import Watched, read_revoked, read_tokens, stamp_of


def test_a_file_is_read_again_when_it_has_changed_and_only_then(tmp_path: Path) -> None:
    path, read = tmp_path / "list", []

    def taken(text: str) -> str:
        read.append(text)
        return text

    path.write_text("one")
    watched = Watched(path, taken, 0)
    assert [watched.value() for _ in range(3)] == ["one"] * 3
    assert read == ["one"]
    before = stamp_of(path)
    path.write_text("two")
    os.utime(path, ns=(before[0], before[0]))  # as fast, or as clever, as one can be
    assert watched.value() == "two"
    path.unlink()
    with pytest.raises(StateError, match="not there or not readable"):
        watched.value()
    path.write_text("three")
    assert watched.value() == "three"


@pytest.mark.parametrize("entry", [{}, {"sha256": "x"}, {"sha256": "A" * 64}, 3, {"sha256": None}])
def test_no_entry_is_passed_over(entry: object) -> None:
    good = {"sha256": "0" * 64, "name": "edge-1", "revoked": None}
    for read, kind in ((read_revoked, "revoked"), (read_tokens, "tokens")):
        assert len(read(json.dumps({kind: [good]}))) == 1
        with pytest.raises((ValueError, TypeError, KeyError)):
            read(json.dumps({kind: [good, entry]}))
