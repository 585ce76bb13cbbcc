"""Distance correlation, held against another library and its laws; and that NoPeek lowers it.

Dimension key:  B batch   D values of one example
"""

from collections.abc import Callable
from dataclasses import replace
from math import cos, pi, sin

import pytest
import torch
from torch import Tensor

from eaves.core.roles import Batch
from eaves.methods.nopeek import Decorrelation, distance_correlation, nopeek
from eaves.methods.setup import Hiding, Setup

Hide = Callable[..., Hiding]
Toy = Callable[..., Setup]
Bits = Callable[..., Batch]


def _pair() -> tuple[Tensor, Tensor]:
    t = torch.arange(40, dtype=torch.float64)
    a_BD = torch.stack([t.sin(), (2 * t).cos(), t / 40], dim=1)
    return a_BD, torch.stack([t.sin() ** 2, (7 * t % 11) / 11], dim=1)


def _normal(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _value(a_BD: Tensor, b_BD: Tensor) -> float:
    return distance_correlation(a_BD, b_BD).item()


def test_it_agrees_with_another_library() -> None:
    a_BD, b_BD = _pair()  # dcor.distance_correlation(a, b) of dcor 0.7
    assert _value(a_BD, b_BD) == pytest.approx(0.757776392481368, abs=1e-12)
    assert _value(a_BD.float(), b_BD.float()) == pytest.approx(0.757776392481368, abs=1e-5)


def test_it_is_the_formula_written_out() -> None:
    a_BD, b_BD = _normal(9, 3), _normal(9, 2, seed=1)

    def centred(x_BD: Tensor) -> list[list[float]]:
        d = [[float((p - q).square().sum()) ** 0.5 for q in x_BD] for p in x_BD]
        rows = [sum(row) / 9 for row in d]
        return [[d[i][j] - rows[i] - rows[j] + sum(rows) / 9 for j in range(9)] for i in range(9)]

    def mean(x: list[list[float]], y: list[list[float]]) -> float:
        return sum(x[i][j] * y[i][j] for i in range(9) for j in range(9)) / 81

    a, b = centred(a_BD), centred(b_BD)
    expected = (mean(a, b) / (mean(a, a) * mean(b, b)) ** 0.5) ** 0.5
    assert _value(a_BD, b_BD) == pytest.approx(expected, abs=1e-12)


def test_it_is_1_for_what_is_moved_turned_mirrored_or_scaled() -> None:
    a_BD = _normal(50, 2)
    turn_DD = torch.tensor([[cos(1), -sin(1)], [sin(1), cos(1)]], dtype=torch.float64)
    mirror_DD = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
    for same_BD in (a_BD + 7, a_BD @ turn_DD, a_BD @ mirror_DD, -0.01 * a_BD):
        assert _value(a_BD, same_BD) == pytest.approx(1, abs=1e-12)
    stretched_BD = a_BD * torch.tensor([1.0, 30.0], dtype=torch.float64)
    assert 0.5 < _value(a_BD, stretched_BD) < 0.999


def test_it_does_not_change_when_either_side_is_moved_turned_or_scaled() -> None:
    a_BD, b_BD = _pair()
    expected = _value(a_BD, b_BD)
    order_B = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    turn_DD = torch.linalg.qr(_normal(3, 3)).Q
    assert _value(b_BD, a_BD) == pytest.approx(expected, abs=1e-12)
    assert _value(9 * a_BD @ turn_DD - 4, b_BD) == pytest.approx(expected, abs=1e-12)
    assert _value(a_BD[order_B], b_BD[order_B]) == pytest.approx(expected, abs=1e-12)
    assert abs(_value(a_BD[order_B], b_BD) - expected) > 0.1


def test_it_sees_dependence_that_is_not_linear() -> None:
    a_BD = torch.linspace(-1, 1, 101, dtype=torch.float64)[:, None]
    b_BD = a_BD.square()
    pearson = torch.corrcoef(torch.cat([a_BD, b_BD], dim=1).T)[0, 1].item()
    assert abs(pearson) < 1e-12  # nor would squared distances see any
    assert _value(a_BD, b_BD) > 0.4


def test_of_independent_samples_it_is_biased_upwards_less_with_more_of_them() -> None:
    values = [_value(_normal(n, 1), _normal(n, 1, seed=1)) for n in (20, 200, 2000)]
    assert values[0] > values[1] > values[2] > 0
    assert values[2] < 0.1
    assert _value(_normal(20, 500), _normal(20, 500, seed=1)) > 0.9  # few samples of many values


def test_of_a_constant_it_is_0_and_teaches_nothing() -> None:
    a_BD, b_BD = _normal(8, 3), torch.ones(8, 2, dtype=torch.float64, requires_grad=True)
    value = distance_correlation(a_BD, b_BD)
    (gradient,) = torch.autograd.grad(value, b_BD)
    assert value.item() == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))
    assert _value(a_BD[:1], a_BD[:1]) == 0


def test_its_gradient_is_right() -> None:
    a_BD, b_BD = _normal(6, 3), _normal(6, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda b: distance_correlation(a_BD, b), b_BD)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_its_gradient_is_finite_where_samples_are_the_same(dtype: torch.dtype) -> None:
    a_BD, b_BD = _normal(8, 3).to(dtype), _normal(8, 2, seed=1).to(dtype)
    a_BD[3] = a_BD[5]
    b_BD[1] = b_BD[2]
    b_BD.requires_grad_()
    (gradient,) = torch.autograd.grad(distance_correlation(a_BD, b_BD), b_BD)
    assert torch.isfinite(gradient).all()
    assert gradient.norm() < 10  # none of them explodes


def test_far_from_the_origin_it_stays_exact() -> None:
    a_BD, b_BD = (x.float() for x in _pair())
    assert _value(a_BD + 1000, b_BD) == pytest.approx(_value(a_BD, b_BD), abs=1e-3)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"as many samples, got \(4, 2\) and \(3, 2\)"):
        distance_correlation(torch.ones(4, 2), torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"expected two tensors \(B, D\)"):
        distance_correlation(torch.ones(4), torch.ones(4))


# NoPeek


def test_the_penalty_is_that_of_raw_inputs_and_features(bits: Bits) -> None:
    batch, z = bits(0), torch.randn(64, 3, 2, 2)
    x_BD = batch.inputs.flatten(1).float()
    expected = distance_correlation(x_BD, z.flatten(1))
    assert torch.equal(Decorrelation().penalty(z, batch), expected)
    assert Decorrelation().penalty(batch.inputs * pi, batch).item() == pytest.approx(1, abs=1e-5)


def test_a_step_down_the_penalty_lowers_it(bits: Bits) -> None:
    batch = bits(0)
    sent = batch.inputs.float().flatten(1)[:, :20].div(255).requires_grad_()
    before = Decorrelation().penalty(sent, batch)
    (gradient,) = torch.autograd.grad(before, sent)
    after = Decorrelation().penalty(sent - 0.1 * gradient / gradient.norm(), batch)
    assert after < before


def test_features_that_tell_less_of_the_input_keep_the_task(
    hide: Hide, toy: Toy, bits: Bits
) -> None:
    found = []
    for weight in (0.0, 3.0):
        method = nopeek(toy(hide(weight=weight), steps=60))
        for i in range(60):
            method.edge.step(bits(i))
        victims = bits(10_002, 200)
        sent, early_BK = method.edge_predictor.predict(victims.inputs)
        assert sent is not None
        assert early_BK is not None
        found.append(_value(victims.inputs.flatten(1).float(), sent.flatten(1)))
        assert (early_BK.argmax(dim=1) == victims.labels).float().mean() > 0.97
    assert found[1] < found[0] - 0.02


def test_no_private_label_is_needed_and_there_is_no_opponent(
    hide: Hide, toy: Toy, bits: Bits
) -> None:
    method = nopeek(toy(hide()))
    method.edge.step(replace(bits(0), private=None))
    assert {key.split("/")[0] for key in method.edge.state().tensors} == {"part", "noise"}
