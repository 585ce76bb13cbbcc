"""A profile as its settings say: data, net and conditions, put together."""

from typing import Any

import pytest

from eaves import __version__
from eaves.errors import ConfigError, DataError
from eaves.experiments import profiling
from eaves.experiments.build import build_job
from eaves.experiments.config import TrainConfig
from eaves.experiments.planconfig import MADE_UP, ProfileConfig
from eaves.experiments.profiling import take_profile
from eaves.planner.devices import DEVICES, preset
from eaves.planner.profile import Profile, parse_profile, reply_to

SMALL: dict[str, Any] = {"input": "1x8x8", "batch_size": 8, "codecs": "int8", "device": "cpu"}


def taken(*, timed: bool = False, together: bool = False, **settings: Any) -> Profile:
    """Return the profile; what comes before it is said in words."""
    config = ProfileConfig(**settings)
    *said, last = take_profile(config, timed=timed, together=together, budget_s=0.0)
    assert isinstance(last, Profile)
    assert said
    assert all(isinstance(event, str) and event for event in said)
    return last


# What is measured


def test_with_no_settings_it_is_the_small_net_on_images_made_up() -> None:
    found = taken(batch_size=4, codecs="int8")  # the rest by default
    subject = found.subject
    assert (subject.net, subject.stem, subject.input_shape) == ("small", None, (3, 32, 32))
    assert (subject.classes, subject.exit, subject.precision) == (10, "conv", "fp32")
    assert (found.payloads_from, found.samples) == (MADE_UP, None)
    assert subject.version == __version__


def test_with_data_it_is_on_them() -> None:
    found = taken(data="digits", codecs="int8", batch_size=32)
    assert found.subject.input_shape == (1, 8, 8)
    assert found.subject.classes == 10
    assert (found.payloads_from, found.samples) == ("digits", 1_437)


def test_settings_are_those_of_the_subject() -> None:
    found = taken(
        net="resnet18",
        stem="imagenet",
        input="3x32x48",
        classes=7,
        exit="linear",
        batch_size=4,
        precision="bf16",
        codecs="int8",
    ).subject
    assert (found.net, found.stem, found.input_shape) == ("resnet18", "imagenet", (3, 32, 48))
    assert (found.classes, found.exit, found.batch_size) == (7, "linear", 4)
    assert found.precision == "bf16"


def test_the_profile_is_of_the_net_that_is_trained() -> None:
    """Weights of every stage, those of Normalise included: none are missing, none too many."""
    found = taken(data="digits", codecs="int8", batch_size=32)
    method = build_job(TrainConfig(method="full-edge", device="cpu")).method
    own = sum(p.numel() for m in method.edge_modules.values() for p in m.parameters())
    assert sum(stage.params for stage in found.stages) == own


def test_more_classes_than_the_data_have_and_not_fewer() -> None:
    found = taken(data="digits", classes=12, codecs="int8", batch_size=16)
    assert found.stages[-1].output_shape == (12,)
    assert all(head.output_shape == (12,) for head in found.exits.values())
    with pytest.raises(ConfigError, match="digits has 10 classes, got --classes 9"):
        taken(data="digits", classes=9)


def test_data_of_less_than_a_batch_are_one_short_batch() -> None:
    assert taken(data="digits", codecs="int8", batch_size=2_000).subject.batch_size == 1_437


def test_codecs_by_their_short_names_and_once_each() -> None:
    settings = {**SMALL, "codecs": "int8:tensor,int8, int4+zstd", "input_codecs": "raw,jpeg:50"}
    found = taken(**settings)
    names = {where: [cost.codec for cost in costs] for where, costs in found.codecs.items()}
    assert names["input"] == ["raw", "jpeg:50"]
    for cut in found.cuts:
        assert names[cut] == ["int8", "int4+zstd"]
        assert names[reply_to(cut)] == ["fp16:scaled"]
    defaults = taken(**{**SMALL, "codecs": None})
    names = {where: [cost.codec for cost in costs] for where, costs in defaults.codecs.items()}
    assert names["conv1"] == ["int8", "int8+zstd", "int4+zstd", "int2+zstd"]
    assert names["input"] == ["raw"]


def test_made_up_images_and_first_weights_are_always_the_same() -> None:
    first, second = taken(**SMALL), taken(**SMALL)
    assert first.subject == second.subject
    sizes = [
        {where: [cost.bytes_per_sample for cost in costs] for where, costs in found.codecs.items()}
        for found in (first, second)
    ]
    assert sizes[0] == sizes[1]
    assert sizes[0]["conv1"][0] > 32 * 8 * 8  # a byte for each value, and the label


# Times


def test_without_the_clock_it_serves_presets() -> None:
    found = taken(**SMALL)
    assert not found.measured
    assert found.contention == 1
    device = preset(found, DEVICES["phone"])
    assert device.measured
    assert all(cost.encode.median_s > 0 for costs in device.codecs.values() for cost in costs)


@pytest.mark.parametrize("together", [False, True])
def test_with_the_clock_every_time_is_there(together: bool) -> None:
    found = taken(timed=True, together=together, **SMALL)
    assert found.measured
    for stage in (*found.stages, *found.exits.values()):
        assert stage.times is not None
        assert min(stage.times.forward.median_s, stage.times.backward.median_s) > 0
    assert found.fetch.median_s > 0
    assert found.contention == 1 or together  # which slows them down, or not
    assert parse_profile(found.to_json(), "-") == found


def test_a_gpu_that_lies_idle_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"cpu": "A CPU", "cores": 2, "threads_per_side": 1, "gpu": "A GPU"}
    monkeypatch.setattr(profiling, "hardware", lambda threads: facts)
    machine = taken(**SMALL).machine
    assert (machine["cpu"], machine["gpu"]) == ("A CPU", None)
    assert machine["eaves"] == __version__


# What cannot be


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"net": "resnet8"}, "unknown net 'resnet8'; choose from: resnet18"),
        ({"stem": "cifar"}, "small has no choice of stem"),
        ({"codecs": "int9"}, "unknown codec stage 'int9'; choose from: int"),
        ({"codecs": "int8,raw"}, "expected --codecs for features, got 'raw'"),
        ({"codecs": "int8,int8"}, "expected names with commas between, each once"),
        ({"input_codecs": "int8"}, "expected --input-codecs for images, got 'int8'"),
        ({"device": "tpu"}, "expected --device cpu, cuda, cuda:N or auto, got 'tpu'"),
        ({"input": "3x40000x40000"}, "expected an --input of at most 67,108,864 values, got"),
        ({"batch_size": 10**9}, "expected --batch-size from 1 to 1,000,000, got 1,000,000,000"),
    ],
)
def test_a_profile_that_cannot_be_taken(settings: dict[str, Any], message: str) -> None:
    """Every one at once, and before much memory is taken."""
    with pytest.raises(ConfigError) as refused:
        taken(**{**SMALL, **settings})
    assert str(refused.value).startswith(message)


def test_data_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EAVES_DATA", raising=False)
    with pytest.raises(DataError, match="EAVES_DATA"):
        taken(data="cifar10")
    with pytest.raises(ConfigError, match="unknown data set 'cifar'"):
        taken(data="cifar")
