"""Figures and what follows from them: intervals, chance levels, verdicts, the control's alarm."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from eaves.audit.findings import (
    Control,
    Effort,
    Finding,
    Likeness,
    Progress,
    Reading,
    Reconstruction,
    Score,
    Verdict,
)
from eaves.core.rates import Rate
from eaves.errors import ConfigError

EFFORT = Effort(known=1000, rounds=20, time_s=1.5)


def reading(right: int, n: int = 1000, majority: float = 0.6) -> Reading:
    rate = Rate.of(right, n)
    balanced = Score(value=0.5, low=0.45, high=0.55, n=n)
    return Reading(rate=rate, majority=majority, balanced=balanced, balanced_chance=0.5)


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

CLASSES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30)


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


def test_a_finding_becomes_flat_json() -> None:
    found = finding(700, held_out=0.71).as_json()
    assert json.loads(json.dumps(found)) == found
    assert (found["attacker"], found["rate"]["value"], found["majority"]) == ("mlp", 0.7, 0.6)
    assert found["effort"] == {"known": 1000, "rounds": 20, "time_s": 1.5}
    assert (found["beats_chance"], found["held_out"], "reading" in found) == (True, 0.71, False)
    assert EFFORT.as_json() == found["effort"]
    assert Score(**found["balanced"]).as_json() == found["balanced"]


# Control


def test_the_control_raises_a_false_alarm_less_than_once_in_2000() -> None:
    """Exactly, for one that answers the most frequent class of as many draws."""
    n, majority = 2400, 0.61
    sound = [
        k
        for k in range(n + 1)
        if Control(finding=replace(finding(0), reading=reading(k, n, majority))).sound
    ]
    assert sound == list(range(len(sound)))
    assert 1 / 4000 < binom.sf(sound[-1], n, majority) < 1 / 2000


def test_the_control_says_when_the_audit_is_broken() -> None:
    broken, sound = Control(finding=finding(700)), Control(finding=finding(605))
    assert "0.700, chance is 0.600: the audit itself is broken" in broken.statement
    assert sound.statement.endswith("as it must be")
    assert (broken.as_json()["sound"], sound.as_json()["sound"]) == (False, True)
    assert broken.as_json()["finding"] == broken.finding.as_json()


# Verdict


def test_the_best_is_that_on_the_victims_the_chosen_one_that_held_out() -> None:
    findings = [
        finding(640, "labels"),
        finding(700, "mlp", held_out=0.69),
        finding(690, "deep", held_out=0.72),
    ]
    verdict = Verdict.of(findings)
    assert (verdict.best, verdict.chosen, verdict.attempts) == (findings[1], findings[2], 3)
    assert (verdict.holds, verdict.surely_holds) == (None, None)


@pytest.mark.parametrize(
    ("limit", "holds", "surely"),
    [(0.69, False, False), (0.70, True, False), (0.72, True, False), (0.73, True, True)],
)
def test_a_limit_holds_for_the_rate_or_for_its_interval(
    limit: float, holds: bool, surely: bool
) -> None:
    verdict = Verdict.of([finding(640), finding(700)], max_attack=limit)  # high: 0.7276
    assert (verdict.holds, verdict.surely_holds) == (holds, surely)
    found = verdict.as_json()
    assert json.loads(json.dumps(found)) == found
    assert (found["max_attack"], found["holds"], found["surely_holds"]) == (limit, holds, surely)


@pytest.mark.parametrize("limit", [-0.1, 1.1, float("nan")])
def test_a_limit_that_is_no_share_is_refused(limit: float) -> None:
    with pytest.raises(ConfigError, match=r"expected max_attack in \[0, 1\]"):
        Verdict.of([finding(1)], max_attack=limit)


def test_a_verdict_is_on_one_attribute() -> None:
    other = replace(finding(1), attribute="Smiling")
    for findings in ([], [finding(1), other]):
        with pytest.raises(ValueError, match="expected findings of one attribute"):
            Verdict.of(findings)


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
