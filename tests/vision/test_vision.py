"""Our nets answer as those of torchvision and timm do, and any net of theirs can be cut.

Dimension key:  B batch   C channels   H, W height and width   K classes
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eaves.core.net import StagedNet, cut_points, split_at
from eaves.errors import ConfigError, CutError
from eaves.nets.build import build_net
from eaves.nets.mobilevit import mobilevit_xxs
from eaves.nets.resnet import resnet18, resnet34
from eaves.nets.vgg import vgg11, vgg16

pytestmark = pytest.mark.vision

Weights = dict[str, Tensor]
Build = Callable[[int, int], StagedNet]


@dataclass(frozen=True)
class Vision:
    torchvision: Any
    timm: Any


@pytest.fixture(scope="module")
def vision() -> Iterator[Vision]:
    """Import the extra, or skip.

    A torchvision built for CUDA cannot be imported beside a torch for the CPU, for want of two
    operators that no net here uses. They are declared here; the package never does that.
    """
    operators = None
    try:
        try:
            import torchvision
        except RuntimeError:
            library: Any = torch.library  # untyped
            operators = library.Library("torchvision", "FRAGMENT")
            for name in ("nms", "qnms"):
                operators.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
            for name in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
                del sys.modules[name]  # half imported
            import torchvision
        import timm
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"the extra 'vision' cannot be imported: {type(error).__name__}: {error}")
    yield Vision(torchvision, timm)
    del operators  # they are declared for as long as this object lives


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors are slower on several threads, and much slower beside other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _size(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def _stirred(net: nn.Module) -> nn.Module:
    """Give normalisations weights and statistics other than 1 and 0, which would hide errors."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return net


def _resnet_weights(theirs: Weights) -> Weights:
    def name(key: str) -> str:
        first = key.partition(".")[0]
        if first in ("conv1", "bn1"):
            return f"stem.{key}"
        return f"head.{key}" if first == "fc" else key

    return {name(key): value for key, value in theirs.items()}


def _mobilevit_weights(theirs: Weights) -> Weights:
    def name(key: str) -> str:
        first, *rest = key.split(".")
        if first == "stages":
            return ".".join([f"stage{int(rest[0]) + 1}", *rest[1:]])
        return f"head.{key}" if first == "final_conv" else key

    return {name(key): value for key, value in theirs.items()}


def _assert_same(ours: nn.Module, theirs: nn.Module, x_BCHW: Tensor) -> None:
    for training in (False, True):  # training last: it moves the statistics
        with torch.no_grad():
            want, got = theirs.train(training)(x_BCHW), ours.train(training)(x_BCHW)
        assert want.std() > 1e-3
        # The same sums in another order, at most: 1e-4 is 100 times above what was measured.
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
@pytest.mark.parametrize("build", [resnet18, resnet34])
def test_resnets(build: Build, library: str, vision: Vision) -> None:
    torch.manual_seed(0)
    name = build.__name__
    if library == "timm":
        theirs = vision.timm.create_model(name, pretrained=False)
    else:
        theirs = vision.torchvision.models.get_model(name, weights=None)
    ours = build(3, 1000)
    ours.load_state_dict(_resnet_weights(_stirred(theirs).state_dict()))
    assert _size(ours) == _size(theirs)
    _assert_same(ours, theirs, torch.randn(2, 3, 64, 96))


@pytest.mark.parametrize("build", [vgg11, vgg16])
def test_vgg_features(build: Build, vision: Vision) -> None:
    torch.manual_seed(0)
    theirs = vision.torchvision.models.get_model(f"{build.__name__}_bn", weights=None).features
    whole = build(3, 10)
    ours = StagedNet(whole.stages()[:-1])
    # Both are plain sequences of the same layers, so their weights come in the same order.
    weights = _stirred(theirs).state_dict().values()
    ours.load_state_dict(dict(zip(ours.state_dict(), weights, strict=True)))
    assert _size(whole) == _size(theirs) + 512 * 10 + 10
    _assert_same(ours, theirs, torch.randn(2, 3, 64, 32))


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 64), (256, 256)])
def test_mobilevit(size: tuple[int, int], vision: Vision) -> None:
    torch.manual_seed(0)
    theirs = vision.timm.create_model("mobilevit_xxs", pretrained=False)
    ours = mobilevit_xxs(3, 1000)
    ours.load_state_dict(_mobilevit_weights(_stirred(theirs).state_dict()))
    assert _size(ours) == _size(theirs)
    _assert_same(ours, theirs, torch.randn(2, 3, *size))


def test_mobilevit_begins_with_weights_of_the_same_scale(vision: Vision) -> None:
    torch.manual_seed(0)
    theirs = _mobilevit_weights(vision.timm.create_model("mobilevit_xxs").state_dict())
    ours = mobilevit_xxs(3, 1000).state_dict()
    assert list(ours) == list(theirs)
    for key, value in ours.items():
        if value.numel() > 1000:
            assert value.std().item() == pytest.approx(theirs[key].std().item(), rel=0.15), key
        elif value.ndim == 1:  # all biases, and the scales of the normalisations
            assert torch.equal(value, theirs[key]), key


# Each with the size of its images, a cut to be found, and why it is here.
NETS = [
    ("torchvision:resnet18", 32, "layer2.0"),  # layers that overwrite their input
    ("torchvision:mobilenet_v2", 32, "features.3"),
    ("torchvision:densenet121", 32, "features.transition1"),
    ("torchvision:efficientnet_b0", 32, "features.2"),  # stochastic depth: reads self.training
    ("torchvision:shufflenet_v2_x0_5", 32, "stage2"),  # divides a tensor in two
    ("torchvision:swin_t", 32, "features.1"),  # attention that reads self.training
    ("timm:resnet18", 32, "layer2.0"),
    ("timm:mobilevit_xxs", 32, "stages.2"),  # control flow by shape
    ("timm:mobilenetv3_small_050", 32, "blocks.1"),  # normalisation that reads self.training
    ("timm:convnext_atto", 32, "stages.1"),
    ("timm:vit_tiny_patch16_224", 32, "blocks.4"),  # must be told the size; two more arguments
]


@pytest.mark.parametrize(("name", "side", "expected"), NETS)
@pytest.mark.usefixtures("vision")
def test_cuts_leave_answer_and_features_as_they_are(name: str, side: int, expected: str) -> None:
    torch.manual_seed(0)
    net = build_net(name, classes=7, input_shape=(3, side, side)).eval()
    cuts = cut_points(net)
    assert expected in cuts
    x_BCHW = torch.randn(2, 3, side, side)
    with torch.no_grad():
        answer_BK = net(x_BCHW)
        for cut in {expected, *cuts[:: max(1, len(cuts) // 6)]}:
            split = split_at(net, cut)
            features = split.edge(x_BCHW)
            before = features.clone()
            assert torch.equal(split.cloud(features), answer_BK), cut
            assert torch.equal(features, before), f"{cut}: the cloud part overwrote its input"


@pytest.mark.usefixtures("vision")
@pytest.mark.parametrize("cut", ["conv1", "bn1", "layer1", "layer2.0"])
def test_both_parts_of_a_foreign_net_can_be_trained(cut: str) -> None:
    """As two-way methods do: the features are a leaf for the cloud, which returns its gradient."""

    def gradient(*, divided: bool) -> Tensor:
        torch.manual_seed(0)
        net = build_net("torchvision:resnet18", classes=4, input_shape=(3, 32, 32)).train()
        x_BCHW = torch.randn(3, 3, 32, 32)
        if divided:
            split = split_at(net, cut)
            features = split.edge(x_BCHW)
            received = features.detach().requires_grad_()
            split.cloud(received).square().sum().backward()
            features.backward(received.grad)
        else:
            net(x_BCHW).square().sum().backward()
        grad = next(net.parameters()).grad
        assert grad is not None
        return grad

    assert torch.equal(gradient(divided=True), gradient(divided=False))


@pytest.mark.usefixtures("vision")
@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18"])
def test_one_channel_is_taken(name: str) -> None:
    net = build_net(name, classes=3, input_shape=(1, 40, 28))
    assert net.eval()(torch.zeros(2, 1, 40, 28)).shape == (2, 3)


def test_the_net_traced_is_the_net_of_the_library(vision: Vision) -> None:
    torch.manual_seed(0)
    theirs = vision.torchvision.models.get_model("mobilenet_v2", weights=None, num_classes=5)
    torch.manual_seed(0)
    ours = build_net("torchvision:mobilenet_v2", classes=5, input_shape=(3, 32, 32))
    x_BCHW = torch.randn(2, 3, 32, 32)
    assert torch.equal(ours.eval()(x_BCHW), theirs.eval()(x_BCHW))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.usefixtures("vision")
@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_an_unknown_name_shows_the_closest_only(library: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown net of {library} 'resnet19'") as caught:
        build_net(f"{library}:resnet19", classes=3, input_shape=(3, 32, 32))
    choices = str(caught.value).partition("choose from: ")[2].split(", ")
    assert "resnet18" in choices[:3]
    assert len(choices) == 10


@pytest.mark.usefixtures("vision")
@pytest.mark.parametrize("name", ["timm:hf-hub:a/b", "timm:local-dir:a", "torchvision:quantize"])
def test_only_names_of_the_library_are_built(name: str) -> None:
    """Neither a download nor a folder of weights, which timm would take for a name too."""
    with pytest.raises(ConfigError, match="unknown net of"):
        build_net(name, classes=3, input_shape=(3, 32, 32))


@pytest.mark.usefixtures("vision")
@pytest.mark.parametrize("name", ["torchvision:vit_b_16", "timm:levit_128s"])
def test_images_of_a_size_that_a_net_cannot_take(name: str) -> None:
    with pytest.raises(ConfigError, match="3x50x70"):
        build_net(name, classes=3, input_shape=(3, 50, 70))


@pytest.mark.usefixtures("vision")
def test_a_net_that_differs_in_training_cannot_be_cut() -> None:
    with pytest.raises(CutError, match=r"GhostNet reads self\.training"):
        build_net("timm:ghostnet_100", classes=3, input_shape=(3, 32, 32))
