"""Bytes against counts by hand and against torch's own allocator; counting changes no bit."""

import copy
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from eaves.core.memory import kept_for_backward, peak_of_tensors

CPU = torch.device("cpu")
FLOAT = 4

# What is kept for backward


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


def test_what_is_there_anyway_is_not_counted() -> None:
    net = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
    x_BD = torch.randn(8, 10)
    with kept_for_backward(but=net.parameters()) as kept:
        net(x_BD)
    assert kept.total == FLOAT * (8 * 10 + 8 * 20)
    with kept_for_backward(but=[*net.parameters(), x_BD]) as kept:
        net(x_BD)
    assert kept.total == FLOAT * 8 * 20


def test_a_view_of_what_is_there_is_there_too() -> None:
    x = torch.randn(100, requires_grad=True)
    with kept_for_backward(but=[x[:10]]) as kept:
        y = x[50:].square()
    assert kept.total == 0
    assert y.requires_grad


# The peak


def test_the_peak_is_the_most_at_one_moment() -> None:
    with peak_of_tensors(CPU) as peak:
        for n in (100, 1000, 10):
            x = torch.zeros(n)
            del x
        y = torch.zeros(900)
    assert peak.total == FLOAT * 1000
    assert len(y) == 900


def test_tensors_that_live_together_add_up() -> None:
    with peak_of_tensors(CPU) as peak:
        kept = [torch.zeros(100) for _ in range(5)]
        kept.pop()
        kept.append(torch.zeros(50))
    assert peak.total == FLOAT * 500
    assert len(kept) == 5


def test_work_in_place_and_views_take_nothing() -> None:
    with peak_of_tensors(CPU) as peak:
        x = torch.zeros(10, 10)
        x.add_(1).relu_()
        parts = [x[:5], x.view(100), x.t(), x.detach()]
        torch.add(x, x, out=x)
    assert peak.total == FLOAT * 100
    assert len(parts) == 4


def test_a_view_keeps_its_storage_alive() -> None:
    with peak_of_tensors(CPU) as peak:
        x = torch.zeros(100)
        part = x[:1]
        del x
        y = torch.zeros(100)
    assert peak.total == FLOAT * 200
    assert len(part) + len(y) == 101


def test_what_autograd_keeps_is_alive_until_backward() -> None:
    x = torch.zeros(100, requires_grad=True)
    with peak_of_tensors(CPU) as peak:
        y = x.exp().exp().sum()  # each exp keeps its result
    assert peak.total == FLOAT * 201
    with peak_of_tensors(CPU) as peak, torch.no_grad():
        y = x.exp().exp().exp().exp()
    assert peak.total == FLOAT * 200
    assert len(y) == 100


def test_what_was_there_before_is_not_counted() -> None:
    x = torch.zeros(100)
    with peak_of_tensors(CPU) as peak:
        x.add_(1)
        y = x.view(10, 10).t()
        z = y[:1] + 1
    assert peak.total == FLOAT * 10
    assert len(z) == 1


def test_a_tensor_from_numbers_is_new() -> None:
    with peak_of_tensors(CPU) as peak:
        x = torch.tensor([0.0] * 100)
    assert peak.total == FLOAT * 100
    assert len(x) == 100


def test_a_tensor_added_by_hand_counts_once_until_it_is_freed() -> None:
    x = torch.zeros(100)
    with peak_of_tensors(CPU) as peak:
        peak.add(x)
        peak.add(x[:10])
        y = x.view(10, 10) + 1
        del x, y
        z = torch.zeros(150)
    assert peak.total == FLOAT * 200
    assert len(z) == 150


def test_nothing_is_counted_after_the_end() -> None:
    with peak_of_tensors(CPU) as peak:
        x = torch.zeros(10)
    y = torch.zeros(1000)
    assert peak.total == FLOAT * 10
    assert len(x) < len(y)


def _step(net: nn.Module, x: Tensor) -> None:
    loss = net(x).square().sum()
    for p, gradient in zip(
        net.parameters(), torch.autograd.grad(loss, list(net.parameters())), strict=True
    ):
        p.data.sub_(gradient, alpha=0.1)


def test_the_peak_of_a_step_is_that_of_the_allocator() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 128), nn.ReLU(inplace=True), nn.Linear(128, 8)
    )
    x_BD = torch.randn(32, 64)
    with peak_of_tensors(CPU) as peak:
        _step(net, x_BD)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        _step(net, x_BD)
    assert found.profiler is not None
    events = found.profiler.kineto_results.events()
    changes = [event.nbytes() for event in events if event.name() == "[memory]"]
    assert sum(change > 0 for change in changes) > 10
    assert peak.total == max(accumulate(changes))


def test_a_step_under_the_watch_computes_the_same_bits() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Linear(8, 2)
    )
    watched = copy.deepcopy(plain)
    x_BD = torch.randn(6, 5)
    _step(plain, x_BD)
    with peak_of_tensors(CPU) as peak:
        _step(watched, x_BD)
    assert peak.total > 0
    theirs = watched.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in plain.state_dict().items())
