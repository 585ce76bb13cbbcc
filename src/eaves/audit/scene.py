"""What an attack that rebuilds images works on: whose images, and how features come from them.

Dimension key:  N images   R releases of each   B batch   C channels   H, W height and width
                ... the shape of the features
"""

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor, nn

from eaves.audit.convnets import expect_image
from eaves.audit.release import ReleasePath, joined
from eaves.errors import ConfigError
from eaves.privacy.mechanisms import Mechanism

_AT_ONCE = 256  # images that the edge part takes together


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """Raw images (N, C, H, W) uint8, task labels (N,) and classes of one private attribute (N,).

    Raises:
        ConfigError: something else than uint8 images of 1 or 3 channels, or other numbers of them.
    """

    images: Tensor
    labels: Tensor
    private: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8:
            raise ConfigError(f"expected raw images, uint8, got {self.images.dtype}")
        expect_image(self.images.shape[1:])
        for classes in (self.labels, self.private):
            if classes.dtype != torch.int64 or classes.shape != self.images.shape[:1]:
                raise ConfigError(
                    f"expected an int64 class for each of {len(self.images)} images, got "
                    f"{classes.dtype} {tuple(classes.shape)}"
                )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return tuple(self.images.shape[1:])

    def part(self, share: float) -> tuple["Pictures", "Pictures"]:
        """Return the first ``share`` of them, one at least, and the rest."""
        rows = torch.arange(len(self)).tensor_split([max(1, round(share * len(self)))])
        return self.at(rows[0]), self.at(rows[1])

    def at(self, rows: Tensor) -> "Pictures":
        """Return some of them."""
        return Pictures(
            images=self.images[rows], labels=self.labels[rows], private=self.private[rows]
        )


@final
class WhiteBox:
    """The edge part as the attacker has it, on the CPU: its weights, and what features go through.

    ``edge`` maps raw images (B, C, H, W) to features (B, ...); it is copied, in evaluation mode.
    ``releases`` is how often each input is sent; the attacker joins them.
    """

    def __init__(self, edge: nn.Module, path: ReleasePath, *, releases: int = 1):
        self._edge = deepcopy(edge).cpu().eval().requires_grad_(False)
        self.path = path
        self.releases = releases

    @property
    def mechanism(self) -> Mechanism:
        """Bound and noise."""
        return self.path.mechanism

    def features(self, x_BCHW: Tensor) -> Tensor:
        """Return bounded features without noise; differentiable for float images in 0..255.

        Without the codec, too, which has no gradient: a search compares them with what the codec
        made of the victims'.
        """
        return self.mechanism.bounded(self._edge(x_BCHW).float())

    @torch.no_grad()
    def features_of(self, images_NCHW: Tensor) -> Tensor:
        """Return the same for many images, batch by batch."""
        return torch.cat([self.features(x_BCHW) for x_BCHW in torch.split(images_NCHW, _AT_ONCE)])

    @torch.no_grad()
    def seen(self, bounded: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return what the cloud would see of bounded features, all releases joined."""
        return self.path.seen(bounded, releases=self.releases, generator=generator)

    def unshielded(self) -> "WhiteBox":
        """Return the same edge part with its bound, sending once, without noise and codec."""
        return WhiteBox(self._edge, replace(self.path.quiet(), codec=None))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """The attacker's images, the victims' and what left the edge for these: features (N, R, ...).

    Of ``victims`` the attacker sees the task labels; their images and private classes score it.
    Its own images must be of other people, or be other examples at least: that cannot be seen here.

    Raises:
        ConfigError: images of two shapes, or features that do not fit the victims or the box.
    """

    attribute: str
    known: Pictures
    victims: Pictures
    features: Tensor
    box: WhiteBox

    def __post_init__(self) -> None:
        if self.known.shape != self.victims.shape:
            raise ConfigError(
                "expected the attacker's images to have the shape of the victims', got "
                f"{self.known.shape} and {self.victims.shape}"
            )
        made = self.box.features_of(self.known.images[:1]).shape[1:]
        expected = (len(self.victims), self.box.releases, *made)
        if self.features.shape != expected or not bool(self.features.isfinite().all()):
            raise ConfigError(
                f"expected finite features {expected} of the victims, {self.box.releases} releases "
                f"of each, got {tuple(self.features.shape)}"
            )

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """The shape of one image's features."""
        return tuple(self.features.shape[2:])

    @property
    def label_classes(self) -> int:
        """How many classes the task has, as far as can be seen."""
        return 1 + max(int(self.known.labels.max()), int(self.victims.labels.max()))

    @property
    def seen(self) -> Tensor:
        """One estimate (N, ...) of the victims' features: their releases joined."""
        return joined(self.features, self.box.mechanism.law)

    def unshielded(self) -> "Scene":
        """Return what to compare with: the victims' features before noise and codec."""
        box = self.box.unshielded()
        bounded = box.features_of(self.victims.images)
        return replace(self, box=box, features=bounded.unsqueeze(1))


def mean_images(known: Pictures, classes: int) -> Tensor:
    """Return the mean image of each task class, float32 (classes, C, H, W) in 0..255.

    For a class without an image it is the mean of all.
    """
    mean = known.images.float().mean(0)
    of_class = [known.images[known.labels == k] for k in range(classes)]
    return torch.stack([x.float().mean(0) if len(x) else mean for x in of_class])
