import pytest
from torch import nn

from eaves.core.net import StagedNet
from eaves.experiments.cuts import cut_facts
from eaves.nets.build import build_net


def test_shares_of_work_and_weights_by_hand() -> None:
    net = StagedNet(
        [
            ("conv", nn.Conv2d(3, 4, 3, padding=1, bias=False)),  # 108 weights, 27 * 256 MACs
            ("pool", nn.AvgPool2d(8)),
            ("flat", nn.Flatten()),
            ("head", nn.Linear(4, 10)),  # 50 weights, 40 MACs
        ]
    )
    conv, pool, flat = cut_facts(net, (3, 8, 8))
    assert [fact.cut for fact in (conv, pool, flat)] == ["conv", "pool", "flat"]
    assert (conv.feature_shape, conv.values) == ((4, 8, 8), 256)
    assert (pool.feature_shape, flat.feature_shape, flat.values) == ((4, 1, 1), (4,), 4)
    macs = 4 * 27 * 64
    assert conv.edge_macs == pytest.approx(macs / (macs + 40))
    assert conv.edge_params == pytest.approx(108 / 158)
    assert pool.edge_macs == conv.edge_macs


def test_resnet18_at_its_third_layer() -> None:
    """Work from published layer shapes (He et al. 2015, Table 1): 556.7 MMACs with this stem."""
    net = build_net("resnet18", classes=10, input_shape=(3, 32, 32), stem="cifar")
    facts = {fact.cut: fact for fact in cut_facts(net, (3, 32, 32))}
    assert facts["layer1"].feature_shape == (64, 32, 32)
    assert facts["layer4"].feature_shape == (512, 4, 4)
    shares = [fact.edge_macs for fact in facts.values()]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] < 1
    stem, layer1 = 3 * 9 * 64 * 1024, 4 * 64 * 9 * 64 * 1024
    assert facts["layer1"].edge_macs == pytest.approx((stem + layer1) / 555.4e6, rel=0.01)
