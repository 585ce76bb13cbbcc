"""MSE, PSNR and the means over victims, against scikit-image 0.26 and by formula."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from eaves.audit.similarity import likeness, mse, psnr


def _ramp(k: int, channels: int, height: int, width: int) -> Tensor:
    """Return one image that a formula defines: the golden values were computed from the same."""
    y = torch.arange(height).reshape(1, height, 1)
    x = torch.arange(width).reshape(1, 1, width)
    c = torch.arange(channels).reshape(channels, 1, 1)
    return ((3 * x + 2 * y + 17 * c + k * ((x * y) % 7)) % 256).to(torch.uint8).unsqueeze(0)


@pytest.mark.parametrize(
    ("shape", "db", "squared"),
    [
        ((3, 32, 24), 28.320301754004706, 95.73046875),
        ((1, 16, 16), 28.607079812711675, 89.61328125),
        ((3, 8, 8), 29.278251827077355, 76.78125),
    ],
)
def test_golden_values(shape: tuple[int, int, int], db: float, squared: float) -> None:
    a, b = _ramp(0, *shape), _ramp(3, *shape)
    assert mse(a, b).item() == pytest.approx(squared, rel=1e-6)
    assert psnr(a, b).item() == pytest.approx(db, rel=1e-6)
    assert psnr(a / 255, b / 255, white=1.0).item() == pytest.approx(db, rel=1e-5)


@pytest.mark.parametrize("figure", [mse, psnr])
def test_symmetric_and_one_figure_for_each_pair(figure: Callable[[Tensor, Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(0, 256, (2, 5, 3, 9, 9), dtype=torch.uint8, generator=generator)
    assert figure(a, b).shape == (5,)
    assert torch.equal(figure(a, b), figure(b, a))
    assert torch.equal(figure(a, b)[2:3], figure(a[2:3], b[2:3]))


def test_bytes_do_not_wrap() -> None:
    black, white = (torch.full((1, 1, 2, 2), v, dtype=torch.uint8) for v in (0, 255))
    assert mse(black, white).item() == 255**2
    assert psnr(black, white).item() == pytest.approx(0, abs=1e-5)


def test_means_over_victims() -> None:
    a = torch.full((300, 1, 4, 4), 100, dtype=torch.uint8)
    b = a.clone()
    b[::2] += 10
    found = likeness(a, b)
    assert found.mse.value == pytest.approx(50)
    assert found.mse.n == found.ssim.n == found.psnr_db.n == 300
    copy, other = 100.0, psnr(a[:1], b[:1]).item()
    assert found.psnr_db.value == pytest.approx((copy + other) / 2, rel=1e-5)
    assert found.ssim.low < found.ssim.value < 1


def test_copies() -> None:
    a = _ramp(3, 3, 16, 16).expand(2, -1, -1, -1)
    found = likeness(a, a)
    assert found.ssim.value == pytest.approx(1, abs=1e-5)
    assert (found.psnr_db.value, found.mse.value) == (100, 0)


def test_other_shapes_are_refused() -> None:
    x = torch.zeros(2, 3, 8, 8)
    for a, b in ((x, x[:1]), (x[0], x[0]), (x, x[:, :1])):
        with pytest.raises(ValueError, match="of the same shape"):
            mse(a, b)
