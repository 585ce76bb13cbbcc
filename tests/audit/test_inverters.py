"""What every inverter must do, whatever its way: the contract of all three.

An edge part that hides nothing is inverted far better than any mean image; pure noise is not.
"""

from collections.abc import Callable

import pytest
import torch

from eaves.audit.decoder import Decoder, DecoderPlan
from eaves.audit.findings import Progress
from eaves.audit.generator import GanPlan
from eaves.audit.inverters import Inverter
from eaves.audit.latent import LatentPlan, LatentSearch
from eaves.audit.optimisation import Optimisation
from eaves.audit.scene import Scene, mean_images
from eaves.audit.search import SearchPlan
from eaves.audit.similarity import mse
from eaves.audit.trial import Allowance

pytestmark = pytest.mark.usefixtures("one_thread")


def _decoder() -> Inverter:
    plan = DecoderPlan(allowance=Allowance(time_s=600.0, rounds=20, batch_size=32), width=16)
    return Decoder(plan)


def _optimisation() -> Inverter:
    return Optimisation(
        SearchPlan(
            allowance=Allowance(time_s=600.0, rounds=40, batch_size=64),
            lr=0.05,
            weights=(0.0, 1.0, 100.0),
            tuning=16,
            victims=64,
        )
    )


def _latent(rounds: int = 3) -> Inverter:
    search = SearchPlan(
        allowance=Allowance(time_s=600.0, rounds=40, batch_size=64),
        lr=0.1,
        weights=(0.0, 1.0),
        tuning=8,
    )
    few = Allowance(time_s=600.0, rounds=rounds, batch_size=32)
    gan = GanPlan(allowance=few, latents=16, width=8, lr=2e-3, decay=0.95)
    return LatentSearch(LatentPlan(gan=gan, search=search, pool=64, starts=2))


MAKERS: dict[str, Callable[[], Inverter]] = {
    "decoder": _decoder,
    "optimisation": _optimisation,
    "gan": _latent,
}

# MSE, as a part of the mean images' own. A generator this small knows few images.
BELOW_THE_MEAN_IMAGE = {"decoder": 0.1, "optimisation": 0.02, "gan": 0.7}


def _inverted(
    inverter: Inverter, scene: Scene, seed: int = 0
) -> tuple[torch.Tensor, list[Progress]]:
    generator = torch.Generator().manual_seed(seed)
    progress = list(inverter.learn(scene, scene.known, generator=generator))
    return inverter.invert(scene.seen, scene.victims.labels, generator=generator), progress


def _mean_error(scene: Scene) -> torch.Tensor:
    means = mean_images(scene.known, scene.label_classes)[scene.victims.labels]
    return mse(means, scene.victims.images).mean()


@pytest.mark.parametrize(
    ("name", "flat"),
    [("decoder", False), ("decoder", True), ("optimisation", False), ("gan", True)],
)
def test_what_is_not_hidden_is_rebuilt(name: str, flat: bool, scene: Callable[..., Scene]) -> None:
    open_scene = scene(known=512, flat=flat)
    inverter = _latent(rounds=20) if name == "gan" else MAKERS[name]()
    made, progress = _inverted(inverter, open_scene)
    assert made.shape == open_scene.victims.images.shape
    assert made.dtype == torch.uint8
    ratio = mse(made, open_scene.victims.images).mean() / _mean_error(open_scene)
    assert ratio < BELOW_THE_MEAN_IMAGE[name]
    assert inverter.name == name == progress[0].attack
    assert inverter.rounds > 0
    assert all(1 <= p.done <= p.total for p in progress)


@pytest.mark.parametrize("name", MAKERS)
def test_noise_tells_nothing(name: str, scene: Callable[..., Scene]) -> None:
    hidden = scene(known=512, scale=1000.0)
    made, _ = _inverted(MAKERS[name](), hidden)
    ratio = mse(made, hidden.victims.images).mean() / _mean_error(hidden)
    assert ratio > 0.97


@pytest.mark.parametrize("name", MAKERS)
def test_repeatable(name: str, scene: Callable[..., Scene]) -> None:
    before = torch.get_rng_state()
    noisy = scene(known=64, scale=0.3)
    first, second, other = (_inverted(MAKERS[name](), noisy, seed)[0] for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    assert name == "optimisation" or not torch.equal(first, other)  # it draws for tuning only


@pytest.mark.parametrize("name", MAKERS)
def test_nothing_is_inverted_before_learning(name: str, scene: Callable[..., Scene]) -> None:
    s = scene()
    with pytest.raises(RuntimeError, match=r"call learn\(\) first"):
        MAKERS[name]().invert(s.seen, s.victims.labels, generator=torch.Generator())
