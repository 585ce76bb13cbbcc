"""What is planted is surely there, behind the noise and the codec of the attack.

Dimension key:  N examples   F features
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from eaves.audit.attribute import Budget, attack, control, positive_control
from eaves.audit.findings import Finding
from eaves.audit.knowledge import Exposure
from eaves.audit.leakage import label_control
from eaves.audit.planted import STRENGTH, part_of, planted, share_of
from eaves.audit.trial import Allowance
from eaves.audit.verdict import Control, Planted
from eaves.codecs.base import parse_codec

Build = Callable[..., Exposure]
pytestmark = pytest.mark.usefixtures("one_thread")
ENOUGH = Budget(allowance=Allowance(rounds=10, batch_size=128, time_s=600.0))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def behind(exposure: Exposure, codec: str) -> Exposure:
    path = replace(exposure.path, codec=parse_codec(codec) if codec else None, batch_size=64)
    return replace(exposure, path=path)


def nothing_to_read(
    exposed: Build, *, scale: float = 0.0, shape: tuple[int, ...] = (2, 4, 4)
) -> Exposure:
    features = normal(1700, *shape, seed=1).tanh()
    return exposed(features, torch.arange(1700) % 2, scale=scale)


@pytest.mark.parametrize("codec", ["", "int8", "int2:tensor", "int1:tensor", "int1"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
def test_it_is_there_whatever_the_noise_and_the_codec(
    exposed: Build, codec: str, scale: float
) -> None:
    plant = planted(behind(nothing_to_read(exposed, scale=scale), codec), generator=seeded())
    assert STRENGTH <= plant.strength < 0.999  # there, and not more than it takes
    made = plant.exposure
    assert made.path.codec == behind(made, codec).path.codec
    assert made.mechanism.scale == scale
    assert (len(made.known), len(made.victims)) == (910, 390)  # the attacker's own 1,300 alone
    assert made.classes == 2


@pytest.mark.parametrize("shape", [(7,), (64,), (3, 5), (2, 2, 2)])
def test_it_is_there_in_features_of_any_shape(exposed: Build, shape: tuple[int, ...]) -> None:
    plant = planted(nothing_to_read(exposed, shape=shape, scale=0.5), generator=seeded())
    assert plant.strength >= STRENGTH


def test_it_is_there_in_features_that_say_nothing(exposed: Build) -> None:
    exposure = exposed(torch.zeros(1700, 8), torch.arange(1700) % 2)
    assert planted(exposure, generator=seeded()).strength >= STRENGTH


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_it_is_one_of_two_classes_however_many_the_private_attribute_has(
    exposed: Build, classes: int
) -> None:
    exposure = exposed(normal(1700, 8, seed=1), torch.arange(1700) % classes)
    plant = planted(exposure, generator=seeded())
    assert plant.strength >= STRENGTH
    assert plant.exposure.classes == 2


@pytest.mark.parametrize(("codec", "scale"), [("int8", 1.0), ("int1:tensor", 0.0)])
def test_every_attacker_finds_it(exposed: Build, codec: str, scale: float) -> None:
    exposure = behind(nothing_to_read(exposed, scale=scale), codec)
    events = positive_control(exposure, budget=ENOUGH, generator=seeded())
    found = {event.attacker: event for event in events if isinstance(event, Planted)}
    assert set(found) >= {"deep", "mlp", "linear", "trees", "bayes", "neighbours", "together"}
    for name, one in found.items():
        assert one.passed, (name, one)
        assert one.strength is not None


def test_an_attacker_that_learns_nothing_does_not_find_it(exposed: Build) -> None:
    """One step: the net is as it was drawn."""
    nothing = Budget(allowance=Allowance(rounds=1, batch_size=10_000, time_s=600.0))
    events = positive_control(
        nothing_to_read(exposed), attackers=["deep"], budget=nothing, generator=seeded()
    )
    [found] = [event for event in events if isinstance(event, Planted)]
    assert not found.passed


def test_a_path_that_destroys_everything_lets_nothing_be_found(exposed: Build) -> None:
    """What arrives of the victims is anything, and the attacker does not know."""
    plant = planted(nothing_to_read(exposed), generator=seeded())
    lost = replace(
        plant.exposure,
        victims=replace(plant.exposure.victims, features=normal(390, 1, 2, 4, 4, seed=3)),
    )
    events = attack(lost, attackers=["mlp"], budget=ENOUGH, generator=seeded())
    [found] = [event for event in events if isinstance(event, Finding)]
    assert not Planted.of(found, strength=plant.strength).passed
    assert found.differs  # from what it reads of its own


def test_the_control_with_shuffled_labels_is_for_every_attacker(exposed: Build) -> None:
    private_N = torch.arange(1700) % 2
    exposure = exposed(2.0 * private_N.reshape(-1, 1) + normal(1700, 3, seed=1), private_N)
    events = control(exposure, budget=ENOUGH, generator=seeded())
    shown = [event for event in events if isinstance(event, Control)]
    assert {"deep", "bayes", "neighbours", "together"} <= {one.finding.attacker for one in shown}
    assert all(one.sound for one in shown)


def test_controls_are_on_a_part_and_take_a_part_of_the_time(exposed: Build) -> None:
    features_NF = normal(9000, 3, seed=1)
    exposure = exposed(features_NF, torch.arange(9000) % 2)
    part = part_of(exposure, generator=seeded())
    assert (len(part.known), len(part.victims)) == (2000, 800)
    allowance = Allowance(rounds=7, time_s=100.0)
    less = share_of(exposure, allowance)
    assert less.rounds == 7
    assert less.time_s == pytest.approx(5 + 100 * 2000 / 8600)
    assert share_of(nothing_to_read(exposed), allowance).time_s == 100.0


def test_the_label_tells_what_is_planted_in_it(exposed: Build) -> None:
    features_NF, private_N = normal(1700, 3, seed=1), torch.arange(1700) % 2
    labels_N = torch.randint(3, (1700,), generator=seeded(2))
    told = label_control(exposed(features_NF, private_N, labels=labels_N), generator=seeded())
    assert told is not None
    assert told.passed
    assert told.attack == "labels"
    assert label_control(exposed(features_NF, private_N), generator=seeded()) is None
    several = exposed(features_NF, torch.arange(len(private_N)) % 5, labels=labels_N)
    assert (found := label_control(several, generator=seeded())) is not None
    assert found.passed


def test_an_attribute_that_hardly_anybody_has_is_controlled_too(exposed: Build) -> None:
    """Two of 1,300: in a part of them there may be none, in what is planted there always are."""
    private_N = torch.zeros(1700, dtype=torch.int64)
    private_N[[0, 1, 1000, 1600]] = 1
    exposure = exposed(normal(1700, 3, seed=1), private_N, labels=torch.arange(1700) % 2)
    for seed in range(12):
        part = part_of(exposure, generator=seeded(seed))
        assert set(part.victims.private.tolist()) == {0, 1}
        assert set(part.known.private.tolist()) == {0, 1}
    assert planted(exposure, generator=seeded()).strength >= STRENGTH
    told = label_control(exposure, generator=seeded())
    assert told is not None
    assert told.passed
    shown = list(control(exposure, attackers=["linear"], budget=ENOUGH, generator=seeded()))
    assert isinstance(shown[-1], Control)


def test_wide_features_are_controlled_too(exposed: Build) -> None:
    features = normal(700, 4, 24, 24, seed=1)
    exposure = exposed(features, torch.arange(700) % 2, scale=0.5)
    quick = Budget(allowance=Allowance(rounds=4, batch_size=64, time_s=600.0))
    events = positive_control(
        exposure, attackers=["linear", "bayes"], budget=quick, generator=seeded()
    )
    assert all(event.passed for event in events if isinstance(event, Planted))
