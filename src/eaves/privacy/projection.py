"""From features to a few numbers, and back: principal components of the training features.

::

    z = basis (h - mean) / scale          the edge sends z: d numbers
    h' = basis^T (z scale) + mean         the cloud's linear map back

``scale`` makes the mean variance of what is sent 1, over the training examples. So noise of
standard deviation s has a signal-to-noise ratio of 1 / s^2, whatever the net: the trace of the
features' covariance over that of the noise.

Components are found batch by batch, in memory that does not grow with the number of examples.
Source: Ross, Lim, Lin, Yang, *Incremental Learning for Robust Visual Tracking* (2008), section 3.1.

Dimension key:  B batch   F values of one example's features   D components   R kept in fitting
"""

from collections.abc import Sequence
from math import prod, sqrt
from typing import Self, final

import torch
from torch import Tensor, nn

from eaves.core.state import State
from eaves.errors import ConfigError, DivergedError, StateError

_KEPT = 2  # times the components that are wanted, and some: what is dropped early is lost
_KEPT_MORE = 16


@final
class IncrementalPCA:
    """Mean, variance and leading principal components of features that come in batches.

    With 0 ``components`` it follows mean and variance alone.

    Raises:
        ConfigError: fewer than 0 components, or more than there are values.
    """

    def __init__(self, values: int, components: int):
        if not 0 <= components <= values:
            raise ConfigError(
                f"expected 1 to {values} --components, as many as features have values, or 0 to "
                f"send the features as they are; got {components}"
            )
        self.components = components
        self._rank = min(values, _KEPT * components + _KEPT_MORE) if components else 0
        self.count = 0
        self._squares = 0.0  # the sum of all squared distances to the mean
        self.mean_F = torch.zeros(values, dtype=torch.float64)
        """The mean of all features so far."""
        self._axes_RF = torch.zeros(0, values, dtype=torch.float64)
        """Orthogonal axes, each as long as the examples' spread along it."""

    @property
    def variance(self) -> float:
        """The variance of all values of an example together: the trace of the covariance."""
        return self._squares / max(1, self.count)

    def variances(self) -> Tensor:
        """Return the variances (D,) along the components, largest first."""
        squares_R = self._axes_RF.square().sum(dim=1) / max(1, self.count)
        return squares_R[: self.components]

    def update(self, features: Tensor) -> Self:
        """Take features (B, ...) into account.

        Raises:
            DivergedError: they hold NaN or infinity.
        """
        x_BF = features.detach().flatten(1).cpu().double()
        if not bool(x_BF.isfinite().all()):
            raise DivergedError("features hold NaN or infinity; lower the learning rate")
        n, new = self.count, len(x_BF)
        mean_F = x_BF.mean(dim=0)
        apart_F, x_BF = mean_F - self.mean_F, x_BF - mean_F
        # The distance of the two means counts as one more example.
        between_F = sqrt(n * new / (n + new)) * apart_F
        self._squares += float(x_BF.square().sum() + between_F.square().sum())
        self.mean_F = self.mean_F + apart_F * (new / (n + new))
        self.count = n + new
        if self._rank:
            rows_NF = torch.cat([self._axes_RF, x_BF, between_F[None]])
            self._axes_RF = _main_axes(rows_NF, self._rank)
        return self

    def basis(self) -> Tensor:
        """Return the components (D, F), of length 1, each largest where it is positive.

        Raises:
            ConfigError: there were fewer examples than components.
        """
        if self.count < self.components:
            raise ConfigError(
                f"expected {self.components} training examples or more for {self.components} "
                f"--components, got {self.count}; ask for fewer components, or train on more"
            )
        axes_DF = _completed(self._axes_RF, self.components)
        largest_D1 = axes_DF.gather(1, axes_DF.abs().argmax(dim=1, keepdim=True))
        return axes_DF * largest_D1.sign()

    def state(self) -> State:
        """Return a copy of all that has been found."""
        tensors = {"mean": self.mean_F.clone(), "axes": self._axes_RF.clone()}
        return State(tensors, {"count": self.count, "squares": self._squares})

    def load_state(self, state: State) -> None:
        """Go on from ``state``; raises :class:`StateError` where it does not fit."""
        try:
            mean_F, axes_RF = state.tensors["mean"], state.tensors["axes"]
            count, squares = int(state.facts["count"]), float(state.facts["squares"])
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"the saved components are damaged: {error!r}") from error
        if mean_F.shape != self.mean_F.shape or axes_RF.shape[1:] != mean_F.shape:
            raise StateError("the saved components are of other features")
        self.mean_F, self._axes_RF = mean_F.double().clone(), axes_RF.double().clone()
        self.count, self._squares = count, squares


@final
class Projection(nn.Module):
    """The linear map to ``components`` numbers, and back; with 0 it only centres and scales.

    It sends zeros until it is fitted. Its buffers are part of both halves of a net.
    """

    mean: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, feature_shape: Sequence[int], components: int):
        super().__init__()
        self.feature_shape, self.components = tuple(feature_shape), components
        values = prod(feature_shape)
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("basis", torch.zeros(components, values))
        self.register_buffer("scale", torch.ones(()))

    def fit(self, pca: IncrementalPCA) -> None:
        """Take over what ``pca`` has found."""
        sent = float(pca.variances().sum()) if self.components else pca.variance
        self.mean.copy_(pca.mean_F)
        self.basis.copy_(pca.basis())
        # One factor for all: noise buries the components that hold little first. Whitening would
        # lift them up to the noise.
        self.scale.fill_(sqrt(sent / (self.components or len(self.mean))) or 1.0)

    def project(self, features: Tensor) -> Tensor:
        """Return (B, D) of features (B, ...); of their own shape where nothing is projected."""
        centred_BF = features.float().flatten(1) - self.mean
        if not self.components:
            return (centred_BF / self.scale).reshape(-1, *self.feature_shape)
        return centred_BF @ self.basis.T / self.scale

    def restore(self, z: Tensor) -> Tensor:
        """Return features (B, ...) from what :meth:`project` made, and noise."""
        back_BF = z.float().flatten(1) * self.scale
        if self.components:
            back_BF = back_BF @ self.basis
        return (back_BF + self.mean).reshape(-1, *self.feature_shape)


@final
class Project(nn.Module):
    """The edge's last layer: features (B, ...) to what is sent."""

    def __init__(self, projection: Projection):
        super().__init__()
        self.projection = projection

    def forward(self, features: Tensor) -> Tensor:
        """Return :meth:`Projection.project` of the features."""
        return self.projection.project(features)


@final
class Restore(nn.Module):
    """The cloud's first layer: what was sent to features (B, ...)."""

    def __init__(self, projection: Projection):
        super().__init__()
        self.projection = projection

    def forward(self, z: Tensor) -> Tensor:
        """Return :meth:`Projection.restore` of what was sent."""
        return self.projection.restore(z)


def _main_axes(rows_NF: Tensor, rank: int) -> Tensor:
    """Return the longest orthogonal axes (``rank`` or fewer, F) of those with the same X^T X.

    Through the N x N matrix of products: N is the size of a batch, F may be a hundred times that.
    """
    if rows_NF.shape[0] > rows_NF.shape[1]:
        lengths_R, directions_RF = torch.linalg.svd(rows_NF, full_matrices=False)[1:]
        axes_RF: Tensor = lengths_R[:, None] * directions_RF
    else:
        squares_N, turns_NN = torch.linalg.eigh(rows_NF @ rows_NF.T)
        found = squares_N.flip(0) > squares_N[-1].clamp(min=0) * 1e-14  # others are rounding
        axes_RF = turns_NN.T.flip(0)[found][:rank] @ rows_NF
    return axes_RF[:rank]


def _completed(axes_RF: Tensor, components: int) -> Tensor:
    """Return the first axes at length 1, and others at right angles where there are too few.

    Features that fill fewer dimensions than components leave the rest without any variance.
    """
    lengths_R = axes_RF.norm(dim=1)
    longest = float(lengths_R.max()) if len(lengths_R) else 0.0
    known = axes_RF[lengths_R > 1e-7 * longest][:components]
    filler = torch.eye(components - len(known), axes_RF.shape[1], dtype=torch.float64)
    rows_DF = torch.cat([known / known.norm(dim=1, keepdim=True), filler])
    axes_DF: Tensor = torch.linalg.qr(rows_DF.T).Q.T
    return axes_DF
