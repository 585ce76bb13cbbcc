"""The search itself, through spaces whose best point is known."""

from collections.abc import Callable
from typing import final

import pytest
import torch
from torch import Tensor, nn

from eaves.audit.scene import Scene, WhiteBox
from eaves.audit.search import Search, SearchPlan, Space
from eaves.audit.trial import Allowance
from eaves.errors import ConfigError

pytestmark = pytest.mark.usefixtures("one_thread")


@final
class _Brightness(Space):
    """One number for each image: how bright all of it is. It starts at each of ``starts``."""

    def __init__(self, *starts: float):
        self._starts = torch.tensor(starts)

    def starts(self, seen: Tensor, labels_B: Tensor) -> Tensor:
        return self._starts.expand(len(seen), -1).unsqueeze(2)

    def images(self, points: Tensor, labels_P: Tensor) -> Tensor:
        return points[:, :, None, None].expand(-1, 3, 8, 8)

    def penalty(self, points: Tensor, labels_P: Tensor) -> Tensor:
        return points.square().mean(1)


@final
class _Wave(nn.Module):
    """Brightness b of 0..255 -> cos(4 pi b / 255): two maxima inside, at 0.5 and at 1."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        b = x_BCHW.float().mean((1, 2, 3)) / 255
        return torch.stack([torch.cos(4 * torch.pi * b), b / 10], dim=1)


def _plan(steps: int = 120, weights: tuple[float, ...] = (0.0,)) -> SearchPlan:
    return SearchPlan(
        allowance=Allowance(time_s=600.0, rounds=steps, batch_size=64),
        lr=0.05,
        weights=weights,
        tuning=16,
    )


def _searched(search: Search, seen: Tensor, weight: float) -> list[int]:
    made = search.images(seen, torch.zeros(len(seen), dtype=torch.int64), weight)
    assert made.shape == (len(seen), 3, 8, 8)
    assert made.dtype == torch.uint8
    return [int(x) for x in made[:, 0, 0, 0]]


def test_finds_the_image_of_each_victim(scene: Callable[..., Scene]) -> None:
    box = scene().box
    truth = torch.tensor([30, 100, 200])
    seen = box.features_of(truth[:, None, None, None].expand(-1, 3, 8, 8))
    found = _searched(Search(_Brightness(0.5), box, _plan()), seen, 0.0)
    assert found == pytest.approx(truth.tolist(), abs=2)


def test_the_best_of_several_starts_wins(scene: Callable[..., Scene]) -> None:
    """From 0.45 the search climbs the wrong top of the wave; from 0.95 the right one."""
    box = WhiteBox(_Wave(), scene().box.path)
    seen = box.features_of(torch.full((2, 3, 8, 8), 255.0))
    one, other, both = (
        _searched(Search(_Brightness(*starts), box, _plan()), seen, 0.0)
        for starts in ((0.45,), (0.95,), (0.45, 0.95))
    )
    assert max(one) < 200 < min(other)
    assert both == other


def test_weight_pulls_towards_what_is_likely(scene: Callable[..., Scene]) -> None:
    """The least of (2b - 1.6)^2 + w b^2 is at b = 3.2 / (4 + w): features are 2b - 1."""
    box = scene().box
    seen = torch.full((1, 3, 8, 8), 0.6)
    for weight in (0.0, 1.0, 4.0):
        (found,) = _searched(Search(_Brightness(0.5), box, _plan(steps=150)), seen, weight)
        assert found == pytest.approx(255 * 3.2 / (4 + weight), abs=2)


def test_more_weight_is_chosen_under_more_noise(scene: Callable[..., Scene]) -> None:
    chosen = []
    for scale in (0.0, 30.0):
        s = scene(scale=scale)
        mean = s.known.images.float().mean() / 255
        search = Search(_Shift(float(mean)), s.box, _plan(30, weights=(0.0, 100.0)))
        progress = list(search.tune("own", s, s.known, generator=torch.Generator().manual_seed(0)))
        assert [(p.done, p.total, p.attack) for p in progress] == [(1, 2, "own"), (2, 2, "own")]
        chosen.append(min(progress, key=lambda p: p.figure).done - 1)
        labels = s.victims.labels[:4]
        best = search.images(s.seen[:4], labels, (0.0, 100.0)[chosen[-1]])
        assert torch.equal(search.images(s.seen[:4], labels), best)
    assert chosen == [0, 1]


@final
class _Shift(Space):
    """Every pixel by itself, around one grey."""

    def __init__(self, grey: float):
        self._grey = grey

    def starts(self, seen: Tensor, labels_B: Tensor) -> Tensor:
        return torch.zeros(len(seen), 1, 3, 8, 8)

    def images(self, points: Tensor, labels_P: Tensor) -> Tensor:
        return self._grey + points

    def penalty(self, points: Tensor, labels_P: Tensor) -> Tensor:
        return points.square().flatten(1).mean(1)


def test_steps_are_counted(scene: Callable[..., Scene]) -> None:
    s = scene()
    search = Search(_Brightness(0.5), s.box, _plan(steps=7))
    assert search.steps == 0
    search.images(s.seen[:2], s.victims.labels[:2])
    assert search.steps == 7


@pytest.mark.parametrize(
    "setting", [{"lr": 0.0}, {"weights": ()}, {"weights": (-1.0,)}, {"tuning": 0}, {"victims": 1}]
)
def test_plans_that_cannot_be(setting: dict[str, float]) -> None:
    usual = {"allowance": Allowance(), "lr": 0.1, "weights": (0.0,)}
    with pytest.raises(ConfigError, match="expected"):
        SearchPlan(**{**usual, **setting})  # type: ignore[arg-type]
