"""What every method keeps, whichever it is; and the pieces that methods are made of.

Dimension key:  B batch   C channels   H, W height and width   K classes
"""

from collections.abc import Iterable
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor, nn

from eaves.core.methods import METHODS, PROTECTING
from eaves.core.net import Normalise, StagedNet
from eaves.core.optimise import OneCycle, Optimised
from eaves.core.roles import Batch, EdgeLearner, Learner, PrivateLabels, Upload
from eaves.core.state import State
from eaves.errors import CutError
from eaves.experiments.build import builder_of
from eaves.methods.setup import (
    CloudAnswers,
    EdgeAnswers,
    Hiding,
    Method,
    Mixed,
    Setup,
    Tuning,
    classify,
    share_right,
)
from eaves.privacy.bounds import Tanh
from eaves.privacy.mechanisms import Mechanism
from eaves.privacy.mixing import MixingLaw
from eaves.privacy.sources import Keyed

CPU = torch.device("cpu")
K = 3


def _setup() -> Setup:
    torch.manual_seed(0)
    stages = [
        ("conv1", nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())),
        ("conv2", nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU())),
        ("head", nn.Sequential(nn.Flatten(), nn.Linear(6 * 2 * 2, K))),
    ]
    schedule = OneCycle(total_steps=40, lr=0.05)
    return Setup(
        net=StagedNet(stages),
        normalise=Normalise([127.0], [64.0]),
        input_shape=(1, 6, 6),
        classes=K,
        cut="conv1",
        bottleneck=None,
        exit="linear",
        edge_schedule=schedule,
        cloud_schedule=schedule,
        device=CPU,
    )


def _method(name: str) -> Method:
    setup = _setup()
    if name in PROTECTING:
        setup = replace(
            setup,
            hiding=Hiding(
                mechanism=Mechanism(bound=Tanh(1.0), law="gaussian", scale=0.1),
                source=Keyed.from_seed(1),
                answer_source=Keyed.from_seed(2),
                attributes={"p": 2},
                weight=0.1,
            ),
        )
    if name == "datamix":
        mixed = Mixed(law=MixingLaw(group=2), source=Keyed.from_seed(3))
        setup = replace(setup, mixed=mixed)
    if name == "siamese":
        steps = {"train": 10, "tune": 10, "fit": 2, "adapt": 10}
        setup = replace(setup, tuning=Tuning(steps=steps, components=3))
    return builder_of(METHODS[name])(setup)


def _sending(method: Method) -> EdgeLearner:
    """Return the edge that sends; where the edge learns first, alone, it is another."""
    return method.sender if method.edge_first and method.sender else method.edge


def _batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x_BCHW = torch.randint(0, 256, (8, 1, 6, 6), dtype=torch.uint8, generator=generator)
    labels_B = torch.randint(0, K, (8,), generator=generator)
    private_BA = torch.randint(0, 2, (8, 1), generator=generator)
    return Batch(x_BCHW, labels_B, PrivateLabels(private_BA, ("p",)))


def _train(method: Method, batches: Iterable[Batch], *, cloud: bool = True) -> list[float]:
    """Take a step on each batch; return the losses, of the side that ends with the answer."""
    losses = []
    for batch in batches:
        upload, figures = method.edge.step(batch)
        if method.edge_first:
            assert upload is None  # nothing is sent as long as the edge learns alone
            upload, _ = _sending(method).step(batch)
        if upload is not None and method.cloud is not None and cloud:
            reply, figures = method.cloud.step(upload)
            if reply is not None:
                method.edge.receive(reply)
        losses.append(figures.get("loss", float("nan")))
    return losses


def _learners(method: Method) -> list[Learner]:
    return [method.edge] + ([method.cloud] if method.cloud else [])


def _same(left: State, right: State) -> bool:
    return (
        left.facts == right.facts
        and left.tensors.keys() == right.tensors.keys()
        and all(torch.equal(v, right.tensors[k]) for k, v in left.tensors.items())
    )


def _states(method: Method) -> list[State]:
    return [learner.state() for learner in _learners(method)]


def _all_same(left: list[State], right: list[State]) -> bool:
    return all(_same(a, b) for a, b in zip(left, right, strict=True))


every_method = pytest.mark.parametrize("name", METHODS)


# The contract of a method


@every_method
def test_steps_on_one_batch_lower_the_loss(name: str) -> None:
    losses = _train(_method(name), [_batch(0)] * 20)
    assert losses[-1] < 0.7 * losses[0]


@every_method
def test_whoever_learns_says_its_loss_and_accuracy(name: str) -> None:
    method = _method(name)
    _, edge_figures = method.edge.step(_batch(0))
    upload, _ = _sending(method).step(_batch(0))
    figures = [edge_figures]
    if method.cloud is not None:
        assert upload is not None
        figures.append(method.cloud.step(upload)[1])
    told = [f for f in figures if f]
    assert told
    for f in told:
        opponents = {"adversary", "ssim"} if name in PROTECTING else set()
        assert set(f) - opponents == {"loss", "accuracy"}
        assert f["loss"] > 0
        assert 0 <= f["accuracy"] <= 1


@every_method
def test_an_upload_is_features_and_labels_without_a_gradient(name: str) -> None:
    method, batch = _method(name), _batch(0)
    upload, _ = _sending(method).step(batch)
    assert (upload is None) == (method.cloud is None)
    if upload is not None:
        assert [field.name for field in fields(Upload)] == ["features", "labels"]
        assert torch.equal(upload.labels, batch.labels)
        assert len(upload.features) == len(batch.labels)
        assert not upload.features.requires_grad
        assert upload.features.grad_fn is None


@every_method
def test_a_cloud_step_leaves_the_upload_as_it_came(name: str) -> None:
    method = _method(name)
    if method.cloud is None:
        assert name in ("full-edge", "datamix", "siamese")
        return
    upload, _ = _sending(method).step(_batch(0))
    assert upload is not None
    upload = Upload(upload.features.float(), upload.labels)
    features = upload.features.clone()
    method.cloud.step(upload)
    method.cloud.step(upload)
    assert torch.equal(upload.features, features)
    assert not upload.features.requires_grad
    assert upload.features.grad is None


@every_method
def test_a_one_way_edge_ends_the_same_with_the_cloud_on_or_off(name: str) -> None:
    on, off, before = _method(name), _method(name), _method(name).edge.state()
    batches = [_batch(i) for i in range(4)]
    _train(on, batches)
    _train(off, batches, cloud=False)
    with_cloud, without = on.edge.state(), off.edge.state()
    assert _same(with_cloud, without) == on.edge.one_way
    if on.edge.part is not None:
        assert not _same(with_cloud, before)  # it did learn


@every_method
def test_a_one_way_cloud_gives_no_reply_and_its_edge_takes_none(name: str) -> None:
    method = _method(name)
    upload, _ = _sending(method).step(_batch(0))
    if method.cloud is not None:
        assert upload is not None
        reply, _ = method.cloud.step(upload)
        assert (reply is None) == method.edge.one_way
    if method.edge.one_way:
        with pytest.raises(TypeError, match="is one-way and takes no reply"):
            method.edge.receive(torch.zeros(1))


@every_method
def test_a_loaded_state_goes_on_to_the_bit(name: str) -> None:
    first, other = _method(name), _method(name)
    _train(first, [_batch(0), _batch(1)])
    _train(other, [_batch(9)])
    states = _states(first)
    for learner, state in zip(_learners(other), states, strict=True):
        learner.load_state(state)
    _train(first, [_batch(2), _batch(3)])
    _train(other, [_batch(2), _batch(3)])
    assert _all_same(_states(first), _states(other))
    assert not _all_same(_states(first), states)


def _weights(modules: Iterable[nn.Module]) -> set[int]:
    return {t.data_ptr() for m in modules for t in (*m.parameters(), *m.buffers())}


@every_method
def test_the_sides_share_nothing_and_train_what_they_show(name: str) -> None:
    method = _method(name)
    edge = _weights(method.edge_modules.values())
    cloud = _weights(method.cloud_modules.values())
    assert edge | cloud
    assert not edge & cloud
    trained = [
        learner.part.modules if learner.part else nn.ModuleDict() for learner in _learners(method)
    ]
    if name in ("datamix", "siamese"):  # trained in one place
        edge, cloud = edge | cloud, set()
    assert _weights(trained[:1]) == edge
    assert _weights(trained[1:]) == cloud


@every_method
def test_predictors_answer_in_evaluation_mode_without_gradient(name: str) -> None:
    method, x_BCHW = _method(name), _batch(5).inputs
    _train(method, [_batch(0), _batch(1)])
    before = _states(method)
    features, early_BK = method.edge_predictor.predict(x_BCHW)
    answers = [] if early_BK is None else [early_BK]
    assert (features is None) == (method.cloud_predictor is None)
    if method.cloud_predictor is not None:
        assert features is not None
        assert not features.requires_grad
        queries, reveal = method.shield.protect(features)
        answers.append(reveal(method.cloud_predictor.answer(queries)))
    assert answers
    for answer_BK in answers:
        assert answer_BK.shape == (8, K)
        assert not answer_BK.requires_grad
    modules = [*method.edge_modules.values(), *method.cloud_modules.values()]
    assert not any(part.training for module in modules for part in module.modules())
    assert _all_same(_states(method), before)


@every_method
def test_predicting_between_steps_does_not_disturb_training(name: str) -> None:
    quiet, asked = _method(name), _method(name)
    _train(quiet, [_batch(0), _batch(1)])
    _train(asked, [_batch(0)])
    features, _ = asked.edge_predictor.predict(_batch(7).inputs)
    if asked.cloud_predictor is not None:
        assert features is not None
        asked.cloud_predictor.answer(features)
    _train(asked, [_batch(1)])
    assert _all_same(_states(quiet), _states(asked))


# The pieces


def test_the_parts_of_a_setup_are_its_whole_on_raw_inputs() -> None:
    setup, x_BCHW = _setup(), _batch(0).inputs
    whole, split = setup.whole().eval(), setup.split()
    edge, cloud = split.edge.eval(), split.cloud.eval()
    assert torch.equal(cloud(edge(x_BCHW)), whole(x_BCHW))
    assert torch.equal(whole(x_BCHW), setup.net((x_BCHW.float() - 127) / 64))
    assert split.cut == "conv1"


def test_a_bottleneck_narrows_what_crosses() -> None:
    wide, narrow = _setup(), replace(_setup(), bottleneck=2)
    x_BCHW = _batch(0).inputs
    assert wide.split().edge(x_BCHW).shape == (8, 4, 4, 4)
    split = narrow.split()
    assert split.edge(x_BCHW).shape == (8, 2, 4, 4)
    assert split.cloud(split.edge(x_BCHW)).shape == (8, K)


def test_a_wrong_cut_is_refused() -> None:
    with pytest.raises(CutError, match="unknown cut 'conv'; choose from: conv1, conv2"):
        replace(_setup(), cut="conv").split()


def test_an_edge_sends_what_its_part_makes_and_answers_by_its_exit() -> None:
    edge, exit_ = nn.Linear(2, 4), nn.Linear(4, 3)
    x = torch.randn(5, 2)
    z, early_BK = EdgeAnswers(edge, exit_, CPU).predict(x)
    assert z is not None
    assert early_BK is not None
    assert torch.equal(z, edge(x))
    assert torch.equal(early_BK, exit_(edge(x)))
    assert EdgeAnswers(edge, None, CPU).predict(x)[1] is None
    nothing, answer = EdgeAnswers(None, edge, CPU).predict(x)
    assert nothing is None
    assert answer is not None
    assert torch.equal(answer, edge(x))
    assert torch.equal(CloudAnswers(exit_, CPU).answer(z), exit_(edge(x)))


def test_a_step_of_classification_says_the_loss_before_it_and_goes_down() -> None:
    torch.manual_seed(0)
    net = nn.Linear(4, K).eval()
    part = Optimised({"net": net}, OneCycle(total_steps=4, lr=0.1), CPU)
    x, y_B = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    logits_BK = net(x)
    expected = -logits_BK.log_softmax(1)[torch.arange(6), y_B].mean()
    first = classify(part, net, x, y_B)
    assert first["loss"] == pytest.approx(expected.item())
    assert first["accuracy"] == share_right(logits_BK, y_B)
    assert net.training
    assert part.steps == 1
    assert classify(part, net, x, y_B)["loss"] < first["loss"]


@pytest.mark.parametrize(
    ("labels", "share"), [([0, 1, 1], 1.0), ([1, 0, 0], 0.0), ([0, 1, 0], 2 / 3)]
)
def test_the_share_right_is_that_of_the_largest_logit(labels: list[int], share: float) -> None:
    logits_BK: Tensor = torch.tensor([[2.0, 1.0], [-1.0, 0.0], [0.0, 9.0]])
    assert share_right(logits_BK, torch.tensor(labels)) == pytest.approx(share)
