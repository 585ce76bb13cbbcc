"""Structural similarity, held against its formula and another library.

Dimension key:  N images   C channels   H, W height and width
"""

from math import exp

import pytest
import torch
from torch import Tensor

from eaves.core.ssim import ssim


def _pair(height: int = 24, width: int = 20) -> tuple[Tensor, Tensor]:
    i, j = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    a_HW = (i * 37 + j * j * 11) % 256
    b_HW = a_HW * 3 // 4 + (i * j * 5) % 61
    return a_HW[None, None], b_HW[None, None]


def _by_definition(a: Tensor, b: Tensor, size: int, white: float) -> float:
    """Equations 6 to 13 of the paper, window by window in float64; images (H, W)."""
    half = size // 2
    offsets = range(-half, half + 1)
    weights = [[exp(-(y * y + x * x) / 4.5) for x in offsets] for y in offsets]
    w = torch.tensor(weights, dtype=torch.float64)
    w /= w.sum()
    c1, c2 = (0.01 * white) ** 2, (0.03 * white) ** 2
    found = []
    for top in range(a.shape[0] - size + 1):
        for left in range(a.shape[1] - size + 1):
            x = a[top : top + size, left : left + size].double()
            y = b[top : top + size, left : left + size].double()
            mx, my = (w * x).sum(), (w * y).sum()
            vx, vy = (w * (x - mx) ** 2).sum(), (w * (y - my) ** 2).sum()
            cov = (w * (x - mx) * (y - my)).sum()
            above = (2 * mx * my + c1) * (2 * cov + c2)
            found.append(above / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return float(torch.stack(found).mean())


def test_it_agrees_with_scikit_image() -> None:
    # structural_similarity(a, b, data_range=255, gaussian_weights=True, sigma=1.5,
    # use_sample_covariance=False) of scikit-image 0.26.0.
    a_NCHW, b_NCHW = _pair()
    assert ssim(a_NCHW, b_NCHW).item() == pytest.approx(0.9245793527990421, abs=2e-6)


@pytest.mark.parametrize(("height", "width", "size"), [(13, 12, 11), (8, 9, 7), (11, 4, 3)])
def test_it_is_the_formula_with_the_largest_odd_window_that_fits(
    height: int, width: int, size: int
) -> None:
    a_NCHW, b_NCHW = _pair(height, width)
    expected = _by_definition(a_NCHW[0, 0], b_NCHW[0, 0], size, 255)
    assert ssim(a_NCHW, b_NCHW).item() == pytest.approx(expected, abs=2e-6)


def test_it_is_the_mean_over_channels_of_each_image() -> None:
    a, b = _pair()
    mixed = ssim(torch.cat([a, b, a], 1), torch.cat([b, b, b], 1))
    assert mixed.item() == pytest.approx((2 * ssim(a, b).item() + 1) / 3, abs=1e-6)
    assert torch.equal(ssim(torch.cat([a, b]), torch.cat([b, b]))[:1], ssim(a, b))


def test_it_is_symmetric_and_1_for_equal_images_alone() -> None:
    a, b = _pair()
    assert ssim(a, b).item() == pytest.approx(ssim(b, a).item(), abs=1e-6)
    assert ssim(a, a).item() == pytest.approx(1, abs=1e-6)
    bright = torch.full((1, 1, 12, 12), 254.0)
    assert ssim(bright, bright).item() == pytest.approx(1, abs=1e-6)
    assert ssim(a, 255 - a).item() < 0


def test_only_the_unit_of_the_data_range_matters() -> None:
    a, b = _pair()
    assert ssim(a / 255, b / 255, white=1).item() == pytest.approx(ssim(a, b).item(), abs=1e-5)
    assert abs(ssim(a / 255, b / 255).item() - ssim(a, b).item()) > 0.01


def test_going_up_its_gradient_makes_images_more_alike() -> None:
    a, b = _pair()
    moved = (b / 255).requires_grad_()
    before = ssim(moved, a / 255, white=1).sum()
    (gradient,) = torch.autograd.grad(before, moved)
    assert torch.isfinite(gradient).all()
    step = 1e-3 * gradient / gradient.norm()
    rise = ssim(moved + step, a / 255, white=1).sum() - ssim(moved - step, a / 255, white=1).sum()
    assert rise.item() == pytest.approx(2e-3 * gradient.norm().item(), rel=0.02)


def test_the_gradient_is_finite_for_even_images() -> None:
    even = torch.full((1, 1, 12, 12), 0.5, requires_grad=True)
    torch.autograd.backward(ssim(even, torch.full((1, 1, 12, 12), 0.25), white=1).sum())
    assert even.grad is not None
    assert torch.isfinite(even.grad).all()


def test_half_precision_around_it_changes_nothing() -> None:
    a, b = _pair()
    with torch.autocast("cpu", torch.bfloat16):
        inside = ssim(a, b)
    assert torch.equal(inside, ssim(a, b))


def test_other_shapes_are_refused() -> None:
    a, _ = _pair()
    with pytest.raises(ValueError, match=r"expected two tensors of images \(N, C, H, W\)"):
        ssim(a, a[:, :, :9])
    with pytest.raises(ValueError, match=r"got \(24, 20\) and \(24, 20\)"):
        ssim(a[0, 0], a[0, 0])
