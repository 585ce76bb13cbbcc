"""How a net learns: in whole epochs, within its time, from its own generator alone."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from eaves.audit.knowledge import Exposure
from eaves.audit.learners import drawing_from, learn
from eaves.audit.readers import linear, mlp
from eaves.audit.trial import Allowance, Round, Trial

Build = Callable[..., Exposure]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def trial(exposed: Build) -> Trial:
    private_N = torch.randint(2, (1000,), generator=seeded(1))
    features_NF = torch.randn(1000, 3, generator=seeded(2)) + private_N[:, None]
    return Trial(exposed(features_NF, private_N, scale=0.1), generator=seeded())


def rounds(trial: Trial, allowance: Allowance, seed: int = 0) -> list[Round]:
    generator = seeded(seed)
    with drawing_from(generator):
        net = mlp(trial.shape, 1, 2)
    return list(learn(net, trial, allowance, lr=2e-3, generator=generator))


def test_code_that_knows_the_global_generator_draws_from_another() -> None:
    before, generator = torch.get_rng_state(), seeded()
    with drawing_from(generator):
        first = torch.rand(3)
    with drawing_from(generator):
        second = torch.rand(3)
    with drawing_from(seeded()):
        again = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_a_round_is_an_epoch_and_answers_everybody(trial: Trial) -> None:
    found = rounds(trial, Allowance(rounds=3, batch_size=100, time_s=600.0))
    assert [(at.done, at.total) for at in found] == [(1, 3), (2, 3), (3, 3)]
    for at in found:
        assert at.held_out.shape == (len(trial.held_out), 2)
        assert at.victims.shape == (400, 2)
    for earlier, later in pairwise(found):
        assert not torch.equal(earlier.victims, later.victims)


def test_the_loss_falls(trial: Trial) -> None:
    found = rounds(trial, Allowance(rounds=8, time_s=600.0))
    losses = [float(cross_entropy(at.held_out, trial.held_out_private)) for at in found]
    assert losses[-1] < losses[0]
    assert losses[-1] < 0.6  # log 2 = 0.693 for one that knows nothing


def test_a_generator_gives_the_same_rounds_and_the_global_one_is_left_alone(trial: Trial) -> None:
    before = torch.get_rng_state()
    first, again, other = (
        rounds(trial, Allowance(rounds=2, time_s=600.0), seed) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[-1].victims, again[-1].victims)
    assert not torch.equal(first[-1].victims, other[-1].victims)


def test_a_net_learns_until_its_time_is_over(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = iter(range(10_000))
    monkeypatch.setattr("eaves.audit.pace.perf_counter", lambda: float(next(now_s)))
    # A second for each step, 2 steps of the 6 in an epoch are left for the second one.
    allowance = Allowance(rounds=50, time_s=9.0, batch_size=90)
    found = rounds(trial, allowance)
    assert [(at.done, at.total) for at in found] == [(1, 50), (1, 50)]  # in full


def test_the_rate_rises_then_falls_to_0_with_what_may_be_spent(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW) -> None:
        rates.append(self.param_groups[0]["lr"])
        step(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    rounds(trial, Allowance(rounds=10, batch_size=102, time_s=600.0))
    assert len(rates) == 50
    assert rates[5] == max(rates) == pytest.approx(2e-3, rel=1e-3)
    assert rates[:6] == sorted(rates[:6])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 1e-5


def test_a_last_batch_of_one_example_does_not_stop_it(trial: Trial) -> None:
    """BatchNorm cannot learn from one value; 480 examples in batches of 479 would leave one."""
    assert len(trial.train) == 480
    assert len(rounds(trial, Allowance(rounds=1, batch_size=479))) == 1


def test_dropout_of_a_net_that_is_handed_in_is_off_when_it_answers(trial: Trial) -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = linear((3,), 1, 2)
            self.drop = nn.Dropout(0.5)

        def forward(self, z: Tensor, labels_BL: Tensor) -> Tensor:
            logits_BK: Tensor = self.drop(self.net(z, labels_BL))
            return logits_BK

    found = list(
        learn(Dropping(), trial, Allowance(rounds=1, time_s=600.0), lr=1e-2, generator=seeded())
    )
    assert bool((found[-1].victims != 0).all())
