"""A net with thin ends: who computes what, and that its linear path survives mixing.

Dimension key:  B batch   C channels   H, W height and width
"""

from contextlib import nullcontext

import pytest
import torch

from eaves.core.net import split_at
from eaves.nets.build import build_net
from eaves.nets.spindle import spindle
from eaves.planner.analyse import analyse_chain
from eaves.privacy.mixing import MixingLaw
from eaves.privacy.sources import Keyed


def test_the_middle_has_most_of_the_work() -> None:
    net = build_net("spindle", classes=10, input_shape=(3, 32, 32))
    stages = analyse_chain(dict(net.stages()), torch.zeros(4, 3, 32, 32), nullcontext)
    macs = {name: each.forward_macs for (name, _), each in zip(net.stages(), stages, strict=True)}
    assert sum(macs.values()) == pytest.approx(38e6, rel=0.02)
    assert macs["middle"] == pytest.approx(0.82 * sum(macs.values()), rel=0.01)


@pytest.mark.parametrize("side", [16, 31, 32, 46, 64])
def test_both_paths_of_the_middle_meet(side: int) -> None:
    net = spindle(3, 10).eval()
    edge = split_at(net, "norm").edge(torch.randn(2, 3, side, side))
    assert edge.shape == (2, 32, -(-side // 2), -(-side // 2))
    assert split_at(net, "middle").edge(torch.randn(2, 3, side, side)).shape[1] == 128
    assert net(torch.randn(2, 3, side, side)).shape == (2, 10)


@pytest.mark.parametrize("group", [2, 4, 8])
def test_along_its_linear_path_answers_are_taken_apart_exactly(group: int) -> None:
    torch.manual_seed(0)
    middle = dict(spindle(3, 10).eval().stages())["middle"]
    h_BCHW = torch.randn(group, 32, 16, 16)
    mixing = MixingLaw(group=group).draw(1, Keyed.from_seed(0))
    own, apart = middle(h_BCHW), mixing.unmix(middle(mixing.mix(h_BCHW)))
    torch.testing.assert_close(apart[:, :64], own[:, :64], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(apart[:, 64:], own[:, 64:], atol=1e-2)
