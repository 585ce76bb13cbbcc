"""Structural similarity: how alike two images are in light, contrast and structure.

Dimension key:  N images   C channels   H, W height and width
"""

import torch
from torch import Tensor

WHITE = 255.0
"""The data range of raw images."""

_WINDOW = 11
_SIGMA = 1.5


def ssim(a_NCHW: Tensor, b_NCHW: Tensor, *, white: float = WHITE) -> Tensor:
    """Return the structural similarity of each pair, float32 (N,), in [-1, 1]; differentiable.

    A Gaussian window of 11 x 11 pixels with a deviation of 1.5, only where it fits into the image;
    K1 = 0.01, K2 = 0.03; the mean over channels. Of an image with a side below 11 pixels the window
    is the largest odd one that fits. ``white`` is the data range: 255, or 1.

    Raises:
        ValueError: not two tensors of images of the same shape.

    Source: Wang, Bovik, Sheikh, Simoncelli, *Image Quality Assessment: From Error Visibility to
    Structural Similarity* (2004), eq. 13 to 17.

    >>> x = torch.arange(64.0).reshape(1, 1, 8, 8)
    >>> ssim(x, x), ssim(x, 63 - x, white=63) < 0
    (tensor([1.]), tensor([True]))
    """
    expect_pairs(a_NCHW, b_NCHW)
    with torch.autocast(a_NCHW.device.type, enabled=False):  # bfloat16 is too coarse for variances
        return _ssim(a_NCHW.float(), b_NCHW.float(), white)


def _ssim(a: Tensor, b: Tensor, white: float) -> Tensor:
    windows = _windows(a)
    mean_a, mean_b = _blurred(a, windows), _blurred(b, windows)
    # Of centred values: else rounding in float32 drowns the variance of bright, even images.
    shift = a.mean((2, 3), keepdim=True)
    a, b, at, bt = a - shift, b - shift, mean_a - shift, mean_b - shift
    var_a = _blurred(a * a, windows) - at * at
    var_b = _blurred(b * b, windows) - bt * bt
    cov = _blurred(a * b, windows) - at * bt
    c1, c2 = (0.01 * white) ** 2, (0.03 * white) ** 2
    light = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    return (light * (2 * cov + c2) / (var_a + var_b + c2)).flatten(1).mean(1)


def expect_pairs(a_NCHW: Tensor, b_NCHW: Tensor) -> None:
    """Raise ``ValueError`` unless both are images (N, C, H, W) of the same shape."""
    if a_NCHW.ndim != 4 or a_NCHW.shape != b_NCHW.shape:
        raise ValueError(
            "expected two tensors of images (N, C, H, W) of the same shape, "
            f"got {tuple(a_NCHW.shape)} and {tuple(b_NCHW.shape)}"
        )


def _windows(x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights of all windows: down the columns (places, H), along the rows (W, places).

    As matrices, because their products with small images are many times as fast as convolutions.
    """
    height, width = x_NCHW.shape[2:]
    size = min(_WINDOW, height, width)
    size -= 1 - size % 2
    offsets = torch.arange(size, dtype=torch.float64) - size // 2
    weights = (-offsets.square() / (2 * _SIGMA**2)).exp()
    weights = (weights / weights.sum()).to(x_NCHW)
    return _sliding(weights, height), _sliding(weights, width).T


def _sliding(weights: Tensor, side: int) -> Tensor:
    """Return a matrix (places, side) with the weights at every place where they fit.

    >>> _sliding(torch.tensor([1.0, 2.0]), 3).tolist()
    [[1.0, 2.0, 0.0], [0.0, 1.0, 2.0]]
    """
    places = side - len(weights) + 1
    columns = torch.arange(places)[:, None] + torch.arange(len(weights))
    rows = weights.expand(places, -1)
    return weights.new_zeros(places, side).scatter(1, columns.to(weights.device), rows)


def _blurred(x_NCHW: Tensor, windows: tuple[Tensor, Tensor]) -> Tensor:
    """Return the weighted means of all places where the window fits."""
    down, along = windows
    return down @ (x_NCHW @ along)
