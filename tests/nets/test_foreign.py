"""What can be tested of other libraries' nets without them; the rest is in tests/vision."""

import sys

import pytest
import torch
from torch import nn

from eaves.errors import ConfigError
from eaves.nets.build import build_net
from eaves.nets.foreign import _take_channels


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_missing_library_says_how_to_install_it(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=r"pip install 'eaves\[vision\]'") as caught:
        build_net(f"{library}:resnet18", classes=10, input_shape=(3, 32, 32))
    assert isinstance(caught.value.__cause__, ImportError)
    assert f"importing {library} failed" in str(caught.value)


def test_a_library_built_for_another_torch_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "torchvision":
                raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(ConfigError, match="operator torchvision::nms does not exist"):
        build_net("torchvision:resnet18", classes=10, input_shape=(3, 32, 32))


def test_the_first_convolution_takes_other_channels() -> None:
    first, second = nn.Conv2d(3, 8, 5, stride=2, bias=False), nn.Conv2d(8, 4, 3)
    net = nn.Sequential(nn.Sequential(first), second)
    _take_channels(net, 1, "net")
    assert first.weight.shape == (8, 1, 5, 5)
    assert 0 < first.weight.std() < 1
    assert second.weight.shape == (4, 8, 3, 3)
    assert net(torch.zeros(2, 1, 9, 9)).shape == (2, 4, 1, 1)


@pytest.mark.parametrize(
    "first", [nn.Linear(3, 4), nn.Conv2d(6, 4, 3), nn.Conv2d(3, 3, 3, groups=3)]
)
def test_a_net_whose_channels_are_fixed_is_refused(first: nn.Module) -> None:
    with pytest.raises(ConfigError, match="torchvision:odd takes images of 3 channels only, got 1"):
        _take_channels(nn.Sequential(first), 1, "odd")
