"""Golden runs end with the digests that are frozen beside this file."""

from itertools import chain

import pytest
from tests.golden.runs import RUNS, Digests, frozen, made_apart, versions

FROZEN = frozen()
SHORT, LONG = ("trained", "networked"), ("interrupted", "audited")
GROUPS = {kind: [run for run in RUNS if run.startswith(f"{kind}:")] for kind in (*SHORT, *LONG)}


@pytest.mark.skipif(versions() != FROZEN["versions"], reason=f"frozen for {FROZEN['versions']}")
@pytest.mark.parametrize(
    "group", [*SHORT, *(pytest.param(kind, marks=pytest.mark.slow) for kind in LONG)]
)
def test_runs_end_as_they_did_when_they_were_frozen(group: str) -> None:
    found = made_apart(tuple(GROUPS[group]))
    for run in GROUPS[group]:
        assert differing(found[run], FROZEN["runs"][run]) == [], run


def test_every_run_is_frozen_and_nothing_else() -> None:
    assert tuple(FROZEN["runs"]) == RUNS
    assert sorted(chain.from_iterable(GROUPS.values())) == sorted(RUNS)


def differing(found: Digests, expected: Digests) -> list[str]:
    """Return which digests differ, as ``part.field``."""
    names = sorted(found.keys() | expected.keys())
    return [
        f"{name}.{field}"
        for name in names
        for field, (a, b) in _beside(found.get(name), expected.get(name)).items()
        if a != b
    ]


def _beside(a: object, b: object) -> dict[str, tuple[object, object]]:
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return {"": (a, b)}
    return {key: (a.get(key), b.get(key)) for key in sorted(a.keys() | b.keys())}
