import torch
from torch import Tensor, nn

from eaves.core.net import StagedNet
from eaves.core.sharing import memory_groups, weights_of


def _together(one: Tensor, other: Tensor) -> bool:
    groups = memory_groups([one, other])
    return groups[id(one)] == groups[id(other)]


def test_tensors_share_memory_where_they_overlap_and_not_where_they_lie_side_by_side() -> None:
    flat = torch.zeros(12)
    assert _together(flat[:8], flat[4:])
    assert _together(flat, flat.view(3, 4).t())
    assert _together(flat[:1].expand(5), flat[:2])
    assert not _together(flat[:6], flat[6:])
    assert not _together(torch.zeros(3), torch.zeros(3))


def test_what_overlaps_with_a_third_belongs_together() -> None:
    flat = torch.zeros(12)
    parts = [flat[:4], flat[8:], flat[3:9], torch.zeros(2)]
    groups = memory_groups(parts)
    assert [groups[id(part)] == groups[id(parts[0])] for part in parts] == [True, True, True, False]


def test_tensors_without_memory_share_none() -> None:
    assert not _together(torch.zeros(0), torch.zeros(0))
    assert not _together(torch.zeros(3, device="meta"), torch.zeros(3, device="meta"))
    assert not _together(torch.eye(3).to_sparse(), torch.zeros(3))


def test_weights_are_parameters_and_buffers() -> None:
    assert len(weights_of(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))) == 2 + 5


def test_lazy_weights_have_no_memory_yet() -> None:
    lazy = nn.LazyLinear(3)
    assert len(set(memory_groups(weights_of(lazy)).values())) == 2  # weight and bias
    assert StagedNet([("flat", nn.Flatten()), ("head", lazy)]).names == ("flat", "head")
