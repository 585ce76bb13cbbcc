"""Take a profile as its settings say: data, net and conditions, put together."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from math import prod
from typing import Any, final

import torch

from eaves import __version__
from eaves.codecs.base import parse_codec
from eaves.core.net import Normalise
from eaves.core.optimise import OneCycle
from eaves.core.roles import Batch
from eaves.data.batches import batches
from eaves.data.load import load_dataset
from eaves.data.source import Source, channel_stats
from eaves.data.synthetic import made_up
from eaves.errors import ConfigError
from eaves.experiments.build import pick_device
from eaves.experiments.config import TrainConfig
from eaves.experiments.planconfig import (
    CODECS,
    INPUT_CODECS,
    MADE_UP,
    ProfileConfig,
    parse_shape,
    words,
)
from eaves.experiments.record import hardware, versions
from eaves.nets.build import build_net
from eaves.planner.measure import Conditions, measure
from eaves.planner.profile import Profile
from eaves.runtime.process import set_up

_BATCHES_MADE_UP = 4
_MOST_VALUES = 2**30  # of all synthetic images: they pass through memory as some 16 bytes each
_STEPS = 10_000  # of a schedule whose rate has hardly begun to rise: no step of ours may diverge


@final
@dataclass(frozen=True)
class _Material:
    """What the net is measured on."""

    source: Source
    classes: int
    augment: str
    payloads_from: str
    samples: int | None


def take_profile(
    config: ProfileConfig, *, timed: bool = True, together: bool = True, budget_s: float = 10.0
) -> Iterator[str | Profile]:
    """Yield what is being done, and at last the profile; see :func:`eaves.planner.measure.measure`.

    Raises:
        ConfigError: a name or combination that cannot work.
        DataError: the data set is missing or damaged.
    """
    set_up(config.threads)
    torch.manual_seed(0)
    size, net_name = config.batch_size or 128, config.net or "small"
    material = _material(config, size)
    shape = material.source.input_shape
    net = build_net(net_name, classes=material.classes, input_shape=shape, stem=config.stem)
    device = pick_device(config.device)
    conditions = Conditions(
        net=net_name,
        stem=config.stem,
        classes=material.classes,
        exit=config.exit or "conv",
        schedule=OneCycle(total_steps=_STEPS, precision=config.precision or "fp32"),
        device=device,
        codecs=_codecs("--codecs", config.codecs or CODECS, torch.float32),
        input_codecs=_codecs("--input-codecs", config.input_codecs or INPUT_CODECS, torch.uint8),
        reply_codec=TrainConfig.reply_codec,
        version=__version__,
        machine=_machine(config, device),
        payloads_from=material.payloads_from,
        samples=material.samples,
        timed=timed,
        together=together,
        budget_s=budget_s,
    )
    normalise = Normalise(*channel_stats(material.source))
    yield from measure(net, normalise, _endless(material, size), conditions)


def _material(config: ProfileConfig, batch_size: int) -> _Material:
    if config.data is None:
        classes, shape = config.classes or 10, parse_shape(config.input or "3x32x32")
        if _BATCHES_MADE_UP * batch_size * prod(shape) > _MOST_VALUES:
            raise ConfigError(
                f"batches of {batch_size} inputs of {'x'.join(map(str, shape))} are too large to "
                "make up: lower --input or --batch-size"
            )
        generator = torch.Generator().manual_seed(0)
        source = made_up(_BATCHES_MADE_UP * batch_size, shape, classes, generator=generator)
        return _Material(source, classes, "none", MADE_UP, None)
    dataset = load_dataset(config.data, root=config.data_root)
    found, wanted = len(dataset.classes), config.classes or len(dataset.classes)
    if wanted < found:
        raise ConfigError(f"{config.data} has {found} classes, got --classes {wanted}")
    return _Material(dataset.train, wanted, dataset.augment, config.data, len(dataset.train))


def _machine(config: ProfileConfig, device: torch.device) -> dict[str, Any]:
    """Return what was measured: a GPU that lies idle is not named."""
    facts = {**hardware(config.threads), **versions()}
    return facts if device.type == "cuda" else facts | {"gpu": None}


def _codecs(flag: str, text: str, dtype: torch.dtype) -> tuple[str, ...]:
    """Return the canonical names, so that ``int8`` and its long form are the same."""
    found = [parse_codec(word) for word in words(text)]
    for codec in found:
        if codec.dtype != dtype:
            kind = "features" if dtype == torch.float32 else "images"
            raise ConfigError(f"expected {flag} for {kind}, got {codec.name!r}")
    return tuple(dict.fromkeys(codec.name for codec in found))


def _endless(material: _Material, size: int) -> Iterator[Batch]:
    """Return training batches, epoch after epoch."""
    for epoch in count():
        yield from batches(
            material.source, batch_size=size, seed=0, epoch=epoch, augment=material.augment
        )
