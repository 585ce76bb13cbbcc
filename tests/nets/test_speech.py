"""Nets for speech: published sizes, an independent reading of each paper, what each cut holds.

Dimension key:  B batch   C channels   H, W height and width   K classes
"""

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import accumulate

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as f

from eaves.core.net import StagedNet, cut_points, output_shape, split_at
from eaves.core.optimise import OneCycle, Optimised
from eaves.nets.build import build_net
from eaves.planner.analyse import analyse_chain

_SHAPE = (1, 40, 100)  # a second of speech: 40 mel bands, 100 frames


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors are slower on several threads, and much slower beside other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _net(name: str, shape: tuple[int, int, int] = _SHAPE, classes: int = 12) -> StagedNet:
    torch.manual_seed(0)
    return build_net(name, classes=classes, input_shape=shape)


def _size(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def _macs(net: StagedNet, shape: tuple[int, int, int] = _SHAPE) -> list[float]:
    """Multiply-accumulates up to the end of each stage."""
    found = analyse_chain(dict(net.stages()), torch.zeros(4, *shape), nullcontext)
    return list(accumulate(stage.forward_macs for stage in found))


def _trained(net: nn.Module) -> nn.Module:
    """Give every norm statistics and weights of its own, as training would."""
    generator = torch.Generator().manual_seed(1)
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.uniform_(-0.5, 0.5, generator=generator)
        norm.running_var.uniform_(0.5, 2, generator=generator)
        if norm.affine:
            nn.init.uniform_(norm.weight, 0.5, 2, generator=generator)
            nn.init.uniform_(norm.bias, -0.5, 0.5, generator=generator)
    return net.eval()


def _normed(x_BCHW: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    """The norm called ``name``, by its formula."""
    mean, var = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    gain = weights.get(f"{name}.weight", torch.ones_like(var))
    bias = weights.get(f"{name}.bias", torch.zeros_like(var))
    scale = gain / (var + 1e-5).sqrt()
    return (x_BCHW - mean[:, None, None]) * scale[:, None, None] + bias[:, None, None]


def test_ds_cnn_has_the_published_memory_and_operations() -> None:
    """Zhang et al. 2017, results of DS-CNN (S) for 12 classes: 38.6 KB and 5.4 M operations.

    The KB are bytes of 8-bit weights, norms folded into them, and of the largest two neighbouring
    maps, 25 x 5 each. An operation is half a multiply-accumulate. Its input is 49 x 10 (time,
    pitch), which TensorFlow pads as if it were 50.
    """
    shape = (1, 10, 50)
    net = _net("ds_cnn", shape)
    assert output_shape(split_at(net, "conv").edge, shape) == (64, 5, 25)
    folded = _size(net) - sum(
        m.num_features for m in net.modules() if isinstance(m, nn.BatchNorm2d)
    )
    assert folded + 2 * 64 * 5 * 25 == 38_604
    assert 2 * _macs(net, shape)[-1] == pytest.approx(5.4e6, rel=0.02)  # 5.31 M without the biases


def test_res8_has_the_published_number_of_weights() -> None:
    """Tang and Lin 2018, res8 for 12 classes: 110 K; 110,307 in the code of its authors."""
    net = _net("res8")
    assert _size(net) == 9 * 45 + 6 * 9 * 45 * 45 + 45 * 12 + 12 == 110_307
    assert not any(isinstance(m, nn.Conv2d) and m.bias is not None for m in net.modules())


def test_ds_cnn_is_what_the_paper_says() -> None:
    """Written out again: convolution, norm, ReLU, all with the weights of ours."""
    net = _trained(_net("ds_cnn"))
    weights = dict(net.state_dict())
    x_BCHW = torch.randn(2, *_SHAPE)

    def step(z_BCHW: Tensor, name: str, *, stride: int = 1, groups: int = 1) -> Tensor:
        kernel = weights[f"{name}.conv.weight"]
        # SAME of TensorFlow: as many outputs as strides fit in, padded alike on both sides.
        height, width = ((side - stride) // 2 for side in kernel.shape[2:])
        padded_BCHW = f.pad(z_BCHW, (width, width, height, height))
        z_BCHW = f.conv2d(padded_BCHW, kernel, stride=stride, groups=groups)
        return _normed(z_BCHW, weights, f"{name}.bn").clamp(min=0)

    z_BCHW = step(x_BCHW, "conv", stride=2)
    assert z_BCHW.shape == (2, 64, 20, 50)
    for block in ("block1", "block2", "block3", "block4"):
        z_BCHW = step(z_BCHW, f"{block}.depthwise", groups=64)
        z_BCHW = step(z_BCHW, f"{block}.pointwise")
    expected_BK = f.linear(
        z_BCHW.mean(dim=(2, 3)), weights["head.fc.weight"], weights["head.fc.bias"]
    )
    torch.testing.assert_close(net(x_BCHW), expected_BK, rtol=1e-4, atol=1e-4)


def test_res8_is_what_the_code_of_its_authors_does() -> None:
    """Their one loop over layers, in which a norm follows each convolution and each sum."""
    net = _trained(_net("res8"))
    weights = dict(net.state_dict())
    x_BCHW = torch.randn(2, *_SHAPE)
    order = [f"res{i}.conv{j}" for i in (1, 2, 3) for j in (1, 2)]
    norms = ["res1.bn2", "res2.bn1", "res2.bn2", "res3.bn1", "res3.bn2", "head.bn"]
    z_BCHW = f.conv2d(x_BCHW, weights["stem.conv.weight"], padding=1).clamp(min=0)
    z_BCHW = f.avg_pool2d(z_BCHW, (3, 4))  # pitch, time
    shortcut_BCHW = z_BCHW
    for i, (conv, norm) in enumerate(zip(order, norms, strict=True)):
        z_BCHW = f.conv2d(z_BCHW, weights[f"{conv}.weight"], padding=1).clamp(min=0)
        if i % 2:
            z_BCHW = shortcut_BCHW = z_BCHW + shortcut_BCHW
        z_BCHW = _normed(z_BCHW, weights, norm)
    expected_BK = f.linear(
        z_BCHW.mean(dim=(2, 3)), weights["head.fc.weight"], weights["head.fc.bias"]
    )
    torch.testing.assert_close(net(x_BCHW), expected_BK, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "values", "shares", "millions"),
    [
        ("ds_cnn", [64_000] * 5, [12, 34, 56, 78, 100], 21),
        ("res8", [45 * 13 * 25] * 4, [4, 36, 68, 100], 37),
    ],
)
def test_what_crosses_each_cut_and_what_is_before_it(
    name: str, values: list[int], shares: list[int], millions: int
) -> None:
    net = _net(name, classes=10)
    features = [output_shape(split_at(net, cut).edge, _SHAPE) for cut in cut_points(net)]
    assert [channels * height * width for channels, height, width in features] == values
    *macs, whole = _macs(net)
    assert [round(100 * m / whole) for m in macs] == shares
    assert round(whole / 1e6) == millions


@pytest.mark.parametrize("name", ["ds_cnn", "res8"])
def test_a_net_learns_a_batch_by_heart(name: str) -> None:
    """Two dozen images of noise, in steps whose loss is measured before the first and after."""
    net = _net(name, shape=(1, 20, 24), classes=3)
    generator = torch.Generator().manual_seed(2)
    x_BCHW = torch.randn(24, 1, 20, 24, generator=generator)
    labels_B = torch.arange(24) % 3
    optimised = Optimised({"net": net}, OneCycle(total_steps=30), torch.device("cpu"))
    losses = []
    for _ in range(30):
        loss = f.cross_entropy(net(x_BCHW), labels_B)
        losses.append(loss.item())
        optimised.descend(loss)
    assert losses[-1] < 0.5 * losses[0]
