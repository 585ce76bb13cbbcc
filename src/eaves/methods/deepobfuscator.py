"""DeepObfuscator: neither the private attributes nor the image can be read in the features.

Source: Li, Duan, Yang, Chen, Yang, *DeepObfuscator: Obfuscating Intermediate Representations with
Privacy-Preserving Adversarial Learning on Smartphones* (IoTDI 2021), arXiv:1909.04126; the image
of noise from the code that its authors published::

    S    <- CE(S(z~), s)                        reads the private attributes
    R    <- 1 - SSIM(R(z~), x)                  rebuilds the image
    E, D <- CE(D(z~), y) - weight * CE(S(z~), s)
                         - weight * (1 - SSIM(R(z~), x)) + weight * (1 - SSIM(R(z~), n))

S and R are frozen in the last line; n is one image of Gaussian noise, always the same. Let S and R
take several steps for each of E: an edge that outruns them fools these two alone, and a fresh
attacker may then see more than without any hiding.

Dimension key:  B batch   C channels   H, W height and width
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import ceil, log2, prod
from typing import final

import torch
from torch import Tensor, nn

from eaves.core.net import output_shape
from eaves.core.optimise import Optimised, Steady
from eaves.core.roles import Batch, Losses
from eaves.core.ssim import WHITE, ssim
from eaves.errors import ConfigError
from eaves.methods.adversaries import Adversaries
from eaves.methods.hiding import Defence, hiding_method
from eaves.methods.setup import Hiding, Method, Setup, hiding_of
from eaves.privacy.sources import Source

_NARROWEST, _WIDEST = 8, 64  # channels of the reconstructor, halved where the map is doubled
_SIDE = 4  # of the map that flat features become
_LR = 2e-3
_GREY, _SPREAD = 0.5, 0.25  # of the image of noise, where white is 1


def deepobfuscator(setup: Setup) -> Method:
    """Build both halves of DeepObfuscator.

    Raises:
        ConfigError: no private attribute is named, or the inputs are not images.
    """
    hiding, split = hiding_of(setup), setup.split()
    shape = output_shape(split.edge, setup.input_shape)
    defences: list[Defence] = [Reconstruction(shape, setup.input_shape, hiding, setup.device)]
    if hiding.adversaries:
        # Whatever the aim chosen for PriPHiT: the paper's is minus the cross-entropy.
        reversed_ = replace(hiding, loss="reversal")
        defences.append(Adversaries(shape, reversed_, setup.device))
    # DIFFERS(DeepObfuscator): all terms in each step; its authors' code takes one in each batch.
    return hiding_method(setup, split, defences)


@final
class Reconstruction(Defence):
    """An adversary that rebuilds the image, and an edge that gives it noise to rebuild."""

    def __init__(
        self,
        feature_shape: Sequence[int],
        image_shape: Sequence[int],
        hiding: Hiding,
        device: torch.device,
    ):
        self._hiding = hiding
        parts = {"reconstructor": Reconstructor(feature_shape, image_shape)}
        self._part = Optimised(parts, Steady(lr=_LR, optimiser="adam"), device)

    @property
    def part(self) -> Optimised:
        """The reconstructor, with the image of noise."""
        return self._part

    def learn(self, z: Tensor, noise: Source, batch: Batch) -> Losses:
        """Take the steps of one batch; return the similarity of the images rebuilt last."""
        x_BCHW, net = self._images(batch), self._net
        for _ in range(self._hiding.adversary_steps):
            with self._part.forward():
                rebuilt_BCHW = net(self._hiding.mechanism.noised(z, noise))
                # DIFFERS(DeepObfuscator): of one scale; its five scales need 161 pixels and more.
                unlike = 1 - ssim(rebuilt_BCHW, x_BCHW, white=1).mean()
            value = self._part.descend(unlike)
        return {"ssim": 1 - value}

    def penalty(self, sent: Tensor, batch: Batch) -> Tensor:
        """Return how much more like the input than like noise the rebuilt images are."""
        x_BCHW, net = self._images(batch), self._net
        net.requires_grad_(False)
        with self._part.forward():
            rebuilt_BCHW = net(sent)
            noise_BCHW = net.noise_CHW.expand_as(rebuilt_BCHW)
            seen_B = ssim(rebuilt_BCHW, x_BCHW, white=1) - ssim(rebuilt_BCHW, noise_BCHW, white=1)
        net.requires_grad_(True)
        return seen_B.mean()

    @property
    def _net(self) -> "Reconstructor":
        net = self._part.modules["reconstructor"]
        assert isinstance(net, Reconstructor)
        return net

    def _images(self, batch: Batch) -> Tensor:
        return batch.inputs.to(self._part.device).float() / WHITE


@final
class Reconstructor(nn.Module):
    """Features (B, ...) -> images (B, C, H, W) in [0, 1], by transposed convolutions.

    Raises:
        ConfigError: ``image_shape`` is not (C, H, W).
    """

    noise_CHW: Tensor  # noqa: N815
    """What the edge makes it rebuild; saved with the weights."""

    def __init__(self, feature_shape: Sequence[int], image_shape: Sequence[int]):
        super().__init__()
        if len(image_shape) != 3:
            raise ConfigError(
                f"deepobfuscator hides images (C, H, W), got inputs {tuple(image_shape)}"
            )
        noise_CHW = (_GREY + _SPREAD * torch.randn(tuple(image_shape))).clamp(0, 1)
        self.register_buffer("noise_CHW", noise_CHW)
        channels, *sides = image_shape
        map_ = tuple(feature_shape[1:]) if len(feature_shape) == 3 else (_SIDE, _SIDE)
        doublings = max(0, *(ceil(log2(n / m)) for n, m in zip(sides, map_, strict=True)))
        widths = [min(_WIDEST, _NARROWEST * 2**i) for i in range(doublings, -1, -1)]
        up = [layer for wide, narrow in pairwise(widths) for layer in _doubling(wide, narrow)]
        last = nn.Conv2d(widths[-1], channels, 3, padding=1)
        fit = nn.Upsample(size=tuple(sides), mode="bilinear")  # of sides that are no powers of 2
        start = _start(feature_shape, widths[0])
        self.layers = nn.Sequential(*start, *up, last, fit, nn.Sigmoid())

    def forward(self, z: Tensor) -> Tensor:
        """Rebuild the images."""
        images_BCHW: Tensor = self.layers(z)
        return images_BCHW


def _start(feature_shape: Sequence[int], width: int) -> list[nn.Module]:
    """Return layers that make a map of so many channels of the features."""
    if len(feature_shape) == 3:
        conv = nn.Conv2d(feature_shape[0], width, 3, padding=1, bias=False)
        return [conv, *_normal(width)]
    flat = nn.Linear(prod(feature_shape), width * _SIDE**2, bias=False)
    return [nn.Flatten(), flat, nn.Unflatten(1, (width, _SIDE, _SIDE)), *_normal(width)]


def _doubling(wide: int, narrow: int) -> list[nn.Module]:
    conv = nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1, bias=False)
    return [conv, *_normal(narrow)]


def _normal(width: int) -> list[nn.Module]:
    # No BatchNorm, for the reason in eaves.methods.adversaries.
    return [nn.GroupNorm(width // _NARROWEST, width), nn.ReLU()]
