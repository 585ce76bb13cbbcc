"""Figures and what follows from them: intervals, chance levels, what differs."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from eaves.audit.findings import (
    Effort,
    Finding,
    Likeness,
    Progress,
    Reading,
    Reconstruction,
    Score,
)
from eaves.core.rates import Rate

EFFORT = Effort(known=1000, rounds=20, time_s=1.5)


def reading(right: int, n: int = 1000, majority: float = 0.6) -> Reading:
    rate = Rate.of(right, n)
    balanced = Score(value=0.5, low=0.45, high=0.55, n=n)
    return Reading(
        rate=rate,
        majority=majority,
        balanced=balanced,
        balanced_chance=0.5,
        auc=balanced,
        tpr=Rate.of(3, 300),
        tpr_chance=0.01,
        tpr_luck=0.6,
    )


def finding(right: int, attacker: str = "mlp", held_out: float | None = None) -> Finding:
    return Finding(
        attack="attribute",
        attacker=attacker,
        attribute="Male",
        reading=reading(right),
        effort=EFFORT,
        held_out=held_out,
    )


# Score


def test_a_mean_has_the_normal_interval() -> None:
    figures = torch.rand(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    score = Score.of(figures)
    error = figures.numpy().std(ddof=1) / np.sqrt(50)
    expected = norm.interval(0.95, loc=float(figures.mean()), scale=error)
    assert (score.low, score.high) == pytest.approx(expected, abs=1e-12)
    assert score.value == pytest.approx(float(figures.mean()))
    assert score.n == 50


@pytest.mark.parametrize("figures", [[], [1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_figures_without_a_mean_or_an_interval_are_refused(figures: list[float]) -> None:
    with pytest.raises(ValueError, match="expected 2 or more finite figures"):
        Score.of(figures)


def test_balanced_accuracy_of_one_class_is_its_rate() -> None:
    rate = Rate.of(30, 40)
    score = Score.balanced([rate])
    assert (score.value, score.n) == (0.75, 40)
    assert (score.low, score.high) == pytest.approx((rate.low, rate.high))


def test_the_interval_of_balanced_accuracy_holds_the_truth_19_times_in_20() -> None:
    """10,000 trials: a coverage of 0.95 leaves [0.94, 0.96] by chance once in 10^5."""
    rng = np.random.default_rng(0)
    truth = (0.9 + 0.55) / 2
    counts = zip(rng.binomial(60, 0.9, 10_000), rng.binomial(400, 0.55, 10_000), strict=True)
    scores = [Score.balanced([Rate.of(int(a), 60), Rate.of(int(b), 400)]) for a, b in counts]
    coverage = np.mean([score.low <= truth <= score.high for score in scores])
    assert 0.94 < coverage < 0.96


# Reading

CLASSES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=30).filter(
    lambda rows: len({private for _, private in rows}) > 1
)


@settings(deadline=None)  # a busy machine is no failure
@given(rows=CLASSES)
def test_a_reading_counts_what_is_right(rows: list[tuple[int, int]]) -> None:
    answers, private = zip(*rows, strict=True)
    found = Reading.of(torch.tensor(answers), torch.tensor(private))
    present = sorted(set(private))
    recalls = [sum(a == s == k for a, s in rows) / sum(s == k for _, s in rows) for k in present]
    assert found.rate == Rate.of(sum(a == s for a, s in rows), len(rows))
    assert found.majority == max(private.count(k) for k in present) / len(rows)
    assert found.balanced.value == pytest.approx(sum(recalls) / len(present))
    assert found.balanced_chance == 1 / len(present)


def test_other_answers_can_aim_at_balanced_accuracy() -> None:
    private_N = torch.tensor([0] * 9 + [1])
    found = Reading.of(torch.zeros(10, dtype=torch.int64), private_N, fair_N=private_N)
    assert (found.rate.value, found.balanced.value) == (0.9, 1.0)


def test_chance_is_beaten_by_an_interval_above_it() -> None:
    at = reading(600)
    assert not at.beats_chance
    assert not reading(625).beats_chance  # above, and the interval holds 0.6
    assert reading(635).beats_chance
    balanced = Score(value=0.6, low=0.51, high=0.69, n=1000)
    assert replace(at, balanced=balanced).beats_chance
    assert replace(at, auc=balanced).beats == ("auc",)
    assert replace(at, tpr_luck=0.02).beats == ("tpr",)
    assert replace(reading(635), tpr_luck=0.02).beats == ("rate", "tpr")


def test_a_rare_class_is_not_hidden_by_the_rate() -> None:
    """3 % of 3,000: the rate is that of the majority, whatever is known of them."""
    generator = torch.Generator().manual_seed(0)
    private_N = (torch.arange(3000) % 33 == 0).long()
    sure_N = torch.randn(3000, generator=generator) + private_N
    answers = torch.zeros_like(private_N)
    scores_NK = torch.stack([-sure_N, sure_N], dim=1)
    found = Reading.of(answers, private_N, fair_N=(sure_N > 0.5).long(), scores_NK=scores_NK)
    assert found.rate.value == found.majority
    assert found.beats == ("balanced", "auc", "tpr")
    assert found.auc.value == pytest.approx(norm.cdf(1 / 2**0.5), abs=0.08)
    nothing = Reading.of(answers, private_N)  # never names it
    assert nothing.beats == ()
    assert nothing.auc.value == 0.5


def test_of_three_classes_each_stands_against_the_rest() -> None:
    private_N = torch.arange(300) % 3
    logits_NK = 4.0 * torch.eye(3)[private_N]
    logits_NK[private_N == 2] = 0.0  # never told from the others
    found = Reading.of(logits_NK.argmax(1), private_N, scores_NK=logits_NK)
    # 0 and 1 are told from all others; 2 lies between those of the others' scores.
    assert found.auc.value > 0.9
    assert found.tpr.value == 1.0
    assert found.tpr_chance == 3 / 201  # above the third of 200 others


def test_what_is_read_of_victims_is_held_against_the_attackers_own() -> None:
    def score(value: float, half: float) -> Score:
        return Score(value=value, low=value - half, high=value + half, n=400)

    def one(own: Score | None, theirs: Score) -> Finding:
        return replace(finding(600), reading=replace(reading(600), balanced=theirs), check=own)

    assert not one(None, score(0.5, 0.05)).differs
    assert not one(score(0.60, 0.05), score(0.50, 0.05)).differs  # 2.8 standard errors
    assert one(score(0.65, 0.05), score(0.50, 0.05)).differs  # 4.2
    assert one(score(0.50, 0.05), score(0.65, 0.05)).differs
    assert one(score(0.65, 0.05), score(0.50, 0.05)).as_json()["differs"] is True


def test_a_finding_becomes_flat_json() -> None:
    found = finding(700, held_out=0.71).as_json()
    assert json.loads(json.dumps(found)) == found
    assert (found["attacker"], found["rate"]["value"], found["majority"]) == ("mlp", 0.7, 0.6)
    assert found["effort"] == {
        "known": 1000,
        "rounds": 20,
        "time_s": 1.5,
        "planned": None,
        "ended_by_time": False,
    }
    assert (found["beats_chance"], found["held_out"], "reading" in found) == (True, 0.71, False)
    assert EFFORT.as_json() == found["effort"]
    assert Score(**found["balanced"]).as_json() == found["balanced"]


# Reconstruction


def likeness(ssim: float) -> Likeness:
    score = Score(value=ssim, low=ssim - 0.01, high=ssim + 0.01, n=100)
    return Likeness(ssim=score, psnr_db=score, mse=score)


def test_a_reconstruction_is_compared_with_every_mean_image() -> None:
    rebuilt = Reconstruction(
        attack="decoder",
        likeness=likeness(0.5),
        mean_image=likeness(0.4),
        mean_image_of_label=None,
        effort=EFFORT,
        read=finding(700),
    )
    assert rebuilt.beats_chance
    assert not replace(rebuilt, mean_image_of_label=likeness(0.49)).beats_chance
    assert not replace(rebuilt, likeness=likeness(0.41)).beats_chance
    found = rebuilt.as_json()
    assert json.loads(json.dumps(found)) == found
    assert found["read"] == finding(700).as_json()
    assert found["likeness"] == likeness(0.5).as_json()
    assert replace(rebuilt, read=None).as_json()["read"] is None


def test_progress_is_a_record() -> None:
    at = Progress(attack="attribute", attacker="mlp", done=1, total=20, figure=0.5)
    assert replace(at, done=2).done == 2
