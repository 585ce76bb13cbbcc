"""Siamese fine-tuning on images of two independent bits: one is the task, the other is private.

Dimension key:  B batch   F values   K classes
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eaves.core.roles import Batch
from eaves.errors import ConfigError, StateError
from eaves.experiments.siameseconfig import PAIRS
from eaves.methods.setup import Hiding, Method, Setup, Tuning
from eaves.methods.siamese import CONTRASTS, all_pairs, random_pairs, siamese
from eaves.privacy.bounds import L2Clip
from eaves.privacy.mechanisms import Mechanism

Hide = Callable[..., Hiding]
Toy = Callable[..., Setup]
Bits = Callable[..., Batch]
STEPS = {"train": 60, "tune": 40, "fit": 4, "adapt": 10}


def by_hand(h_BF: Tensor, labels_B: Tensor, pairs: list[tuple[int, int]], margin: float) -> float:
    """Return the authors' formula, pair by pair, with numbers."""
    total = 0.0
    for a, b in pairs:
        d = float((h_BF[a].double() - h_BF[b].double()).norm())
        same = bool(labels_B[a] == labels_B[b])
        total += d**2 if same else max(margin - d, 0.0) ** 2
    return total / (2 * len(pairs))


@pytest.mark.parametrize("size", [2, 9, 16])
def test_both_forms_are_the_authors_formula(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    h_BF = 4 * torch.randn(size, 5, generator=generator)
    labels_B = torch.randint(0, 3, (size,), generator=generator)
    half = size // 2
    pairs = [(i, half + i) for i in range(half)]
    expected = by_hand(h_BF, labels_B, pairs, 10.0)
    assert float(random_pairs(h_BF, labels_B, 10.0)) == pytest.approx(expected, rel=1e-5)
    expected = by_hand(h_BF, labels_B, list(combinations(range(size), 2)), 10.0)
    assert float(all_pairs(h_BF, labels_B, 10.0)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("contrast", [random_pairs, all_pairs])
def test_the_gradient_pulls_equals_together_and_drives_others_apart_up_to_the_margin(
    contrast: Callable[[Tensor, Tensor, float], Tensor],
) -> None:
    h_BF = torch.tensor([[0.0], [1.0]], requires_grad=True)
    for labels, toward in (([0, 0], 1.0), ([0, 1], -1.0)):
        h_BF.grad = None
        torch.autograd.backward(contrast(h_BF, torch.tensor(labels), 4.0))
        assert h_BF.grad is not None
        assert float(h_BF.grad[1]) * toward > 0
        assert float(h_BF.grad[0]) * toward < 0
    far_BF = torch.tensor([[0.0], [5.0]])
    assert float(contrast(far_BF, torch.tensor([0, 1]), 4.0)) == 0


@pytest.mark.parametrize("contrast", [random_pairs, all_pairs])
def test_features_in_one_point_have_a_finite_gradient(
    contrast: Callable[[Tensor, Tensor, float], Tensor],
) -> None:
    h_BF = torch.ones(4, 3, requires_grad=True)
    torch.autograd.backward(contrast(h_BF, torch.tensor([0, 1, 1, 0]), 10.0))
    assert h_BF.grad is not None
    assert bool(h_BF.grad.isfinite().all())


def setup_of(toy: Toy, hiding: Hiding | None = None, **changes: Any) -> Setup:
    settings: dict[str, Any] = {"components": 3, "weight": 0.1, "steps": STEPS}
    setup = toy(hiding, steps=STEPS["train"], width=8)
    return replace(setup, tuning=Tuning(**(settings | changes)))


def trained(setup: Setup, bits: Bits) -> Method:
    method, seed = siamese(setup), 0
    for lesson in method.course:
        for _ in range(lesson.steps):
            lesson.learner.step(bits(seed))
            seed += 1
    return method


def answers(method: Method, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return what is sent for a batch, and the logits for it."""
    sent, early = method.edge_predictor.predict(batch.inputs)
    assert sent is not None
    assert early is None
    assert method.cloud_predictor is not None
    return sent, method.cloud_predictor.answer(sent)


def spread(method: Method, batch: Batch) -> tuple[float, float]:
    """Return how far the private bit, and the task, move what is sent, in within-class spreads."""
    sent, _ = answers(method, batch)
    assert batch.private is not None
    moved = []
    for labels_B in (batch.private.of("b"), batch.labels):
        means = [sent[labels_B == k].mean(dim=0) for k in (0, 1)]
        within = torch.cat([sent[labels_B == k] - means[k] for k in (0, 1)])
        moved.append(float((means[0] - means[1]).norm() / within.norm(dim=1).mean()))
    return moved[0], moved[1]


@pytest.mark.parametrize("pairs", ["random", "all"])
def test_tuned_features_tell_the_task_and_less_of_the_private_bit(
    toy: Toy, bits: Bits, pairs: str
) -> None:
    plain = trained(setup_of(toy, pairs="none", components=0), bits)
    tuned = trained(setup_of(toy, pairs=pairs, components=0), bits)
    held_out = bits(9_999, 1000)
    before, after = spread(plain, held_out), spread(tuned, held_out)
    assert after[0] < 0.6 * before[0]
    assert after[1] > 1.5 * before[1]
    _, logits_BK = answers(tuned, held_out)
    assert float((logits_BK.argmax(dim=1) == held_out.labels).float().mean()) > 0.97


def test_the_five_embeddings_are_five_settings(toy: Toy, bits: Bits, hide: Hide) -> None:
    mechanism = Mechanism(bound=L2Clip(1.5 * 3**0.5), law="gaussian", scale=0.3)
    noisy = replace(hide(), mechanism=mechanism)
    held_out = bits(9_999, 1000)
    for pairs, components, hiding, shape in (
        ("none", 0, None, (8, 4, 4)),
        ("none", 3, None, (3,)),
        ("random", 0, None, (8, 4, 4)),
        ("random", 3, None, (3,)),
        ("random", 3, noisy, (3,)),
    ):
        setup = setup_of(toy, hiding, pairs=pairs, components=components)
        method = trained(setup, bits)
        sent, logits_BK = answers(method, held_out)
        assert sent.shape == (1000, *shape)
        assert setup.feature_shape() == shape
        right = float((logits_BK.argmax(dim=1) == held_out.labels).float().mean())
        assert right > 0.95, (pairs, components, hiding is not None)
        again, _ = answers(method, held_out)
        assert torch.equal(sent, again) == (hiding is None)


def test_a_simple_embedding_is_the_net_itself(toy: Toy, bits: Bits) -> None:
    setup = setup_of(toy, pairs="none", components=0)
    method, batch = trained(setup, bits), bits(5)
    assert [lesson.name for lesson in method.course] == ["train", "tune", "adapt"]
    sent, logits_BK = answers(method, batch)
    whole = setup.whole().eval()
    torch.testing.assert_close(logits_BK, whole(batch.inputs))
    assert torch.equal(sent, method.edge_modules["edge"](batch.inputs))


def test_the_cloud_maps_what_is_sent_back_to_features(toy: Toy, bits: Bits) -> None:
    steps = {**STEPS, "adapt": 0}
    setup = setup_of(toy, components=8 * 4 * 4, steps=steps)
    method, batch = trained(setup, bits), bits(5)
    assert [lesson.name for lesson in method.course] == ["train", "tune", "fit"]
    _, logits_BK = answers(method, batch)
    with torch.no_grad():
        expected = setup.whole().eval()(batch.inputs)
    torch.testing.assert_close(logits_BK, expected, rtol=1e-3, atol=1e-3)


def test_noise_is_relative_to_the_features(toy: Toy, bits: Bits) -> None:
    method = trained(setup_of(toy), bits)
    sent, _ = answers(method, bits(77, 2000))
    assert float(sent.var(dim=0, correction=0).mean()) == pytest.approx(1.0, rel=0.2)


def test_adapting_leaves_the_edge_as_it_is(toy: Toy, bits: Bits) -> None:
    method = siamese(setup_of(toy))
    lessons = {lesson.name: lesson.learner for lesson in method.course}
    lessons["train"].step(bits(0))
    lessons["fit"].step(bits(1))
    edge, cloud = (
        {name: value.clone() for name, value in modules[side].state_dict().items()}
        for side, modules in (("edge", method.edge_modules), ("cloud", method.cloud_modules))
    )
    lessons["adapt"].step(bits(2))
    for name, value in method.edge_modules["edge"].state_dict().items():
        assert torch.equal(value, edge[name]), name
    after = method.cloud_modules["cloud"].state_dict()
    assert any(not torch.equal(value, cloud[name]) for name, value in after.items())


def test_a_run_goes_on_from_its_state_bit_for_bit(toy: Toy, bits: Bits, hide: Hide) -> None:
    hiding = replace(hide(), mechanism=Mechanism(bound=L2Clip(3.0), law="gaussian", scale=0.5))
    steps = {"train": 2, "tune": 2, "fit": 2, "adapt": 2}

    def taken(stop_after: int) -> dict[str, Tensor]:
        method = siamese(setup_of(toy, hiding, steps=steps))
        flat = [(name, k) for name in steps for k in range(steps[name])]
        for number, (name, _) in enumerate(flat):
            if number == stop_after:
                state = method.edge.state()
                torch.randn(7)  # other random numbers go by
                method = siamese(setup_of(toy, hiding, steps=steps))
                method.edge.load_state(state)
            learner = next(lesson.learner for lesson in method.course if lesson.name == name)
            learner.step(bits(number))
        return method.edge.state().tensors

    whole = taken(-1)
    for stop in range(1, 8):
        again = taken(stop)
        assert all(torch.equal(whole[name], again[name]) for name in whole), stop


def test_a_state_of_another_learner_is_refused(toy: Toy) -> None:
    method = siamese(setup_of(toy))
    other = siamese(setup_of(toy, components=2))
    with pytest.raises(StateError):
        other.edge.load_state(method.edge.state())


def test_a_batch_of_one_class_is_refused_in_tuning(toy: Toy, bits: Bits) -> None:
    batch = bits(0)
    alike = Batch(batch.inputs, torch.ones_like(batch.labels))
    tune = siamese(setup_of(toy)).course[1].learner
    before = {name: value.clone() for name, value in tune.state().tensors.items()}
    with pytest.raises(
        ConfigError, match=r"or more classes in a batch of pairs, got 64.* of class 1"
    ):
        tune.step(alike)
    assert all(torch.equal(value, before[name]) for name, value in tune.state().tensors.items())
    siamese(setup_of(toy, pairs="none")).course[1].learner.step(alike)  # there are no pairs


def test_what_does_not_go_together_is_refused(toy: Toy) -> None:
    with pytest.raises(ConfigError, match=r"say how, in \[siamese\]"):
        siamese(toy(None))
    with pytest.raises(ConfigError, match="leave --bottleneck out"):
        siamese(replace(setup_of(toy), bottleneck=2))
    with pytest.raises(ConfigError, match="expected 1 to 128 --components"):
        siamese(setup_of(toy, components=129))


def test_the_configuration_knows_the_pairs_there_are() -> None:
    assert tuple(CONTRASTS) == PAIRS


def test_both_halves_have_what_they_need_of_the_projection(toy: Toy, bits: Bits) -> None:
    method = trained(setup_of(toy), bits)
    fresh = siamese(setup_of(toy))
    for side in ("edge_modules", "cloud_modules"):
        empty, full = (nn.ModuleDict(dict(getattr(m, side))) for m in (fresh, method))
        empty.load_state_dict(full.state_dict())
    batch = bits(3)
    for ours, theirs in zip(answers(fresh, batch), answers(method, batch), strict=True):
        torch.testing.assert_close(ours, theirs)
