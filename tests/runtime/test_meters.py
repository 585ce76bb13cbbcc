import json
from dataclasses import fields
from typing import final

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from eaves.core.optimise import OneCycle, Optimised
from eaves.core.roles import Learner, Losses
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


# Memory

FLOAT = 4


@final
class _Learner(Learner):
    """Trains a small net, if any, on ones of shape (8, 10)."""

    def __init__(self, *layers: nn.Module):
        schedule, cpu = OneCycle(total_steps=10), torch.device("cpu")
        self._part = Optimised({"net": nn.Sequential(*layers)}, schedule, cpu) if layers else None

    @property
    def part(self) -> Optimised | None:
        return self._part

    def step(self) -> tuple[str, Losses]:
        if self.part is None:
            x = torch.ones(8, 10, requires_grad=True)
            return "alone", {"loss": float(x.exp().sum().detach())}
        with self.part.forward():
            loss = self.part.modules["net"](torch.ones(8, 10)).sum()
        return "trained", {"loss": self.part.descend(loss)}


def test_the_memory_of_the_first_step_is_that_counted_by_hand() -> None:
    learner, smoothed = _Learner(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5)), Smoothed()
    weights = 10 * 20 + 20 + 20 * 5 + 5
    # Weight, gradient and momentum; the input of each linear layer, but no weight once more.
    expected = FLOAT * (3 * weights + 8 * 10 + 8 * 20) + 1000
    assert smoothed.step(learner, learner.step, 1000) == ("trained", expected)
    assert smoothed.step(learner, learner.step, 1000) == ("trained", 0)
    assert smoothed.steps == 2


def test_running_statistics_count_once() -> None:
    learner = _Learner(nn.BatchNorm1d(10), nn.Linear(10, 5))
    state = FLOAT * 3 * (2 * 10 + 10 * 5 + 5) + FLOAT * 2 * 10 + 8  # a count in int64
    assert learner.state_bytes() == state
    # The input of each layer, and the mean and deviation of the batch.
    kept = FLOAT * (2 * 8 * 10 + 2 * 10)
    assert Smoothed().step(learner, learner.step, 0) == ("trained", state + kept)


def test_a_learner_that_trains_nothing_has_memory_too() -> None:
    learner, smoothed = _Learner(), Smoothed()
    assert smoothed.step(learner, learner.step, 5) == ("alone", FLOAT * 8 * 10 + 5)
    assert smoothed.means["loss"] == pytest.approx(80 * 2.718281828)
