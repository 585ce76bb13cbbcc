"""Exit heads give logits for features of any shape.

Dimension key:  B batch   K classes
"""

import pytest
import torch
from torch import nn

from eaves.core.exits import EXITS, exit_head
from eaves.errors import ConfigError

SHAPES = [(6,), (6, 9), (6, 5, 4), (1, 1, 1), (3, 2, 4, 5)]


@pytest.mark.parametrize("kind", EXITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_exit_gives_logits_that_depend_on_the_features(
    kind: str, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    head = exit_head(kind, shape, 7)
    z = torch.randn(4, *shape, requires_grad=True)
    logits_BK = head(z)
    assert logits_BK.shape == (4, 7)
    logits_BK.square().sum().backward()
    assert z.grad is not None
    assert all(part.any() for part in z.grad)
    assert all(p.grad is not None for p in head.parameters())


def test_the_convolutional_exit_convolves_images_only() -> None:
    def convolutions(shape: tuple[int, ...]) -> int:
        return sum(isinstance(m, nn.Conv2d) for m in exit_head("conv", shape, 2).modules())

    assert [convolutions(shape) for shape in SHAPES] == [0, 0, 1, 1, 0]


def test_an_unknown_exit_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown exit 'convs'; choose from: conv, "):
        exit_head("convs", (3,), 2)
