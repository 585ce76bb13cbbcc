"""The bytes kept for backward, against counts by hand; counting changes no bit."""

import copy

import torch
from torch import nn

from eaves.core.memory import kept_for_backward

FLOAT = 4


def test_a_linear_net_keeps_its_inputs_and_the_weight_it_needs() -> None:
    net = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
    with kept_for_backward() as kept:
        net(torch.randn(8, 10))
    # The input for the first weight's gradient; the ReLU's output, for itself and for the second
    # weight's gradient, once; the second weight, for the gradient by its input.
    assert kept.total == FLOAT * (8 * 10 + 8 * 20 + 20 * 5)


def test_a_convolution_keeps_its_input_and_its_weight() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.Tanh())
    with kept_for_backward() as kept:
        net(torch.randn(2, 3, 8, 8))
    assert kept.total == FLOAT * (2 * 3 * 8 * 8 + 6 * 3 * 3 * 3 + 2 * 6 * 6 * 6)


def test_a_storage_counts_once_and_whole() -> None:
    x = torch.randn(100, requires_grad=True)
    with kept_for_backward() as kept:
        y = x[:10] * x[10:20] + x[20:30].square()
    assert kept.total == FLOAT * 100
    assert y.requires_grad


def test_nothing_is_kept_without_gradients_or_outside() -> None:
    net = nn.Linear(4, 4)
    with kept_for_backward() as kept, torch.no_grad():
        net(torch.randn(2, 4))
    net(torch.randn(2, 4))
    assert kept.total == 0


def test_a_step_under_the_count_computes_the_same_bits() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 2)
    )
    counted = copy.deepcopy(plain)
    x_BCHW = torch.randn(5, 3, 6, 6)
    expected = plain(x_BCHW).square().sum()
    expected.backward()
    with kept_for_backward() as kept:
        loss = counted(x_BCHW).square().sum()
        loss.backward()
    assert kept.total > x_BCHW.nbytes
    assert torch.equal(loss, expected)
    for p, q in zip(plain.parameters(), counted.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), counted.buffers(), strict=True))
