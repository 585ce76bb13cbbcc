"""Work, memory and traffic: against published counts, closed forms and counts by hand.

Dimension key:  B batch   C channels   H, W height and width   N tokens   D width
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from copy import deepcopy
from itertools import accumulate
from typing import final

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from eaves.core.memory import kept_for_backward
from eaves.core.net import Normalise, StagedNet
from eaves.core.optimise import OneCycle, precision_of
from eaves.nets.build import build_net
from eaves.planner.analyse import Traffic, analyse_chain
from eaves.planner.profile import Stage

FLOAT, HALF, LONG = 4, 2, 8


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors are slower on several threads, and much slower beside other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _bf16() -> torch.autocast:
    return precision_of(OneCycle(total_steps=1, precision="bf16"), torch.device("cpu"))


def _images(n: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=generator)


def _floats(n: int, *shape: int) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))


def _raw(net: StagedNet, channels: int = 3) -> dict[str, nn.Module]:
    """Return the stages for raw inputs: the first one normalises."""
    stages, first = dict(net.stages()), net.names[0]
    normalise = Normalise([120.0] * channels, [60.0] * channels)
    return stages | {first: nn.Sequential(normalise, stages[first])}


def _of(stages: Mapping[str, nn.Module], inputs: Tensor) -> list[Stage]:
    return analyse_chain(stages, inputs, nullcontext)


def _one(module: nn.Module, inputs: Tensor) -> Stage:
    """Return the facts of ``module`` as a stage that others stand before."""
    return _of({"before": nn.Identity(), "it": module}, inputs)[1]


# Work


@pytest.mark.parametrize(
    ("name", "stem", "imagenet_macs", "dense_macs"),
    [
        # torchvision's tables, at 224x224, which is 49 times as many pixels: 1.814 and 15.47
        # billion. Of these the linear layers are 512x1000, and 25088x4096 + 4096^2 + 4096x1000.
        ("resnet18", "imagenet", 1.814e9, 512 * 1000),
        ("vgg16", None, 15.47e9, 25_088 * 4096 + 4096**2 + 4096 * 1000),
    ],
)
def test_the_work_of_known_nets_is_the_published_one(
    name: str, stem: str | None, imagenet_macs: float, dense_macs: float
) -> None:
    net = build_net(name, classes=10, input_shape=(3, 32, 32), stem=stem)
    found = _of(_raw(net), _images(2, 3, 32, 32))
    expected = (imagenet_macs - dense_macs) / 49 + 512 * 10
    assert sum(stage.forward_macs for stage in found) == pytest.approx(expected, rel=5e-4)


@pytest.mark.parametrize(
    ("name", "stem", "shares", "values"),
    [
        # In % and up to each cut, at 32x32: counted by hand, layer by layer, for the two nets of
        # Sepehri et al. 2024 (arXiv:2303.02384).
        ("vgg16", None, [13, 31, 61, 91, 100], [16_384, 8192, 4096, 2048, 512]),
        ("resnet18", "imagenet", [7, 7, 32, 55, 77, 100], [16_384, 4096, 4096, 2048, 1024, 512]),
    ],
)
def test_the_work_is_spread_over_the_stages_as_is_known(
    name: str, stem: str | None, shares: list[int], values: list[int]
) -> None:
    net = build_net(name, classes=10, input_shape=(3, 32, 32), stem=stem)
    found = _of(_raw(net), _images(2, 3, 32, 32))
    sums = list(accumulate(stage.forward_macs for stage in found))
    assert [round(100 * macs / sums[-1]) for macs in sums[:-1]] == shares
    assert [stage.values for stage in found[:-1]] == values


@final
class _Attention(nn.Module):
    def forward(self, x_BHND: Tensor) -> Tensor:
        return scaled_dot_product_attention(x_BHND, x_BHND, x_BHND)


CLOSED_FORMS: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
    # outputs x inputs of each
    "linear": (nn.Linear(10, 20), (10,), 20 * 10),
    "linear on tokens": (nn.Linear(10, 20, bias=False), (7, 10), 7 * 20 * 10),
    "convolution": (nn.Conv2d(4, 6, 3), (4, 9, 8), 6 * 7 * 6 * 4 * 9),
    "strided": (nn.Conv2d(4, 6, 3, stride=2, padding=1), (4, 8, 8), 6 * 4 * 4 * 4 * 9),
    "1x1": (nn.Conv2d(4, 6, 1), (4, 5, 5), 6 * 25 * 4),
    "grouped": (nn.Conv2d(8, 12, 3, padding=1, groups=4), (8, 6, 6), 12 * 36 * 2 * 9),
    "each channel alone": (nn.Conv2d(8, 8, 3, padding=1, groups=8), (8, 6, 6), 8 * 36 * 9),
    "in one dimension": (nn.Conv1d(4, 6, 5), (4, 20), 6 * 16 * 4 * 5),
    # inputs x outputs of each
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2), (4, 5, 5), 4 * 25 * 6 * 9),
    "transposed, grouped": (nn.ConvTranspose2d(4, 6, 3, groups=2), (4, 5, 5), 4 * 25 * 3 * 9),
    "normalised": (nn.Sequential(nn.Linear(10, 20), nn.BatchNorm1d(20)), (10,), 20 * 10),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("precision", [nullcontext, _bf16], ids=["fp32", "bf16"])
def test_a_layer_with_weights_works_three_times(name: str, precision: Callable[[], object]) -> None:
    module, shape, macs = CLOSED_FORMS[name]
    stages = {"before": nn.Identity(), "it": module}
    found = analyse_chain(stages, _floats(2, *shape), precision)[1]
    assert found.forward_macs == macs
    assert found.backward_macs == 2 * macs  # by the weights, and by what came in
    assert found.backward_leaf_macs == macs


def test_attention_is_two_products_of_matrices() -> None:
    found = _one(_Attention(), _floats(2, 3, 10, 8))  # 3 heads, 10 tokens, 8 values of each
    macs = 3 * (10 * 10 * 8 + 10 * 10 * 8)
    assert (found.forward_macs, found.backward_macs) == (macs, 2 * macs)
    assert found.backward_leaf_macs == 0


def test_a_transformer_is_its_linear_layers_and_its_attention() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    found = _one(layer, _floats(2, 10, 16))
    macs = 10 * (4 * 16 * 16 + 2 * 16 * 32) + 2 * 10 * 10 * 16
    assert (found.forward_macs, found.backward_macs) == (macs, 2 * macs)


def test_the_first_stage_has_nowhere_to_send_a_gradient() -> None:
    normalise = Normalise([1.0] * 3, [1.0] * 3)
    stages = {"a": nn.Sequential(normalise, nn.Conv2d(3, 4, 3)), "b": nn.Conv2d(4, 2, 3)}
    first, second = _of(stages, _images(2, 3, 8, 8))
    assert first.backward_macs == first.backward_leaf_macs == first.forward_macs > 0
    assert second.backward_macs == 2 * second.forward_macs > 0


def test_a_leaf_saves_the_gradient_of_its_first_layer_alone() -> None:
    found = _one(nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5)), _floats(2, 10))
    assert found.forward_macs == 200 + 100
    assert (found.backward_macs, found.backward_leaf_macs) == (600, 400)


# Memory


def _kept(found: list[Stage]) -> list[tuple[float, float]]:
    return [(stage.kept_bytes, stage.kept_fixed_bytes) for stage in found]


def test_each_storage_counts_once_along_a_chain() -> None:
    stages = {
        "a": nn.Sequential(nn.Linear(10, 20), nn.ReLU()),
        "b": nn.Linear(20, 30),
        "c": nn.Sequential(nn.Tanh(), nn.Linear(30, 5)),
    }
    # The inputs are given, and the weights are there anyway. The ReLU keeps its output, which is
    # the input of b too; b keeps nothing more; tanh keeps its output, the input of the last layer.
    assert _kept(_of(stages, _floats(2, 10))) == [(FLOAT * 20, 0), (0, 0), (FLOAT * 30, 0)]


def test_a_convolutional_chain_counted_by_hand() -> None:
    stages = {
        "conv": nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        "pool": nn.MaxPool2d(2),
        "head": nn.Sequential(nn.Conv2d(4, 2, 1), nn.Flatten(), nn.Linear(32, 5)),
    }
    assert _kept(_of(stages, _floats(3, 3, 8, 8))) == [
        # BatchNorm's input and ReLU's output; mean and deviation of the batch, whatever its size
        (FLOAT * 2 * 4 * 8 * 8, FLOAT * 2 * 4),
        (LONG * 4 * 4 * 4, 0),  # where the largest values are
        (FLOAT * (4 * 4 * 4 + 32), 0),  # the inputs of both layers with weights
    ]


@pytest.mark.parametrize(
    ("name", "channels", "side"),
    [("small", 1, 8), ("resnet20", 3, 16), ("mobilevit_xxs", 3, 32)],
)
def test_the_stages_keep_what_the_whole_net_keeps(name: str, channels: int, side: int) -> None:
    shape = (channels, side, side)
    stages = _raw(build_net(name, classes=10, input_shape=shape), channels)
    found = _of(stages, _images(2, *shape))
    whole, x_BCHW = nn.Sequential(*deepcopy(stages).values()).train(), _images(7, *shape)
    with kept_for_backward(but=[*whole.parameters(), *whole.buffers(), x_BCHW]) as kept:
        whole(x_BCHW)
    assert sum(7 * stage.kept_bytes + stage.kept_fixed_bytes for stage in found) == kept.total


def test_bfloat16_halves_what_is_kept_and_adds_the_weights_in_bfloat16() -> None:
    stages = {
        "a": nn.Sequential(nn.Linear(10, 20), nn.ReLU()),
        "b": nn.Sequential(nn.Linear(20, 30), nn.ReLU()),
    }
    whole = _kept(_of(stages, _floats(2, 10)))
    halved = _kept(analyse_chain(stages, _floats(2, 10), _bf16))
    assert whole == [(FLOAT * 20, 0), (FLOAT * 30, 0)]
    # The inputs in bfloat16 besides; of the weights those that a gradient goes back through.
    assert halved == [(HALF * (10 + 20), 0), (HALF * 30, HALF * 30 * 20)]


def test_bfloat16_keeps_about_half_in_a_net() -> None:
    stages = _raw(build_net("small", classes=10, input_shape=(1, 8, 8)), 1)
    whole, halved = (
        sum(stage.kept_bytes for stage in analyse_chain(stages, _images(2, 1, 8, 8), precision))
        for precision in (nullcontext, _bf16)
    )
    assert 0.49 < halved / whole < 0.55


# Traffic


def test_an_operation_reads_what_it_is_given_and_writes_its_result() -> None:
    x, y = torch.ones(8, 5), torch.ones(5, 3)
    with Traffic() as traffic:
        z = x @ y
    assert z.shape == (8, 3)
    assert (traffic.moved_bytes, traffic.operations) == (FLOAT * (8 * 5 + 5 * 3 + 8 * 3), 1)


def test_views_move_nothing() -> None:
    x = torch.ones(4, 6)
    with Traffic() as traffic:
        views = [x.view(24), x.t(), x[1:], x.permute(1, 0), x.expand(3, 4, 6), x.detach()]
        views += [x.reshape(6, 4), *x.unbind(), *x.chunk(2), x.unsqueeze(0), nn.Flatten()(x)]
    assert (traffic.moved_bytes, traffic.operations) == (0, 0)
    assert len(views) == 15


def test_work_in_place_is_read_and_written() -> None:
    x = torch.ones(100)
    with Traffic() as traffic:
        x.relu_()
    assert (traffic.moved_bytes, traffic.operations) == (FLOAT * 200, 1)


def test_what_moves_once_for_a_batch_is_shared_out() -> None:
    for batch_size in (1, 2, 8):
        found = _one(nn.Linear(10, 20), _floats(batch_size, 10))
        assert found.moved_bytes == FLOAT * ((10 + 20) + (10 * 20 + 20) / batch_size)
        assert found.operations == 1


def test_traffic_is_that_of_the_forward_pass() -> None:
    found = _one(nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Tanh()), _floats(4, 3, 2))
    assert (found.moved_bytes, found.operations) == (FLOAT * 4 * 6, 2)


# Every net


def test_the_facts_of_a_stage() -> None:
    stages = {
        "a": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
        "b": nn.Flatten(),
        "c": nn.Linear(4 * 36, 5),
    }
    found = _of(stages, _floats(2, 3, 8, 8))
    assert [stage.name for stage in found] == ["a", "b", "c"]
    assert [stage.output_shape for stage in found] == [(4, 6, 6), (144,), (5,)]
    assert [stage.params for stage in found] == [4 * 27 + 4 + 8, 0, 144 * 5 + 5]
    assert [stage.buffer_bytes for stage in found] == [2 * 4 * FLOAT + LONG, 0, 0]
    assert [stage.times for stage in found] == [None] * 3


def test_a_stage_without_weights_has_no_work() -> None:
    pool = nn.Sequential(nn.MaxPool2d(2), nn.Flatten())
    _, found = _of({"before": nn.Conv2d(3, 3, 1), "it": pool}, _floats(2, 3, 4, 4))
    assert (found.params, found.buffer_bytes, found.output_shape) == (0, 0, (12,))
    assert (found.forward_macs, found.backward_macs, found.backward_leaf_macs) == (0, 0, 0)
    assert _kept([found]) == [(FLOAT * 3 * 4 * 4 + LONG * 3 * 2 * 2, 0)]  # its input, and places


@pytest.mark.parametrize("batch_size", [1, 3, 4, 5, 100])
def test_any_batch_tells_the_same_of_an_example(batch_size: int) -> None:
    stages = _raw(build_net("small", classes=10, input_shape=(1, 8, 8)), 1)
    found, same = (_of(stages, _images(n, 1, 8, 8)) for n in (batch_size, 2))
    for one, other in zip(found, same, strict=True):
        assert (one.forward_macs, one.backward_macs) == (other.forward_macs, other.backward_macs)
        assert (one.kept_bytes, one.kept_fixed_bytes) == (other.kept_bytes, other.kept_fixed_bytes)


def test_a_stage_may_begin_in_place() -> None:
    def stages(*, inplace: bool) -> dict[str, nn.Module]:
        activation = nn.ReLU(inplace=inplace)
        return {
            "a": activation,
            "b": nn.Linear(10, 20),
            "c": nn.Sequential(nn.ReLU(inplace=inplace), nn.Linear(20, 5)),
        }

    inputs = _floats(3, 10)
    before = inputs.clone()
    found, apart = (_of(stages(inplace=inplace), inputs) for inplace in (True, False))
    assert torch.equal(inputs, before)
    for one, other in zip(found, apart, strict=True):
        assert (one.forward_macs, one.backward_macs) == (other.forward_macs, other.backward_macs)
        assert one.output_shape == other.output_shape
    # The input of b: in place, it is what was given.
    assert _kept(found) == [(0, 0), (0, 0), (FLOAT * 20, 0)]
    assert _kept(apart) == [(0, 0), (FLOAT * 10, 0), (FLOAT * 20, 0)]


def test_the_modules_stay_as_they_were() -> None:
    torch.manual_seed(0)
    frozen = nn.Linear(8, 8).requires_grad_(False).eval()
    stages = {
        "a": nn.Sequential(nn.Linear(10, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True)),
        "b": nn.Sequential(frozen, nn.BatchNorm1d(8).eval(), nn.Dropout()),
    }
    net = nn.ModuleDict(stages)
    before, modes = deepcopy(net.state_dict()), [module.training for module in net.modules()]
    inputs = _floats(3, 10)
    given = inputs.clone()
    _of(stages, inputs)
    after = net.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert [module.training for module in net.modules()] == modes
    assert [p.grad for p in net.parameters()] == [None] * len(list(net.parameters()))
    assert [p.requires_grad for p in frozen.parameters()] == [False, False]
    assert torch.equal(inputs, given)
    assert not inputs.requires_grad
    assert torch.is_grad_enabled()
