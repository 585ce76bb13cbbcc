"""Work counted by formula: against arithmetic by hand, and named where there is none.

Dimension key:  B batch   T steps   D width   H hidden
"""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from eaves.core.net import StagedNet
from eaves.experiments.cuts import cut_facts
from eaves.nets.build import build_net
from eaves.planner.analyse import analyse_chain
from eaves.planner.counting import counted
from eaves.planner.profile import Stage

B, T, D, H = 4, 25, 40, 64


class _Called(nn.Module):
    """Something called in a way of its own; the first of what it returns."""

    def __init__(self, part: nn.Module, call: Callable[[nn.Module, Tensor], Tensor]):
        super().__init__()
        self.part, self._call = part, call

    def forward(self, x: Tensor) -> Tensor:
        return self._call(self.part, x)


class _Weighted(nn.Module):
    """A function of the input and one weight."""

    def __init__(self, call: Callable[[Tensor, Tensor], Tensor], *shape: int):
        super().__init__()
        self.weight, self._call = nn.Parameter(torch.full(shape, 0.1)), call

    def forward(self, x: Tensor) -> Tensor:
        return self._call(x, self.weight)


def _first(module: nn.Module) -> nn.Module:
    return _Called(module, lambda part, x: part(x)[0])


def _with_itself(module: nn.Module) -> nn.Module:
    return _Called(module, lambda part, x: part(x, x))


def _attention(x: Tensor, weight: Tensor) -> Tensor:
    q_BTD, k_BTD, v_BTD = (x @ weight).chunk(3, dim=-1)
    return scaled_dot_product_attention(q_BTD, k_BTD, v_BTD)


def _stage(module: nn.Module, x: Tensor) -> Stage:
    (stage,) = analyse_chain({"part": module}, x, nullcontext)
    return stage


SEQUENCE = torch.ones(B, T, D)
GATES = T * (D + H) * H  # one gate of a recurrent layer over all steps
ENCODER = T * D * (4 * D + 2 * H) + 2 * T * T * D  # projections and feed-forward, then attention

COUNTS: dict[str, tuple[nn.Module, Tensor, int]] = {
    "lstm": (_first(nn.LSTM(D, H, batch_first=True)), SEQUENCE, 4 * GATES),
    "gru": (_first(nn.GRU(D, H, batch_first=True)), SEQUENCE, 3 * GATES),
    "rnn": (_first(nn.RNN(D, H, batch_first=True)), SEQUENCE, GATES),
    "lstm, two layers, both ways": (
        _first(nn.LSTM(D, H, 2, batch_first=True, bidirectional=True)),
        SEQUENCE,
        2 * 4 * GATES + 2 * 4 * T * (2 * H + H) * H,
    ),
    "lstm cell": (_first(nn.LSTMCell(D, H)), SEQUENCE[:, 0], 4 * (D + H) * H),
    "gru cell": (nn.GRUCell(D, H), SEQUENCE[:, 0], 3 * (D + H) * H),
    "attention of many heads": (
        _Called(nn.MultiheadAttention(D, 4, batch_first=True), lambda part, x: part(x, x, x)[0]),
        SEQUENCE,
        4 * T * D * D + 2 * T * T * D,
    ),
    "transformer encoder layer": (
        nn.TransformerEncoderLayer(D, 4, H, batch_first=True),
        SEQUENCE,
        ENCODER,
    ),
    "scaled dot product attention": (
        _Weighted(_attention, D, 3 * D),
        SEQUENCE,
        3 * T * D * D + 2 * T * T * D,
    ),
    "bilinear": (_with_itself(nn.Bilinear(D, D, H)), SEQUENCE, T * H * D * D),
    "transposed convolution": (
        nn.ConvTranspose2d(8, 16, 3, stride=2, groups=4),
        torch.ones(B, 8, 10, 10),
        100 * 8 * 4 * 9,
    ),
    "convolution in one dimension": (nn.Conv1d(T, 16, 3), SEQUENCE, 38 * 16 * T * 3),
    "einsum": (
        _Weighted(lambda x, w: torch.einsum("btd,dh->bth", x, w), D, H),
        SEQUENCE,
        T * D * H,
    ),
    "tensordot": (_Weighted(lambda x, w: torch.tensordot(x, w, 1), D, H), SEQUENCE, T * D * H),
    "matmul with a vector": (_Weighted(lambda x, w: x @ w, D), SEQUENCE, T * D),
    "distances": (_Weighted(torch.cdist, H, D), SEQUENCE, T * H * D),
    "distances, few": (_Weighted(torch.cdist, 5, D), SEQUENCE[:, :6], 6 * 5 * D),
}


@pytest.mark.parametrize("name", COUNTS)
def test_work_is_that_of_the_formula_and_nothing_is_unknown(name: str) -> None:
    module, x, macs = COUNTS[name]
    stage = _stage(module, x)
    assert stage.forward_macs == macs
    assert stage.uncounted == ()


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "bilinear", "distances", "einsum"])
def test_going_back_is_about_twice_the_work_of_going_forward(name: str) -> None:
    module, x, macs = COUNTS[name]
    stage = _stage(nn.Sequential(nn.Identity(), module), x)
    assert 1.8 * macs <= stage.backward_macs <= 3 * macs


def test_an_embedding_looks_up_and_multiplies_nothing() -> None:
    words = torch.zeros(B, T, dtype=torch.int64)
    for module in (nn.Embedding(100, D), nn.EmbeddingBag(100, D)):
        stage = _stage(module, words)
        assert (stage.forward_macs, stage.uncounted) == (0, ())


def test_the_share_of_an_lstm_is_counted_at_its_cut() -> None:
    net = StagedNet(
        [
            ("rows", nn.Flatten(1, 2)),
            ("lstm", _first(nn.LSTM(40, 64, batch_first=True))),
            ("head", nn.Sequential(nn.Flatten(), nn.Linear(25 * 64, 10))),
        ]
    )
    lstm = cut_facts(net, (1, 25, 40))[1]
    assert lstm.cut == "lstm"
    assert lstm.edge_macs == pytest.approx(4 * GATES / (4 * GATES + 25 * 64 * 10))
    assert lstm.uncounted == ()


@torch.library.custom_op("eaves_test::mix", mutates_args=())
def _mix(x: Tensor, weight: Tensor) -> Tensor:
    return x * weight.sum()


@_mix.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return torch.empty_like(x)


@pytest.mark.parametrize(
    ("module", "named"),
    [
        (_Weighted(lambda x, w: _mix(x, w.detach()).detach(), D, D), "eaves_test::mix"),
        (_Weighted(lambda x, w: (x.unsqueeze(-1) * w).sum(-2), D, H), "mul"),
    ],
)
def test_what_uses_weights_and_has_no_count_is_named(module: nn.Module, named: str) -> None:
    assert named in _stage(module, SEQUENCE).uncounted
    with counted(module) as count:
        module(SEQUENCE)
    assert named in count.uncounted
    net = StagedNet([("own", module), ("flat", nn.Flatten()), ("head", nn.LazyLinear(3))])
    net(SEQUENCE[None, 0])
    assert all(named in fact.uncounted for fact in cut_facts(net, (T, D)))


class _Scaled(nn.Module):
    """What must not be named: scales, biases, positions, normalised weights."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.position = nn.Parameter(torch.ones(D)), nn.Parameter(torch.ones(1, T, D))
        self.norm = nn.LayerNorm([T, D])
        self.linear = nn.utils.parametrizations.weight_norm(nn.Linear(D, D))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.linear(self.norm(x * self.scale + self.position))
        return found


@pytest.mark.parametrize("net", ["small", "resnet18", "mobilevit_xxs", "ds_cnn", "vgg11"])
def test_nothing_of_our_nets_is_uncounted(net: str) -> None:
    shape = (1, 40, 100) if net == "ds_cnn" else (3, 64, 64)
    built = build_net(net, classes=10, input_shape=shape)
    assert {name for fact in cut_facts(built, shape) for name in fact.uncounted} == set()


def test_scales_positions_and_normalised_weights_are_not_named() -> None:
    stage = _stage(_Scaled(), SEQUENCE)
    assert stage.uncounted == ()
    assert stage.forward_macs == T * D * D
