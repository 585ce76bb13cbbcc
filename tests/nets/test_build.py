import re

import pytest
import torch

from eaves.errors import ConfigError
from eaves.nets.build import NETS, build_net


def _message(name: str, **changes: object) -> str:
    arguments = {"classes": 10, "input_shape": (3, 32, 32), **changes}
    with pytest.raises(ConfigError) as caught:
        build_net(name, **arguments)  # type: ignore[arg-type]
    return str(caught.value)


def test_every_entry_says_what_it_is() -> None:
    for name, entry in NETS.items():
        assert re.fullmatch("[a-z0-9_]+", name)
        assert len(entry.about) > 20
        assert entry.source


def test_a_net_can_be_counted_without_taking_memory() -> None:
    with torch.device("meta"):
        nets = [build_net(name, classes=10, input_shape=(3, 64, 64)) for name in NETS]
    assert {p.device.type for net in nets for p in net.parameters()} == {"meta"}


def test_an_unknown_name_lists_the_likeliest_first_and_all_forms() -> None:
    message = _message("restnet18")
    assert message.startswith("unknown net 'restnet18'; choose from: resnet18, ")
    assert {"timm:NAME", "torchvision:NAME", "FILE.py:NAME"} <= set(
        message.split(": ")[1].split(", ")
    )


def test_an_unknown_library_is_an_unknown_net() -> None:
    assert "timm:NAME" in _message("keras:resnet18")


def test_an_unknown_stem_lists_the_known_ones() -> None:
    assert _message("resnet18", stem="cifra") == (
        "unknown stem 'cifra'; choose from: cifar, imagenet"
    )


@pytest.mark.parametrize("name", ["vgg16", "resnet20", "small"])
def test_a_stem_where_there_is_no_choice_is_refused(name: str) -> None:
    assert f"{name} has no choice of stem, got 'cifar'" in _message(name, stem="cifar")


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18", "mine.py:Mine"])
def test_a_stem_for_a_net_that_is_not_ours_is_refused(name: str) -> None:
    assert "only resnet18, resnet34 have a choice of stem" in _message(name, stem="cifar")


def test_the_stem_left_out_is_that_for_imagenet() -> None:
    default = build_net("resnet18", classes=10, input_shape=(3, 32, 32))
    chosen = build_net("resnet18", classes=10, input_shape=(3, 32, 32), stem="imagenet")
    assert default.names == chosen.names
    assert "maxpool" in default.names


@pytest.mark.parametrize("classes", [1, 0, -3])
def test_fewer_than_two_classes_are_refused(classes: int) -> None:
    assert _message("small", classes=classes) == (
        f"expected 2 or more classes, up to 1,000,000, got {classes}"
    )


@pytest.mark.parametrize("shape", [(32, 32), (3, 32, 0), (3, 32, 32, 1), ()])
def test_a_shape_that_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    assert "(channels, height, width)" in _message("small", input_shape=shape)


def test_images_too_small_for_the_net_name_the_least_size_and_what_else_would_do() -> None:
    message = _message("vgg16", input_shape=(1, 64, 28))
    assert "vgg16 needs images of at least 32x32, got 64x28" in message
    assert "resnet18" in message
    assert "vgg11" not in message


def test_images_too_small_for_every_net_are_to_be_enlarged() -> None:
    message = _message("resnet18", input_shape=(1, 4, 4))
    assert message == "resnet18 needs images of at least 8x8, got 4x4; enlarge them"
