"""Synthetic images where there are no data: noise with the spectrum of photographs.

Dimension key:  N examples   C channels   H, W height and width
"""

import torch

from eaves.data.source import InMemory

_MEAN, _STD, _COLOUR = 120.0, 60.0, 0.3  # brightness, contrast, and how far channels differ


def made_up(
    n: int, input_shape: tuple[int, int, int], classes: int, *, generator: torch.Generator
) -> InMemory:
    """Return ``n`` labelled images of ``input_shape`` (C, H, W); the labels mean nothing.

    Their amplitudes fall as 1/f, as those of natural images do (Field 1987, *Relations between the
    statistics of natural images and the response properties of cortical cells*). What codecs make
    of a net's features then comes close to what they make of them on photographs.
    """
    channels, height, width = input_shape
    rows, columns = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
    frequency_HW = (rows[:, None] ** 2 + columns[None] ** 2).sqrt()
    frequency_HW = frequency_HW.clamp(min=1 / max(height, width))
    grey_N1HW = torch.randn(n, 1, height, width, generator=generator)
    own_NCHW = torch.randn(n, channels, height, width, generator=generator)
    spectrum = torch.fft.rfft2(grey_N1HW + _COLOUR * own_NCHW) / frequency_HW
    x_NCHW = torch.fft.irfft2(spectrum, s=(height, width))
    x_NCHW = _MEAN + _STD * x_NCHW / x_NCHW.std().clamp(min=1e-6)
    labels_N = torch.randint(classes, (n,), generator=generator)
    return InMemory(x_NCHW.clamp(0, 255).to(torch.uint8), labels_N)
