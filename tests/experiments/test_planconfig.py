"""The settings of profiles and plans: what they refuse, and what they come to."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eaves.errors import ConfigError
from eaves.experiments.planconfig import (
    MADE_UP,
    DeviceConfig,
    PlanConfig,
    ProfileConfig,
    parse_shape,
    words,
)
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.planner.devices import DEVICES
from eaves.planner.profile import INPUT, Profile, Subject
from eaves.planner.scenario import Power

PROBED = {"probe": 2}


# Mistakes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exit": "con"}, "unknown exit 'con'; choose from: conv"),
        ({"precision": "fp8"}, "unknown precision 'fp8'; choose from: fp32, bf16"),
        ({"batch_size": 0}, "expected --batch-size of 1 or more, got 0"),
        ({"classes": 1}, "expected --classes of 2 or more, got 1"),
        ({"threads": 0}, "expected --threads of 1 or more, got 0"),
        ({"input": "3x32"}, "expected --input as CxHxW, as in 3x32x32, got '3x32'"),
        ({"data": "digits", "input": "1x8x8"}, "give --data or --input, not both"),
    ],
)
def test_a_profile_that_cannot_be_taken(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        ProfileConfig(**settings)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"components": 0}, "expected --components of 1 or more, got 0"),
        ({"watts": "10"}, "expected --watts as BUSY/IDLE, as in 10/2"),
        ({"watts": "2/10"}, "expected --watts as BUSY/IDLE, as in 10/2"),
    ],
)
def test_a_device_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        DeviceConfig(**settings)
    assert str(refused.value).startswith(message)


def test_watts_of_a_device() -> None:
    assert DeviceConfig(watts="6.5/2").power() == Power(busy_w=6.5, idle_w=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"edge": "rtx-2080"}, "unknown device 'rtx-2080'; choose from: rtx-2080-ti, "),
        ({"cloud": "THIS"}, "unknown device 'THIS'; choose from: this, "),
        ({"edge": "profile.toml"}, "unknown device 'profile.toml'; choose from: "),
        ({"link": "5g"}, "unknown link '5g'; choose from: "),
        ({"link": "0"}, "expected up_bps above 0 bit/s, got 0"),
        ({"link": "1/0"}, "expected down_bps above 0 bit/s, got 0"),
        ({"link": "-1"}, "unknown link '-1'"),
        ({"link": "nan"}, "unknown link 'nan'"),
        ({"link": "3g,energy=1"}, "unknown link option 'energy=1'; choose from: energy=1uJ"),
        ({"methods": "hierachical"}, "unknown method to plan 'hierachical'; choose from: hier"),
        ({"methods": "split,datamix"}, "unknown method to plan 'datamix'; choose from: "),
        ({"methods": "siames", "inference": True}, "unknown method to plan 'siames'; choose from:"),
        ({"methods": "split,split"}, "expected names with commas between, each once, got 'split,"),
        ({"methods": ""}, "expected names with commas between, each once, got ''"),
        ({"cuts": ","}, "expected names with commas between, each once, got ','"),
        ({"objective": "speed"}, "unknown objective 'speed'; choose from: "),
        ({"epochs": 0}, "expected --epochs of 1 or more, got 0"),
        ({"samples": 0}, "expected --samples of 1 or more, got 0"),
        ({"probe": 0}, "expected --probe of 1 or more, got 0"),
        ({"fleet": 0}, "expected --fleet of 1 or more, got 0"),
        ({"adversaries": 0}, "expected --adversaries of 1 or more, got 0"),
        ({"private": "Male,Male"}, "--private names the same attribute twice: Male,Male"),
        ({"methods": "split,priphit", **PROBED}, "priphit hides private attributes: name them to"),
        ({"group": 0}, "expected --group of 1 or more, got 0"),
        ({"components": -1}, "expected --components of 1 or more, got -1"),
        ({"edge_slowdown": 0.0}, "expected --edge-slowdown from 0.0001 to 10000, got 0.0"),
        ({"edge_slowdown": math.nan}, "expected --edge-slowdown from 0.0001 to 10000, got nan"),
        ({"min_accuracy": 1.1, **PROBED}, "expected --min-accuracy from 0 to 1, got 1.1"),
        ({"max_drop": -0.1, **PROBED}, "expected --max-drop from 0 to 1, got -0.1"),
        ({"min_accuracy": 0.5}, "--min-accuracy and --max-drop need --probe"),
        ({"max_drop": 0.0}, "--min-accuracy and --max-drop need --probe"),
        ({"inference": True, **PROBED}, "--probe trains, and --inference plans no training"),
        ({"max_drop": 0.1, "methods": "split", **PROBED}, "--max-drop compares with full-cloud"),
        ({"shared_link": True}, "--shared-link is that of a --fleet"),
        ({"watts": "10"}, "expected --watts as BUSY/IDLE, as in 10/2"),
        ({"watts": ""}, "expected --watts as BUSY/IDLE, as in 10/2"),
        ({"watts": "a/b"}, "expected --watts as BUSY/IDLE, as in 10/2"),
        ({"watts": "10/2/1"}, "expected --watts as BUSY/IDLE, as in 10/2"),
        ({"watts": "2/10"}, "expected --watts as BUSY/IDLE, as in 10/2"),
        ({"watts": "nan/1"}, "expected --watts as BUSY/IDLE, as in 10/2"),
        ({"watts": "inf/1"}, "expected --watts as BUSY/IDLE, as in 10/2"),
        ({"watts": "5/-1"}, "expected --watts as BUSY/IDLE, as in 10/2"),
    ],
)
def test_a_question_that_cannot_be_answered(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        PlanConfig(**settings)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize(
    "name", ["max_memory_mb", "max_bytes", "max_epoch_s", "max_latency_ms", "max_energy_j"]
)
def test_a_limit_is_named_as_it_was_typed(name: str, value: float) -> None:
    settings: dict[str, Any] = {name: value}
    flag = f"--{name.replace('_', '-')}"
    with pytest.raises(ConfigError, match=rf"expected {flag} from 0 to 1e\+15, got {value}"):
        PlanConfig(**settings)


def test_the_least_and_the_most_are_allowed() -> None:
    ProfileConfig(batch_size=1, classes=2, threads=1)
    assert DeviceConfig(components=1).power() is None
    PlanConfig(edge_slowdown=1e-4, epochs=1, samples=1, fleet=1, adversaries=1)
    PlanConfig(edge_slowdown=1e4, max_bytes=0, max_epoch_s=0, min_accuracy=1, max_drop=0, probe=1)
    PlanConfig(methods="datamix, siamese", inference=True, max_latency_ms=0, fleet=2)
    assert PlanConfig(methods="split, full-cloud", max_drop=0.1, probe=1).max_drop == 0.1


# What they come to


def test_limits_in_si_units() -> None:
    config = PlanConfig(
        max_memory_mb=2,
        max_bytes=700,
        max_epoch_s=60,
        max_latency_ms=250,
        max_energy_j=5,
        min_accuracy=0.5,
        max_drop=0.02,
        probe=1,
    )
    limits = config.limits()
    assert (limits.edge_memory_bytes, limits.bytes_per_sample) == (2e6, 700)
    assert (limits.epoch_s, limits.latency_s, limits.energy_j) == (60, 0.25, 5)
    assert (limits.accuracy, limits.accuracy_drop) == (0.5, 0.02)


@pytest.mark.parametrize(
    ("settings", "memory_bytes"),
    [
        ({}, None),
        ({"edge": "jetson-nano"}, 4e9),
        ({"edge": "jetson-nano", "max_memory_mb": 80}, 80e6),
        ({"edge": "jetson-nano", "max_memory_mb": 0}, 0),
        ({"edge": "edge.json", "cloud": "jetson-nano"}, None),
    ],
)
def test_a_preset_edge_has_its_memory(settings: dict[str, Any], memory_bytes: float | None) -> None:
    assert PlanConfig(**settings).limits().edge_memory_bytes == memory_bytes


@pytest.mark.parametrize(
    ("settings", "power"),
    [
        ({}, None),
        ({"edge": "phone"}, None),  # not known
        ({"edge": "jetson-nano"}, DEVICES["jetson-nano"].power),
        ({"cloud": "jetson-nano"}, None),  # it is the edge's energy that counts
        ({"edge": "jetson-nano", "watts": "10/2"}, Power(busy_w=10, idle_w=2)),
        ({"edge": "edge.json", "watts": "6.5/0"}, Power(busy_w=6.5, idle_w=0)),
        ({"watts": "3/3"}, Power(busy_w=3, idle_w=3)),
    ],
)
def test_watts_of_the_edge(settings: dict[str, Any], power: Power | None) -> None:
    assert PlanConfig(**settings).power() == power


def test_choices_of_the_methods() -> None:
    choices = PlanConfig(adversaries=3, group=5, components=7).choices()
    assert (choices.adversaries, choices.group, choices.components) == (3, 5, 7)


def test_what_priphit_hides_in_a_plan() -> None:
    privacy = PlanConfig(private="Male, Young", adversaries=3).privacy()
    assert privacy == PrivacyConfig(private="Male, Young", adversaries=3)
    assert PlanConfig().privacy() == PrivacyConfig()  # the plan counts what training does
    assert PlanConfig().choices().adversary_steps == PrivacyConfig().adversary_steps
    assert PlanConfig(methods="priphit", private="Male", probe=1).probe == 1
    assert PlanConfig(methods="priphit").private == ""  # to be planned alone


# A profile that is there already


def test_what_is_not_given_is_that_of_the_profile(figures: Profile) -> None:
    found = ProfileConfig().of(figures)
    assert (found.net, found.stem, found.input) == ("small", None, "1x8x8")
    assert (found.classes, found.exit, found.batch_size) == (10, "conv", 128)
    assert found.precision == "fp32"
    assert (found.codecs, found.input_codecs) == ("int8,int4+zstd", "raw,png")


def test_what_is_given_too_and_the_same_is_no_difference(figures: Profile) -> None:
    given = ProfileConfig(
        net="small",
        input="1X8X08",
        classes=10,
        exit="conv",
        batch_size=128,
        precision="fp32",
        codecs="int8",
        input_codecs="raw",
        threads=3,
        device="cpu",
    )
    assert given.of(figures) == replace(given, input="1x8x8")


def test_data_have_a_shape_of_their_own(figures: Profile) -> None:
    found = ProfileConfig(data="digits", data_root=Path("root")).of(figures)
    assert (found.data, found.data_root, found.input) == ("digits", Path("root"), None)


def subject(figures: Profile, **changes: Any) -> Profile:
    return replace(figures, subject=replace(figures.subject, **changes))


@pytest.mark.parametrize(
    ("theirs", "ours", "difference"),
    [
        ({"net": "resnet18"}, {"net": "small"}, "net small and resnet18"),
        ({"stem": "cifar"}, {"stem": "imagenet"}, "stem imagenet and cifar"),
        ({}, {"stem": "imagenet"}, "stem imagenet and None"),
        ({"input_shape": (3, 32, 32)}, {"input": "1x8x8"}, "input 1x8x8 and 3x32x32"),
        ({"classes": 100}, {"classes": 10}, "classes 10 and 100"),
        ({"exit": "mlp"}, {"exit": "conv"}, "exit conv and mlp"),
        ({"batch_size": 64}, {"batch_size": 128}, "batch_size 128 and 64"),
        ({"precision": "bf16"}, {"precision": "fp32"}, "precision fp32 and bf16"),
    ],
)
def test_another_profile_than_asked_for_is_refused(
    figures: Profile, theirs: dict[str, Any], ours: dict[str, Any], difference: str
) -> None:
    profile = subject(figures, **theirs)
    ProfileConfig().of(profile)
    with pytest.raises(ConfigError, match=f"is not of what is asked for: {difference}. Leave"):
        ProfileConfig(**ours).of(profile)


def test_all_differences_are_named_at_once(figures: Profile) -> None:
    with pytest.raises(ConfigError, match="net vgg16 and small; batch_size 64 and 128"):
        ProfileConfig(net="vgg16", batch_size=64).of(figures)


def test_no_setting_of_a_profile_is_forgotten() -> None:
    """Whatever makes a profile another one is refused where it differs, or cannot be typed."""
    typed = {"net", "stem", "input_shape", "classes", "batch_size", "precision", "exit"}
    assert set(Subject.__dataclass_fields__) - typed == {"version", "structure"}


def test_payloads_of_other_data_are_refused(figures: Profile) -> None:
    with pytest.raises(ConfigError, match="data cifar10 and digits"):
        ProfileConfig(data="cifar10").of(figures)
    made_up = replace(figures, payloads_from=MADE_UP)  # measured where there are no data
    assert ProfileConfig(data="cifar10").of(made_up).data == "cifar10"


def test_codecs_that_a_profile_does_not_have(figures: Profile) -> None:
    without = replace(figures, codecs={"conv1": (), INPUT: figures.codecs[INPUT][:1]})
    found = ProfileConfig().of(without)
    assert (found.codecs, found.input_codecs) == (None, "raw")
    kept = ProfileConfig(codecs="int2", input_codecs="jpeg").of(figures)
    assert (kept.codecs, kept.input_codecs) == ("int2", "jpeg")  # refused when a plan is made


# Words and shapes


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("int8", ("int8",)),
        (" int8 , int4+zstd ", ("int8", "int4+zstd")),
        ("int8,,int4,", ("int8", "int4")),
    ],
)
def test_words(text: str, found: tuple[str, ...]) -> None:
    assert words(text) == found


@pytest.mark.parametrize("text", ["", " ", ",", "a,a", "a, a"])
def test_no_words(text: str) -> None:
    with pytest.raises(ConfigError, match="expected names with commas between, each once"):
        words(text)


@pytest.mark.parametrize(("text", "shape"), [("1x8x8", (1, 8, 8)), ("3X224X112", (3, 224, 112))])
def test_shapes(text: str, shape: tuple[int, int, int]) -> None:
    assert parse_shape(text) == shape


@pytest.mark.parametrize(
    "text", ["", "3", "3x32", "3x32x32x1", "0x8x8", "-1x8x8", "3x8.5x8", "x8x8"]
)
def test_no_shapes(text: str) -> None:
    with pytest.raises(ConfigError, match="expected --input as CxHxW"):
        parse_shape(text)
