"""What holds for every edge that hides something, whatever its defences.

Dimension key:  B batch   K classes
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import final

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from eaves.core.optimise import OneCycle
from eaves.core.roles import Batch, PrivateLabels, Upload
from eaves.core.state import State
from eaves.errors import ConfigError, StateError
from eaves.methods.deepobfuscator import deepobfuscator
from eaves.methods.disco import disco
from eaves.methods.hiding import Defence, HidingEdge, HidingSender, hiding_method
from eaves.methods.nopeek import nopeek
from eaves.methods.priphit import priphit
from eaves.methods.setup import Hiding, Method, Setup

Hide = Callable[..., Hiding]
Toy = Callable[..., Setup]
Bits = Callable[..., Batch]
Build = Callable[[Setup], Method]

every_method = pytest.mark.parametrize("build", [priphit, nopeek, disco, deepobfuscator])
READ_LABELS = [priphit, disco, deepobfuscator]


@final
class Loud(Defence):
    """A measure: how large the features are."""

    def penalty(self, sent: Tensor, batch: Batch) -> Tensor:
        return sent.square().mean()


@final
class Constant(Defence):
    """A measure that nothing changes."""

    def penalty(self, sent: Tensor, batch: Batch) -> Tensor:
        return torch.ones(())


def _method(setup: Setup, *defences: Defence) -> Method:
    return hiding_method(setup, setup.split(), defences)


def _train(method: Method, bits: Bits, seeds: range) -> list[float]:
    return [method.edge.step(bits(i, 16))[1]["loss"] for i in seeds]


def _sent(method: Method, batch: Batch) -> Tensor:
    assert method.sender is not None
    upload, _ = method.sender.step(batch)
    assert upload is not None
    return upload.features


def _same(left: State, right: State) -> bool:
    return (
        left.facts == right.facts
        and left.tensors.keys() == right.tensors.keys()
        and all(torch.equal(v, right.tensors[k]) for k, v in left.tensors.items())
    )


def _tensors(module: nn.Module) -> list[Tensor]:
    return [v.clone() for v in module.state_dict().values()]


def _equal(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


# Stage 1


@every_method
def test_nothing_is_sent_while_the_edge_learns(
    build: Build, hide: Hide, toy: Toy, bits: Bits
) -> None:
    method = build(toy(hide(noise=0.5)))
    assert method.edge_first
    for i in range(2):
        upload, losses = method.edge.step(bits(i, 16))
        assert upload is None
        assert 0 <= losses["accuracy"] <= 1
    assert method.edge.one_way
    with pytest.raises(TypeError, match="is one-way and takes no reply"):
        method.edge.receive(torch.zeros(16, 2))


def test_a_step_goes_down_the_task_loss_plus_the_weighted_penalty(
    hide: Hide, toy: Toy, bits: Bits
) -> None:
    setup = toy(hide(weight=3.0, ramp_steps=2))
    method = _method(setup, Loud())
    modules = deepcopy(dict(method.edge_modules))
    net = nn.ModuleDict(modules)
    sgd = torch.optim.SGD(net.parameters(), 1.0, 0.9, weight_decay=5e-4, nesterov=True)
    for i, weight in enumerate([0.0, 0.0, 3.0, 3.0]):  # 0 for half of the ramp
        batch = bits(i, 16)
        z = torch.tanh(modules["edge"](batch.inputs))
        loss = cross_entropy(modules["exit"](z), batch.labels) + weight * z.square().mean()
        sgd.param_groups[0]["lr"] = setup.edge_schedule.rate(i)
        sgd.zero_grad()
        torch.autograd.backward(loss)
        sgd.step()
        _, losses = method.edge.step(batch)
        assert losses["loss"] == pytest.approx(loss.item(), rel=1e-6)
    for name, module in method.edge_modules.items():
        for ours, theirs in zip(_tensors(module), _tensors(modules[name]), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-6)


def test_the_weight_is_zero_for_half_of_the_ramp_and_then_rises(
    hide: Hide, toy: Toy, bits: Bits
) -> None:
    weighted, plain = (
        _train(_method(toy(hide(weight=weight, ramp_steps=8)), Constant()), bits, range(10))
        for weight in (2.0, 0.0)
    )
    difference = [a - b for a, b in zip(weighted, plain, strict=True)]
    assert difference == pytest.approx([0, 0, 0, 0, 0, 0.5, 1, 1.5, 2, 2], abs=1e-6)


def test_penalties_of_several_defences_add_up(hide: Hide, toy: Toy, bits: Bits) -> None:
    one, two = (
        _train(_method(toy(hide(weight=2.0)), *[Constant()] * n), bits, range(3))[-1]
        for n in (1, 2)
    )
    assert two - one == pytest.approx(2, abs=1e-6)


def test_the_exit_learns_from_noisy_features(hide: Hide, toy: Toy, bits: Bits) -> None:
    quiet, same, noisy = (
        _train(_method(toy(hide(noise=noise))), bits, range(1)) for noise in (0.0, 0.0, 2.0)
    )
    assert quiet == same
    assert quiet != noisy


@pytest.mark.parametrize("build", READ_LABELS)
def test_private_labels_that_are_missing_are_asked_for(
    build: Build, hide: Hide, toy: Toy, bits: Bits
) -> None:
    batch = bits(0)
    with pytest.raises(ValueError, match="expected private labels of b, got none"):
        build(toy(hide())).edge.step(Batch(batch.inputs, batch.labels))
    others = PrivateLabels(batch.labels[:, None], ("c",))
    with pytest.raises(ValueError, match="expected one of c, got 'b'"):
        build(toy(hide())).edge.step(replace(batch, private=others))


@every_method
def test_one_class_in_a_batch_is_no_obstacle(
    build: Build, hide: Hide, toy: Toy, bits: Bits
) -> None:
    method, batch = build(toy(hide())), bits(0)
    alike = PrivateLabels(torch.ones(64, 1, dtype=torch.int64), ("b",))
    for _ in range(2):
        _, losses = method.edge.step(replace(batch, private=alike))
    assert losses["loss"] < 100


@every_method
def test_several_attributes_of_several_classes_are_hidden_together(
    build: Build, hide: Hide, toy: Toy, bits: Bits
) -> None:
    method, batch = build(toy(hide(attributes={"b": 2, "c": 5}))), bits(0)
    private = PrivateLabels(torch.stack([batch.labels, torch.arange(64) % 5], 1), ("b", "c"))
    _, losses = method.edge.step(replace(batch, private=private))
    assert abs(losses["loss"]) < 100


@every_method
@pytest.mark.parametrize(("bottleneck", "shape"), [(None, (6, 4, 4)), ("2x2x2", (2, 2, 2))])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_any_width_and_precision_trains(
    build: Build,
    hide: Hide,
    toy: Toy,
    bits: Bits,
    bottleneck: str | None,
    shape: tuple[int, ...],
    precision: str,
) -> None:
    setup = toy(hide(noise=0.1), width=6, bottleneck=bottleneck, precision=precision)
    method = build(setup)
    task = [method.edge.step(bits(0, 16))[1]["accuracy"] for _ in range(2)]
    assert all(0 <= share <= 1 for share in task)
    features = _sent(method, bits(1, 16))
    assert features.shape == (16, *shape)
    assert features.dtype == torch.float32
    assert method.cloud is not None
    _, losses = method.cloud.step(Upload(features, bits(1, 16).labels))
    assert losses["loss"] > 0


@every_method
def test_without_anything_to_hide_it_is_refused(build: Build, toy: Toy) -> None:
    with pytest.raises(ConfigError, match="name them with --private"):
        build(toy(None))


# Stage 2


@every_method
def test_an_upload_does_not_depend_on_private_labels(
    build: Build, hide: Hide, toy: Toy, bits: Bits
) -> None:
    uploads = []
    for swapped in (False, True):
        method, batch = build(toy(hide(noise=0.5))), bits(9)
        _train(method, bits, range(2))
        assert batch.private is not None
        private = PrivateLabels(1 - batch.private.labels_BA, ("b",))
        uploads.append(_sent(method, replace(batch, private=private) if swapped else batch))
    assert torch.equal(*uploads)


@every_method
def test_what_is_sent_of_one_example_does_not_depend_on_the_others(
    build: Build, hide: Hide, toy: Toy, bits: Bits
) -> None:
    method, batch = build(toy(hide())), bits(9)
    _train(method, bits, range(2))
    halves = [
        _sent(method, Batch(batch.inputs[part], batch.labels[part]))
        for part in (slice(0, 32), slice(32, 64))
    ]
    assert torch.allclose(torch.cat(halves), _sent(method, batch), atol=1e-6)


@every_method
def test_what_is_sent_is_bounded_and_what_inference_will_send(
    build: Build, hide: Hide, toy: Toy, bits: Bits
) -> None:
    method, batch = build(toy(hide())), bits(9)
    _train(method, bits, range(2))
    sent = _sent(method, batch)
    answered, early_BK = method.edge_predictor.predict(batch.inputs)
    assert answered is not None
    assert early_BK is not None
    assert torch.equal(sent, answered)
    assert not sent.requires_grad
    assert sent.abs().max() <= 1
    assert torch.equal(early_BK, method.edge_modules["exit"](answered))


def test_each_release_has_fresh_noise_of_the_scale(hide: Hide, toy: Toy, bits: Bits) -> None:
    quiet, noisy = (priphit(toy(hide(noise=noise))) for noise in (0.0, 0.5))
    batch = bits(9, 256)
    z = _sent(quiet, batch)
    added = [_sent(noisy, batch) - z for _ in range(2)]
    answered, early_BK = noisy.edge_predictor.predict(batch.inputs)
    assert answered is not None
    added.append(answered - z)
    # Of 16,384 values each: five standard errors, of their deviation and of their correlation.
    for noise in added:
        assert noise.std().item() == pytest.approx(0.5, abs=0.014)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        together = torch.corrcoef(torch.stack([added[one].flatten(), added[other].flatten()]))
        assert abs(together[0, 1].item()) < 5 / 128
    assert early_BK is not None
    assert torch.equal(early_BK, noisy.edge_modules["exit"](answered))


def test_an_edge_that_has_finished_learning_does_not_change(
    hide: Hide, toy: Toy, bits: Bits
) -> None:
    method = priphit(toy(hide(noise=0.5)))
    _train(method, bits, range(2))
    assert isinstance(method.sender, HidingSender)
    before = method.sender.state()
    batch = bits(9)
    upload, losses = method.sender.step(Batch(batch.inputs, batch.labels))
    assert isinstance(upload, Upload)
    assert losses == {}
    after = method.sender.state()
    changed = [k for k, v in after.tensors.items() if not torch.equal(v, before.tensors[k])]
    assert changed == ["noise/sent"]  # how far its noise was drawn


def test_an_edge_that_keeps_training_learns_before_each_upload(
    hide: Hide, toy: Toy, bits: Bits
) -> None:
    keeping, twin = (priphit(toy(hide(keeps_training=on))) for on in (True, False))
    assert keeping.sender is not None
    upload, losses = keeping.sender.step(bits(0))
    _, expected = twin.edge.step(bits(0))
    assert losses == expected
    assert upload is not None
    assert torch.equal(upload.features, _sent(twin, bits(0)))


# State


@every_method
def test_training_goes_on_where_it_was_saved_bit_for_bit(
    build: Build, hide: Hide, toy: Toy, bits: Bits
) -> None:
    def method(seed: int) -> Method:
        setup = toy(hide(noise=0.5, restart_steps=0, adversary_steps=2), seed=seed)
        return build(setup)

    through, again = method(0), method(1)
    _train(through, bits, range(2))
    _sent(through, bits(8))
    saved = through.edge.state()
    rest = _train(through, bits, range(2, 4)), _sent(through, bits(9))
    again.edge.load_state(saved)
    assert _same(again.edge.state(), saved)
    redone = _train(again, bits, range(2, 4)), _sent(again, bits(9))
    assert redone[0] == rest[0]
    assert torch.equal(redone[1], rest[1])
    assert _same(again.edge.state(), through.edge.state())


def test_a_saved_state_is_a_copy(hide: Hide, toy: Toy, bits: Bits) -> None:
    method = priphit(toy(hide(noise=0.5)))
    saved = method.edge.state()
    copy = deepcopy(saved)
    _train(method, bits, range(2))
    _sent(method, bits(9))
    assert _same(saved, copy)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tensors: tensors.pop("noise/sent"),
        lambda tensors: tensors.update({"noise/training": torch.zeros(3)}),
        lambda tensors: tensors.update({"defence7/weights/x": torch.zeros(3)}),
        lambda tensors: tensors.pop("part/draws/state"),
        lambda tensors: tensors.update({"alone": torch.zeros(3)}),
    ],
)
def test_the_state_of_something_else_is_refused(
    hide: Hide, toy: Toy, spoil: Callable[[dict[str, Tensor]], object]
) -> None:
    method = priphit(toy(hide()))
    state = method.edge.state()
    spoil(state.tensors)
    with pytest.raises(StateError):
        method.edge.load_state(state)


def test_the_memory_of_opponents_counts(hide: Hide, toy: Toy) -> None:
    method = priphit(toy(hide()))
    assert isinstance(method.edge, HidingEdge)
    alone = method.edge.part.state_bytes()
    heads = [v for k, v in method.edge.state().tensors.items() if k.startswith("defence0/weights/")]
    weights = sum(v.nbytes for v in heads)
    assert weights > 0
    assert (
        method.edge.state_bytes() == alone + 4 * weights
    )  # each with its gradient, and Adam's two
    assert method.sender is not None
    assert method.sender.state_bytes() == method.edge.state_bytes()


def test_the_schedule_is_that_of_the_edge(hide: Hide, toy: Toy) -> None:
    setup = replace(toy(hide()), cloud_schedule=OneCycle(total_steps=7))
    method = priphit(setup)
    assert method.edge.part is not None
    assert method.cloud is not None
    assert method.cloud.part is not None
    assert method.edge.part.schedule == setup.edge_schedule
    assert method.cloud.part.schedule == setup.cloud_schedule
    edge = {id(p) for p in method.edge.part.modules.parameters()}
    assert not edge & {id(p) for p in method.cloud.part.modules.parameters()}
