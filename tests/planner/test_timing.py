"""The steps that are timed: those of training the whole, one piece at a time.

Dimension key:  B batch
"""

import sys
import threading
from collections.abc import Iterator, Mapping
from copy import deepcopy
from time import sleep
from typing import final

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from eaves.core.optimise import OneCycle, Optimised
from eaves.core.roles import Batch
from eaves.planner.profile import Seconds, StageTimes
from eaves.planner.timing import Chain, Clock, Piece, contention, step_exit

CPU = torch.device("cpu")
SCHEDULE = OneCycle(total_steps=10, lr=0.2)
BATCH = Batch(torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors are slower on several threads, and much slower beside other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _stages(*, inplace: bool = False) -> dict[str, nn.Module]:
    """Return three stages: the second has no weights, and the third may begin in place."""
    torch.manual_seed(0)
    return {
        "a": nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10)),
        "b": nn.AvgPool1d(2),
        "c": nn.Sequential(nn.ReLU(inplace=inplace), nn.Linear(5, 3)),
    }


def _chain(stages: Mapping[str, nn.Module]) -> Chain:
    return Chain(stages, SCHEDULE, CPU)


def _state(stages: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return deepcopy(nn.ModuleDict(stages).state_dict())


def _same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())


# The clock


def test_a_clock_tells_the_median_and_half_the_quartiles_distance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Durations of 1, 2, 4 and 9: quartiles by Hyndman and Fan's type 6 are 1.25, 3 and 7.75.
    readings = iter([0.0, 4.0, 10.0, 11.0, 20.0, 29.0, 30.0, 32.0])
    monkeypatch.setattr("eaves.planner.timing.perf_counter", lambda: next(readings))
    clock = Clock(CPU)
    for _ in range(4):
        with clock.time("a", "forward"):
            pass
    assert clock.seconds("a", "forward") == Seconds(3.0, 3.25)


def test_a_clock_keeps_names_and_kinds_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([n * (n + 1) / 2 for n in range(20)])
    monkeypatch.setattr("eaves.planner.timing.perf_counter", lambda: next(readings))
    clock = Clock(CPU)
    for kind in ("forward", "backward", "backward_leaf", "update", "infer"):
        with clock.time("a", kind):
            pass
    whole = [Seconds(median_s) for median_s in (1.0, 3.0, 5.0, 7.0, 9.0)]
    assert clock.times("a") == StageTimes(*whole)
    # The gradient of an exit always goes on, and it never answers alone.
    assert clock.exit_times("a") == StageTimes(whole[0], whole[1], whole[1], whole[3], whole[0])
    assert clock.times("b") == StageTimes(*[Seconds(0.0)] * 5)
    clock.forget()
    assert clock.times("a") == clock.times("b")


def test_a_clock_measures_real_time() -> None:
    clock = Clock(CPU)
    with clock.time("a", "forward"):
        sleep(0.02)
    assert 0.02 <= clock.seconds("a", "forward").median_s < 2


# The steps


@pytest.mark.parametrize("inplace", [False, True])
def test_a_linked_step_is_that_of_the_whole(inplace: bool) -> None:
    stages = _stages(inplace=inplace)
    whole = deepcopy(stages)
    chain, part = _chain(stages), Optimised(whole, SCHEDULE, CPU)
    for _ in range(3):
        features = {"a": whole["a"](BATCH.inputs)}
        features["b"] = whole["b"](features["a"])
        for z in features.values():
            z.retain_grad()
        loss = cross_entropy(whole["c"](features["b"].clone()), BATCH.labels)
        part.descend(loss)
        outputs = chain.step(BATCH, Clock(CPU))
        assert list(outputs) == ["a", "b", "c"]
        torch.testing.assert_close(outputs["c"], loss)
        for name, z in features.items():
            assert z.grad is not None
            torch.testing.assert_close(outputs[name], z)
            torch.testing.assert_close(chain.gradient(name), z.grad)
    for ours, theirs in zip(_state(stages).values(), _state(whole).values(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_every_part_of_a_step_is_timed() -> None:
    chain, clock = _chain(_stages()), Clock(CPU)
    chain.step(BATCH, clock)
    linked = clock.times("b")
    assert min(linked.forward.median_s, linked.backward.median_s, linked.update.median_s) > 0
    assert linked.backward_leaf.median_s == linked.infer.median_s == 0
    clock.forget()
    chain.step(BATCH, clock, linked=False)
    chain.infer(BATCH, clock)
    apart = clock.times("b")
    assert min(apart.backward_leaf.median_s, apart.infer.median_s) > 0
    assert apart.forward.median_s == apart.backward.median_s == apart.update.median_s == 0


@pytest.mark.parametrize("inplace", [False, True])
def test_a_step_that_is_not_linked_changes_no_weight_and_no_gradient(inplace: bool) -> None:
    stages = _stages(inplace=inplace)
    chain = _chain(stages)
    outputs = chain.step(BATCH, Clock(CPU))
    weights = {k: v for k, v in _state(stages).items() if "running" not in k and "num" not in k}
    features, gradient = outputs["b"].clone(), chain.gradient("b").clone()
    chain.step(BATCH, Clock(CPU), linked=False)
    after = _state(stages)
    assert all(torch.equal(value, after[name]) for name, value in weights.items())
    assert torch.equal(chain.gradient("b"), gradient)
    assert torch.equal(outputs["b"], features)


def test_a_leaf_gets_the_gradients_of_its_own_weights() -> None:
    stages = _stages()
    chain = _chain(stages)
    outputs = chain.step(BATCH, Clock(CPU))
    chain.step(BATCH, Clock(CPU), linked=False)
    linear = stages["c"].get_submodule("1")
    again = deepcopy(stages["c"])
    # Its gradients are those at the weights after the step, on the features after it.
    features = stages["b"](stages["a"](BATCH.inputs)).detach()
    cross_entropy(again(features), BATCH.labels).backward()  # type: ignore[no-untyped-call]
    assert linear.weight.grad is not None
    expected = again.get_submodule("1").weight.grad
    torch.testing.assert_close(linear.weight.grad, expected)
    assert set(outputs) == set(stages)


def test_inference_changes_nothing() -> None:
    stages = _stages()
    chain = _chain(stages)
    chain.step(BATCH, Clock(CPU))
    before = _state(stages)
    chain.infer(BATCH, Clock(CPU))
    assert _same(_state(stages), before)
    assert all(m.training for stage in stages.values() for m in stage.modules())
    assert torch.is_grad_enabled()


@final
class _Modes(nn.Module):
    """Notes in which mode, and with or without gradients, it goes forward."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.noted.append((self.training, torch.is_grad_enabled()))
        return x


def test_inference_is_in_evaluation_mode_and_without_gradients() -> None:
    modes = _Modes()
    chain = _chain({"a": nn.Linear(6, 6), "b": modes, "c": nn.Linear(6, 3)})
    chain.step(BATCH, Clock(CPU))
    chain.infer(BATCH, Clock(CPU))
    assert modes.noted == [(True, True), (False, False)]


def test_a_piece_that_begins_in_place_gets_a_copy() -> None:
    piece, x = Piece(nn.ReLU(inplace=True), SCHEDULE, CPU), torch.tensor([[-1.0, 2.0]])
    for linked in (True, False):
        leaf, output = piece.forward(x, linked=linked)
        assert leaf.requires_grad == linked
        assert output.tolist() == [[0.0, 2.0]]
        assert x.tolist() == leaf.tolist() == [[-1.0, 2.0]]


def test_another_error_of_a_piece_comes_through() -> None:
    piece = Piece(nn.Linear(6, 2), SCHEDULE, CPU)
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):
        piece.forward(torch.ones(1, 7), linked=True)


def test_an_exit_learns() -> None:
    torch.manual_seed(0)
    piece, clock = Piece(nn.Linear(6, 3), SCHEDULE, CPU), Clock(CPU)
    losses = []
    for _ in range(6):
        step_exit(piece, "a/exit", BATCH.inputs, BATCH.labels, clock)
        logits = piece.module(BATCH.inputs).detach()
        losses.append(float(cross_entropy(logits, BATCH.labels)))
    assert losses[-1] < losses[0]
    times = clock.exit_times("a/exit")
    assert min(times.forward.median_s, times.backward.median_s, times.update.median_s) > 0


# Two at once


@final
class _Taking(nn.Module):
    """Takes 10 ms in the thread that made it, and ``beside_s`` in others, or fails there."""

    def __init__(self, beside_s: float | None):
        super().__init__()
        self._home, self._beside_s = threading.get_ident(), beside_s

    def forward(self, x: Tensor) -> Tensor:
        taken_s = 0.01 if threading.get_ident() == self._home else self._beside_s
        if taken_s is None:
            raise MemoryError("no room for two")
        sleep(taken_s)
        return x


def _pair(beside_s: float | None) -> tuple[Chain, Chain]:
    stages = {"a": nn.Linear(6, 6), "b": _Taking(beside_s), "c": nn.Linear(6, 3)}
    return _chain(stages), _chain(deepcopy(stages))


@pytest.mark.parametrize(("beside_s", "low", "high"), [(0.1, 2.0, 4.0), (0.05, 1.0, 2.0)])
def test_contention_is_how_much_longer_a_step_takes(
    beside_s: float, low: float, high: float
) -> None:
    assert low <= contention(_pair(beside_s), BATCH, Clock(CPU), 0.05) < high


_BOTH = threading.Barrier(2, timeout=10)


@final
class _Meeting(nn.Module):
    """Goes on when two are here."""

    def forward(self, x: Tensor) -> Tensor:
        _BOTH.wait()
        return x


def test_two_steps_are_truly_taken_at_once() -> None:
    stages = {"a": nn.Linear(6, 6), "b": _Meeting(), "c": nn.Linear(6, 3)}
    pair = (_chain(stages), _chain(deepcopy(stages)))
    assert contention(pair, BATCH, Clock(CPU), 1.0) >= 1


def test_two_at_once_are_never_faster_than_one() -> None:
    assert contention(_pair(0.0), BATCH, Clock(CPU), 10.0) == 1.0


def test_steps_beside_each_other_are_steps() -> None:
    stages = _stages()
    pair = (_chain(stages), _chain(deepcopy(stages)))
    alone = deepcopy(stages)
    contention(pair, BATCH, Clock(CPU), 1.0)
    chain = _chain(alone)
    for _ in range(2):  # a warm-up and one
        chain.step(BATCH, Clock(CPU))
    for ours, theirs in zip(_state(stages).values(), _state(alone).values(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_interpreter_switches_as_before() -> None:
    interval, threads = sys.getswitchinterval(), threading.active_count()
    contention(_pair(0.0), BATCH, Clock(CPU), 1.0)
    assert (sys.getswitchinterval(), threading.active_count()) == (interval, threads)
    with pytest.raises(MemoryError, match="no room for two"):
        contention(_pair(None), BATCH, Clock(CPU), 1.0)
    assert (sys.getswitchinterval(), threading.active_count()) == (interval, threads)
