"""AUC and TPR at 1 % FPR against other libraries, exact counts, and their false alarms.

Dimension key:  P of the class   Q of all others
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom, norm
from sklearn.metrics import roc_auc_score

from eaves.audit.metrics import FALSE_POSITIVES, auc, caught, chance_of_caught

SCORES = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=20)  # with ties


@settings(deadline=None)
@given(positive=SCORES, negative=SCORES)
def test_the_area_is_that_of_another_library(positive: list[float], negative: list[float]) -> None:
    value, error = auc(torch.tensor(positive), torch.tensor(negative))
    truth = [1] * len(positive) + [0] * len(negative)
    assert value == pytest.approx(roc_auc_score(truth, positive + negative))
    assert error > 0


def test_the_interval_of_the_area_holds_the_truth_19_times_in_20() -> None:
    """2,000 trials: a coverage of 0.95 leaves [0.93, 0.97] by chance once in 10^4."""
    rng = np.random.default_rng(0)
    truth, held = norm.cdf(1 / np.sqrt(2)), 0
    for _ in range(2000):
        value, error = auc(
            torch.from_numpy(rng.normal(1, 1, 60)), torch.from_numpy(rng.normal(0, 1, 200))
        )
        held += abs(value - truth) < 1.96 * error
    assert 0.93 < held / 2000 < 0.97


def test_a_perfect_curve_of_few_has_an_error() -> None:
    value, error = auc(torch.tensor([5.0, 6.0]), torch.arange(4.0))
    assert value == 1.0
    assert error > 0.1


@settings(deadline=None)
@given(hits=st.integers(0, 30), others=st.integers(30, 400))
def test_luck_is_the_exact_share_of_random_orders(hits: int, others: int) -> None:
    positive = torch.cat([torch.full((hits,), 1e6), torch.full((30 - hits,), -1.0)])
    rate, luck = caught(positive, torch.arange(float(others)))
    allowed = int(FALSE_POSITIVES * others)
    assert rate.value == hits / 30
    expected = hypergeom.cdf(allowed, 30 + others, others, hits + allowed) if hits else 1.0
    assert luck == pytest.approx(expected, rel=1e-6)


def test_scores_without_knowledge_are_an_alarm_once_in_40_or_less() -> None:
    """2,000 trials; 0.025 is exceeded by 0.01 once in 10^3 where it is the truth."""
    rng, alarms, rates = np.random.default_rng(1), 0, []
    for _ in range(2000):
        scores = torch.from_numpy(rng.random(300))
        rate, luck = caught(scores[:100], scores[100:])
        alarms += luck < 0.025
        rates.append(rate.value)
    assert alarms / 2000 < 0.035
    assert np.mean(rates) == pytest.approx(chance_of_caught(200), abs=0.002)


def test_ties_at_the_threshold_are_not_caught() -> None:
    rate, luck = caught(torch.ones(50), torch.ones(200))
    assert (rate.value, luck) == (0.0, 1.0)
    few, _ = caught(torch.tensor([3.0, 2.0, 2.0]), torch.tensor([2.0] + [0.0] * 150))
    assert few.value == 1.0  # one of 151 others may be above: the threshold is 0
