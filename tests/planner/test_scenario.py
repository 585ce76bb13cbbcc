"""What is asked of a plan: candidates in words, and questions that make no sense."""

from dataclasses import replace
from math import inf, nan

import pytest

from eaves.errors import ConfigError
from eaves.planner.profile import Profile
from eaves.planner.scenario import Candidate, Choices, Power, Scenario


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (Candidate(method="full-edge"), "full-edge"),
        (Candidate(method="full-cloud", codec="raw"), "full-cloud raw"),
        (Candidate(method="siamese", cut="a"), "siamese a"),
        (Candidate(method="split", cut="a", codec="int8"), "split a int8"),
        (
            Candidate(method="priphit", cut="a", codec="int8", send="once"),
            "priphit a int8 once",
        ),
    ],
)
def test_a_candidate_in_words(candidate: Candidate, words: str) -> None:
    assert str(candidate) == words


def test_a_candidate_sends_in_one_of_two_ways() -> None:
    with pytest.raises(ConfigError, match=r"unknown send 'twice'; choose from: .*every-epoch"):
        Candidate(method="full-cloud", send="twice")


@pytest.mark.parametrize("name", ["adversaries", "adversary_steps", "group", "components"])
def test_a_choice_is_one_or_more(name: str) -> None:
    assert getattr(replace(Choices(), **{name: 1}), name) == 1
    with pytest.raises(ConfigError, match=f"expected {name} of 1 or more, got 0"):
        replace(Choices(), **{name: 0})


@pytest.mark.parametrize(
    ("busy_w", "idle_w"), [(1.0, 2.0), (1.0, -1.0), (inf, 1.0), (nan, 1.0), (1.0, nan)]
)
def test_watts_that_no_device_has(busy_w: float, idle_w: float) -> None:
    with pytest.raises(ConfigError, match=f"expected watts .* got {busy_w} and {idle_w}"):
        Power(busy_w=busy_w, idle_w=idle_w)


def test_a_device_may_rest_at_the_power_of_work() -> None:
    assert Power(busy_w=2.0, idle_w=2.0).idle_w == 2.0
    assert Power(busy_w=0.0, idle_w=0.0).busy_w == 0.0


@pytest.mark.parametrize(("batches", "epochs"), [(0, 1), (1, 0), (-1, 1)])
def test_nothing_to_do_is_refused(scenario: Scenario, batches: int, epochs: int) -> None:
    with pytest.raises(ConfigError, match=f"1 or more .* got {batches} and {epochs}"):
        replace(scenario, batches=batches, epochs=epochs)
    assert replace(scenario, batches=1, epochs=1).epochs == 1


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"net": "another"}, "net made and another"),
        ({"batch_size": 8}, "batch_size 4 and 8"),
        ({"precision": "bf16"}, "precision fp32 and bf16"),
        ({"structure": "1"}, "structure 0 and 1"),
    ],
)
def test_machines_that_measured_something_else(
    scenario: Scenario, cloud: Profile, other: dict[str, str | int], words: str
) -> None:
    subject = replace(cloud.subject, **other)  # type: ignore[arg-type]  # of several fields
    message = f"the profiles of the edge and the cloud do not belong together: {words}"
    with pytest.raises(ConfigError, match=message):
        replace(scenario, cloud=replace(cloud, subject=subject))


def test_machines_themselves_may_differ(scenario: Scenario, cloud: Profile) -> None:
    other = replace(cloud, machine={"processor": "another"}, payloads_from="elsewhere")
    assert replace(scenario, cloud=other).batch_size == 4
