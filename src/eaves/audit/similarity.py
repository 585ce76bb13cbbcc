"""How near a reconstruction is to the original: MSE, PSNR, and with SSIM their means over victims.

Dimension key:  N images   C channels   H, W height and width
"""

from math import log10

import torch
from torch import Tensor

from eaves.audit.findings import Likeness, Score
from eaves.core.ssim import WHITE, expect_pairs, ssim

_BATCH = 256
_COPY_DB = 100.0


def mse(a_NCHW: Tensor, b_NCHW: Tensor) -> Tensor:
    """Return the mean squared error of each pair of images, float32 (N,), in their unit squared.

    >>> mse(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 3.0))
    tensor([9.])
    """
    expect_pairs(a_NCHW, b_NCHW)
    return (a_NCHW.float() - b_NCHW.float()).square().flatten(1).mean(1)


def psnr(a_NCHW: Tensor, b_NCHW: Tensor, *, white: float = WHITE) -> Tensor:
    """Return the peak signal-to-noise ratio of each pair, float32 (N,), in decibels.

    Infinite for an exact copy. ``white`` is the data range: 255, or 1.

    >>> psnr(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 25.5))
    tensor([20.])
    """
    return 20 * log10(white) - 10 * mse(a_NCHW, b_NCHW).log10()


def likeness(made_NCHW: Tensor, originals_NCHW: Tensor) -> Likeness:
    """Return how like their originals raw images (0..255) are, image by image; N >= 2.

    In the mean of PSNR an exact copy, whose PSNR is infinite, counts as 100 dB.
    """
    pairs = zip(torch.split(made_NCHW, _BATCH), torch.split(originals_NCHW, _BATCH), strict=True)
    found = [(ssim(a, b), psnr(a, b), mse(a, b)) for a, b in pairs]
    ssim_N, psnr_N, mse_N = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Likeness(
        ssim=Score.of(ssim_N), psnr_db=Score.of(psnr_N.clamp(max=_COPY_DB)), mse=Score.of(mse_N)
    )
