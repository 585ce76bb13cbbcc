"""Hierarchical training: two losses, two optimisers, nothing shared.

Dimension key:  B batch   C channels   H, W height and width   K classes
"""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from eaves.core.net import Normalise, StagedNet
from eaves.core.optimise import OneCycle
from eaves.core.roles import Batch, Upload
from eaves.core.state import State
from eaves.errors import ConfigError
from eaves.methods.hierarchical import Classifier, HierarchicalEdge, SendingEdge, hierarchical
from eaves.methods.setup import Method, Setup

CPU = torch.device("cpu")
EDGE = OneCycle(total_steps=6, lr=0.1)
CLOUD = OneCycle(total_steps=12, lr=0.03)  # not the edge's: the two share nothing


def _setup() -> Setup:
    torch.manual_seed(0)
    stages = [
        ("conv1", nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())),
        ("conv2", nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3), nn.ReLU())),
        ("head", nn.Sequential(nn.Flatten(), nn.Linear(6 * 2 * 2, 3))),
    ]
    return Setup(
        net=StagedNet(stages),
        normalise=Normalise([127.0], [64.0]),
        input_shape=(1, 6, 6),
        classes=3,
        cut="conv1",
        bottleneck=None,
        exit="conv",
        edge_schedule=EDGE,
        cloud_schedule=CLOUD,
        device=CPU,
    )


def _method() -> Method:
    return hierarchical(_setup())


def _batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x_BCHW = torch.randint(0, 256, (8, 1, 6, 6), dtype=torch.uint8, generator=generator)
    return Batch(x_BCHW, torch.randint(0, 3, (8,), generator=generator))


def _upload(method: Method, seed: int) -> Upload:
    upload, _ = method.edge.step(_batch(seed))
    assert upload is not None
    return upload


def _sgd(modules: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(
        modules.parameters(), lr=1.0, momentum=0.9, weight_decay=5e-4, nesterov=True
    )


def _learn(net: nn.Module, sgd: torch.optim.SGD, rate: float, x: Tensor, y_B: Tensor) -> float:
    """Take an ordinary step of cross-entropy, written without any of ours."""
    sgd.param_groups[0]["lr"] = rate
    loss = cross_entropy(net.train()(x), y_B)
    sgd.zero_grad()
    torch.autograd.backward(loss)
    sgd.step()
    return loss.item()


def _tensors(module: nn.Module) -> list[Tensor]:
    return [v.clone() for v in module.state_dict().values()]


def _equal(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def _same(left: State, right: State) -> bool:
    return left.facts == right.facts and _equal(
        list(left.tensors.values()), list(right.tensors.values())
    )


def test_the_edge_learns_from_its_exit_alone() -> None:
    method = _method()
    modules = deepcopy(dict(method.edge_modules))
    net = nn.Sequential(modules["edge"], modules["exit"])
    sgd = _sgd(net)
    for i in range(3):
        batch = _batch(i)
        upload, figures = method.edge.step(batch)
        assert upload is not None
        assert method.cloud is not None
        method.cloud.step(upload)
        assert figures["loss"] == _learn(net, sgd, EDGE.rate(i), batch.inputs, batch.labels)
    for name, module in method.edge_modules.items():
        assert _equal(_tensors(module), _tensors(modules[name]))


def test_the_cloud_learns_from_the_features_as_they_were_sent() -> None:
    method = _method()
    assert method.cloud is not None
    cloud = deepcopy(method.cloud_modules["cloud"])
    sgd = _sgd(cloud)
    for i in range(3):
        edge = deepcopy(method.edge_modules["edge"]).train()
        upload = _upload(method, i)
        # Those of the very forward pass that trained the edge, not of the edge after its update.
        assert torch.equal(upload.features, edge(_batch(i).inputs).detach())
        sent = Upload((8 * upload.features).round() / 8, upload.labels)  # a lossy codec
        reply, figures = method.cloud.step(sent)
        assert reply is None
        expected = _learn(cloud, sgd, CLOUD.rate(i), sent.features, sent.labels)
        assert figures["loss"] == expected
    assert _equal(_tensors(method.cloud_modules["cloud"]), _tensors(cloud))


def test_no_gradient_of_one_side_reaches_the_other() -> None:
    method = _method()
    assert method.cloud is not None
    upload = _upload(method, 0)
    for module in method.edge_modules.values():
        module.zero_grad(set_to_none=True)
    method.cloud.step(upload)
    assert all(p.grad is None for m in method.edge_modules.values() for p in m.parameters())
    assert all(p.grad is not None for p in method.cloud_modules["cloud"].parameters())
    method.cloud_modules["cloud"].zero_grad(set_to_none=True)
    _upload(method, 1)
    assert all(p.grad is not None for m in method.edge_modules.values() for p in m.parameters())
    assert all(p.grad is None for p in method.cloud_modules["cloud"].parameters())


def test_the_two_optimisers_hold_no_weight_in_common_and_all_of_the_net() -> None:
    setup = _setup()
    method = hierarchical(setup)
    assert isinstance(method.edge, HierarchicalEdge)
    assert isinstance(method.cloud, Classifier)
    edge = {id(p) for p in method.edge.part.modules.parameters()}
    cloud = {id(p) for p in method.cloud.part.modules.parameters()}
    exit_ = {id(p) for p in method.edge_modules["exit"].parameters()}
    assert not edge & cloud
    assert (edge | cloud) - exit_ == {id(p) for p in setup.net.parameters()}
    assert exit_ < edge


def test_each_side_has_batch_statistics_of_its_own() -> None:
    method = _method()
    assert method.cloud is not None
    edge_norm = method.edge_modules["edge"].get_submodule("1.conv1.1")
    cloud_norm = method.cloud_modules["cloud"].get_submodule("conv2.0")
    assert isinstance(edge_norm, nn.BatchNorm2d)
    assert isinstance(cloud_norm, nn.BatchNorm2d)
    upload = _upload(method, 0)
    untouched = _tensors(cloud_norm)
    assert not untouched[2].any()  # the running mean, before the first step
    after_edge = _tensors(edge_norm)
    assert after_edge[2].any()
    method.cloud.step(upload)
    assert _equal(_tensors(edge_norm), after_edge)
    mean_C = upload.features.mean((0, 2, 3))
    assert torch.allclose(cloud_norm.running_mean, 0.1 * mean_C)  # type: ignore[arg-type]


def test_the_sender_changes_nothing_and_sends_what_inference_will() -> None:
    method = _method()
    for i in range(2):
        _upload(method, i)
    sender = method.sender
    assert isinstance(sender, SendingEdge)
    before, batch = sender.state(), _batch(7)
    assert before.facts == {"steps": 2}
    upload, figures = sender.step(batch)
    assert figures == {}
    assert sender.one_way
    assert not upload.features.requires_grad
    assert torch.equal(upload.labels, batch.labels)
    features, _ = method.edge_predictor.predict(batch.inputs)
    assert features is not None
    assert torch.equal(upload.features, features)
    assert _same(sender.state(), before)
    assert _same(method.edge.state(), before)


def test_the_edge_may_go_on_learning_after_it_has_sent() -> None:
    method, twin = _method(), _method()
    for m in (method, twin):
        _upload(m, 0)
    assert method.sender is not None
    method.sender.step(_batch(7))
    for m in (method, twin):
        _upload(m, 1)
    assert _same(method.edge.state(), twin.edge.state())


def test_the_early_answer_is_that_of_the_exit() -> None:
    method = _method()
    _upload(method, 0)
    x_BCHW = _batch(1).inputs
    features, early_BK = method.edge_predictor.predict(x_BCHW)
    assert features is not None
    assert early_BK is not None
    assert torch.equal(early_BK, method.edge_modules["exit"].eval()(features))
    assert early_BK.shape == (8, 3)


@pytest.mark.parametrize("cut", ["conv1", "conv2"])
@pytest.mark.parametrize("bottleneck", [None, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_any_cut_width_and_precision_trains(
    cut: str, bottleneck: int | None, precision: str
) -> None:
    schedule = OneCycle(total_steps=20, lr=0.05, precision=precision)
    setup = replace(_setup(), cut=cut, bottleneck=bottleneck)
    method = hierarchical(replace(setup, edge_schedule=schedule, cloud_schedule=schedule))
    assert method.cloud is not None
    edge_losses, cloud_losses = [], []
    width = bottleneck or {"conv1": 4, "conv2": 6}[cut]
    for _ in range(8):
        upload, figures = method.edge.step(_batch(0))
        assert upload is not None
        assert upload.features.shape[1] == width
        edge_losses.append(figures["loss"])
        cloud_losses.append(method.cloud.step(upload)[1]["loss"])
    assert edge_losses[-1] < edge_losses[0]
    assert cloud_losses[-1] < cloud_losses[0]


def test_an_unknown_exit_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown exit 'deep'; choose from: "):
        hierarchical(replace(_setup(), exit="deep"))
