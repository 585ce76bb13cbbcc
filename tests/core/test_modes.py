from collections.abc import Callable

import pytest
from torch import nn

from eaves.core.modes import modes_kept


def _fail_after(change: Callable[[], object]) -> None:
    change()
    raise RuntimeError("in the middle")


def test_every_module_gets_its_own_mode_back_also_after_an_error() -> None:
    net = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2).eval(), nn.ReLU()))
    before = [module.training for module in net.modules()]
    assert len(set(before)) == 2
    for change in (net.train, net.eval):
        with pytest.raises(RuntimeError, match="in the middle"), modes_kept(net):
            _fail_after(change)
        assert [module.training for module in net.modules()] == before
