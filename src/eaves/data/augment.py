"""Random crops and mirror images of a whole batch at once, on raw bytes.

Dimension key:  B batch   C channels   H, W height and width
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from eaves.errors import unknown


@final
@dataclass(frozen=True, slots=True)
class Augment:
    """What may happen to an image: a shift by up to an eighth of its side, a mirror image."""

    crop: bool
    flip: bool


AUGMENTS: dict[str, Augment] = {
    "none": Augment(crop=False, flip=False),
    "flip": Augment(crop=False, flip=True),
    "crop": Augment(crop=True, flip=False),
    "crop-flip": Augment(crop=True, flip=True),
}


def augment_named(name: str) -> Augment:
    """Return the entry of :data:`AUGMENTS`; raises ``ConfigError`` for an unknown name."""
    if name not in AUGMENTS:
        raise unknown("augmentation", name, AUGMENTS)
    return AUGMENTS[name]


def crop_flip(inputs_BCHW: Tensor, augment: Augment, *, generator: torch.Generator) -> Tensor:
    """Return each image padded with zeros, cut out at a random place, and mirrored half the time.

    The padding is 4 pixels for a side of 32, in general ``max(1, side // 8)``. Draws are
    independent for each image and equal for its channels. Shape and dtype stay as they are.

    Source: He et al., *Deep Residual Learning for Image Recognition* (2015), section 4.2.
    """
    size, _, height, width = inputs_BCHW.shape
    pad_y = max(1, height // 8) if augment.crop else 0
    pad_x = max(1, width // 8) if augment.crop else 0
    top_B1 = torch.randint(0, 2 * pad_y + 1, (size, 1), generator=generator)
    left_B1 = torch.randint(0, 2 * pad_x + 1, (size, 1), generator=generator)
    mirrored_B1 = (torch.rand(size, 1, generator=generator) < 0.5) & augment.flip
    columns_W = torch.arange(width)
    ys_BH = top_B1 + torch.arange(height)
    xs_BW = left_B1 + torch.where(mirrored_B1, width - 1 - columns_W, columns_W)
    padded_BCHW = nn.functional.pad(inputs_BCHW, (pad_x, pad_x, pad_y, pad_y))
    # One gather over the pixels of each plane: measured at twice the rate of indexed windows.
    places = (ys_BH[:, :, None] * (width + 2 * pad_x) + xs_BW[:, None, :]).flatten(1)
    places = places[:, None].expand(-1, inputs_BCHW.shape[1], -1)
    return padded_BCHW.flatten(2).gather(2, places.to(inputs_BCHW.device)).view_as(inputs_BCHW)
