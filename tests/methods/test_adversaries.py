"""Adversarial exits: what they are driven to, how they learn, and that they are left alone.

Dimension key:  B batch   A attributes   K classes
"""

from collections.abc import Callable
from copy import deepcopy
from math import log

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from eaves.core.roles import Batch, PrivateLabels
from eaves.errors import ConfigError
from eaves.methods.adversaries import AIMS, Adversaries, adversary, entropy, reversal, uniform
from eaves.methods.setup import Hiding
from eaves.privacy.sources import Pseudo

Hide = Callable[..., Hiding]
CPU = torch.device("cpu")
SHAPE = (3, 4, 4)
every_aim = pytest.mark.parametrize("name", AIMS)


def _noise(seed: int = 0) -> Pseudo:
    return Pseudo(torch.Generator().manual_seed(seed))


def _batch(labels_BA: Tensor, *names: str) -> Batch:
    private = PrivateLabels(labels_BA, names or ("b",))
    return Batch(torch.zeros(len(labels_BA), 1), torch.zeros(len(labels_BA)), private)


def _seen(n: int = 64) -> tuple[Tensor, Batch]:
    """Return bounded features that show the bit b in one place, and their batch."""
    generator = torch.Generator().manual_seed(3)
    b_B = torch.randint(0, 2, (n,), generator=generator)
    z = 0.5 * torch.randn(n, *SHAPE, generator=generator).tanh()
    z[:, 0, 1, 1] = 0.8 * (2 * b_B - 1)
    return z, _batch(b_B[:, None])


def _adversaries(hiding: Hiding, seed: int = 0) -> Adversaries:
    torch.manual_seed(seed)
    return Adversaries(SHAPE, hiding, CPU)


def _error(adversaries: Adversaries, z: Tensor, batch: Batch) -> float:
    assert batch.private is not None
    heads, b_B = adversaries.part.modules, batch.private.of("b")
    with torch.no_grad():
        return sum(float(cross_entropy(head(z), b_B)) for head in heads.values())


def _weights(adversaries: Adversaries) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in adversaries.part.modules.state_dict().items()}


# Aims


def test_aims_are_their_formulas() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_BK = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    labels_B = torch.tensor([0, 1, 2, 2, 1, 0])
    p_BK = logits_BK.softmax(dim=1)
    uniform_BK = torch.full_like(p_BK, 1 / 3)
    to_p = (uniform_BK * (uniform_BK / p_BK).log()).sum(dim=1).mean()
    to_uniform = (p_BK * (p_BK / uniform_BK).log()).sum(dim=1).mean()
    right = (one_hot(labels_B) * p_BK).sum(dim=1).log().mean()
    assert uniform(logits_BK, labels_B).item() == pytest.approx(to_p.item())
    assert entropy(logits_BK, labels_B).item() == pytest.approx(to_uniform.item())
    assert reversal(logits_BK, labels_B).item() == pytest.approx(right.item())


def test_aims_are_lowest_where_nothing_is_seen_but_for_reversal() -> None:
    level, sure = torch.zeros(1, 2), torch.tensor([[5.0, -5.0]])
    for label_B in (torch.tensor([0]), torch.tensor([1])):
        for aim in (uniform, entropy):
            assert aim(level, label_B).item() == pytest.approx(0, abs=1e-6)
            assert aim(sure, label_B).item() > 0.5
    assert reversal(sure, torch.tensor([1])) < reversal(level, torch.tensor([1]))  # sure and wrong
    assert reversal(level, torch.tensor([1])).item() == pytest.approx(-log(2))


@every_aim
def test_gradients_of_aims_are_right(name: str) -> None:
    logits_BK = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    labels_B = torch.tensor([0, 1, 2, 2])
    assert torch.autograd.gradcheck(lambda x: AIMS[name](x, labels_B), logits_BK)


def test_an_unknown_aim_is_refused(hide: Hide) -> None:
    with pytest.raises(ConfigError, match="unknown loss of adversaries 'reverse'; choose from: re"):
        _adversaries(hide(loss="reverse"))


# Learning


def test_adversaries_learn_to_read_what_is_there(hide: Hide) -> None:
    adversaries, (z, batch) = _adversaries(hide(adversaries=3)), _seen()
    before = _error(adversaries, z, batch)
    figures = [adversaries.learn(z, _noise(), batch)["adversary"] for _ in range(30)]
    assert _error(adversaries, z, batch) < 0.1 * before
    assert figures[-1] == 1


def test_what_is_not_there_is_not_read(hide: Hide) -> None:
    adversaries, (z, batch) = _adversaries(hide(adversaries=1)), _seen(512)
    for _ in range(30):
        adversaries.learn(z, _noise(), batch)
    assert batch.private is not None
    fresh, b_B = 0.5 * torch.randn(512, *SHAPE).tanh(), batch.private.of("b")
    right_B = adversaries.part.modules["0-0"](fresh).argmax(dim=1) == b_B
    assert right_B.float().mean().item() == pytest.approx(0.5, abs=5 * 0.5 / 512**0.5)


@pytest.mark.parametrize("steps", [1, 3])
def test_adversaries_take_several_steps_each_on_fresh_noise(hide: Hide, steps: int) -> None:
    z, batch = _seen()
    adversaries = _adversaries(hide(adversary_steps=steps, noise=0.5))
    noise, twin = _noise(), _noise()
    adversaries.learn(z, noise, batch)
    assert adversaries.part.steps == steps
    for _ in range(steps):
        twin.normal(z.shape)
    assert torch.equal(noise.normal((4,)), twin.normal((4,)))


def test_adversaries_learn_from_what_is_sent_not_from_what_is_not(hide: Hide) -> None:
    z, batch = _seen()
    quiet, noisy = (_adversaries(hide(noise=noise)) for noise in (0.0, 5.0))
    for _ in range(20):
        quiet.learn(z, _noise(1), batch)
        figures = noisy.learn(z, _noise(1), batch)
    assert _error(quiet, z, batch) < 0.1
    assert figures["adversary"] < 1 or _error(noisy, z, batch) > 0.1


def test_adversaries_begin_anew_one_after_the_other(hide: Hide) -> None:
    z, batch = _seen()
    adversaries = _adversaries(hide(adversaries=2, restart_steps=3))
    first = _weights(adversaries)

    def strayed(name: str) -> float:
        moved = _weights(adversaries)
        return sum(float((moved[k] - first[k]).abs().sum()) for k in first if k.startswith(name))

    distances = []
    for _ in range(8):
        adversaries.learn(z, _noise(), batch)
        distances.append((strayed("0-0"), strayed("0-1")))
    for name, restarts in ((0, [6]), (1, [3])):
        shorter = [i for i in range(1, 8) if distances[i][name] < 0.8 * distances[i - 1][name]]
        assert shorter == restarts


def test_without_restarts_none_begins_anew(hide: Hide) -> None:
    z, batch = _seen()
    adversaries = _adversaries(hide(adversaries=1, restart_steps=0))
    errors = []
    for _ in range(12):
        adversaries.learn(z, _noise(), batch)
        errors.append(_error(adversaries, z, batch))
    assert errors == sorted(errors, reverse=True)


def test_a_batch_of_one_can_be_learnt_from(hide: Hide) -> None:
    z, batch = _seen()
    assert batch.private is not None
    adversaries = _adversaries(hide(adversaries=3))
    one = _batch(batch.private.labels_BA[:1])
    assert adversaries.learn(z[:1], _noise(), one)["adversary"] in (0, 1)
    assert torch.isfinite(adversaries.penalty(z[:1], one))


# The penalty


@every_aim
def test_the_penalty_leaves_adversaries_as_they_are(hide: Hide, name: str) -> None:
    adversaries, (z, batch) = _adversaries(hide(loss=name, adversaries=3)), _seen()
    adversaries.learn(z, _noise(), batch)
    adversaries.part.modules.zero_grad(set_to_none=True)
    before = _weights(adversaries)
    sent = z.clone().requires_grad_()
    torch.autograd.backward(adversaries.penalty(sent, batch))
    assert sent.grad is not None
    assert sent.grad.abs().sum() > 0
    after = _weights(adversaries)
    assert all(torch.equal(v, after[k]) for k, v in before.items())  # buffers too, if there are any
    heads = list(adversaries.part.modules.parameters())
    assert all(p.grad is None for p in heads)
    assert all(p.requires_grad for p in heads)
    adversaries.learn(z, _noise(), batch)
    assert not all(torch.equal(v, _weights(adversaries)[k]) for k, v in before.items())


@every_aim
def test_down_the_penalty_adversaries_see_less(hide: Hide, name: str) -> None:
    adversaries, (z, batch) = _adversaries(hide(loss=name, adversaries=3)), _seen()
    for _ in range(10):
        adversaries.learn(z, _noise(), batch)
    before = _error(adversaries, z, batch)
    sent = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(adversaries.penalty(sent, batch), sent)
    step = 0.5 * gradient / gradient.norm()
    assert _error(adversaries, z - step, batch) > before
    assert _error(adversaries, z + step, batch) < before


def test_the_penalty_adds_attributes_and_averages_adversaries(hide: Hide) -> None:
    hiding = hide(attributes={"b": 2, "c": 4}, adversaries=2)
    adversaries, (z, _) = _adversaries(hiding), _seen()
    labels_BA = torch.stack([torch.arange(64) % 2, torch.arange(64) % 4], dim=1)
    heads = adversaries.part.modules
    assert [tuple(head(z).shape) for head in heads.values()] == [(64, 2)] * 2 + [(64, 4)] * 2
    with torch.no_grad():
        seen = [uniform(head(z), labels_BA[:, 0]).item() for head in heads.values()]
        value = adversaries.penalty(z, _batch(labels_BA, "b", "c"))
    assert value.item() == pytest.approx(sum(seen) / 2, rel=1e-5)


def test_labels_are_found_by_name_not_by_place(hide: Hide) -> None:
    hiding = hide(attributes={"b": 2, "c": 4}, loss="reversal")
    adversaries, (z, _) = _adversaries(hiding), _seen()
    labels_BA = torch.stack([torch.arange(64) % 2, torch.arange(64) % 4], dim=1)
    value = adversaries.penalty(z, _batch(labels_BA, "b", "c"))
    assert torch.equal(value, adversaries.penalty(z, _batch(labels_BA.flip(1), "c", "b")))


def test_missing_private_labels_are_asked_for(hide: Hide) -> None:
    adversaries, (z, batch) = _adversaries(hide(attributes={"b": 2, "c": 2})), _seen()
    bare = Batch(batch.inputs, batch.labels)
    for use in (lambda: adversaries.penalty(z, bare), lambda: adversaries.learn(z, _noise(), bare)):
        with pytest.raises(ValueError, match="expected private labels of b, c, got none"):
            use()


# The nets


@pytest.mark.parametrize("shape", [(8, 4, 4), (2, 1, 1), (1, 9, 5), (6,), (5, 7)])
def test_adversaries_take_features_of_any_shape(shape: tuple[int, ...]) -> None:
    nets = [adversary(number, shape, 3) for number in range(3)]
    assert all(net(torch.randn(2, *shape)).shape == (2, 3) for net in nets)
    sizes = [sum(p.numel() for p in net.parameters()) for net in nets]
    assert len(set(sizes)) == 3 or len(shape) != 3  # of flat features the deeper two are alike


def test_adversaries_keep_no_statistics_of_batches() -> None:
    for number in range(3):
        net = adversary(number, SHAPE, 2)
        assert not list(net.buffers())
        z = torch.randn(5, *SHAPE)
        together = deepcopy(net).train()(z)
        assert torch.allclose(together[:1], net.eval()(z[:1]), atol=1e-5)
        assert isinstance(net, nn.Sequential)
