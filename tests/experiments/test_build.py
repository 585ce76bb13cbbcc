from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from eaves.core.methods import METHODS, PROTECTING
from eaves.errors import ConfigError, CutError, DataError
from eaves.experiments.build import build_job, pick_device
from eaves.experiments.config import CHOICES, TrainConfig
from eaves.experiments.privacyconfig import PrivacyConfig

TINY = TrainConfig(train_samples=64, batch_size=16, epochs=3)
HIDDEN = replace(TINY, data="digits:parity", privacy=PrivacyConfig(private="high"))


def mlp(classes: int = 10) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, classes))


def test_the_table_of_methods_is_the_one_that_configurations_know() -> None:
    assert tuple(METHODS) == CHOICES["method"]


@pytest.mark.parametrize("method", METHODS)
def test_a_job_knows_its_steps_and_its_cut(method: str) -> None:
    job = build_job(replace(HIDDEN if method in PROTECTING else TINY, method=method))
    assert (job.epoch_steps, job.edge_steps, job.cloud_steps) == (4, 12, 12)
    cut = {"full-cloud": None, "full-edge": None, "siamese": "conv3"}.get(method, "conv2")
    assert job.cut == cut
    assert job.augment == job.dataset.augment
    assert job.wire.codec.name == ("raw" if method == "full-cloud" else "int8+zstd")
    assert job.wire.reply_codec.name == "fp16:scaled"


def test_steps_are_capped_and_the_cloud_has_its_own() -> None:
    job = build_job(replace(TINY, send="once", cloud_epochs=7, copies=2))
    assert (job.edge_steps, job.cloud_steps) == (12, 28)
    capped = build_job(replace(TINY, max_steps=5))
    assert (capped.edge_steps, capped.cloud_steps) == (5, 5)
    assert build_job(replace(TINY, augment="none")).augment == "none"


@pytest.mark.parametrize("method", METHODS)
def test_what_is_chosen_for_methods_that_hide_and_for_others(method: str) -> None:
    """Adam and an exit that looks at each value, where the cut is narrow; else as ever."""
    hides = method in PROTECTING
    base = replace(HIDDEN if hides else TINY, method=method)
    part = build_job(base).method.edge.part
    plain, other = ("adam", "sgd") if hides else ("sgd", "adam")
    rates = {"adam": 0.002, "sgd": 0.1}
    if part is not None:
        assert (part.schedule.optimiser, part.schedule.lr) == (plain, rates[plain])
    told = build_job(replace(base, optimiser=other)).method.edge.part
    if told is not None:
        assert (told.schedule.optimiser, told.schedule.lr) == (other, rates[other])
    slower = build_job(replace(base, lr=0.003)).method.edge.part
    assert slower is None or slower.schedule.lr == 0.003
    assert (part is None) == (method == "full-cloud")


@pytest.mark.parametrize(("base", "kind"), [(TINY, "conv"), (HIDDEN, "mlp")])
def test_the_exit_that_is_chosen(base: TrainConfig, kind: str) -> None:
    method = "hierarchical" if base is TINY else "priphit"

    def layers(wanted: str) -> list[str]:
        head = build_job(replace(base, method=method, exit=wanted)).method.edge_modules["exit"]
        return [type(module).__name__ for module in head.modules()]

    assert layers("auto") == layers(kind) != layers("linear")


def test_only_what_hides_says_what_is_proven() -> None:
    assert build_job(replace(HIDDEN, method="hierarchical")).privacy is None
    facts = build_job(replace(HIDDEN, method="priphit", bottleneck="2x2x2")).privacy
    assert facts is not None
    assert (facts["private"], facts["values"], facts["releases"]) == (["high"], 8, 1)


def test_weights_follow_from_the_seed() -> None:
    def weights(seed: int) -> torch.Tensor:
        part = build_job(replace(TINY, seed=seed)).method.edge.part
        assert part is not None
        return torch.cat([p.detach().flatten() for p in part.modules.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"net": "smal"}, ConfigError, "unknown net 'smal'; choose from: small, "),
        ({"cut": "conv9"}, CutError, "unknown cut 'conv9'; choose from: conv1, conv2, conv3"),
        ({"data": "digit"}, ConfigError, "unknown data set 'digit'; choose from: digits, "),
        ({"codec": "int9"}, ConfigError, "unknown codec stage 'int9'; choose from: int"),
        (
            {"feature_augment": "flip", "send": "once", "bottleneck": "4x1x1"},
            ConfigError,
            "--feature-augment flip is for feature maps .* those at this cut are 4x1x1: leave it",
        ),
        ({"bottleneck": 64}, ConfigError, "expected a bottleneck of 1 to 63 channels"),
        ({"net": "vgg16"}, ConfigError, "vgg16 needs images of at least 32x32"),
        ({"image_size": 64}, ConfigError, "digits"),
        ({"device": "tpu"}, ConfigError, "expected --device cpu, cuda, cuda:N or auto, got 'tpu'"),
        ({"batch_size": 1}, ConfigError, "a batch of 1 cannot be trained with BatchNorm"),
        ({"train_samples": 1}, ConfigError, "a batch of 1 cannot be trained with BatchNorm"),
        ({"data": "cifar10"}, DataError, "no data root is given"),
        (
            {"method": "priphit", "privacy": PrivacyConfig(private="high")},
            ConfigError,
            "private attribute high follows from the task's label",
        ),
        (
            {"data": "digits:parity", "privacy": PrivacyConfig(private="hihg")},
            ConfigError,
            "unknown private attribute 'hihg'; choose from: high",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.delenv("EAVES_DATA", raising=False)
    with pytest.raises(error, match=message):
        build_job(replace(TINY, **changes))


def test_a_net_of_your_own_is_used() -> None:
    net = mlp()
    job = build_job(replace(TINY, net="own:Sequential", cut="1"), net)
    own = {id(p) for p in net.parameters()}
    halves = [*job.method.edge_modules.values(), *job.method.cloud_modules.values()]
    assert own <= {id(p) for half in halves for p in half.parameters()}


def test_a_net_of_your_own_needs_a_cut_and_the_right_answer() -> None:
    config = replace(TINY, net="own:Sequential")
    with pytest.raises(ConfigError, match="name a --cut for own:Sequential: 0, 1, 2"):
        build_job(config, mlp())
    with pytest.raises(ConfigError, match=r"answers 10 logits for digits, this one answers \(7,\)"):
        build_job(replace(config, cut="1"), mlp(7))


@pytest.mark.parametrize("method", ["hierarchical", "full-edge"])
def test_a_batch_of_one_is_fine_without_batchnorm(method: str) -> None:
    config = replace(TINY, net="own:Sequential", method=method, cut="1", batch_size=1)
    assert build_job(config, mlp()).epoch_steps == 64


def test_a_batch_of_one_is_refused_where_only_the_bottleneck_normalises() -> None:
    config = replace(TINY, net="own:Sequential", cut="1", batch_size=1, bottleneck=4)
    with pytest.raises(ConfigError, match="a batch of 1 cannot be trained with BatchNorm"):
        build_job(config, mlp())


def test_devices_are_named() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    count = torch.cuda.device_count()
    with pytest.raises(ConfigError, match=f"this machine has {count} CUDA devices"):
        pick_device(f"cuda:{count}")
    with pytest.raises(ConfigError, match="expected --device"):
        pick_device("meta")


_LARGE = nn.Sequential(nn.Conv2d(3, 4, 9), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


@pytest.mark.parametrize(
    ("changes", "net"),
    [
        ({"net": "own:Sequential"}, _LARGE),  # three channels
        ({"net": "own:Sequential"}, nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))),
        ({"net": "own:Sequential"}, mlp(classes=7)),
        ({"net": "vgg16"}, None),
    ],
)
def test_where_data_were_forgotten_that_is_said_first(
    changes: dict[str, str], net: nn.Module | None
) -> None:
    says = r"^\S+ does not fit the handwritten digits, the default data \(1x8x8, 10 classes\): name"
    with pytest.raises(ConfigError, match=rf"{says} yours with --data \(data=... in Python\)"):
        build_job(replace(TINY, **changes), net)  # type: ignore[arg-type]


def test_where_data_were_named_the_net_speaks_for_itself() -> None:
    config = replace(TINY, data="digits:parity", net="own:Sequential", cut="1")
    with pytest.raises(ConfigError, match=r"^expected a net that answers 2 logits"):
        build_job(config, mlp(classes=7))
