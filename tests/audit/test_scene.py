"""What the attacker has: the same features as the edge's, noise of the same law, mean images."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from eaves.audit.release import ReleasePath
from eaves.audit.scene import Pictures, Scene, WhiteBox, mean_images
from eaves.errors import ConfigError
from eaves.privacy.bounds import Tanh
from eaves.privacy.mechanisms import Mechanism

pytestmark = pytest.mark.usefixtures("one_thread")

NONE = Mechanism(bound=Tanh(1.0), law="none", scale=0.0)


def _edge() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.Dropout(0.5))


class _Raw(nn.Module):
    def __init__(self, edge: nn.Module):
        super().__init__()
        self.edge = edge

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.edge(x.float() / 100)
        return out


def test_a_white_box_computes_what_the_edge_does(pictures: Callable[..., Pictures]) -> None:
    edge, x = _Raw(_edge()), pictures(300).images
    box = WhiteBox(edge, ReleasePath(mechanism=NONE))
    with torch.no_grad():
        expected = edge.eval()(x).tanh()
    assert torch.allclose(box.features_of(x), expected, atol=1e-6)
    assert not box.features_of(x).requires_grad


def test_a_white_box_leaves_the_edge_alone(pictures: Callable[..., Pictures]) -> None:
    edge = _Raw(_edge())
    before = {k: v.clone() for k, v in edge.state_dict().items()}
    box = WhiteBox(edge, ReleasePath(mechanism=NONE))
    x = pictures(4).images.float().requires_grad_()
    box.features(x).square().sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.abs().max() > 0
    assert edge.training
    assert all(p.requires_grad and p.grad is None for p in edge.parameters())
    assert all(torch.equal(v, before[k]) for k, v in edge.state_dict().items())


@pytest.mark.parametrize("releases", [1, 4])
def test_noise_of_joined_releases(releases: int) -> None:
    """The mean of R normal draws has the deviation scale / sqrt(R).

    False alarms: the sample deviation of 100,000 draws is off by 2 % once in 10^18 runs.
    """
    mechanism = Mechanism(bound=Tanh(1.0), law="gaussian", scale=0.5)
    box = WhiteBox(nn.Identity(), ReleasePath(mechanism=mechanism), releases=releases)
    generator = torch.Generator().manual_seed(0)
    seen = box.seen(torch.zeros(1000, 100), generator=generator)
    assert float(seen.std()) == pytest.approx(0.5 / releases**0.5, rel=0.02)
    assert not torch.equal(seen, box.seen(torch.zeros(1000, 100), generator=generator))


def test_unshielded(scene: Callable[..., Scene]) -> None:
    noisy = scene(scale=2.0, releases=3)
    clean = noisy.unshielded()
    assert torch.equal(clean.seen, clean.box.features_of(clean.victims.images))
    assert clean.features.shape[1] == clean.box.releases == 1
    assert (noisy.seen - clean.seen).std() > 0.5
    assert clean.known is noisy.known


def test_joined_releases_are_nearer(scene: Callable[..., Scene]) -> None:
    far = [
        (s.seen - s.unshielded().seen).square().mean()
        for s in (scene(scale=1.0), scene(scale=1.0, releases=9))
    ]
    assert far[1] < far[0] / 6  # a ninth, of more than 12,000 values


def test_mean_images(pictures: Callable[..., Pictures]) -> None:
    known = pictures(50)
    means = mean_images(known, 3)
    assert torch.allclose(means[1], known.images[known.labels == 1].float().mean(0))
    assert torch.allclose(means[2], known.images.float().mean(0))  # nobody has this label
    assert means[1, :, :, -1].mean() > means[0, :, :, -1].mean() + 70


def test_pictures_at_rows(pictures: Callable[..., Pictures]) -> None:
    some = pictures(9).at(torch.tensor([3, 3, 1]))
    assert len(some) == 3
    assert torch.equal(some.images[0], pictures(9).images[3])
    assert some.private.tolist() == pictures(9).private[[3, 3, 1]].tolist()


def test_pictures_that_are_none(pictures: Callable[..., Pictures]) -> None:
    good = pictures(4)
    with pytest.raises(ConfigError, match=r"expected raw images, uint8, got torch\.float32"):
        replace(good, images=good.images.float())
    with pytest.raises(ConfigError, match="are for images only"):
        replace(good, images=good.images[:, :2])
    with pytest.raises(ConfigError, match="an int64 class for each of 4 images"):
        replace(good, private=good.private[:3])
    with pytest.raises(ConfigError, match="an int64 class for each of 4 images"):
        replace(good, labels=good.labels.float())


def test_scenes_that_do_not_fit(
    scene: Callable[..., Scene], pictures: Callable[..., Pictures]
) -> None:
    good = scene()
    with pytest.raises(ConfigError, match="to have the shape of the victims'"):
        replace(good, known=pictures(8, side=16))
    with pytest.raises(ConfigError, match=r"expected finite features \(64, 1, 3, 8, 8\)"):
        replace(good, features=good.features[:, 0])
    with pytest.raises(ConfigError, match="2 releases of each"):
        replace(good, box=WhiteBox(nn.Flatten(), ReleasePath(mechanism=NONE), releases=2))
    with pytest.raises(ConfigError, match="expected finite features"):
        replace(good, features=good.features * float("nan"))
