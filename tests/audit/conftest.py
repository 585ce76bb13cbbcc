"""What tests of attacks share: made-up images with an edge part to hide them, made-up features.

Dimension key:  N images or examples   C channels   H, W height and width
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from eaves.audit.knowledge import Exposure, Known, Victims
from eaves.audit.release import ReleasePath
from eaves.audit.scene import Pictures, Scene, WhiteBox
from eaves.privacy.bounds import Clip
from eaves.privacy.mechanisms import Mechanism
from eaves.privacy.sources import Pseudo


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _pictures(n: int, seed: int = 0, side: int = 8) -> Pictures:
    """Return n images of three random colours each, in bands; each fact of them is a coin's.

    The left column is bright where the private class is 1, the right one where the label is.
    """
    generator = torch.Generator().manual_seed(seed)
    bands = torch.rand(n, 3, 4, 1, generator=generator).repeat_interleave(side // 4, 2)
    images = (60 + 100 * bands).expand(n, 3, side, side).clone()
    labels, private = torch.randint(2, (2, n), generator=generator)
    edge = side // 4
    images[:, :, :, :edge] += 80 * private[:, None, None, None]
    images[:, :, :, -edge:] += 80 * labels[:, None, None, None]
    return Pictures(images=images.to(torch.uint8), labels=labels, private=private)


@pytest.fixture
def pictures() -> Callable[..., Pictures]:
    return _pictures


class _Scaled(nn.Module):
    """[0, 255] -> [-1, 1]: an edge part that hides nothing."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW.float() / 127.5 - 1


class _Flat(nn.Module):
    """The same, flattened and turned by a random rotation."""

    def __init__(self, values: int):
        super().__init__()
        noise = torch.randn(values, values, generator=torch.Generator().manual_seed(9))
        self.turn = nn.Parameter(torch.linalg.qr(noise).Q)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        turned: Tensor = (x_BCHW.float() / 127.5 - 1).flatten(1) @ self.turn
        return turned


@pytest.fixture
def scene() -> Callable[..., Scene]:
    """Return a function that makes a scene: ``scale`` of the noise, ``flat`` features or not."""

    def build(
        known: int = 256,
        victims: int = 64,
        *,
        scale: float = 0.0,
        flat: bool = False,
        releases: int = 1,
        side: int = 8,
    ) -> Scene:
        edge = _Flat(3 * side * side) if flat else _Scaled()
        law = "gaussian" if scale else "none"
        # Far enough not to bind: what the bound does is tested where it is.
        mechanism = Mechanism(bound=Clip(100.0), law=law, scale=scale)
        box = WhiteBox(edge, ReleasePath(mechanism=mechanism), releases=releases)
        people = _pictures(victims, seed=1, side=side)
        return Scene(
            attribute="left",
            known=_pictures(known, side=side),
            victims=people,
            features=_sent(box, people.images),
            box=box,
        )

    return build


def _sent(box: WhiteBox, images: Tensor) -> Tensor:
    single = WhiteBox(box._edge, box.path)
    generator = torch.Generator().manual_seed(2)
    bounded = box.features_of(images)
    return torch.stack([single.seen(bounded, generator=generator) for _ in range(box.releases)], 1)


@pytest.fixture
def exposed() -> Callable[..., Exposure]:
    """Return a function that exposes features (N, ...): the first ``victims`` of them are theirs.

    ``labels`` of the task are all 0 where none are given.
    """

    def build(
        features: Tensor,
        private_N: Tensor,
        *,
        labels: Tensor | None = None,
        victims: int = 400,
        law: str = "gaussian",
        scale: float = 0.0,
        releases: int = 1,
    ) -> Exposure:
        mechanism = Mechanism(bound=Clip(100.0), law=law if scale else "none", scale=scale)
        source = Pseudo(torch.Generator().manual_seed(11))
        labels_N = torch.zeros_like(private_N) if labels is None else labels
        theirs = features[:victims]
        sent = torch.stack([mechanism.noised(theirs, source) for _ in range(releases)], dim=1)
        return Exposure(
            attribute="Male",
            known=Known(
                features=features[victims:], labels=labels_N[victims:], private=private_N[victims:]
            ),
            victims=Victims(features=sent, labels=labels_N[:victims], private=private_N[:victims]),
            path=ReleasePath(mechanism=mechanism),
            half_width=0.05,
        )

    return build
