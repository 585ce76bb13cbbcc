"""The schedule's shape, and that a state is all that training needs to go on."""

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from eaves.core.optimise import OneCycle, Optimised, Schedule, Steady, precision_of
from eaves.core.state import State
from eaves.errors import ConfigError, DivergedError, StateError

CPU = torch.device("cpu")
OPTIMISERS = ("sgd", "adam")


def _part(seed: int = 0, **schedule: Any) -> Optimised:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    return Optimised({"net": net}, OneCycle(**{"total_steps": 10, "lr": 0.2} | schedule), CPU)


def _step(part: Optimised, i: int) -> float:
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(i))
    with part.forward():
        return part.descend(part.modules["net"](x).square().mean())


def _same(left: State, right: State) -> bool:
    return (
        left.facts == right.facts
        and left.tensors.keys() == right.tensors.keys()
        and all(torch.equal(v, right.tensors[k]) for k, v in left.tensors.items())
    )


# The schedule


@settings(deadline=None)  # a busy machine is no failure
@given(
    total=st.integers(1, 300), lr=st.floats(1e-4, 10), warmup=st.floats(0, 1), beyond=st.integers(0)
)
def test_the_rate_rises_to_its_peak_and_falls_to_nothing(
    total: int, lr: float, warmup: float, beyond: int
) -> None:
    schedule = OneCycle(total_steps=total, lr=lr, warmup=warmup)
    rates = [schedule.rate(step) for step in range(total)]
    peak = max(1, round(warmup * total)) - 1
    assert rates[peak] == pytest.approx(lr)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[0] > 0
    assert min(rates) >= 0
    if peak < total - 1:
        assert rates[-1] == 0
        assert schedule.rate(total + beyond) == 0
    # Continuous: no step is larger than the steepest place of the ramp or of the cosine.
    steepest = lr * max(1 / (peak + 1), 1.6 / max(1, total - 1 - peak))
    assert all(abs(b - a) <= steepest * 1.001 for a, b in pairwise(rates))


def test_the_fall_is_the_cosine_of_torch() -> None:
    total, rising, lr = 40, 10, 0.3
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=total - rising)
    schedule = OneCycle(total_steps=total, lr=lr, warmup=rising / total)
    for step in range(rising - 1, total):
        assert schedule.rate(step) == pytest.approx(cosine.get_last_lr()[0], abs=1e-12)
        optimiser.step()
        cosine.step()


def test_the_weights_move_as_torch_moves_them() -> None:
    part = _part()
    net = copy.deepcopy(part.modules["net"])
    sgd = torch.optim.SGD(net.parameters(), lr=1.0, momentum=0.9, weight_decay=5e-4, nesterov=True)
    for i in range(4):
        sgd.param_groups[0]["lr"] = part.schedule.rate(i)
        x = torch.randn(6, 5, generator=torch.Generator().manual_seed(i))
        loss = net(x).square().mean()
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        assert _step(part, i) == loss.item()
    assert part.steps == 4
    pairs = zip(part.modules["net"].parameters(), net.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_adam_is_that_of_its_authors() -> None:
    """Loshchilov and Hutter 2019, algorithm 2, in float64; ours computes in float32."""
    part = _part(optimiser="adam", lr=0.01)
    parts = dict(part.modules.named_parameters())
    weights = {name: p.detach().double() for name, p in parts.items()}
    m = {name: torch.zeros_like(w) for name, w in weights.items()}
    v = {name: torch.zeros_like(w) for name, w in weights.items()}
    for i in range(5):
        _step(part, i)
        eta = part.schedule.rate(i)
        for name, p in parts.items():
            assert p.grad is not None
            gradient = p.grad.double()
            m[name] = 0.9 * m[name] + 0.1 * gradient
            v[name] = 0.999 * v[name] + 0.001 * gradient**2
            m_hat, v_hat = m[name] / (1 - 0.9 ** (i + 1)), v[name] / (1 - 0.999 ** (i + 1))
            decayed = weights[name] * (1 - eta * 5e-4)
            weights[name] = decayed - eta * m_hat / (v_hat.sqrt() + 1e-8)
            assert torch.allclose(p.detach().double(), weights[name], rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "schedule",
    [
        Steady(lr=0.3, optimiser="adam", momentum=0.8, weight_decay=0.0, precision="bf16"),
        OneCycle(
            total_steps=8, lr=0.3, optimiser="adam", momentum=0.8, weight_decay=0.0, warmup=0.5
        ),
    ],
)
def test_a_schedule_over_other_steps_differs_in_nothing_else(schedule: Schedule) -> None:
    longer = schedule.over(80)
    assert longer.over(8) == schedule.over(8) == schedule
    rates = [longer.rate(i) for i in range(80)]
    assert max(rates) == schedule.lr
    if isinstance(longer, OneCycle):
        assert longer.total_steps == 80
        assert rates.index(schedule.lr) == 39  # its warm-up is a share of the steps
        assert rates[-1] == 0
    else:
        assert set(rates) == {schedule.lr}


@pytest.mark.parametrize("by_gradient", [False, True])
def test_a_step_is_backward_and_then_update(by_gradient: bool) -> None:
    whole, halves = _part(), _part()
    for i in range(3):
        x = torch.randn(6, 5, generator=torch.Generator().manual_seed(i))
        z, y = whole.modules["net"](x), halves.modules["net"](x)
        gradient = torch.full_like(z, 0.1) if by_gradient else None
        whole.descend(z if by_gradient else z.sum(), gradient)
        halves.backward(y if by_gradient else y.sum(), gradient)
        assert halves.steps == i
        halves.update()
        assert _same(halves.state(), whole.state())


def test_backward_changes_no_weight_and_forgets_the_gradients_before() -> None:
    part = _part()
    part.modules.eval()  # BatchNorm's statistics do change in a forward pass
    before = part.state()
    weight = next(part.modules.parameters())
    x = torch.ones(2, 5)
    part.backward(part.modules["net"](x).square().sum())
    assert weight.grad is not None
    first = weight.grad.clone()
    part.backward(part.modules["net"](x).square().sum())
    assert torch.equal(weight.grad, first)
    assert first.any()
    assert _same(part.state(), before)


# The state


@pytest.mark.parametrize(("optimiser", "momentum"), [("sgd", 0.0), ("sgd", 0.9), ("adam", 0.9)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_loaded_state_goes_on_to_the_bit(optimiser: str, momentum: float, precision: str) -> None:
    given: dict[str, Any] = {"optimiser": optimiser, "momentum": momentum, "precision": precision}
    first = _part(**given)
    for i in range(3):
        _step(first, i)
    other = _part(1, **given)
    _step(other, 77)
    other.load_state(first.state())
    assert _same(other.state(), first.state())
    for i in range(3, 6):
        assert _step(first, i) == _step(other, i)
    assert other.steps == first.steps == 6
    assert _same(other.state(), first.state())


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_a_state_before_the_first_step_clears_the_momentum(optimiser: str) -> None:
    fresh = _part(optimiser=optimiser)
    trained = _part(optimiser=optimiser)
    state = fresh.state()
    _step(trained, 0)
    trained.load_state(state)
    assert _step(trained, 1) == _step(fresh, 1)
    assert _same(trained.state(), fresh.state())


def test_a_state_is_a_copy_both_ways() -> None:
    part = _part()
    _step(part, 0)
    state = part.state()
    before = copy.deepcopy(state)
    _step(part, 1)
    assert _same(state, before)
    assert not _same(part.state(), before)
    other = _part(1)
    other.load_state(state)
    _step(other, 1)
    assert _same(state, before)
    assert any(key.startswith("optimiser/") for key in state.tensors)


def _bent(
    tensors: dict[str, Tensor] | None = None,
    facts: dict[str, Any] | None = None,
    *,
    optimiser: str = "sgd",
) -> State:
    part = _part(optimiser=optimiser)
    _step(part, 0)
    state = part.state()
    return State(state.tensors | (tensors or {}), state.facts if facts is None else facts)


def _lacking(name: str, *, optimiser: str = "sgd") -> State:
    tensors = _bent(optimiser=optimiser).tensors
    assert name in tensors
    return State({k: v for k, v in tensors.items() if k != name}, {"steps": 1})


FOREIGN = {
    "nothing": State(),
    "another shape": _bent({"weights/net.0.weight": torch.zeros(8, 4)}),
    "one weight more": _bent({"weights/net.9.weight": torch.zeros(1)}),
    "one weight less": _lacking("weights/net.0.bias"),
    "momentum of another shape": _bent({"optimiser/0/momentum_buffer": torch.zeros(8, 4)}),
    "momentum of a weight it has not": _bent({"optimiser/99/momentum_buffer": torch.zeros(1)}),
    "a name without a slot": _bent({"optimiser/0": torch.zeros(1)}),
    "a name without a number": _bent({"optimiser/x/momentum_buffer": torch.zeros(1)}),
    "a name of no kind": _bent({"bias": torch.zeros(1)}),
    "no generator state": _lacking("draws/state"),
    "Adam's": _bent(optimiser="adam"),
    "no step count": _bent(facts={}),
    "a step count that is none": _bent(facts={"steps": None}),
    "a step count in words": _bent(facts={"steps": "many"}),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_the_state_of_another_net_is_refused(name: str) -> None:
    with pytest.raises(StateError, match="the saved state belongs to another net: "):
        _part().load_state(FOREIGN[name])


_ADAM: dict[str, Any] = {"optimiser": "adam"}
DAMAGED_ADAM = {
    "momentum's": (_bent(), "an optimiser of another kind"),
    "a moment of another shape": (
        _bent({"optimiser/0/exp_avg": torch.zeros(8, 4)}, **_ADAM),
        r"exp_avg' has the shape \(8, 4\)",
    ),
    "a count of another shape": (
        _bent({"optimiser/0/step": torch.ones(8, 5)}, **_ADAM),
        r"step' has the shape \(8, 5\)",
    ),
    "no second moment": (_lacking("optimiser/0/exp_avg_sq", **_ADAM), "of another kind"),
    "no count": (_lacking("optimiser/3/step", **_ADAM), r"\['exp_avg', 'exp_avg_sq'\] of weight 3"),
    "a moment too many": (
        _bent({"optimiser/0/max_exp_avg_sq": torch.zeros(8, 5)}, **_ADAM),
        "of another kind",
    ),
}


@pytest.mark.parametrize("name", DAMAGED_ADAM)
def test_a_damaged_state_of_adam_is_refused(name: str) -> None:
    """Before training goes on: Adam itself would notice in a step, with a KeyError, or never."""
    state, message = DAMAGED_ADAM[name]
    part = _part(optimiser="adam")
    before = part.state()
    with pytest.raises(StateError, match=message):
        part.load_state(state)
    assert _same(part.state(), before)


# Failure


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("given_as", ["loss", "gradient"])
def test_divergence_is_reported_before_any_weight_changes(bad: float, given_as: str) -> None:
    part = _part()
    _step(part, 0)
    part.modules.eval()  # BatchNorm's statistics do change in a forward pass
    before = part.state()
    z = part.modules["net"](torch.ones(2, 5))
    by_gradient = given_as == "gradient"
    wrong = (z, torch.full_like(z, bad)) if by_gradient else (z.sum() * bad,)
    with pytest.raises(DivergedError, match=r"at step 1; lower the learning rate, or use fp32"):
        part.descend(*wrong)
    assert _same(part.state(), before)
    assert _step(part, 1) < float("inf")  # and training may go on


def test_a_part_without_weights_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no weights to train in the part 'edge'.*later cut"):
        Optimised({"edge": nn.Flatten()}, OneCycle(total_steps=1), CPU)


# Precision and memory


def test_bf16_computes_in_bfloat16_and_keeps_weights_in_float32() -> None:
    part = _part(precision="bf16")
    with part.forward():
        assert part.modules["net"](torch.ones(2, 5)).dtype == torch.bfloat16
    losses = [_step(part, 0) for _ in range(8)]
    assert losses[-1] < losses[0]
    assert {p.dtype for p in part.modules.parameters()} == {torch.float32}
    exact = _part()
    with exact.forward():
        assert exact.modules["net"](torch.ones(2, 5)).dtype == torch.float32


def test_the_precision_is_that_of_the_schedule_inside_alone() -> None:
    net, x = nn.Linear(5, 3), torch.ones(2, 5)
    with precision_of(OneCycle(total_steps=1, precision="bf16"), CPU):
        assert net(x).dtype == torch.bfloat16
        with precision_of(OneCycle(total_steps=1), CPU):
            assert net(x).dtype == torch.float32
    assert net(x).dtype == torch.float32


@pytest.mark.parametrize(
    ("optimiser", "momentum", "copies"), [("sgd", 0.0, 2), ("sgd", 0.9, 3), ("adam", 0.9, 4)]
)
def test_the_bytes_of_the_state_are_those_that_are_held(
    optimiser: str, momentum: float, copies: int
) -> None:
    weights = 5 * 8 + 8 + 2 * 8 + 8 * 3 + 3
    buffers = 4 * 2 * 8 + 8  # mean and variance in float32, a count in int64
    part = _part(optimiser=optimiser, momentum=momentum)
    assert part.state_bytes() == 4 * copies * weights + buffers
    _step(part, 0)
    gradients = [p.grad for p in part.modules.parameters() if p.grad is not None]
    # Besides, Adam counts its steps for each weight, in 4 bytes.
    saved = part.state().tensors.items()
    kept = [t for k, t in saved if not k.startswith("draws/") and not k.endswith("/step")]
    assert sum(t.nbytes for t in [*gradients, *kept]) == part.state_bytes()
