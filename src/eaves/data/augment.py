"""Random crops, shifts and mirror images of a whole batch at once, on raw bytes.

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
    """What may happen to an image.

    ``crop`` shifts it by up to an eighth of its height and width, ``shift`` by up to a tenth of its
    width alone, which for a spectrogram is time; ``flip`` makes it a mirror image.
    """

    crop: bool
    flip: bool
    shift: bool = False

    def __post_init__(self) -> None:
        if self.crop and self.shift:
            raise ValueError("expected a crop or a shift, got both; a crop shifts already")


AUGMENTS: dict[str, Augment] = {
    "none": Augment(crop=False, flip=False),
    "flip": Augment(crop=False, flip=True),
    "crop": Augment(crop=True, flip=False),
    "crop-flip": Augment(crop=True, flip=True),
    "shift": Augment(crop=False, flip=False, shift=True),
}


def augment_named(name: str) -> Augment:
    """Return the entry of :data:`AUGMENTS`; raises ``ConfigError`` for an unknown name."""
    if name not in AUGMENTS:
        raise unknown("augmentation", name, AUGMENTS)
    return AUGMENTS[name]


def crop_flip(inputs_BCHW: Tensor, augment: Augment, *, generator: torch.Generator) -> Tensor:
    """Return each image padded with zeros, cut out at a random place, and mirrored half the time.

    The padding of a crop is 4 pixels for a side of 32, in general ``max(1, side // 8)``; that of a
    shift 10 on the left and on the right of 100, in general ``max(1, width // 10)``. Draws are
    independent for each image and equal for its channels. Shape and dtype stay as they are.

    Source: He et al., *Deep Residual Learning for Image Recognition* (2015), section 4.2, for the
    crop; for the shift Tang and Lin, *Deep Residual Learning for Small-Footprint Keyword Spotting*
    (2018), who move a second of speech by up to 100 ms, with silence on its side.
    """
    size, _, height, width = inputs_BCHW.shape
    pad_y = max(1, height // 8) if augment.crop else 0
    pad_x = max(1, width // 8) if augment.crop else max(1, width // 10) if augment.shift else 0
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
