"""What the task label gives away, against counts by hand and the published shares of the faces."""

import pytest
import torch

from eaves.audit.knowledge import Exposure, Known, Victims
from eaves.audit.leakage import label_leakage
from eaves.audit.release import ReleasePath
from eaves.core.rates import Rate
from eaves.privacy.bounds import Clip
from eaves.privacy.mechanisms import Mechanism


def from_counts(known: list[list[int]], victims: list[list[int]]) -> Exposure:
    """Return an exposure with so many examples of each label (rows) and private class (columns)."""

    def columns(counts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        cells = [
            (y, s) for y, row in enumerate(counts) for s, n in enumerate(row) for _ in range(n)
        ]
        labels_N, private_N = torch.tensor(cells).T
        return labels_N, private_N

    (y, s), (victims_y, victims_s) = columns(known), columns(victims)
    return Exposure(
        attribute="Male",
        known=Known(features=torch.zeros(len(y), 1), labels=y, private=s),
        victims=Victims(
            features=torch.zeros(len(victims_y), 1, 1), labels=victims_y, private=victims_s
        ),
        path=ReleasePath(mechanism=Mechanism(bound=Clip(1.0), law="none", scale=0.0)),
        half_width=0.05,
    )


def test_the_answer_is_the_most_frequent_class_of_the_label() -> None:
    found = label_leakage(from_counts([[30, 10], [5, 20]], [[150, 60], [90, 200]]))
    assert found.reading.rate == Rate.of(350, 500)
    assert found.reading.majority == 260 / 500
    assert found.reading.balanced.value == pytest.approx((150 / 240 + 200 / 260) / 2)
    assert (found.attack, found.effort.known, found.held_out) == ("labels", 65, None)


def test_who_smiles_gives_away_a_little_even_where_the_likeliest_class_is_always_the_same() -> None:
    """Of the faces 54 % of women and 40 % of men smile, and 42 % are of men: 0.57 balanced."""
    women, men = 580, 420
    counts = [[round(0.46 * women), round(0.60 * men)], [round(0.54 * women), round(0.40 * men)]]
    reading = label_leakage(from_counts(counts, counts)).reading
    assert reading.rate.value == reading.majority == 0.58
    assert reading.balanced.value == pytest.approx(0.57, abs=0.001)
    assert reading.beats_chance


def test_a_label_that_the_attacker_never_saw_tells_nothing() -> None:
    found = label_leakage(from_counts([[10, 20]], [[100, 200], [50, 80]]))
    assert found.reading.rate == Rate.of(280, 430)


def test_a_label_that_is_the_private_class_gives_all_away() -> None:
    found = label_leakage(from_counts([[9, 0], [0, 5]], [[300, 0], [0, 200]]))
    assert (found.reading.rate.value, found.reading.balanced.value) == (1.0, 1.0)


def test_labels_that_are_independent_give_nothing_away() -> None:
    found = label_leakage(from_counts([[20, 10], [40, 20]], [[200, 100], [400, 200]]))
    assert found.reading.rate.value == found.reading.majority
    assert found.reading.balanced.value == 0.5
    assert not found.reading.beats_chance
