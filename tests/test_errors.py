"""The exception tree is what its docstring draws, and unknown names list the likeliest first."""

import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaves import errors
from eaves.errors import ConfigError, CutError, EavesError, MisfitError, closest_first, unknown

TREE = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, BaseException)]


def _drawn() -> dict[str, str]:
    """Return each class in the drawing with the one it hangs from."""
    parents: dict[str, str] = {}
    path = [(-1, "Exception")]
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"    ([│├└─ ]*)(\w+(?:Error|Exceeded))\b", line):
            depth = len(match[1])
            path = [(d, name) for d, name in path if d < depth]
            parents[match[2]] = path[-1][1]
            path.append((depth, match[2]))
    return parents


def test_the_tree_is_the_one_drawn() -> None:
    assert {c.__name__: c.__base__.__name__ for c in TREE if c.__base__} == _drawn()
    assert len(TREE) == 11


def test_a_wrong_choice_is_also_a_value_error_and_bad_luck_is_not() -> None:
    assert [c for c in TREE if issubclass(c, ValueError)] == [ConfigError, CutError, MisfitError]


@pytest.mark.parametrize("error", [ConfigError, CutError, MisfitError])
def test_an_unknown_name_lists_the_known_with_the_likeliest_first(error: type[ConfigError]) -> None:
    made = unknown("codec", "Unit8", ["raw", "fp16", "uint8", "uint4"], error)
    assert type(made) is error
    assert str(made) == "unknown codec 'Unit8'; choose from: uint8, uint4, raw, fp16"
    assert type(unknown("codec", "x", [])) is ConfigError


@given(given_=st.text(max_size=8), choices=st.lists(st.text(max_size=8), max_size=8))
def test_every_choice_is_listed_once(given_: str, choices: list[str]) -> None:
    assert sorted(closest_first(given_, choices)) == sorted(choices)
    if given_ in choices:
        assert closest_first(given_, choices)[0].lower() == given_.lower()


def test_one_except_catches_all_of_them() -> None:
    assert TREE[0] is EavesError
    assert all(issubclass(c, EavesError) for c in TREE)


def test_errors_need_no_torch() -> None:
    code = "import sys, eaves.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
