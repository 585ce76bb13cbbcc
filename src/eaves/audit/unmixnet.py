"""Nets that un-mix: they learn from mixtures that the attacker makes of sources of its own.

Dimension key:  B groups   K queries, and sources, of a group   C channels   H, W height and width
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad, pixel_shuffle, pixel_unshuffle, relu

from eaves.audit.convnets import channels_last, fast
from eaves.audit.filters import filtered
from eaves.audit.ica import whitening
from eaves.audit.matching import best_pairs, correlations
from eaves.audit.pace import Epochs, cosine
from eaves.audit.trial import Allowance
from eaves.errors import ConfigError

_SLOPE = 0.2
_SAMPLES = 1000  # differences of neighbours that a matrix is found by, about
_AT_ONCE = 64  # groups that are un-mixed together
_ALLOWANCE = Allowance(rounds=30, time_s=240.0, batch_size=32)

Lesson = tuple[Tensor, Tensor, float]
"""What a net is given (B, K, C, H, W), the sources behind it, and the share of all that is done."""


@final
@dataclass(frozen=True, kw_only=True)
class NetPlan:
    """How a net of an attacker who un-mixes is trained; a batch is one of groups."""

    allowance: Allowance = _ALLOWANCE
    lr: float = 3e-3
    width: int = 32
    """Channels of its maps; it looks along four times as many directions."""

    def __post_init__(self) -> None:
        if not self.lr > 0 or self.width < 1:
            raise ConfigError(
                f"expected lr above 0 and width of 1 or more, got {self.lr} and {self.width}"
            )


@final
class Refiner(nn.Module):
    """Estimates (B, K, C, H, W) -> better ones, each from itself: it takes off what is noise.

    A residual net of 5 convolutions at half the sides. What comes is standardised first, for an
    estimate has no scale; at the start it is handed on as it is.

    Source, simplified: Zhang, Zuo, Zhang, *FFDNet: Toward a Fast and Flexible Solution for
    CNN-Based Image Denoising* (2018).
    """

    def __init__(self, channels: int, *, width: int):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(4 * channels, width, 3, padding=1)]
        for _ in range(3):
            layers += [nn.LeakyReLU(_SLOPE), nn.Conv2d(width, width, 3, padding=1)]
        last = nn.Conv2d(width, 4 * channels, 3, padding=1)
        for weights in last.parameters():
            nn.init.zeros_(weights)
        self.body = nn.Sequential(*layers, nn.LeakyReLU(_SLOPE), last)

    def forward(self, x_BKCHW: Tensor) -> Tensor:
        """Return estimates of the same shape, float32."""
        x_BKCHW = standardised(x_BKCHW)
        flat_NCHW = x_BKCHW.flatten(0, 1)
        height, width = flat_NCHW.shape[2:]
        even_NCHW = pad(flat_NCHW, (0, width % 2, 0, height % 2), mode="replicate")
        quarters = pixel_unshuffle(even_NCHW, 2).contiguous(memory_format=torch.channels_last)
        with fast():
            change = self.body(quarters)
        change_NCHW = pixel_shuffle(change.float(), 2)[..., :height, :width]
        return x_BKCHW + change_NCHW.reshape(x_BKCHW.shape)


@final
class MatrixFinder(nn.Module):
    """All K queries of a group (B, K, C, H, W) -> K sources, by a matrix that the net finds.

    It looks at the gradients of the queries, made white, along many directions of the K: how far
    what is there exceeds a limit, on average, tells where the sources are, since those are sparse.
    Directions, limits and what follows from them are learned. It sees the means of the queries,
    too: where no source is negative, those tell of the mixing.
    """

    def __init__(self, k: int, *, width: int):
        super().__init__()
        wide, wider = 4 * width, 8 * width
        self.directions = nn.Parameter(torch.randn(wide, k) / k**0.5)
        self.limits = nn.Parameter(torch.rand(wide, 1))
        self.norm = nn.BatchNorm1d(wide, affine=False)
        self.tell = nn.Sequential(
            nn.Linear(wide + k, wider),
            nn.LeakyReLU(_SLOPE),
            nn.Linear(wider, wider),
            nn.LeakyReLU(_SLOPE),
            nn.Linear(wider, k * k),
        )

    def forward(self, x_BKCHW: Tensor) -> Tensor:
        """Return sources of the same shape, float32, of any order, scale and sign."""
        edges_BKN = filtered("gradient", x_BKCHW).double()
        white_BKK = whitening(edges_BKN - edges_BKN.mean(dim=2, keepdim=True)).float()
        some_BKN = white_BKK @ edges_BKN[:, :, :: 1 + edges_BKN.shape[2] // _SAMPLES].float()
        beyond_BDN = relu((self.directions @ some_BKN).abs() - self.limits)
        all_BKN = white_BKK @ x_BKCHW.flatten(2)
        means_BK = normalize(all_BKN.mean(dim=2), dim=1)
        told = self.tell(torch.cat([self.norm(beyond_BDN.mean(dim=2)), means_BK], dim=1))
        matrix_BKK = told.reshape(white_BKK.shape) + torch.eye(x_BKCHW.shape[1])
        made_BKCHW: Tensor = (matrix_BKK @ all_BKN).reshape(x_BKCHW.shape)
        return made_BKCHW


def standardised(x_BKCHW: Tensor) -> Tensor:
    """Return each map less its mean, over its deviation; 0 where it is constant.

    >>> standardised(torch.tensor([1.0, 5.0]).reshape(1, 1, 1, 1, 2)).flatten()
    tensor([-1.,  1.])
    """
    centred = x_BKCHW - x_BKCHW.mean(dim=(2, 3, 4), keepdim=True)
    deviation = centred.square().mean(dim=(2, 3, 4), keepdim=True).sqrt()
    return centred / deviation.clamp(min=1e-6 + 1e-6 * float(deviation.detach().max()))


def unlikeness(made_BKCHW: Tensor, sources_BKCHW: Tensor) -> Tensor:
    """Return 1 - r^2 of estimates and sources, on average over the best pairs of each group.

    So neither order nor scale nor sign of the estimates counts: no attacker can know them.
    """
    r2_BKK = correlations(made_BKCHW, sources_BKCHW).square()
    pairs_BK = best_pairs(r2_BKK)
    return 1 - r2_BKK.gather(1, pairs_BK[:, None]).mean()


def lessons(
    own: Tensor, allowance: Allowance, *, generator: torch.Generator
) -> Iterator[tuple[Tensor, float]]:
    """Yield rows of ``own`` groups in epochs of random order, and the share that is done."""
    for _, batches in Epochs(len(own), allowance, generator=generator):
        for rows_B, share in batches:
            yield own[rows_B], share


def teach(net: nn.Module, given: Iterable[Lesson], *, lr: float) -> int:
    """Train ``net`` by Adam until the lessons end; return how many there were."""
    channels_last(net).train()
    optimiser, steps = torch.optim.Adam(net.parameters(), lr=lr), 0
    for x_BKCHW, sources_BKCHW, share in given:
        optimiser.param_groups[0]["lr"] = lr * cosine(share)
        loss = unlikeness(net(x_BKCHW), sources_BKCHW)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        steps += 1
    return steps


@torch.no_grad()
def unmixed_by(net: nn.Module, x_GKCHW: Tensor) -> Tensor:
    """Return what a trained net makes of any number of groups."""
    net.eval()
    return torch.cat([net(x_BKCHW) for x_BKCHW in torch.split(x_GKCHW, _AT_ONCE)])
