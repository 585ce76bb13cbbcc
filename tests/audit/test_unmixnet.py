"""Nets that un-mix: what they are blind to, what they learn, and what they leave alone."""

from itertools import permutations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from eaves.audit.learners import drawing_from
from eaves.audit.trial import Allowance
from eaves.audit.unmixnet import (
    MatrixFinder,
    NetPlan,
    Refiner,
    lessons,
    standardised,
    teach,
    unlikeness,
    unmixed_by,
)
from eaves.errors import ConfigError

pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mosaics(groups: int, k: int = 2, side: int = 8, seed: int = 0) -> Tensor:
    """Return images (G, K, 3, H, W) in [0, 1] of 4 x 4 patches, each of one colour."""
    patches = torch.rand(groups * k, 3, 4, 4, generator=seeded(seed)) ** 2
    return interpolate(patches, (side, side)).reshape(groups, k, 3, side, side)


def rotated(sources: Tensor, generator: torch.Generator) -> Tensor:
    k = sources.shape[1]
    rotation: Tensor = torch.linalg.qr(torch.randn(len(sources), k, k, generator=generator)).Q
    return (rotation @ sources.flatten(2)).reshape(sources.shape)


def net_of(kind: type[nn.Module], *shape: int, width: int = 8) -> nn.Module:
    with drawing_from(seeded()):
        return kind(*shape, width=width)


def test_the_loss_is_the_least_over_all_orders() -> None:
    made, sources = mosaics(5, 3), mosaics(5, 3, seed=1)
    flat = [standardised(x).flatten(2).double() for x in (made, sources)]
    r2_BKK = (flat[0] @ flat[1].mT / flat[0].shape[2]).square()
    best = [
        max(sum(r2_KK[order[j], j] for j in range(3)) for order in permutations(range(3)))
        for r2_KK in r2_BKK
    ]
    assert unlikeness(made, sources).item() == pytest.approx(1 - float(sum(best)) / 15, abs=1e-5)


def test_the_loss_does_not_see_order_scale_and_sign() -> None:
    sources = mosaics(4, 3)
    assert unlikeness(3 - 2 * sources.flip(1), sources).item() == pytest.approx(0, abs=1e-6)
    assert unlikeness(mosaics(4, 3, seed=1), sources).item() > 0.5


def test_standardised_is_zero_where_all_is_constant() -> None:
    x = torch.cat([mosaics(1, 1), torch.full((1, 1, 3, 8, 8), 0.3)], dim=1)
    y = standardised(x)
    assert y[0, 0].mean().item() == pytest.approx(0, abs=1e-6)
    assert y[0, 0].square().mean().item() == pytest.approx(1, rel=1e-5)
    assert y[0, 1].abs().max() < 0.1  # the rounding of a constant is not blown up


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 7, 5), (16, 2, 3), (4, 1, 1)])
def test_a_refiner_begins_as_nothing_and_takes_any_shape(shape: tuple[int, int, int]) -> None:
    x = torch.randn(2, 3, *shape, generator=seeded())
    assert torch.equal(net_of(Refiner, shape[0])(x), standardised(x))


def test_a_refiner_takes_off_noise() -> None:
    sources, generator = mosaics(160), seeded(3)
    noisy = sources + 0.25 * torch.randn(sources.shape, generator=generator)
    net = net_of(Refiner, 3, width=16)
    allowance = Allowance(rounds=8, time_s=600.0, batch_size=16)
    order = torch.arange(128)
    given = (
        (noisy[rows], sources[rows], share)
        for rows, share in lessons(order, allowance, generator=generator)
    )
    assert teach(net, given, lr=1e-2) == 64
    before, after = (
        unlikeness(x, sources[128:]).item() for x in (noisy[128:], unmixed_by(net, noisy[128:]))
    )
    assert after < 0.8 * before


def test_a_finder_answers_combinations_of_the_queries() -> None:
    queries = rotated(mosaics(3, 3), seeded(1))
    with torch.no_grad():
        made = net_of(MatrixFinder, 3)(queries)
    span = torch.linalg.lstsq(queries.flatten(2).mT, made.flatten(2).mT)
    assert torch.allclose(queries.flatten(2).mT @ span.solution, made.flatten(2).mT, atol=1e-3)


def test_a_finder_learns_to_unmix() -> None:
    own, victims, generator = mosaics(256), mosaics(64, seed=9), seeded(4)
    net = net_of(MatrixFinder, 2)
    allowance = Allowance(rounds=12, time_s=600.0, batch_size=32)
    given = (
        (rotated(sources, generator), sources, share)
        for sources, share in lessons(own, allowance, generator=generator)
    )
    teach(net, given, lr=1e-2)
    queries = rotated(victims, generator)
    assert unlikeness(unmixed_by(net, queries), victims) < 0.7 * unlikeness(queries, victims)


def test_lessons_take_every_group_once_an_epoch() -> None:
    own = torch.arange(10)
    allowance = Allowance(rounds=3, time_s=600.0, batch_size=5)
    given = list(lessons(own, allowance, generator=seeded()))
    assert len(given) == 6
    for epoch in range(3):
        rows = torch.cat([given[2 * epoch][0], given[2 * epoch + 1][0]])
        assert torch.equal(rows.sort().values, own)
    assert [round(share, 2) for _, share in given] == [0, 0.17, 0.33, 0.5, 0.67, 0.83]


def test_many_groups_are_unmixed_as_few_are() -> None:
    x, net = mosaics(130), net_of(Refiner, 3)
    for weights in net.parameters():
        nn.init.normal_(weights, std=0.1, generator=seeded())
    assert torch.allclose(unmixed_by(net, x)[:70], unmixed_by(net, x[:70]), atol=1e-2)


@pytest.mark.parametrize("setting", [{"lr": 0.0}, {"width": 0}])
def test_plans_that_cannot_be(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected lr above 0 and width"):
        NetPlan(**setting)  # type: ignore[arg-type]
