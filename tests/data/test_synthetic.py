"""Made-up images: what a source promises, and the spectrum of photographs.

Dimension key:  N examples   C channels   H, W height and width
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from eaves.data.source import InMemory
from eaves.data.synthetic import made_up


def _images(
    n: int, input_shape: tuple[int, int, int], *, seed: int = 0, classes: int = 10
) -> tuple[Tensor, Tensor, InMemory]:
    generator = torch.Generator().manual_seed(seed)
    source = made_up(n, input_shape, classes, generator=generator)
    batch = source.fetch(torch.arange(len(source)))
    return batch.inputs, batch.labels, source


@pytest.mark.parametrize(
    "input_shape", [(3, 32, 32), (1, 8, 8), (4, 5, 7), (3, 64, 48), (1, 1, 9), (2, 1, 1)]
)
def test_they_are_images_of_any_shape_with_labels(input_shape: tuple[int, int, int]) -> None:
    inputs_NCHW, labels_N, source = _images(20, input_shape, classes=3)
    assert (len(source), source.input_shape) == (20, input_shape)
    assert inputs_NCHW.dtype == torch.uint8
    assert inputs_NCHW.shape == (20, *input_shape)
    assert len(set(inputs_NCHW.flatten().tolist())) > 2
    assert labels_N.dtype == torch.int64
    assert set(labels_N.tolist()) == {0, 1, 2}


def test_the_generator_decides_them() -> None:
    (ours, labels, _), (again, same, _), (other, others, _) = (
        _images(8, (3, 16, 16), seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(ours, again)
    assert torch.equal(labels, same)
    assert not torch.equal(ours, other)
    assert not torch.equal(labels, others)
    state = torch.get_rng_state()
    _images(8, (3, 16, 16))
    assert torch.equal(torch.get_rng_state(), state)  # nothing of torch's global generator


def test_no_two_are_alike() -> None:
    inputs_NCHW, _, _ = _images(50, (1, 8, 8))
    assert len({x.numpy().tobytes() for x in inputs_NCHW}) == 50


@pytest.mark.parametrize("side", [32, 33])
def test_their_amplitudes_fall_as_those_of_natural_images_do(side: int) -> None:
    # Field 1987: power falls as f^-2. Rounding and clipping flatten it a little.
    inputs_NCHW, _, _ = _images(100, (3, side, side))
    x_NHW = inputs_NCHW.double().mean(dim=1)
    power_HW = torch.fft.fft2(x_NHW).abs().square().mean(dim=0)
    f = torch.fft.fftfreq(side)
    frequency_HW = (f[:, None] ** 2 + f[None] ** 2).sqrt()
    inside = (frequency_HW > 1.5 / side) & (frequency_HW < 0.5)
    slope, _ = np.polyfit(frequency_HW[inside].log(), power_HW[inside].log(), 1)
    # Over ten seeds the slope was -1.98 with a deviation of 0.01: 7 of them on the nearer side, a
    # false alarm in less than 1 of a million runs, were the seed not fixed.
    assert -2.08 < slope < -1.9


def test_their_brightness_fills_the_scale() -> None:
    inputs_NCHW, _, _ = _images(100, (3, 32, 32))
    x_NCHW = inputs_NCHW.double()
    assert 100 < float(x_NCHW.mean()) < 140
    assert 45 < float(x_NCHW.std()) < 65
    assert float(((x_NCHW == 0) | (x_NCHW == 255)).double().mean()) < 0.1


def test_their_channels_resemble_each_other_as_colours_do() -> None:
    inputs_NCHW, _, _ = _images(100, (3, 32, 32))
    correlations = torch.corrcoef(inputs_NCHW.double().transpose(0, 1).flatten(1))
    others = correlations[~torch.eye(3, dtype=torch.bool)]
    # 1 / (1 + 0.3^2) = 0.92 before they are clipped
    assert bool(((others > 0.85) & (others < 0.96)).all())


def test_labels_are_spread_over_the_classes() -> None:
    _, labels_N, _ = _images(4000, (1, 1, 2), classes=4)
    # Each count is binomial, with a deviation of 27.4; six of them: a false alarm for any of four
    # in 1 of 100 million runs, were the seed not fixed.
    assert all(abs(n - 1000) < 6 * 27.4 for n in labels_N.bincount(minlength=4).tolist())
