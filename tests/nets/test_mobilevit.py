import pytest
import torch

from eaves.nets.build import build_net
from eaves.nets.mobilevit import _fold, _unfold


@pytest.mark.parametrize("size", [(2, 2), (4, 6), (8, 2)])
def test_fold_undoes_unfold(size: tuple[int, int]) -> None:
    z_BDHW = torch.randn(3, 5, *size)
    assert torch.equal(_fold(_unfold(z_BDHW), size), z_BDHW)


def test_a_sequence_holds_the_pixels_at_one_place_of_their_patches() -> None:
    z_BDHW = torch.arange(16.0).reshape(1, 1, 4, 4)
    tokens = _unfold(z_BDHW)[0, :, :, 0].tolist()
    assert tokens == [[0, 2, 8, 10], [1, 3, 9, 11], [4, 6, 12, 14], [5, 7, 13, 15]]


def test_attention_reaches_across_the_whole_map() -> None:
    """A convolution sees its neighbours only; in a block one corner must move the other."""
    torch.manual_seed(0)
    net = build_net("mobilevit_xxs", classes=2, input_shape=(3, 64, 64)).eval()
    block = net.get_submodule("stage3.1")
    x_BCHW = torch.randn(1, 48, 16, 16)
    changed = x_BCHW.clone()
    changed[..., 0, 0] += 10
    with torch.no_grad():
        assert (block(changed) - block(x_BCHW))[..., 8:, 8:].abs().max() > 1e-6
