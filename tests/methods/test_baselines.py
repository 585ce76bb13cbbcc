"""Full cloud, full edge and split learning: the same training, done in three places.

Dimension key:  B batch   C channels   H, W height and width   K classes
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from eaves.core.net import Normalise, StagedNet, cut_points
from eaves.core.optimise import OneCycle, Optimised
from eaves.core.roles import Batch, Upload
from eaves.errors import ConfigError, DivergedError
from eaves.methods.baselines import (
    Relay,
    SplitCloud,
    SplitEdge,
    WholeEdge,
    full_cloud,
    full_edge,
    split_learning,
)
from eaves.methods.setup import Method, Setup

CPU = torch.device("cpu")
SCHEDULE = OneCycle(total_steps=8, lr=0.1)
CUTS = ("conv1", "pool", "conv2")


def _setup(cut: str = "conv1", schedule: OneCycle = SCHEDULE) -> Setup:
    torch.manual_seed(0)
    stages = [
        ("conv1", nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())),
        ("pool", nn.MaxPool2d(2)),
        ("conv2", nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())),
        ("head", nn.Sequential(nn.Flatten(), nn.Linear(6 * 3 * 3, 5))),
    ]
    return Setup(
        net=StagedNet(stages),
        normalise=Normalise([100.0, 120.0, 140.0], [50.0, 60.0, 70.0]),
        input_shape=(3, 8, 8),
        classes=5,
        cut=cut,
        bottleneck=None,
        exit="linear",
        edge_schedule=schedule,
        cloud_schedule=schedule,
        device=CPU,
    )


def _batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x_BCHW = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return Batch(x_BCHW, torch.randint(0, 5, (6,), generator=generator))


def _train(method: Method, steps: int) -> list[float]:
    losses = []
    for i in range(steps):
        upload, figures = method.edge.step(_batch(i))
        if upload is not None:
            assert method.cloud is not None
            reply, figures = method.cloud.step(upload)
            if reply is not None:
                method.edge.receive(reply)
        losses.append(figures["loss"])
    return losses


def _weights(setup: Setup) -> list[Tensor]:
    return [v.clone() for v in setup.net.state_dict().values()]


def _same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("cut", CUTS)
def test_split_learning_is_ordinary_training_to_the_bit(cut: str) -> None:
    divided, ordinary = _setup(cut), _setup()
    assert cut_points(divided.net) == CUTS
    before = _weights(ordinary)
    assert _train(split_learning(divided), 3) == _train(full_cloud(ordinary), 3)
    assert _same(_weights(divided), _weights(ordinary))
    assert not any(torch.equal(a, b) for a, b in zip(before, _weights(ordinary), strict=True))


def test_the_place_of_ordinary_training_does_not_matter() -> None:
    cloud, edge = _setup(), _setup()
    assert _train(full_cloud(cloud), 3) == _train(full_edge(edge), 3)
    assert _same(_weights(cloud), _weights(edge))


@pytest.mark.parametrize("build", [full_cloud, full_edge, split_learning])
def test_the_answer_is_that_of_the_whole_net(build: object) -> None:
    setup, x_BCHW = _setup(), _batch(3).inputs
    assert callable(build)
    method: Method = build(setup)
    _train(method, 2)
    features, early_BK = method.edge_predictor.predict(x_BCHW)
    if method.cloud_predictor is not None:
        assert early_BK is None
        assert features is not None
        answer_BK = method.cloud_predictor.answer(features)
    else:
        assert early_BK is not None
        answer_BK = early_BK
    assert torch.equal(answer_BK, setup.whole().eval()(x_BCHW))


# Who sends what


def test_a_relay_sends_the_inputs_themselves_and_learns_nothing() -> None:
    batch = _batch(0)
    upload, figures = Relay().step(batch)
    assert upload.features is batch.inputs
    assert upload.labels is batch.labels
    assert figures == {}
    assert Relay().part is None
    method = full_cloud(_setup())
    assert isinstance(method.sender, Relay)  # inputs may be sent once
    assert method.edge_predictor.predict(batch.inputs)[0] is batch.inputs


def test_a_whole_net_on_the_edge_sends_nothing() -> None:
    method = full_edge(_setup())
    assert isinstance(method.edge, WholeEdge)
    upload, figures = method.edge.step(_batch(0))
    assert upload is None
    assert figures["loss"] > 0
    assert method.cloud is None
    assert method.cloud_predictor is None
    assert method.sender is None
    assert method.edge_predictor.predict(_batch(0).inputs)[0] is None


def test_split_learning_cannot_send_once() -> None:
    assert split_learning(_setup()).sender is None


# The two halves of split learning


def _edge() -> SplitEdge:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    return SplitEdge(Optimised({"edge": net}, SCHEDULE, CPU))


def _flat_batch() -> Batch:
    return Batch(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))


def test_a_gradient_of_another_shape_is_refused_and_the_right_one_still_taken() -> None:
    edge = _edge()
    upload, _ = edge.step(_flat_batch())
    with pytest.raises(ValueError, match=r"expected a gradient of shape \(5, 3\), got \(5, 4\)"):
        edge.receive(torch.zeros(5, 4))
    assert edge.part.steps == 0
    edge.receive(torch.ones_like(upload.features))
    assert edge.part.steps == 1


def test_a_gradient_that_nobody_waits_for_is_refused() -> None:
    edge = _edge()
    with pytest.raises(ValueError, match="expected a gradient of shape None"):
        edge.receive(torch.zeros(5, 3))
    edge.step(_flat_batch())
    edge.receive(torch.ones(5, 3))
    with pytest.raises(ValueError, match="expected a gradient of shape None"):
        edge.receive(torch.ones(5, 3))


def test_a_gradient_that_is_not_finite_changes_no_weight() -> None:
    edge = _edge()
    before = [p.detach().clone() for p in edge.part.modules.parameters()]
    edge.step(_flat_batch())
    with pytest.raises(DivergedError, match="the loss is nan"):
        edge.receive(torch.full((5, 3), float("nan")))
    assert _same([p.detach() for p in edge.part.modules.parameters()], before)


def test_the_gradient_of_rounded_features_is_used_for_the_exact_ones() -> None:
    edge, twin, batch = _edge(), _edge(), _flat_batch()
    upload, _ = edge.step(batch)
    z = (4 * upload.features).round().div(4).requires_grad_()  # a lossy codec
    assert not torch.equal(z, upload.features)
    torch.autograd.backward(z.square().sum())
    assert z.grad is not None
    edge.receive(z.grad)
    twin.part.descend(twin.part.modules["edge"](batch.inputs), 2 * z.detach())
    theirs = [p.detach() for p in twin.part.modules.parameters()]
    assert _same([p.detach() for p in edge.part.modules.parameters()], theirs)


def test_the_reply_is_the_gradient_of_the_loss_by_the_features() -> None:
    torch.manual_seed(2)
    net = nn.Linear(3, 4)
    z, y_B = torch.randn(5, 3, requires_grad=True), torch.tensor([0, 1, 2, 3, 0])
    loss = cross_entropy(net(z), y_B)
    (expected,) = torch.autograd.grad(loss, z)
    cloud = SplitCloud(Optimised({"cloud": net}, SCHEDULE, CPU))
    reply, figures = cloud.step(Upload(z.detach(), y_B))
    assert torch.equal(reply, expected)
    assert figures["loss"] == loss.item()
    assert cloud.part.steps == 1


class _Deaf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


def test_a_cloud_that_ignores_the_features_cannot_reply() -> None:
    cloud = SplitCloud(Optimised({"cloud": _Deaf()}, SCHEDULE, CPU))
    with pytest.raises(ConfigError, match="does not use its features: there is no gradient"):
        cloud.step(Upload(torch.ones(2, 3), torch.tensor([0, 1])))


def test_split_learning_in_bf16_sends_half_the_bytes_and_learns() -> None:
    setup = _setup(schedule=replace(SCHEDULE, precision="bf16", total_steps=16))
    method, batch = split_learning(setup), _batch(0)
    assert method.cloud is not None
    losses = []
    for _ in range(10):
        upload, _ = method.edge.step(batch)
        assert upload is not None
        reply, figures = method.cloud.step(upload)
        assert reply is not None
        assert upload.features.dtype == reply.dtype == torch.bfloat16
        method.edge.receive(reply)
        losses.append(figures["loss"])
    assert losses[-1] < losses[0]
