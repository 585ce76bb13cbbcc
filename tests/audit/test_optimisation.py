from collections.abc import Callable

import pytest
import torch

from eaves.audit.optimisation import Optimisation, Pixels
from eaves.audit.scene import Scene, mean_images
from eaves.audit.search import SearchPlan
from eaves.audit.similarity import mse
from eaves.audit.trial import Allowance

pytestmark = pytest.mark.usefixtures("one_thread")


def _space() -> Pixels:
    means = torch.zeros(2, 1, 4, 4)
    means[1] = 204.0
    return Pixels(means)


def test_starts_at_the_mean_image_of_the_label() -> None:
    space, labels = _space(), torch.tensor([1, 0, 1])
    starts = space.starts(torch.zeros(3, 5), labels)
    assert starts.shape == (3, 1, 1, 4, 4)
    x_PCHW = space.images(starts[:, 0], labels)
    assert x_PCHW.flatten(1).mean(1).tolist() == pytest.approx([0.8, 0.0, 0.8])


def test_images_are_clipped_but_their_gradient_is_not() -> None:
    points = torch.tensor([-0.5, 0.1, 0.5]).reshape(3, 1, 1, 1).expand(3, 1, 4, 4)
    points = points.clone().requires_grad_()
    x_PCHW = _space().images(points, torch.tensor([1, 1, 1]))
    assert x_PCHW[:, 0, 0, 0].tolist() == pytest.approx([0.3, 0.9, 1.0])
    (gradient,) = torch.autograd.grad(x_PCHW.sum(), [points])
    assert torch.equal(gradient, torch.ones_like(points))


def test_total_variation_by_hand() -> None:
    points = torch.zeros(2, 1, 4, 4)
    points[1, 0, :, 2:] = 0.6  # one edge down the middle: 4 of 12 neighbours across
    variation = _space().penalty(points, torch.tensor([0, 0]))
    assert variation.tolist() == pytest.approx([0.0, 0.6 * 4 / 12])


def test_the_heaviest_weight_leaves_the_mean_image(scene: Callable[..., Scene]) -> None:
    noisy = scene(known=256, scale=50.0)
    plan = SearchPlan(
        allowance=Allowance(time_s=600.0, rounds=40, batch_size=64),
        lr=0.02,
        weights=(0.0, 100.0),
        victims=64,
    )
    attack = Optimisation(plan)
    generator = torch.Generator().manual_seed(0)
    tried = list(attack.learn(noisy, noisy.known, generator=generator))
    free, smooth = (p.figure for p in tried)
    assert smooth < 0.7 < free  # 1 - SSIM
    assert attack.note == "total variation weighs 100"
    made = attack.invert(noisy.seen, noisy.victims.labels, generator=generator)
    means = mean_images(noisy.known, 2)[noisy.victims.labels]
    at_most = 12.0  # grey steps squared; the images vary by some 800 around their means
    assert mse(made, means).mean() < at_most < mse(means, noisy.victims.images).mean() / 20
