import json
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaves.runtime.meters import Meter, Smoothed, Totals

SECONDS = st.floats(0, 1e9)
COUNTS = st.integers(0, 2**62)
METERS = st.builds(Meter, busy_s=SECONDS, waiting_s=SECONDS, blocked_s=SECONDS)


@given(
    totals=st.builds(
        Totals,
        wall_s=SECONDS,
        edge=METERS,
        link=METERS,
        cloud=METERS,
        bytes_up=COUNTS,
        bytes_down=COUNTS,
        samples=COUNTS,
        sent_samples=COUNTS,
        edge_peak_bytes=COUNTS,
        cloud_peak_bytes=COUNTS,
    )
)
def test_totals_survive_json(totals: Totals) -> None:
    assert Totals.from_json(json.loads(json.dumps(totals.as_json()))) == totals


def test_totals_begin_at_nothing() -> None:
    for field in fields(Totals):
        assert getattr(Totals(), field.name) in (0, Meter())


@given(value=st.floats(-1e6, 1e6), steps=st.integers(1, 100))
def test_the_mean_of_a_constant_is_the_constant(value: float, steps: int) -> None:
    smoothed = Smoothed()
    for _ in range(steps):
        smoothed.add({"loss": value})
    assert smoothed.steps == steps
    assert smoothed.means["loss"] == pytest.approx(value)


@given(values=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=50))
def test_the_first_fifty_steps_count_alike(values: list[float]) -> None:
    smoothed = Smoothed()
    for value in values:
        smoothed.add({"loss": value})
    assert smoothed.means["loss"] == pytest.approx(sum(values) / len(values), abs=1e-6)


def test_old_steps_fade() -> None:
    smoothed = Smoothed()
    for value in [100.0] * 60 + [0.0] * 250:
        smoothed.add({"loss": value})
    assert 0 < smoothed.means["loss"] < 1
