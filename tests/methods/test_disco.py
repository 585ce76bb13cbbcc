"""DISCO: the pruner, who teaches it, and what it takes away.

Dimension key:  B batch   C channels   K classes
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from eaves.core.net import Normalise, StagedNet
from eaves.core.optimise import OneCycle
from eaves.core.roles import Batch, PrivateLabels
from eaves.errors import ConfigError
from eaves.methods.adversaries import Adversaries
from eaves.methods.disco import AgainstPruner, Pruner, disco, kept, straight_through, through
from eaves.methods.setup import Hiding, Method, Setup
from eaves.privacy.sources import Pseudo

Hide = Callable[..., Hiding]
Toy = Callable[..., Setup]
Bits = Callable[..., Batch]
CPU = torch.device("cpu")


def _pruner_of(method: Method) -> Pruner:
    (pruner,) = (m for m in method.edge_modules["edge"].modules() if isinstance(m, Pruner))
    return pruner


def _silent(z: Tensor) -> Tensor:
    """Return how many channels (B,) are 0 all over."""
    return (z.flatten(2) == 0).all(dim=2).sum(dim=1)


# The mask


def test_the_lowest_scores_are_pruned() -> None:
    scores_BC = torch.tensor([[0.1, -2.0, 5.0, 0.3], [9.0, 8.0, 7.0, 6.0]])
    assert straight_through(scores_BC, 2).tolist() == [[0, 0, 1, 1], [1, 1, 0, 0]]
    assert straight_through(torch.zeros(1, 5), 2).sum() == 2  # equal scores too


def test_the_mask_has_the_gradient_of_a_sigmoid_at_the_threshold() -> None:
    scores_BC = torch.tensor([[0.1, -2.0, 5.0, 0.3]], requires_grad=True)
    weights_BC = torch.tensor([[1.0, 10.0, 100.0, 1000.0]])
    torch.autograd.backward((weights_BC * straight_through(scores_BC, 2)).sum())
    share_BC = (scores_BC.detach() - 0.3).sigmoid()
    expected = weights_BC * share_BC * (1 - share_BC)
    expected[0, 3] -= expected.sum()  # the threshold is itself a score
    assert scores_BC.grad is not None
    assert torch.allclose(scores_BC.grad, expected)


@pytest.mark.parametrize("shape", [(8, 4, 4), (5,), (3, 2, 2), (4, 6)])
def test_what_is_kept_is_kept_as_it_is(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    z = 1 + torch.rand(16, *shape)
    pruned = Pruner(shape)(z).reshape(16, shape[0], -1)
    whole = z.reshape(16, shape[0], -1)
    silent_BC = (pruned == 0).all(dim=2)
    assert (silent_BC.sum(dim=1) == shape[0] - kept(shape[0])).all()
    assert torch.equal(pruned, whole * ~silent_BC[:, :, None])


def test_each_input_has_a_mask_of_its_own() -> None:
    torch.manual_seed(0)
    pruned = Pruner((8, 4, 4))(torch.randn(32, 8, 4, 4).exp())
    assert len(torch.unique((pruned.flatten(2) == 0).all(dim=2), dim=0)) > 1


# Where it prunes


def test_the_pruner_is_a_part_of_the_edge_and_prunes_what_is_sent(
    hide: Hide, toy: Toy, bits: Bits
) -> None:
    method, batch = disco(toy(hide(), width=6)), bits(0)
    method.edge.step(batch)
    sent, _ = method.edge_predictor.predict(batch.inputs)
    assert sent is not None
    assert (_silent(sent) >= 4).all()  # 60 % of 6 channels; a ReLU may silence others
    weights = method.edge_modules["edge"].state_dict()
    assert any(".scores." in name for name in weights)
    assert method.edge.part is not None
    trained = {id(p) for p in method.edge.part.modules.parameters()}
    assert {id(p) for p in _pruner_of(method).parameters()} <= trained


def test_a_bottleneck_of_three_channels_or_more_is_pruned_itself(
    hide: Hide, toy: Toy, bits: Bits
) -> None:
    method = disco(toy(hide(), width=6, bottleneck="3x2x2"))
    sent, _ = method.edge_predictor.predict(bits(0).inputs)
    assert sent is not None
    assert sent.shape == (64, 3, 2, 2)
    assert (_silent(sent) == 2).all()


@pytest.mark.parametrize("channels", [1, 2])
def test_before_a_narrower_one_what_it_is_made_of_is_pruned(
    hide: Hide, toy: Toy, bits: Bits, channels: int
) -> None:
    method, batch = disco(toy(hide(), width=6, bottleneck=channels)), bits(0)
    pruned: list[Tensor] = []
    handle = _pruner_of(method).register_forward_hook(lambda _m, _x, out: pruned.append(out))
    sent, _ = method.edge_predictor.predict(batch.inputs)
    handle.remove()
    assert sent is not None
    assert sent.shape == (64, channels, 4, 4)
    assert pruned[0].shape == (64, 6, 4, 4)
    assert (_silent(pruned[0]) >= 4).all()
    assert (_silent(sent) == 0).all()
    method.edge.step(batch)


def test_too_few_channels_are_refused(hide: Hide, toy: Toy) -> None:
    for setup in (toy(hide(), width=2), toy(hide(), width=2, bottleneck=1)):
        with pytest.raises(ConfigError, match="disco needs 3 channels or more to prune, got 2"):
            disco(setup)


def test_without_adversaries_there_is_nothing_to_prune_against(hide: Hide, toy: Toy) -> None:
    with pytest.raises(ConfigError, match="raise --adversaries to 1 or more"):
        disco(toy(hide(adversaries=0)))


# Who teaches it


def test_through_keeps_the_value_and_the_gradients_chosen() -> None:
    a, b = (torch.randn(3, requires_grad=True) for _ in range(2))
    value = (a.exp() * b).sum()
    found = through(value, [a])
    assert torch.equal(found, value)
    torch.autograd.backward(3 * found)
    assert a.grad is not None
    assert torch.allclose(a.grad, 3 * (a.exp() * b).detach())
    assert b.grad is None


def _opponents(hide: Hide) -> tuple[nn.Sequential, AgainstPruner, Adversaries, Tensor, Batch]:
    """Return an edge with a pruner, and adversaries that have learnt to read it."""
    torch.manual_seed(0)
    conv, pruner = nn.Conv2d(1, 5, 3, padding=1), Pruner((5, 4, 4))
    edge = nn.Sequential(conv, pruner)
    adversaries = Adversaries((5, 4, 4), hide(loss="reversal", adversaries=1), CPU)
    b_B = torch.arange(32) % 2
    x_BCHW = torch.randn(32, 1, 4, 4) + (2 * b_B - 1)[:, None, None, None]
    batch = Batch(x_BCHW, b_B, PrivateLabels(b_B[:, None], ("b",)))
    defence = AgainstPruner(adversaries, pruner)
    for _ in range(20):
        defence.learn(edge(x_BCHW).detach(), Pseudo(), batch)
    return edge, defence, adversaries, x_BCHW, batch


def test_the_penalty_teaches_the_pruner_alone(hide: Hide) -> None:
    edge, defence, adversaries, x_BCHW, batch = _opponents(hide)
    assert defence.part is adversaries.part
    adversaries.part.modules.zero_grad(set_to_none=True)
    penalty = defence.penalty(edge(x_BCHW), batch)
    torch.autograd.backward(penalty)
    assert all(p.grad is None for p in edge[0].parameters())
    assert all(p.grad is None for p in adversaries.part.modules.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in edge[1].parameters())
    assert batch.private is not None
    logits_BK = adversaries.part.modules["0-0"](edge(x_BCHW))
    error = cross_entropy(logits_BK, batch.private.of("b"))
    assert penalty.item() == pytest.approx(-error.item(), rel=1e-4)  # minus: the pruner wants it up


def test_the_gradient_of_the_penalty_is_that_by_the_pruner(hide: Hide) -> None:
    edge, defence, adversaries, x_BCHW, batch = _opponents(hide)
    chosen = list(edge[1].parameters())
    whole = torch.autograd.grad(adversaries.penalty(edge(x_BCHW), batch), chosen)
    alone = torch.autograd.grad(defence.penalty(edge(x_BCHW), batch), chosen)
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(whole, alone, strict=True))


def test_the_exit_and_the_rest_of_the_edge_do_not_hear_of_adversaries(
    hide: Hide, toy: Toy, bits: Bits
) -> None:
    begun = disco(toy(hide(), width=6))
    for i in range(2):
        begun.edge.step(bits(i))
    state = begun.edge.state()
    learnt = []
    for weight in (0.0, 5.0):
        method = disco(toy(hide(weight=weight), width=6))
        method.edge.load_state(state)
        method.edge.step(bits(2))
        pruner = list(_pruner_of(method).parameters())
        of_pruner = {id(p) for p in pruner}
        both = (
            *method.edge_modules["edge"].parameters(),
            *method.edge_modules["exit"].parameters(),
        )
        learnt.append(([p.detach() for p in both if id(p) not in of_pruner], pruner))
    (others, pruner_0), (same, pruner_5) = learnt
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(others, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(pruner_0, pruner_5, strict=True))


# That it works


def _channels(seed: int, n: int = 64) -> Batch:
    """Return 5 channels of one value: 0 and 1 tell the task; 2 both bits; 3 and 4 the private."""
    generator = torch.Generator().manual_seed(seed)
    task_B, private_B = torch.randint(0, 2, (2, n), generator=generator)
    t_B, p_B = 2.0 * task_B - 1, 2.0 * private_B - 1
    x_BC = torch.stack([t_B, t_B, t_B + 2 * p_B, p_B, p_B], dim=1)
    x_BC += 0.3 * torch.randn(n, 5, generator=generator)
    return Batch(x_BC[:, :, None, None], task_B, PrivateLabels(private_B[:, None], ("b",)))


def _one_value_each(hiding: Hiding) -> Setup:
    torch.manual_seed(0)
    stages = [("same", nn.Identity()), ("head", nn.Sequential(nn.Flatten(), nn.Linear(5, 2)))]
    schedule = OneCycle(total_steps=150, lr=0.1)
    return Setup(
        net=StagedNet(stages),
        normalise=Normalise([0.0] * 5, [1.0] * 5),
        input_shape=(5, 1, 1),
        classes=2,
        cut="same",
        bottleneck=None,
        exit="mlp",
        edge_schedule=schedule,
        cloud_schedule=schedule,
        device=CPU,
        hiding=hiding,
    )


def _kept(hiding: Hiding) -> tuple[Tensor, float]:
    """Train; return how often each channel (C,) is kept, and the accuracy of the exit."""
    method = disco(_one_value_each(hiding))
    for i in range(150):
        method.edge.step(_channels(i))
    victims = _channels(10_000, 500)
    sent, early_BK = method.edge_predictor.predict(victims.inputs)
    assert sent is not None
    assert early_BK is not None
    right_B = early_BK.argmax(dim=1) == victims.labels
    return (sent.flatten(2) != 0).any(dim=2).float().mean(dim=0), float(right_B.float().mean())


def test_the_channels_that_tell_the_private_bit_are_pruned(hide: Hide) -> None:
    kept_C, right = _kept(hide(weight=2.0, adversaries=1, ramp_steps=20))
    assert (kept_C[:2] > 0.9).all()
    assert (kept_C[2:] < 0.1).all()
    assert right > 0.95


def test_with_a_weight_of_0_they_are_not(hide: Hide) -> None:
    kept_C, right = _kept(hide(weight=0.0, adversaries=1))
    assert kept_C[2:].sum() > 0.6  # 0.9 here; at most 0.3 above
    assert right > 0.95
