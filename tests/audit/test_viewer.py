from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from eaves.audit.findings import Progress
from eaves.audit.scene import Pictures
from eaves.audit.trial import Allowance
from eaves.audit.viewer import Album, View, Viewer, ViewerPlan, view
from eaves.errors import ConfigError

pytestmark = pytest.mark.usefixtures("one_thread")

PLAN = ViewerPlan(allowance=Allowance(time_s=600.0, rounds=10, batch_size=32), width=8)


def _viewer(seed: int = 0) -> Viewer:
    return Viewer(PLAN, (3, 8, 8), 2, generator=torch.Generator().manual_seed(seed))


def _seen(album: Album) -> tuple[View, list[Progress]]:
    progress, looking = [], view(album, PLAN, generator=torch.Generator().manual_seed(0))
    while True:
        try:
            progress.append(next(looking))
        except StopIteration as end:
            return end.value, progress


def _album(pictures: Callable[..., Pictures], victims: Pictures | None = None) -> Album:
    lessons, tests = pictures(384, seed=2), pictures(50, seed=3)
    return Album(
        attack="test",
        originals=pictures(256),
        lessons=_negative(lessons),
        tests=_negative(tests),
        victims=_negative(pictures(200, seed=4)) if victims is None else victims,
        classes=2,
    )


def _negative(some: Pictures) -> Pictures:
    """Return images in which what was bright is dark: reconstructions in a manner of their own."""
    return replace(some, images=255 - some.images)


def test_reads_what_is_in_the_image(pictures: Callable[..., Pictures]) -> None:
    viewer, others = _viewer(), pictures(200, seed=1)
    losses = [p.figure for p in viewer.learn("test", pictures(256))]
    assert losses[-1] < losses[0]
    right = viewer.logits(others.images).argmax(1) == others.private
    assert right.float().mean() > 0.95


def test_what_is_not_there_is_not_read(pictures: Callable[..., Pictures]) -> None:
    """Blank images: the same answer for all, so the rate is that of one class.

    False alarms: none, whatever is learned.
    """
    blank = replace(pictures(100, seed=4), images=torch.zeros(100, 3, 8, 8, dtype=torch.uint8))
    found, _ = _seen(_album(pictures, blank))
    assert found.reading.rate.value <= found.reading.majority
    assert not found.reading.beats_chance


def test_lessons_on_reconstructions_teach_their_manner(
    pictures: Callable[..., Pictures],
) -> None:
    found, progress = _seen(_album(pictures))
    assert found.learned_from == "reconstructions"
    assert found.reading.rate.value > 0.95
    assert found.held_out > 0.9
    assert len(progress) == 20
    assert {(p.attack, p.attacker) for p in progress} == {("test", "viewer")}
    originals, reconstructions = (float(part.split()[0]) for part in found.note.split(", "))
    assert originals < 0.5 < reconstructions == pytest.approx(found.reading.rate.value, abs=6e-4)


def test_the_better_of_both_counts(pictures: Callable[..., Pictures]) -> None:
    """Where the victims' images are plain, lessons on negatives do harm."""
    found, _ = _seen(_album(pictures, pictures(200, seed=4)))
    assert found.learned_from == "originals"
    assert found.reading.rate.value > 0.95
    assert found.held_out < 0.5  # on its own negatives


def test_repeatable(pictures: Callable[..., Pictures]) -> None:
    own, others = pictures(64), pictures(20, seed=1)
    before, logits = torch.get_rng_state(), []
    for seed in (1, 1, 2):
        viewer = _viewer(seed)
        list(viewer.learn("test", own))
        logits.append(viewer._logits(others.images))
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("setting", [{"lr": 0.0}, {"width": 0}])
def test_plans_that_cannot_be(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected lr above 0 and width"):
        ViewerPlan(**setting)  # type: ignore[arg-type]
