"""The curve against brute force over every threshold, and the choice on it.

Dimension key:  N examples   K classes
"""

from math import inf, nextafter
from time import perf_counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eaves.core.calibration import Curve, Point, Scored, calibrate, curve, measured
from eaves.core.rates import Rate
from eaves.core.rules import RULES
from eaves.errors import ConfigError

# Few distinct values, so that there are ties; neighbours, between which there is no middle.
VALUES = [0.0, 5e-324, 0.25, nextafter(0.25, 1), 0.5, 0.75, nextafter(1, 0), 1.0]
SCORES = st.one_of(st.sampled_from(VALUES), st.floats(0, 1))
ROWS = st.lists(st.tuples(SCORES, st.booleans(), st.booleans()), min_size=1, max_size=25)
LAW = settings(deadline=None, max_examples=150)  # a busy machine is no failure
by_rule = pytest.mark.parametrize("rule", RULES)


def scored(rows: list[tuple[float, bool, bool]]) -> Scored:
    scores, early, late = zip(*rows, strict=True)
    return Scored(
        scores=torch.tensor(scores, dtype=torch.float64),
        exit_right=torch.tensor(early),
        cloud_right=torch.tensor(late),
    )


def outcomes(rule: str, rows: list[tuple[float, bool, bool]]) -> dict[int, int]:
    """Return how many are right by how many are sent, for every threshold there can be."""
    found = {}
    scores = {score for score, _, _ in rows}
    near = {nextafter(s, to) for s in scores for to in (-inf, inf)}
    for threshold in {0.0, 1.0, *scores, *(t for t in near if 0 <= t <= 1)}:
        final = [(s > threshold if rule == "confidence" else s < threshold) for s, _, _ in rows]
        right = [e if f else c for f, (_, e, c) in zip(final, rows, strict=True)]
        found[final.count(False)] = sum(right)
    return found


@by_rule
@LAW
@given(rows=ROWS)
def test_the_curve_is_every_outcome_that_a_threshold_can_have(
    rule: str, rows: list[tuple[float, bool, bool]]
) -> None:
    points = curve(rule, scored(rows)).points
    assert {p.sent: p.accuracy for p in points} == {
        sent: Rate.of(right, len(rows)) for sent, right in outcomes(rule, rows).items()
    }
    sent = [point.sent for point in points]
    assert sent == sorted(set(sent), reverse=True)


@by_rule
@LAW
@given(rows=ROWS)
def test_a_point_is_what_its_threshold_does(
    rule: str, rows: list[tuple[float, bool, bool]]
) -> None:
    examples = scored(rows)
    for point in curve(rule, examples).points:
        assert measured(RULES[rule](threshold=point.threshold), examples) == point


@by_rule
@LAW
@given(rows=ROWS)
def test_one_end_is_the_cloud_alone_and_the_other_the_exit_alone(
    rule: str, rows: list[tuple[float, bool, bool]]
) -> None:
    first, *_, last = [*(points := curve(rule, scored(rows)).points), points[-1]]
    assert (first.threshold, first.share_sent) == ({"confidence": 1.0, "entropy": 0.0}[rule], 1)
    assert first.accuracy == Rate.of(sum(c for _, _, c in rows), len(rows))
    unsure = {"confidence": 0.0, "entropy": 1.0}[rule]
    if all(score != unsure for score, _, _ in rows):
        assert (last.threshold, last.share_sent) == (unsure, 0)
        assert last.accuracy == Rate.of(sum(e for _, e, _ in rows), len(rows))
    else:  # no threshold takes a score at the end of the scale
        assert last.sent == sum(score == unsure for score, _, _ in rows)


@by_rule
@LAW
@given(rows=ROWS, target=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0])))
def test_the_choice_is_that_of_brute_force(
    rule: str, rows: list[tuple[float, bool, bool]], target: float
) -> None:
    points, every, n = curve(rule, scored(rows)), outcomes(rule, rows), len(rows)
    enough = [sent for sent, right in every.items() if right / n >= target]
    if enough:
        found, point = calibrate(points, target_accuracy=target)
        assert (point.sent, found.threshold) == (min(enough), point.threshold)
        assert isinstance(found, RULES[rule])
    else:
        with pytest.raises(ConfigError, match="no threshold reaches an accuracy of"):
            calibrate(points, target_accuracy=target)
    few = [(right, -sent) for sent, right in every.items() if sent / n <= target]
    if few:
        _, point = calibrate(points, target_share=target)
        assert (round(point.accuracy.value * n), -point.sent) == max(few)
    else:
        with pytest.raises(ConfigError, match=f"the least is {min(every) / n:.4f}"):
            calibrate(points, target_share=target)


@by_rule
@settings(deadline=None, max_examples=50)
@given(
    logits=st.lists(
        st.lists(st.floats(-90, 90, width=32), min_size=3, max_size=3), min_size=1, max_size=8
    )
)
def test_a_curve_from_logits_is_what_the_rule_accepts(rule: str, logits: list[list[float]]) -> None:
    logits_NK = torch.tensor(logits)
    right = torch.ones(len(logits), dtype=torch.bool)
    examples = Scored(scores=RULES[rule].scores(logits_NK), exit_right=right, cloud_right=~right)
    for point in curve(rule, examples).points:
        accepted = int(RULES[rule](threshold=point.threshold).accepts(logits_NK).sum())
        assert accepted == len(logits) - point.sent == round(point.accuracy.value * len(logits))


def test_the_threshold_is_in_the_middle_of_its_neighbours() -> None:
    rows = [(0.5, True, True), (0.75, True, True)]
    assert [p.threshold for p in curve("confidence", scored(rows)).points] == [1, 0.625, 0]
    assert [p.threshold for p in curve("entropy", scored(rows)).points] == [0, 0.625, 1]


def test_answers_that_float32_calls_certain_are_told_apart() -> None:
    logits_NK = torch.tensor([[0.0, 20.0], [0.0, 30.0]])
    assert logits_NK.softmax(dim=1).amax(dim=1).tolist() == [1.0, 1.0]
    right = torch.tensor([False, True])
    examples = Scored(
        scores=RULES["confidence"].scores(logits_NK), exit_right=right, cloud_right=~right
    )
    assert [p.accuracy.value for p in curve("confidence", examples).points] == [0.5, 1.0, 0.5]


def test_a_target_out_of_reach_names_the_best_that_can_be_asked_for() -> None:
    rows = [(0.9, True, False), (0.8, False, True), (0.1, False, False)]
    points = curve("confidence", scored(rows))
    with pytest.raises(
        ConfigError, match=r"accuracy of 0\.9000 on the 3 .*; the best is 0\.6666, with 66\.7% sent"
    ):
        calibrate(points, target_accuracy=0.9)
    assert calibrate(points, target_accuracy=0.6666)[1].sent == 2


@pytest.mark.parametrize(
    ("accuracy", "share"),
    [(None, None), (0.5, 0.5), (1.5, None), (None, -0.1), (float("nan"), None)],
)
def test_targets_that_cannot_be_are_refused(accuracy: float | None, share: float | None) -> None:
    points = curve("entropy", scored([(0.5, True, True)]))
    with pytest.raises(ConfigError, match="expected"):
        calibrate(points, target_accuracy=accuracy, target_share=share)


def test_an_unknown_rule_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown rule 'entropi'; choose from: entropy, "):
        curve("entropi", scored([(0.5, True, True)]))


def test_examples_that_cannot_be_are_refused() -> None:
    right = torch.tensor([True])
    for scores in ([1.1], [-0.1], [float("nan")]):
        with pytest.raises(ValueError, match=r"expected scores in \[0, 1\]"):
            Scored(scores=torch.tensor(scores), exit_right=right, cloud_right=right)
    with pytest.raises(ValueError, match=r"expected exit bool of shape \(2,\)"):
        Scored(scores=torch.rand(2), exit_right=right, cloud_right=right)
    with pytest.raises(ValueError, match="1 or more examples"):
        Scored(scores=torch.rand(0), exit_right=right[:0], cloud_right=right[:0])
    with pytest.raises(ValueError, match=r"expected cloud bool .* got torch\.int64"):
        Scored(scores=torch.rand(1), exit_right=right, cloud_right=right.long())


def test_halves_are_the_even_and_the_odd_examples() -> None:
    rows = [(i / 10, i % 2 == 0, i % 3 == 0) for i in range(5)]
    even, odd = scored(rows).halves()
    assert even.scores.tolist() == [0.0, 0.2, 0.4]
    assert odd.scores.tolist() == [0.1, 0.3]
    assert (even.exit_right.tolist(), odd.exit_right.tolist()) == ([True] * 3, [False] * 2)
    assert (even.cloud_right.tolist(), odd.cloud_right.tolist()) == (
        [True, False, False],
        [False, True],
    )
    with pytest.raises(ConfigError, match="expected 2 or more examples"):
        scored(rows[:1]).halves()


def test_many_examples_take_no_more_than_a_sort() -> None:
    """In O(N^2), 200,000 examples would take minutes; the bound leaves room for a busy machine."""
    n = 200_000
    generator = torch.Generator().manual_seed(0)
    right = torch.rand(2, n, generator=generator) < 0.5
    examples = Scored(
        scores=torch.rand(n, generator=generator, dtype=torch.float64),
        exit_right=right[0],
        cloud_right=right[1],
    )
    start_s = perf_counter()
    assert len(curve("confidence", examples).points) == n + 1
    assert perf_counter() - start_s < 30


def test_a_point_becomes_json_by_name() -> None:
    point = Point(threshold=0.5, sent=1, accuracy=Rate.of(3, 4))
    assert point.as_json() == {
        "threshold": 0.5,
        "share_sent": 0.25,
        "accuracy": Rate.of(3, 4).as_json(),
    }
    assert Curve(rule="entropy", points=(point,)).with_share(0.25) == point


def test_rounding_never_lifts_a_score_off_its_scale() -> None:
    for rule in RULES.values():
        for k in range(2, 200):
            score = float(rule.scores(torch.zeros(1, k)))
            assert 0 <= score <= 1
