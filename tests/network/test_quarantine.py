"""Quarantine: an edge is set aside after so many refusals, outlasts a restart, and is released."""

import stat
from pathlib import Path

import pytest

from eaves.errors import AccessError, ConfigError
from eaves.network.quarantine import Quarantine


def test_after_so_many_refusals_an_edge_is_set_aside(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "q", 3)
    assert [quarantine.strike("bad", "damaged") for _ in range(3)] == [False, False, True]
    with pytest.raises(AccessError, match=r"bad is in quarantine.*3 refused.*--release bad"):
        quarantine.expect_free("bad")
    quarantine.expect_free("good")
    again = Quarantine(tmp_path / "q", 3)  # after a restart, and in another process of a group
    with pytest.raises(AccessError):
        again.expect_free("bad")
    again.release("bad")
    quarantine.expect_free("bad")  # while it runs


def test_without_strikes_none_is_set_aside(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path, 0)
    assert not any(quarantine.strike("bad", "damaged") for _ in range(100))
    quarantine.expect_free("bad")


@pytest.mark.parametrize("edge", ["a.b-c_d", "..", "a/../../b", "CN=x, O=y", "\N{SNOWMAN}"])
def test_a_name_is_a_file_in_the_folder_whatever_it_is(tmp_path: Path, edge: str) -> None:
    quarantine = Quarantine(tmp_path / "q", 1)
    quarantine.set_aside(edge, "because")
    assert [path.parent for path in tmp_path.rglob("*.json")] == [tmp_path / "q"]
    assert list(quarantine.edges()) == [edge]
    assert "because" in quarantine.edges()[edge]
    file = next((tmp_path / "q").iterdir())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_damaged_file_still_counts(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path, 1)
    quarantine.set_aside("bad", "because")
    next(tmp_path.iterdir()).write_bytes(b"{")
    with pytest.raises(AccessError, match="can no longer be read"):
        quarantine.expect_free("bad")


def test_releasing_who_is_free_names_those_who_are_not(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path, 1)
    with pytest.raises(ConfigError, match="good is not in quarantine; in it: none is"):
        quarantine.release("good")
    quarantine.set_aside("bad", "because")
    with pytest.raises(ConfigError, match="in it: bad"):
        quarantine.release("good")
