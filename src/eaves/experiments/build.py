"""From a configuration to the objects of a run: data, net, method, wire."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from eaves.codecs.base import Codec, parse_codec
from eaves.core.net import Normalise, StagedNet, output_shape, staged
from eaves.core.optimise import OneCycle
from eaves.data.batches import steps_per_epoch
from eaves.data.load import load_dataset
from eaves.data.source import Dataset, Interface
from eaves.errors import ConfigError
from eaves.experiments.config import TrainConfig
from eaves.methods.baselines import full_cloud, full_edge, split_learning
from eaves.methods.hierarchical import hierarchical
from eaves.methods.setup import Method, Setup
from eaves.nets.build import NETS, build_net
from eaves.runtime.traffic import Wire

METHODS: dict[str, Callable[[Setup], Method]] = {
    "hierarchical": hierarchical,
    "full-cloud": full_cloud,
    "full-edge": full_edge,
    "split": split_learning,
}


@final
@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that a run needs, built and checked; how many steps each side will take."""

    config: TrainConfig
    dataset: Dataset
    augment: str
    method: Method
    wire: Wire
    cut: str | None
    epoch_steps: int
    edge_steps: int
    cloud_steps: int


def build_job(config: TrainConfig, net: nn.Module | None = None) -> Job:
    """Load the data, build the net (or take ``net``) and the method.

    Raises:
        ConfigError: a name or combination that cannot work.
        DataError: the data set is missing or damaged.
    """
    wire = wire_of(config)
    dataset = load_dataset(
        config.data,
        root=config.data_root,
        train_samples=config.train_samples,
        image_size=config.image_size,
    )
    epoch_steps = steps_per_epoch(len(dataset.train), config.batch_size)
    edge_steps = _capped(config, config.epochs * epoch_steps)
    cloud_steps = _capped(config, (config.cloud_epochs or config.epochs) * epoch_steps)
    method, cut = build_method(
        config, dataset.interface, edge_steps=edge_steps, cloud_steps=cloud_steps, net=net
    )
    _refuse_lone_examples(config, dataset, method)
    return Job(
        config=config,
        dataset=dataset,
        augment=dataset.augment if config.augment == "auto" else config.augment,
        method=method,
        wire=wire,
        cut=cut,
        epoch_steps=epoch_steps,
        edge_steps=edge_steps,
        cloud_steps=cloud_steps,
    )


def build_method(
    config: TrainConfig,
    interface: Interface,
    *,
    edge_steps: int = 1,
    cloud_steps: int = 1,
    net: nn.Module | None = None,
) -> tuple[Method, str | None]:
    """Build both halves for data of ``interface``; return them and the cut, if there is one.

    Raises:
        ConfigError: a name or combination that cannot work.
    """
    torch.manual_seed(config.seed)
    whole = _net(config, interface, net)
    cut = None if config.method.startswith("full-") else config.cut or _default_cut(config, whole)
    channels = interface.input_shape[0]
    mean, std = interface.mean or (0.0,) * channels, interface.std or (1.0,) * channels
    setup = Setup(
        net=whole,
        normalise=Normalise(mean, std),
        input_shape=interface.input_shape,
        classes=len(interface.classes),
        cut=cut or "",
        bottleneck=config.bottleneck,
        exit=config.exit,
        edge_schedule=_schedule(config, edge_steps),
        cloud_schedule=_schedule(config, cloud_steps),
        device=pick_device(config.device),
    )
    return METHODS[config.method](setup), cut


def pick_device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` is CUDA where present."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"expected --device cpu, cuda, cuda:N or auto, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"expected --device cpu, cuda, cuda:N or auto, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ConfigError(f"--device {name}: this machine has {found} CUDA devices")
    return device


def wire_of(config: TrainConfig) -> Wire:
    """Return what lies between the halves; raises :class:`ConfigError` for a codec of no use."""
    features = _codec("--codec", config.codec, torch.float32, "int8+zstd")
    inputs = _codec("--input-codec", config.input_codec, torch.uint8, "raw")
    return Wire(
        codec=inputs if config.method == "full-cloud" else features,
        reply_codec=_codec("--reply-codec", config.reply_codec, torch.float32, "fp16"),
        link=config.link_spec(),
        edge_slowdown=config.edge_slowdown,
        seed=config.seed,
    )


def _codec(flag: str, text: str, dtype: torch.dtype, instead: str) -> Codec:
    codec = parse_codec(text)
    if codec.dtype != dtype:
        wanted = "images" if dtype == torch.uint8 else "features and gradients"
        raise ConfigError(f"expected a {flag} for {wanted}, such as {instead}, got {codec.name!r}")
    return codec


def _capped(config: TrainConfig, steps: int) -> int:
    return steps if config.max_steps is None else min(steps, config.max_steps)


def _schedule(config: TrainConfig, steps: int) -> OneCycle:
    return OneCycle(total_steps=steps, lr=config.lr, precision=config.precision)


def _net(config: TrainConfig, interface: Interface, net: nn.Module | None) -> StagedNet:
    input_shape, classes = interface.input_shape, len(interface.classes)
    if net is None:
        return build_net(config.net, classes=classes, input_shape=input_shape, stem=config.stem)
    whole = staged(net)
    answers = output_shape(whole, input_shape)
    if answers != (classes,):
        raise ConfigError(
            f"expected a net that answers {classes} logits for {config.data}, "
            f"this one answers {answers}"
        )
    return whole


def _default_cut(config: TrainConfig, whole: StagedNet) -> str:
    cuts: tuple[str, ...] = whole.names[:-1]
    if config.net not in NETS:
        raise ConfigError(f"name a --cut for {config.net}: {', '.join(cuts)}")
    return cuts[-2:][0]


def _refuse_lone_examples(config: TrainConfig, dataset: Dataset, method: Method) -> None:
    size = min(config.batch_size, len(dataset.train))
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    halves = [*method.edge_modules.values(), *method.cloud_modules.values()]
    if size == 1 and any(isinstance(m, norms) for half in halves for m in half.modules()):
        raise ConfigError(
            "a batch of 1 cannot be trained with BatchNorm, which needs 2 examples to compare; "
            "raise --batch-size or --train-samples"
        )
