"""Attacks where the truth is known: what can be read is read, and nothing that cannot be.

Rates of the victims are held against Bayes' rate, which no attacker can beat but by chance: the
tolerance is 4 standard errors, one sound attack in 30,000 would fail it. Seeds are fixed.

Dimension key:  N examples   F features
"""

from collections.abc import Callable
from dataclasses import replace
from math import exp, sqrt

import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from eaves.audit.attribute import ATTACKERS, Budget, attack, control
from eaves.audit.findings import Finding, Progress
from eaves.audit.knowledge import Exposure
from eaves.audit.leakage import label_leakage
from eaves.audit.trial import Allowance
from eaves.audit.verdict import Control
from eaves.codecs.base import parse_codec
from eaves.errors import ConfigError

Build = Callable[..., Exposure]
SHORT = Allowance(rounds=10, batch_size=128, time_s=600.0)  # a busy machine is no failure
FEWER = Allowance(rounds=6, batch_size=256, time_s=600.0)  # steps, where little is to learn
OURS = ("deep", "mlp", "linear", "trees")
QUICK = ("mlp", "linear", "trees")

pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coins(n: int, seed: int, share: float = 0.5) -> Tensor:
    return (torch.rand(n, generator=seeded(seed)) < share).long()


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def one(allowance: Allowance) -> Budget:
    """Return a budget of one seed."""
    return Budget(allowance=allowance, seeds=1)


def findings(
    exposure: Exposure, *attackers: str, allowance: Allowance = SHORT, seed: int = 0
) -> dict[str, Finding]:
    events = attack(exposure, attackers=attackers, budget=one(allowance), generator=seeded(seed))
    return {event.attacker: event for event in events if isinstance(event, Finding)}


def rates(found: dict[str, Finding]) -> dict[str, float]:
    return {name: each.reading.rate.value for name, each in found.items()}


def error(rate: float, n: int) -> float:
    return sqrt(rate * (1 - rate) / n)


# What can be read is read


def test_what_lies_on_a_line_everybody_reads(exposed: Build) -> None:
    features_NF = normal(1200, 4, seed=1)
    private_N = (features_NF @ torch.tensor([1.0, -2.0, 0.5, 0.0]) > 0.5).long()
    found = rates(findings(exposed(features_NF, private_N), *OURS))
    assert set(found) == {*OURS, "together"}
    assert min(found.values()) > 0.9


def test_a_product_is_hidden_from_the_linear_probe_alone(exposed: Build) -> None:
    features_NF = normal(2000, 3, seed=1)
    private_N = (features_NF[:, 0] * features_NF[:, 1] > 0).long()
    found = rates(findings(exposed(features_NF, private_N), *OURS))
    assert found.pop("linear") < 0.75  # a line can cut off one quadrant
    assert min(found.values()) > 0.85


def test_images_of_features_are_read_by_convolutions(exposed: Build) -> None:
    """Bright or dark is one pixel, somewhere: no place by itself tells anything."""
    private_N = coins(1200, 1)
    features_NCHW = torch.zeros(1200, 2, 8, 8)
    places = torch.randint(64, (1200,), generator=seeded(2))
    features_NCHW[:, 0].view(1200, 64)[torch.arange(1200), places] = 2.0 * private_N - 1
    features_NCHW[:, 1] = normal(1200, 8, 8, seed=3)
    found = findings(exposed(features_NCHW, private_N), "deep", allowance=SHORT)
    assert rates(found)["deep"] > 0.9


def test_three_classes_are_read(exposed: Build) -> None:
    private_N = torch.arange(1200) % 3
    features_NF = torch.eye(3)[private_N] + 0.05 * normal(1200, 3, seed=1)
    found = findings(exposed(features_NF, private_N), *QUICK)
    assert min(rates(found).values()) > 0.95
    assert found["mlp"].reading.balanced_chance == pytest.approx(1 / 3)


# No more than can be read


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_noise_holds_attackers_at_the_rate_of_bayes(exposed: Build, law: str) -> None:
    """One value of +-1 under noise of scale 1; the others say nothing."""
    private_N = coins(4000, 1)
    features_NF = torch.zeros(4000, 4)
    features_NF[:, 0] = 2.0 * private_N - 1
    bayes = norm.cdf(1) if law == "gaussian" else 1 - 0.5 * exp(-1)
    exposure = exposed(features_NF, private_N, victims=2000, law=law, scale=1.0)
    found = rates(findings(exposure, *QUICK, allowance=FEWER))
    slack = 4 * error(bayes, 2000)
    for name, rate in found.items():
        assert rate <= bayes + slack, name
        assert rate >= bayes - slack - 0.01, name


def test_what_is_independent_stays_at_chance(exposed: Build) -> None:
    features_NF, private_N = normal(2500, 6, seed=1), coins(2500, 2, 0.35)
    found = findings(exposed(features_NF, private_N, victims=1000), *QUICK)
    for name, each in found.items():
        majority = each.reading.majority
        assert each.reading.rate.value <= majority + 4 * error(majority, 1000), name
        assert abs(each.reading.balanced.value - 0.5) < 4 * 0.5 / sqrt(1000 * 4 * 0.35 * 0.65), name


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_sending_again_gives_away_what_theory_says(exposed: Build, law: str) -> None:
    """The mean of R Gaussian releases has sigma / sqrt(R); for Laplace it is a bound from below."""
    private_N = coins(5000, 1)
    features_NF = (2.0 * private_N - 1).reshape(-1, 1).repeat(1, 2)
    features_NF[:, 1] = 0
    scale = 2.0 if law == "gaussian" else 2.0 / sqrt(2)
    read = {}
    for releases in (1, 9):
        exposure = exposed(
            features_NF, private_N, victims=2000, law=law, scale=scale, releases=releases
        )
        found = findings(exposure, "mlp", allowance=FEWER)["mlp"]
        read[releases] = found.reading.rate.value
        assert found.note == ("" if releases == 1 else "9 releases of each input joined")
    once, often = norm.cdf(1 / 2), norm.cdf(3 / 2)
    if law == "gaussian":
        assert read[1] == pytest.approx(once, abs=4 * error(once, 2000) + 0.01)
        assert read[9] == pytest.approx(often, abs=4 * error(often, 2000) + 0.01)
    else:
        assert read[9] > often  # 0.951 by the median, 0.933 by the mean
        assert read[9] > read[1] + 0.1


# The label


def test_the_label_tells_how_to_read_the_features(exposed: Build) -> None:
    """The private class is label XOR sign: neither tells anything without the other."""
    features_NF, labels_N = normal(2400, 3, seed=1), coins(2400, 2)
    private_N = labels_N ^ (features_NF[:, 0] > 0).long()
    told = rates(findings(exposed(features_NF, private_N, labels=labels_N), "mlp", "trees"))
    assert min(told.values()) > 0.85
    untold = findings(exposed(features_NF, private_N), "mlp")["mlp"]
    assert not untold.reading.beats_chance


def test_what_the_label_gives_away_every_attacker_has(exposed: Build) -> None:
    private_N = coins(2400, 1)
    labels_N = torch.where(coins(2400, 2, 0.8).bool(), private_N, 1 - private_N)
    exposure = exposed(normal(2400, 3, seed=3), private_N, labels=labels_N, victims=1000)
    leaked = label_leakage(exposure).reading.rate.value
    assert leaked == pytest.approx(0.8, abs=4 * error(0.8, 1000))
    for name, rate in rates(findings(exposure, *QUICK)).items():
        assert rate == pytest.approx(leaked, abs=0.03), name


def test_a_rare_class_is_seen_by_balanced_accuracy(exposed: Build) -> None:
    """At 5 % of the examples the likeliest class is always the other one."""
    private_N = coins(4000, 1, 0.05)
    features_NF = private_N.reshape(-1, 1) + 0.8 * normal(4000, 1, seed=2)
    found = findings(exposed(features_NF, private_N, victims=1500), "linear")["linear"].reading
    assert found.rate.value == pytest.approx(found.majority, abs=0.02)
    bayes = norm.cdf(0.5 / 0.8)
    assert found.balanced.value == pytest.approx(bayes, abs=0.08)
    assert found.balanced.low > found.balanced_chance
    assert found.beats_chance


# The control


def test_the_control_sits_at_chance_where_all_is_given_away(exposed: Build) -> None:
    """Half of the victims in each class, and two features: see :meth:`Exposure.shuffled`."""
    private_N = torch.arange(1400) % 2
    exposure = exposed((2.0 * private_N - 1).reshape(-1, 1), private_N)
    assert rates(findings(exposure, "linear"))["linear"] == 1.0
    for seed in range(6):
        events = list(
            control(exposure, attackers=["linear"], budget=one(SHORT), generator=seeded(seed))
        )
        shown = events.pop()
        assert isinstance(shown, Control)
        assert shown.sound, shown.statement
        assert all(isinstance(event, Progress) for event in events)


def test_the_control_finds_an_audit_that_looks_at_the_answers(
    exposed: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shuffle that leaves all as it is stands for labels that slip into what attackers see."""
    private_N = coins(1000, 1)
    exposure = exposed(private_N.float().reshape(-1, 1), private_N)
    monkeypatch.setattr(Exposure, "shuffled", lambda self, generator: self)
    shown = list(control(exposure, attackers=["mlp"], budget=one(SHORT), generator=seeded()))[-1]
    assert isinstance(shown, Control)
    assert not shown.sound
    assert "the audit itself is broken" in shown.statement


# The attack as a whole


def cloud(classes: int = 2) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        conv = nn.Conv2d(2, 8, 3, padding=1)
        pool = nn.AdaptiveAvgPool2d(1)
        return nn.Sequential(
            conv, nn.BatchNorm2d(8), nn.ReLU(), pool, nn.Flatten(), nn.Linear(8, classes)
        )


@pytest.fixture
def small(exposed: Build) -> Exposure:
    private_N = coins(1000, 1)
    features_NCHW = normal(1000, 2, 4, 4, seed=2) + (2.0 * private_N - 1).reshape(-1, 1, 1, 1)
    return exposed(features_NCHW, private_N, scale=0.5)


def test_all_attackers_report_in_order(small: Exposure) -> None:
    events = list(
        attack(
            small, cloud=cloud(), generator=seeded(), budget=one(Allowance(rounds=4, time_s=600.0))
        )
    )
    order = [event.attacker for event in events if isinstance(event, Finding)]
    assert order == [*ATTACKERS, "together"]
    ways = {"bayes": 11, "neighbours": 2 * 5}  # of answering: these have no rounds
    for name in ATTACKERS:
        total = ways.get(name, 4)
        steps = [e for e in events if isinstance(e, Progress) and e.attacker == name]
        assert [(e.done, e.total) for e in steps] == [(i + 1, total) for i in range(total)]
        found = next(e for e in events if isinstance(e, Finding) and e.attacker == name)
        assert found.held_out == max(e.figure for e in steps)
        assert (found.effort.known, found.effort.rounds) == (600, total)
        assert (found.effort.planned, found.effort.ended_by_time) == (total, False)
        assert found.effort.time_s > 0
        assert (found.attack, found.attribute) == ("attribute", "Male")
        assert found.reading.rate.n == 400
    together = events[-1]
    assert isinstance(together, Finding)
    assert together.effort.rounds == 4 * 5 + 11 + 10


def test_a_net_that_is_handed_in_stays_as_it_is_and_learns_as_a_copy(small: Exposure) -> None:
    net = cloud()
    before = {name: weight.clone() for name, weight in net.state_dict().items()}
    events = list(
        attack(small, cloud=net, attackers=["cloud"], budget=one(SHORT), generator=seeded())
    )
    found = events[-1]
    assert isinstance(found, Finding)
    assert found.attacker == "cloud"  # of one attacker there is no vote
    assert found.reading.rate.value > 0.9
    assert all(torch.equal(weight, before[name]) for name, weight in net.state_dict().items())
    assert net.training


def test_without_a_net_of_the_cloud_the_others_attack(small: Exposure) -> None:
    events = attack(small, generator=seeded(), budget=one(Allowance(rounds=1, time_s=600.0)))
    order = [event.attacker for event in events if isinstance(event, Finding)]
    assert order == [*OURS, "bayes", "neighbours", "together"]


def test_cheap_attackers_have_several_seeds_and_one_of_them_is_chosen(small: Exposure) -> None:
    """Chosen by what is held out: its figure is the highest of all rounds of all seeds."""
    budget = Budget(allowance=Allowance(rounds=2, batch_size=512, time_s=600.0))
    events = list(
        attack(small, attackers=["mlp", "trees", "bayes"], budget=budget, generator=seeded())
    )
    found = {event.attacker: event for event in events if isinstance(event, Finding)}
    assert [len(found[name].seeds) for name in ("mlp", "trees", "bayes")] == [3, 0, 0]
    assert found["mlp"].reading.rate.value in found["mlp"].seeds
    figures = [e.figure for e in events if isinstance(e, Progress) and e.attacker == "mlp"]
    assert len(figures) == 6
    assert found["mlp"].held_out == max(figures)
    asked = Budget(allowance=budget.allowance, seeds=2)
    assert [asked.seeds_of(name) for name in ("mlp", "cloud", "trees", "bayes")] == [2, 2, 2, 1]


def test_an_attacker_that_time_ends_says_so(small: Exposure) -> None:
    """Its rounds are those that were made in full, and no other seed is begun."""
    hurried = Budget(allowance=Allowance(rounds=50, batch_size=64, time_s=1e-6), seeds=3)
    events = attack(small, attackers=["mlp", "linear"], budget=hurried, generator=seeded())
    for found in (event for event in events if isinstance(event, Finding)):
        assert found.effort.ended_by_time
        assert found.effort.rounds == 0
        assert found.seeds == ()
        assert found.as_json()["effort"]["planned"] == (100 if found.attacker == "together" else 50)


def test_who_learns_from_other_features_than_the_victims_sent_is_found_out(exposed: Build) -> None:
    """The fault of the kind: the victims' features went through a codec, the attacker's did not."""
    private_N = coins(4000, 1)
    features_NF = 0.15 * normal(4000, 16, seed=2)
    features_NF[:, 0] += 0.2 * private_N - 0.1
    features_NF[:, 1] = 1.0 * (torch.arange(4000) % 16 == 0)  # takes the range of a batch along
    bare = exposed(features_NF, private_N, victims=1500)
    through = replace(bare.path, codec=parse_codec("int1:tensor"))
    sent = through.seen(bare.victims.features[:, 0], releases=1, generator=seeded())
    skipped = replace(bare, victims=replace(bare.victims, features=sent.unsqueeze(1)))
    assert findings(skipped, "linear")["linear"].differs
    fair = findings(replace(skipped, path=through), "linear")["linear"]
    assert not fair.differs


def test_the_same_generator_finds_the_same(small: Exposure) -> None:
    before = torch.get_rng_state()
    allowance = Allowance(rounds=2, time_s=600.0)
    first, again, other = (
        findings(small, "mlp", "linear", allowance=allowance, seed=seed) for seed in (3, 3, 4)
    )
    assert torch.equal(torch.get_rng_state(), before)
    for name in first:
        assert first[name].reading == again[name].reading
        assert first[name].held_out == again[name].held_out
    assert any(first[name].held_out != other[name].held_out for name in first)


def test_the_round_is_chosen_by_the_held_out_examples(small: Exposure) -> None:
    """Private labels of victims that say the opposite change no choice, only the score."""
    straight = findings(small, "mlp", seed=1)["mlp"]
    opposite = replace(small.victims, private=1 - small.victims.private)
    flipped = replace(small, victims=opposite)
    turned = findings(flipped, "mlp", seed=1)["mlp"]
    assert turned.held_out == straight.held_out
    assert turned.reading.rate.value == pytest.approx(1 - straight.reading.rate.value)


@pytest.mark.parametrize(
    ("attackers", "net", "words"),
    [
        (["depp"], None, "unknown attacker 'depp'; choose from: deep"),
        (["cloud"], None, "'cloud' needs a net"),
        (["cloud"], cloud(3), r"with 2 answers, .* of Male, got logits of shape \(2, 3\)"),
    ],
)
def test_attackers_that_cannot_be_are_refused(
    small: Exposure, attackers: list[str], net: nn.Module | None, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        next(attack(small, attackers=attackers, cloud=net, generator=seeded()))


def test_features_without_a_shield_are_the_upper_bound(exposed: Build) -> None:
    private_N = coins(2000, 1)
    features_NF = (2.0 * private_N - 1).reshape(-1, 1) + 0.5 * normal(2000, 1, seed=2)
    shielded, bare = (
        findings(exposed(features_NF, private_N, victims=1000, scale=s), "linear")["linear"]
        for s in (3.0, 0.0)
    )
    assert bare.reading.rate.low > shielded.reading.rate.high
