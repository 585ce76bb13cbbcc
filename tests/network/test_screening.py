"""Screening: features far larger than usual are refused, honest growth is not.

Dimension key:  B batch   C features
"""

import json

import pytest
import torch
from torch import Tensor

from eaves.errors import PayloadError, StateError
from eaves.network.policy import Scale
from eaves.network.screening import Screening, scale_of

PROBED = Scale(rms=1.0, peak=3.0)


def features(size: float, seed: int = 0) -> Tensor:
    x_BC = torch.randn(16, 8, generator=torch.Generator().manual_seed(seed)).clamp(-3, 3)
    return size * x_BC


def feed(screening: Screening, edge: str, size: float, times: int = 20) -> None:
    for i in range(times):
        screening.learnt(edge, screening.check(edge, features(size, i)))


def test_the_scale_of_features() -> None:
    scale = scale_of(torch.tensor([[3.0, -4.0]]))
    assert scale.rms == pytest.approx(12.5**0.5)
    assert scale.peak == 4.0


@pytest.mark.parametrize("size", [1e9, -1e9, 1e4])
@pytest.mark.parametrize("probed", [PROBED, None])
@pytest.mark.parametrize("history", [0, 20])
def test_huge_features_are_refused(size: float, probed: Scale | None, history: int) -> None:
    screening = Screening(10.0, probed)
    feed(screening, "good", 1.0, history)
    if not history and probed is None:
        return  # nothing is known yet; serve always has a probe
    for edge in ("good", "new"):
        with pytest.raises(PayloadError, match=r"features with a root mean square of up to"):
            screening.check(edge, features(size))


def test_one_value_that_is_huge_is_refused() -> None:
    screening = Screening(10.0, PROBED)
    feed(screening, "good", 1.0)
    x_BC = features(1.0)
    x_BC[0, 0] = 1e5
    with pytest.raises(PayloadError, match=r"a root mean square|a size of up to"):
        screening.check("good", x_BC)


def test_features_may_grow_as_an_edge_learns() -> None:
    screening, size = Screening(10.0, PROBED), 1.0
    for _ in range(200):
        size *= 1.04
        feed(screening, "alone", size, 1)
    assert size > 1000


def test_an_edge_that_climbs_is_held_back_by_the_others() -> None:
    screening, size, refused = Screening(10.0, PROBED), 1.0, False
    for edge in ("a", "b", "c"):
        feed(screening, edge, 1.0)
    for _ in range(300):
        size *= 1.04
        try:
            feed(screening, "climbing", size, 1)
        except PayloadError:
            refused = True
            break
    assert refused
    assert 50 < size < 1100
    feed(screening, "a", 1.0)  # and the others are as welcome as before


def test_a_minority_that_is_large_does_not_widen_the_bound_for_others() -> None:
    screening = Screening(10.0, Scale(rms=0.1, peak=0.3))
    for edge in ("a", "b", "c", "d"):
        feed(screening, edge, 1.0 if edge != "d" else 9.0)
    with pytest.raises(PayloadError):
        screening.check("new", features(20.0))


def test_small_features_and_bytes_pass() -> None:
    screening = Screening(10.0, PROBED)
    feed(screening, "a", 1.0)
    feed(screening, "b", 0.0)
    feed(screening, "b", 1e-9)
    assert screening.check("a", torch.full((2, 3), 255, dtype=torch.uint8)) is None


def test_without_a_limit_all_pass() -> None:
    assert Screening(0.0, PROBED).check("a", features(1e9)) is None


def test_it_goes_on_from_its_facts() -> None:
    screening = Screening(10.0, None)
    feed(screening, "a", 1.0)
    again = Screening(10.0, None)
    again.restore(json.loads(json.dumps(screening.facts())))
    assert again.facts() == screening.facts()
    with pytest.raises(PayloadError):
        again.check("a", features(1e4))


@pytest.mark.parametrize("facts", [None, [], {"a": 1}, {"a": [1, 2]}, {"a": [[1.0, 2]]}])
def test_facts_of_another_kind_are_refused(facts: object) -> None:
    with pytest.raises(StateError, match="no levels of the edges"):
        Screening(10.0, None).restore(facts)
