from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from eaves.audit.convnets import as_bytes
from eaves.audit.generator import Gan, GanPlan
from eaves.audit.scene import Pictures
from eaves.audit.trial import Allowance
from eaves.errors import ConfigError

pytestmark = pytest.mark.usefixtures("one_thread")

PLAN = GanPlan(
    allowance=Allowance(time_s=600.0, rounds=20, batch_size=32),
    latents=16,
    width=8,
    lr=2e-3,
    decay=0.95,
)


def _trained(pictures: Pictures, plan: GanPlan = PLAN, seed: int = 0) -> tuple[Gan, list[float]]:
    generator = torch.Generator().manual_seed(seed)
    gan = Gan(plan, pictures.shape, generator=generator)
    return gan, [p.figure for p in gan.learn(pictures, generator=generator)]


def _drawn(gan: Gan, n: int = 256) -> torch.Tensor:
    z_BD = gan.latents(n, generator=torch.Generator().manual_seed(7))
    return as_bytes(gan.net(z_BD)).float()


def test_draws_images_like_those_it_was_shown(pictures: Callable[..., Pictures]) -> None:
    """In colour, in how much they vary, and in what is alike within each image: its bands."""
    own = pictures(512)
    real = own.images.float()
    gan, losses = _trained(own)
    drawn = _drawn(gan)
    untrained = _drawn(Gan(PLAN, own.shape, generator=torch.Generator().manual_seed(0)))
    assert abs(drawn.mean() - real.mean()) < 15
    assert 0.6 < drawn.std(0).mean() / real.std(0).mean() < 1.5
    assert untrained.std(0).mean() / real.std(0).mean() < 0.5

    def unevenness(x: torch.Tensor) -> float:
        """Return how far pixels are from others of their band, in the columns of the middle."""
        inner = x[..., 2:-2]
        return float((inner - inner.mean(3, keepdim=True)).abs().mean())

    assert unevenness(real) == 0
    mixed = torch.rand(256, 192, generator=torch.Generator().manual_seed(3)).argsort(0)
    pixels_of_others = drawn.flatten(1).gather(0, mixed).reshape(drawn.shape)
    assert unevenness(drawn) < 0.7 * unevenness(pixels_of_others)
    assert gan.epochs == len(losses) == 20


def test_average_lags_behind(pictures: Callable[..., Pictures]) -> None:
    own = pictures(64)
    plan = replace(PLAN, allowance=Allowance(time_s=600.0, rounds=1, batch_size=64), decay=0.75)
    generator = torch.Generator().manual_seed(0)
    gan = Gan(plan, own.shape, generator=generator)
    before = next(gan._raw.parameters()).clone()
    list(gan.learn(own, generator=generator))  # one step
    after, averaged = (next(net.parameters()) for net in (gan._raw, gan._averaged))
    assert not torch.equal(before, after)
    assert torch.allclose(averaged, 0.75 * before + 0.25 * after, atol=1e-7)


def test_statistics_are_those_of_the_averaged_weights(pictures: Callable[..., Pictures]) -> None:
    """In evaluation mode it draws what it does in training mode, where each batch is its own."""
    gan, _ = _trained(
        pictures(128), replace(PLAN, allowance=Allowance(time_s=600.0, rounds=5, batch_size=32))
    )
    z_BD = gan.latents(512, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        settled = gan.net(z_BD)
        own = gan.net.train()(z_BD)
    assert (settled - own).abs().mean() < 0.1 * own.std(0).mean()


def test_the_same_generator_draws_the_same(pictures: Callable[..., Pictures]) -> None:
    few = replace(PLAN, allowance=Allowance(time_s=600.0, rounds=2, batch_size=32))
    before = torch.get_rng_state()
    first, second, other = (_drawn(_trained(pictures(64), few, seed)[0], 4) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_the_net_learns_no_more(pictures: Callable[..., Pictures]) -> None:
    gan, _ = _trained(
        pictures(32), replace(PLAN, allowance=Allowance(time_s=600.0, rounds=1, batch_size=32))
    )
    assert not any(p.requires_grad for p in gan.net.parameters())
    assert not any(m.training for m in gan.net.modules())
    assert any(isinstance(m, nn.ConvTranspose2d) for m in gan.net.modules())


@pytest.mark.parametrize("setting", [{"latents": 0}, {"width": 0}, {"lr": 0.0}, {"decay": 1.0}])
def test_plans_that_cannot_be(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected 1 or more latents"):
        GanPlan(**setting)  # type: ignore[arg-type]
