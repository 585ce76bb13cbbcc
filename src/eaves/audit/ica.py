"""Independent component analysis of many groups of mixtures at once.

Dimension key:  G groups   K mixtures of a group, and its components   N samples of each mixture
"""

import torch
from torch import Tensor

_TOLERANCE = 1e-5  # of 1 - |cos| between a row before and after a step, as scikit-learn measures it
_NOTHING = 1e-10  # share of the largest eigenvalue below which a direction holds rounding alone
_LEAST = 1e-30  # what counts as 0, whatever the scale


def fast_ica(
    mixed_GKN: Tensor, *, steps: int = 200, starts: int = 3, generator: torch.Generator
) -> Tensor:
    """Return unmixing matrices, float64 (G, K, K): their products with the mixtures are components.

    Components have variance 1, and no known order or sign. Symmetric FastICA with
    g(y) = y exp(-y^2 / 2), which suits sparse sources best, for at most ``steps`` steps; a group
    whose components stand still is done before. It may stand still in the wrong place, so of
    several random ``starts`` the one is kept that leads to the least Gaussian components. Where K
    mixtures have fewer directions than K (a copy among them, a constant one), the rows that are
    left over are of components that are all but nothing. Finite input gives a finite answer,
    always.

    **Not guaranteed** that the components are the sources: that takes sources that are independent,
    all but one of them far from Gaussian, and samples enough.

    Raises:
        ValueError: not three dimensions, fewer than 2 samples, or values that are not finite.

    Source: Hyvärinen and Oja, *Independent Component Analysis: Algorithms and Applications*, Neural
    Networks 13 (2000).

    >>> generator = torch.Generator().manual_seed(0)
    >>> sources_GKN = torch.rand(1, 2, 5000, generator=generator)
    >>> mixing_GKK = torch.tensor([[[0.7, 0.3], [0.4, 0.6]]])
    >>> found_GKK = fast_ica(mixing_GKK @ sources_GKN, generator=generator) @ mixing_GKK.double()
    >>> small_GK = found_GKK.abs().amin(dim=2) / found_GKK.abs().amax(dim=2)
    >>> bool((small_GK < 0.05).all())
    True
    """
    if mixed_GKN.ndim != 3 or mixed_GKN.shape[2] < 2 or not bool(mixed_GKN.isfinite().all()):
        raise ValueError(
            "expected finite mixtures (G, K, N) with 2 samples or more, got shape "
            f"{tuple(mixed_GKN.shape)}"
        )
    centred_GKN = mixed_GKN.double() - mixed_GKN.double().mean(dim=2, keepdim=True)
    whitening_GKK = whitening(centred_GKN)
    white_GKN = (whitening_GKK @ centred_GKN).float()
    best_GKK, best_G = whitening_GKK, torch.full((len(mixed_GKN),), -1.0)
    for _ in range(starts):
        start_GKK = torch.randn(whitening_GKK.shape, generator=generator, dtype=torch.float64)
        turn_GKK = _turned(white_GKN, _nearest_rotation(start_GKK), steps)
        far_G = _negentropy(turn_GKK.float() @ white_GKN)
        better_G11 = (far_G > best_G)[:, None, None]
        best_GKK = torch.where(better_G11, turn_GKK @ whitening_GKK, best_GKK)
        best_G = torch.maximum(far_G, best_G)
    return best_GKK


def whitening(centred_GKN: Tensor) -> Tensor:
    """Return the matrices (G, K, K) that make variances 1 and covariances 0, of mixtures of mean 0.

    Directions in which they hold nothing but rounding are left out. The matrices are the symmetric
    ones (ZCA), which move the mixtures least.
    """
    covariance_GKK = centred_GKN @ centred_GKN.mT / centred_GKN.shape[2]
    values_GK, vectors_GKK = torch.linalg.eigh(covariance_GKK)
    empty_GK = values_GK <= (_NOTHING * values_GK[:, -1:]).clamp(min=_LEAST)
    scales_GK = torch.where(empty_GK, 0.0, values_GK.clamp(min=_LEAST).rsqrt())
    zca_GKK: Tensor = (vectors_GKK * scales_GK[:, None]) @ vectors_GKK.mT
    return zca_GKK


def _turned(white_GKN: Tensor, turn_GKK: Tensor, steps: int) -> Tensor:
    """Return the rotations that make the components least Gaussian, from those to start with."""
    turn_GKK, moving = turn_GKK.clone(), torch.arange(len(turn_GKK))
    for _ in range(steps):
        before = turn_GKK[moving]
        after = _nearest_rotation(_step(white_GKN, before.float()).double())
        turn_GKK[moving] = after
        change = (1 - (after * before).sum(dim=2).abs()).amax(dim=1)
        still_moving = change > _TOLERANCE
        if not bool(still_moving.all()):
            moving, white_GKN = moving[still_moving], white_GKN[still_moving]
        if not len(moving):
            break
    return turn_GKK


def _step(white_GKN: Tensor, turn_GKK: Tensor) -> Tensor:
    """Return w+ = E[x g(w'x)] - E[g'(w'x)] w for every row w (section 6.1)."""
    y_GKN = turn_GKK @ white_GKN
    bell_GKN = (-y_GKN.square() / 2).exp()
    slopes_GK = ((1 - y_GKN.square()) * bell_GKN).mean(dim=2)
    moments_GKK = (y_GKN * bell_GKN) @ white_GKN.mT / white_GKN.shape[2]
    return moments_GKK - slopes_GK[:, :, None] * turn_GKK


def _negentropy(y_GKN: Tensor) -> Tensor:
    """Return how far from Gaussian components of variance 1 are, summed (section 4.2.3), (G,)."""
    bell_GK = (-y_GKN.square() / 2).exp().mean(dim=2)
    far_G: Tensor = (bell_GK - 0.5**0.5).square().sum(dim=1)
    return far_G


def _nearest_rotation(matrices_GKK: Tensor) -> Tensor:
    """Return (W W')^(-1/2) W (section 6.2)."""
    u, _, v = torch.linalg.svd(matrices_GKK)
    rotation_GKK: Tensor = u @ v
    return rotation_GKK
