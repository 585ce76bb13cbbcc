"""Verdicts: what fails, what holds, what counts for nothing, and the controls' alarms."""

import json
from dataclasses import replace

import pytest
from scipy.stats import binom

from eaves.audit.findings import Effort, Finding, Likeness, Reading, Reconstruction, Score
from eaves.audit.verdict import Control, Planted, Verdict
from eaves.core.rates import Rate
from eaves.errors import ConfigError

EFFORT = Effort(known=1000, rounds=20, time_s=1.5, planned=20)


def score(value: float, half: float = 0.05) -> Score:
    return Score(value=value, low=value - half, high=value + half, n=1000)


def reading(right: int, n: int = 1000, majority: float = 0.6) -> Reading:
    return Reading(
        rate=Rate.of(right, n),
        majority=majority,
        balanced=score(0.5),
        balanced_chance=0.5,
        auc=score(0.5),
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
    verdict = Verdict.of([finding(640), finding(700)], limits={"rate": limit})  # high: 0.7276
    assert (verdict.holds, verdict.surely_holds) == (holds, surely)
    found = verdict.as_json()
    assert json.loads(json.dumps(found)) == found
    assert (found["max_attack"], found["holds"], found["surely_holds"]) == (limit, holds, surely)


@pytest.mark.parametrize("limit", [-0.1, 1.1, float("nan")])
def test_a_limit_that_is_no_share_is_refused(limit: float) -> None:
    with pytest.raises(ConfigError, match=r"expected a limit of rate in \[0, 1\]"):
        Verdict.of([finding(1)], limits={"rate": limit})


def test_a_verdict_is_on_one_attribute() -> None:
    other = replace(finding(1), attribute="Smiling")
    for findings in ([], [finding(1), other]):
        with pytest.raises(ValueError, match="expected findings of one attribute"):
            Verdict.of(findings)


def test_each_figure_has_its_limit_and_its_worst_attacker() -> None:
    rare = replace(finding(600, "bayes"), reading=replace(reading(600), balanced=score(0.66, 0.01)))
    verdict = Verdict.of([finding(610), rare], limits={"rate": 0.62, "balanced": 0.6, "auc": 0.6})
    found = verdict.as_json()["limits"]
    assert {name: limit["holds"] for name, limit in found.items()} == {
        "rate": True,
        "balanced": False,
        "auc": True,
    }
    assert (found["rate"]["attacker"], found["balanced"]["attacker"]) == ("mlp", "bayes")
    assert found["balanced"]["value"]["value"] == 0.66
    assert verdict.holds is False


def test_an_attack_failed_where_no_figure_of_any_attempt_lies_above_chance() -> None:
    """All read a rare class at 0.66 balanced, and no rate is above that of the majority."""
    at_chance = [finding(600, "mlp"), finding(590, "deep")]
    assert Verdict.of(at_chance).failed
    rare = replace(finding(580, "bayes"), reading=replace(reading(580), balanced=score(0.66, 0.01)))
    verdict = Verdict.of([*at_chance, rare])
    assert verdict.best.attacker == "mlp"  # by its rate, which beats nothing
    assert not verdict.best.reading.beats_chance
    assert not verdict.failed
    assert verdict.beats == ("balanced",)


def test_any_limit_fails_where_time_ended_an_attacker() -> None:
    early = replace(finding(600, "cloud"), effort=replace(EFFORT, rounds=1, ended_by_time=True))
    verdict = Verdict.of([finding(610), early], limits={"auc": 0.9})
    assert (verdict.holds, verdict.surely_holds, verdict.early) == (False, False, ("cloud",))
    assert all(limit.holds for limit in verdict.limits)
    assert Verdict.of([finding(610), early]).holds is None


# Positive controls


def test_what_was_planted_is_found_by_half_of_its_strength_or_more() -> None:
    def found(value: float, half: float = 0.02) -> bool:
        read = replace(reading(600), balanced=score(value, half))
        return Planted.of(replace(finding(600), reading=read), strength=0.9).passed

    assert found(0.9)
    assert found(0.71)
    assert not found(0.69)  # above chance, and much less than there is
    assert not found(0.75, half=0.3)  # too few to say
    assert not found(0.5)


def test_who_finds_nothing_that_was_planted_counts_for_nothing() -> None:
    def control(attack: str, attacker: str, *, passed: bool) -> Planted:
        return Planted(
            attack=attack,
            attacker=attacker,
            what="something",
            found=0.5,
            chance=0.5,
            strength=0.9,
            passed=passed,
        )

    rebuilt = replace(finding(600, "originals"), attack="decoder")
    findings = [finding(600, "mlp"), finding(590, "deep"), rebuilt]
    controls = [
        control("attribute", "mlp", passed=True),
        control("attribute", "deep", passed=False),
        control("decoder", "decoder", passed=False),
    ]
    verdict = Verdict.of(findings, controls=controls)
    assert verdict.powerless == ("deep", "decoder: originals")
    assert verdict.as_json()["powerless"] == ["deep", "decoder: originals"]
    assert Verdict.of(findings).powerless == ()


@pytest.mark.parametrize(("ssim", "passed"), [(0.8, True), (0.31, False)])
def test_images_are_rebuilt_from_what_holds_them(ssim: float, passed: bool) -> None:
    def likeness(value: float) -> Likeness:
        return Likeness(ssim=score(value, 0.02), psnr_db=score(10.0), mse=score(100.0))

    made = Reconstruction(
        attack="decoder",
        likeness=likeness(ssim),
        mean_image=likeness(0.3),
        mean_image_of_label=None,
        effort=EFFORT,
    )
    found = Planted.rebuilt("decoder", made)
    assert (found.passed, found.found, found.chance) == (passed, ssim, 0.3)
    assert json.loads(json.dumps(found.as_json())) == found.as_json()
