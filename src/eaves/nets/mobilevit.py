"""MobileViT-XXS (Mehta and Rastegari, "MobileViT", ICLR 2022; Figure 1b and Table 4).

Layers, names and initial weights follow timm's ``mobilevit_xxs``: ``stages.2`` there is ``stage3``
here, and ``final_conv`` is the first layer of ``head``.

Dimension key:  B batch   C channels   H, W height and width   K classes
                D width of the transformer   P places in a patch   N patches   A attention heads
"""

from collections import OrderedDict
from math import sqrt
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention

from eaves.core.net import StagedNet

_PATCH = 2  # pixels on a side of a patch
_HEADS = 4
_WIDEN = 2  # how much wider a block is inside: the expansion of MobileNetV2, and of the MLP


def mobilevit_xxs(channels: int, classes: int) -> StagedNet:
    """Return MobileViT-XXS: images (B, channels, H, W) of any size -> logits (B, classes).

    >>> mobilevit_xxs(3, 10).names
    ('stem', 'stage1', 'stage2', 'stage3', 'stage4', 'stage5', 'head')
    """
    head = OrderedDict(
        final_conv=_conv(80, 320, 1),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(320, classes),
    )
    stages = [
        ("stem", _conv(channels, 16, 3, stride=2)),
        ("stage1", nn.Sequential(_Inverted(16, 16))),
        ("stage2", nn.Sequential(_Inverted(16, 24, 2), _Inverted(24, 24), _Inverted(24, 24))),
        ("stage3", nn.Sequential(_Inverted(24, 48, 2), _MobileViT(48, dim=64, depth=2))),
        ("stage4", nn.Sequential(_Inverted(48, 64, 2), _MobileViT(64, dim=80, depth=4))),
        ("stage5", nn.Sequential(_Inverted(64, 80, 2), _MobileViT(80, dim=96, depth=3))),
        ("head", nn.Sequential(head)),
    ]
    net = StagedNet(stages)
    for module in net.modules():
        _initialise(module)
    for module in net.modules():
        if isinstance(module, _Inverted) and module.residual:
            nn.init.zeros_(module.conv3_1x1.bn.weight)  # begins as the identity
    return net


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        height, width = module.kernel_size
        fan_out = height * width * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=sqrt(2 / fan_out))
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


@final
class _ConvNormAct(nn.Module):
    """A convolution without bias, batch normalisation and, unless it is linear, SiLU."""

    def __init__(self, conv: nn.Conv2d, act: nn.Module):
        super().__init__()
        self.conv = conv
        self.bn = nn.BatchNorm2d(conv.out_channels)
        self.act = act

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x_BCHW)))  # type: ignore[no-any-return]


def _conv(
    c_in: int, c_out: int, side: int, *, stride: int = 1, groups: int = 1, linear: bool = False
) -> _ConvNormAct:
    conv = nn.Conv2d(c_in, c_out, side, stride, side // 2, groups=groups, bias=False)
    return _ConvNormAct(conv, nn.Identity() if linear else nn.SiLU())


@final
class _Inverted(nn.Module):
    """MobileNetV2's inverted residual: widen, convolve each channel alone, narrow."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1):
        super().__init__()
        wide = _WIDEN * c_in
        self.residual = c_in == c_out and stride == 1
        self.conv1_1x1 = _conv(c_in, wide, 1)
        self.conv2_kxk = _conv(wide, wide, 3, stride=stride, groups=wide)
        self.conv3_1x1 = _conv(wide, c_out, 1, linear=True)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        z_BCHW: Tensor = self.conv3_1x1(self.conv2_kxk(self.conv1_1x1(x_BCHW)))
        return x_BCHW + z_BCHW if self.residual else z_BCHW


@final
class _MobileViT(nn.Module):
    """Convolution, then attention among pixels that share a place in their patch (section 3.1)."""

    def __init__(self, channels: int, *, dim: int, depth: int):
        super().__init__()
        self.conv_kxk = _conv(channels, channels, 3)
        self.conv_1x1 = nn.Conv2d(channels, dim, 1, bias=False)
        self.transformer = nn.Sequential(*(_Block(dim) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.conv_proj = _conv(dim, channels, 1)
        self.conv_fusion = _conv(2 * channels, channels, 3)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        z_BDHW = self.conv_1x1(self.conv_kxk(x_BCHW))
        height, width = z_BDHW.shape[2:]
        whole = (height + height % _PATCH, width + width % _PATCH)
        tokens_BPND = _unfold(_resized(z_BDHW, whole))
        tokens_BPND = self.norm(self.transformer(tokens_BPND))
        z_BDHW = _resized(_fold(tokens_BPND, whole), (height, width))
        fused: Tensor = self.conv_fusion(torch.cat((x_BCHW, self.conv_proj(z_BDHW)), dim=1))
        return fused


def _resized(z_BDHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Stretch a map that its patches would not fill, and shrink it back, as timm does."""
    if z_BDHW.shape[2:] == size:
        return z_BDHW
    return interpolate(z_BDHW, size=size, mode="bilinear", align_corners=False)


def _unfold(z_BDHW: Tensor) -> Tensor:
    """Return (B, P, N, D): the pixels at one place in their patches are one sequence."""
    batch, dim, height, width = z_BDHW.shape
    rows, columns = height // _PATCH, width // _PATCH
    grid = z_BDHW.reshape(batch, dim, rows, _PATCH, columns, _PATCH).permute(0, 3, 5, 2, 4, 1)
    return grid.reshape(batch, _PATCH * _PATCH, rows * columns, dim)


def _fold(tokens_BPND: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (B, D, H, W): undo :func:`_unfold` for a map of ``size``."""
    batch, dim = tokens_BPND.shape[0], tokens_BPND.shape[3]
    rows, columns = size[0] // _PATCH, size[1] // _PATCH
    grid = tokens_BPND.reshape(batch, _PATCH, _PATCH, rows, columns, dim).permute(0, 5, 3, 1, 4, 2)
    return grid.reshape(batch, dim, *size)


@final
class _Block(nn.Module):
    """A transformer layer that normalises first: attention, then an MLP."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = _Attention(dim)
        self.norm2 = nn.LayerNorm(dim)
        layers = OrderedDict(
            fc1=nn.Linear(dim, _WIDEN * dim), act=nn.SiLU(), fc2=nn.Linear(_WIDEN * dim, dim)
        )
        self.mlp = nn.Sequential(layers)

    def forward(self, x_BPND: Tensor) -> Tensor:
        x_BPND = x_BPND + self.attn(self.norm1(x_BPND))
        return x_BPND + self.mlp(self.norm2(x_BPND))  # type: ignore[no-any-return]


@final
class _Attention(nn.Module):
    """Attention with several heads among the N tokens of each sequence."""

    def __init__(self, dim: int):
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BPND: Tensor) -> Tensor:
        batch, places, patches, dim = x_BPND.shape
        heads = self.qkv(x_BPND).reshape(batch * places, patches, 3, _HEADS, dim // _HEADS)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = scaled_dot_product_attention(q, k, v)  # (BP, A, N, D / A)
        return self.proj(mixed.transpose(1, 2).reshape(x_BPND.shape))  # type: ignore[no-any-return]
