from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from eaves.audit.decoder import Decoder, DecoderPlan, Told
from eaves.audit.scene import Scene
from eaves.audit.similarity import mse
from eaves.audit.trial import Allowance
from eaves.core.ssim import ssim
from eaves.errors import ConfigError

pytestmark = pytest.mark.usefixtures("one_thread")

FEW = Allowance(time_s=600.0, rounds=6, batch_size=32)


def _decoded(scene: Scene, plan: DecoderPlan, seed: int = 0) -> tuple[Tensor, list[float]]:
    generator = torch.Generator().manual_seed(seed)
    decoder = Decoder(plan)
    losses = [p.figure for p in decoder.learn(scene, scene.known, generator=generator)]
    return decoder.invert(scene.seen, scene.victims.labels, generator=generator), losses


def test_learns(scene: Callable[..., Scene]) -> None:
    _, losses = _decoded(scene(), DecoderPlan(allowance=replace(FEW, rounds=12), width=8))
    assert len(losses) == 12
    assert losses[-1] < losses[0] / 2


def test_the_task_label_is_used(scene: Callable[..., Scene]) -> None:
    """Where the features are noise, the label still says how bright the right column is."""
    hidden = scene(known=512, scale=1000.0)
    made, _ = _decoded(hidden, DecoderPlan(allowance=replace(FEW, rounds=12), width=8))
    right = made[..., -1].float().mean((1, 2))
    bright, dark = (right[hidden.victims.labels == k].mean() for k in (1, 0))
    assert bright - dark > 40  # it is 80 in the images


def test_label_beside_flat_and_other_features(scene: Callable[..., Scene]) -> None:
    flat = scene(flat=True)
    deep = replace(flat, box=scene().box, features=scene().features)
    for s, shape in ((flat, (192,)), (deep, (3, 8, 8))):
        net = Told(s, width=4)
        assert s.feature_shape == shape
        assert net(s.seen, s.victims.labels).shape == (64, 3, 8, 8)


def test_noise_is_drawn_anew_in_every_epoch(
    scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    noisy = scene(known=40, scale=0.5)
    draw = noisy.box.seen

    def seen(bounded: Tensor, *, generator: torch.Generator) -> Tensor:
        drawn.append(draw(bounded, generator=generator) - bounded)
        return drawn[-1]

    monkeypatch.setattr(noisy.box, "seen", seen)
    list(
        Decoder(
            DecoderPlan(allowance=Allowance(time_s=600.0, rounds=2, batch_size=36), width=4)
        ).learn(noisy, noisy.known, generator=torch.Generator().manual_seed(0))
    )
    check, first, second = drawn
    assert len(check) == 4  # a tenth, that the best epoch is chosen by
    assert abs(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]) < 0.05


def test_best_epoch_is_kept(scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    errors = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(Decoder, "_error", lambda *_: next(errors))
    s, generator = scene(known=80), torch.Generator().manual_seed(0)
    decoder = Decoder(
        DecoderPlan(allowance=Allowance(time_s=600.0, rounds=3, batch_size=36), width=4)
    )
    made = [
        decoder.invert(s.seen, s.victims.labels, generator=generator)
        for _ in decoder.learn(s, s.known, generator=generator)
    ]
    assert not torch.equal(made[0], made[1])
    assert torch.equal(made[1], made[2])
    assert decoder.rounds == 3


def test_ssim_in_the_loss_raises_ssim(scene: Callable[..., Scene]) -> None:
    noisy = scene(known=512, scale=0.7, side=16)
    plan = DecoderPlan(allowance=FEW, width=8)
    plain, structured = (
        ssim(_decoded(noisy, replace(plan, ssim_weight=w))[0], noisy.victims.images).mean()
        for w in (0.0, 1.0)
    )
    assert structured > plain


def test_releases_that_are_joined_are_decoded_better(scene: Callable[..., Scene]) -> None:
    errors = []
    for releases in (1, 16):
        s = scene(known=512, scale=1.0, releases=releases)
        made, _ = _decoded(s, DecoderPlan(allowance=FEW, width=8))
        errors.append(mse(made, s.victims.images).mean())
    assert errors[1] < errors[0] * 0.8


@pytest.mark.parametrize("setting", [{"lr": 0.0}, {"width": 0}, {"ssim_weight": -1.0}])
def test_plans_that_cannot_be(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected lr above 0, width"):
        DecoderPlan(**setting)  # type: ignore[arg-type]
