"""From a configuration to the objects of a run: data, net, method, wire."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, final

import torch
from torch import nn

from eaves.codecs.base import Codec, parse_codec
from eaves.core.methods import MethodSpec
from eaves.core.net import Normalise, StagedNet, output_shape, staged
from eaves.core.optimise import OneCycle
from eaves.data.batches import steps_per_epoch
from eaves.data.load import load_dataset
from eaves.data.source import Dataset, Interface
from eaves.errors import ConfigError, MisfitError
from eaves.experiments.config import TrainConfig
from eaves.experiments.hiding import hiding_for, privacy_facts
from eaves.experiments.identity import NetFacts, net_facts
from eaves.experiments.mixingconfig import MixingConfig
from eaves.experiments.precision import (
    AUTO,
    MOST_EXAMPLES,
    Choice,
    Step,
    settled,
    training_step,
)
from eaves.methods.setup import Hiding, Method, Mixed, Setup, Tuning
from eaves.nets.build import NETS, build_net
from eaves.privacy.mixing import MixingLaw
from eaves.privacy.sources import Keyed
from eaves.runtime.traffic import Wire

_log = logging.getLogger(__name__)
_RATES = {"sgd": 0.1, "adam": 0.002}


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
    net: NetFacts
    privacy: dict[str, Any] | None = None
    """What is hidden, and what is proven about it; None where nothing is."""
    precision: Choice | None = None
    """How the precision was chosen; None where it was given."""


def build_job(
    config: TrainConfig,
    net: nn.Module | None = None,
    *,
    secret: bool = False,
    trains: bool = True,
) -> Job:
    """Load the data, build the net (or take ``net``) and the method.

    ``secret``: what is sent leaves this machine, so its noise comes from a secret key.
    Without ``trains`` no private labels are needed: a device in use has none.

    Raises:
        BudgetExceeded: training would give away more than the privacy budget allows.
        ConfigError: a name or combination that cannot work.
        DataError: the data set is missing or damaged.
    """
    wire = wire_of(config)
    dataset = _loaded(config, trains=trains)
    _refuse_few_examples(config, len(dataset.train))
    steps = steps_of(config, len(dataset.train))
    config, choice = _settled(config, dataset, steps, net, trains=trains)
    built = build_method(
        config,
        dataset.interface,
        steps=steps,
        net=net,
        private_classes=dataset.private_classes,
        secret=secret,
    )
    _refuse_lone_examples(config, dataset, built.method)
    return Job(
        config=config,
        dataset=dataset,
        augment=dataset.augment if config.augment == "auto" else config.augment,
        method=built.method,
        wire=wire,
        cut=built.cut,
        epoch_steps=steps.epoch,
        edge_steps=steps.edge,
        cloud_steps=steps.cloud,
        net=built.net,
        privacy=built.privacy,
        precision=choice,
    )


def _loaded(config: TrainConfig, *, trains: bool) -> Dataset:
    """Load the data; what was left out of them goes to the log."""
    dataset = load_dataset(
        config.data,
        root=config.data_root,
        train_samples=config.train_samples,
        image_size=config.image_size,
        private=config.privacy.attributes if trains else (),
    )
    for notice in dataset.notices:
        _log.warning("%s", notice)
    return dataset


def _settled(
    config: TrainConfig, dataset: Dataset, steps: "Steps", net: nn.Module | None, *, trains: bool
) -> tuple[TrainConfig, Choice | None]:
    """Return the configuration with a precision that was measured, where that is wanted."""
    if config.precision == AUTO and not trains:  # answers are computed in fp32 whatever it says
        return replace(config, precision="fp32"), None
    size = min(config.batch_size, MOST_EXAMPLES, len(dataset.train))

    def step(tried: TrainConfig) -> Step:
        built = build_method(
            tried,
            dataset.interface,
            steps=steps,
            net=deepcopy(net),  # its weights would change
            private_classes=dataset.private_classes,
            secret=False,
        )
        return training_step(built.method, dataset.train.fetch(torch.arange(size)))

    return settled(config, step, folder=config.out)


@final
@dataclass(frozen=True, kw_only=True)
class Steps:
    """How many batches are in one epoch, and how many each side takes in all."""

    epoch: int
    edge: int
    cloud: int


ONE_STEP = Steps(epoch=1, edge=1, cloud=1)
"""For a method that is not to be trained."""


@final
@dataclass(frozen=True, kw_only=True)
class Built:
    """A method, where it cuts the net (None: nowhere), and what it hides (None: nothing)."""

    method: Method
    cut: str | None
    hiding: Hiding | None
    privacy: dict[str, Any] | None
    net: NetFacts


def build_method(
    config: TrainConfig,
    interface: Interface,
    *,
    steps: Steps = ONE_STEP,
    net: nn.Module | None = None,
    private_classes: Mapping[str, tuple[str, ...]] | None = None,
    secret: bool = True,
) -> Built:
    """Build both halves for data of ``interface``.

    A cloud does not know the classes of private attributes (``private_classes``), and has no use
    for them: the edge half that it builds beside its own is thrown away.

    Raises:
        BudgetExceeded: training would give away more than the privacy budget allows.
        ConfigError: a name or combination that cannot work.
    """
    torch.manual_seed(config.seed)
    whole, known = _net(config, interface, net)
    cut = (config.cut or _default_cut(config, whole)) if config.spec.cuts else None
    setup = Setup(
        net=whole,
        normalise=_normalise(interface),
        input_shape=interface.input_shape,
        classes=len(interface.classes),
        cut=cut or "",
        bottleneck=config.bottleneck,
        exit=_exit(config),
        edge_schedule=_schedule(config, steps.edge),
        cloud_schedule=_schedule(config, steps.cloud),
        device=pick_device(config.device),
        mixed=_mixed(config, secret=secret) if config.mixes else None,
        tuning=_tuning(config, steps) if config.tunes else None,
    )
    _refuse_flat_features(config, setup)
    if not config.hides:
        method = builder_of(config.spec)(setup)
        return Built(method=method, cut=cut, hiding=None, privacy=None, net=known)
    shape = setup.feature_shape()
    classes = private_classes or dict.fromkeys(config.privacy.attributes, ("", ""))
    hiding = hiding_for(config, shape, classes, edge_steps=steps.edge, secret=secret)
    return Built(
        method=builder_of(config.spec)(replace(setup, hiding=hiding)),
        cut=cut,
        hiding=hiding,
        privacy=privacy_facts(config, hiding, shape),
        net=known,
    )


def builder_of(spec: MethodSpec) -> Callable[[Setup], Method]:
    """Return what builds both halves of a method."""
    module, _, name = spec.builder.partition(":")
    builder: Callable[[Setup], Method] = getattr(import_module(f"eaves.methods.{module}"), name)
    return builder


def _refuse_flat_features(config: TrainConfig, setup: Setup) -> None:
    if config.feature_augment == "none":
        return
    shape = setup.feature_shape()
    if len(shape) != 3 or shape[-1] < 2:
        raise ConfigError(
            f"--feature-augment {config.feature_augment} is for feature maps of channels, height "
            f"and width; those at this cut are {'x'.join(map(str, shape))}: leave it out"
        )


def _normalise(interface: Interface) -> Normalise:
    channels = interface.input_shape[0]
    mean, std = interface.mean or (0.0,) * channels, interface.std or (1.0,) * channels
    return Normalise(mean, std)


def _tuning(config: TrainConfig, steps: Steps) -> Tuning:
    wanted = config.siamese
    return Tuning(
        steps={
            "train": 0 if wanted.start is not None else steps.edge,
            "tune": _capped(config, wanted.tune_epochs * steps.epoch),
            "fit": _capped(config, steps.epoch),
            "adapt": _capped(config, wanted.adapt_epochs * steps.epoch),
        },
        rate=wanted.tune_rate,
        pairs=wanted.pairs,
        margin=wanted.margin,
        weight=wanted.pair_weight,
        components=wanted.components,
    )


def _mixed(config: TrainConfig, *, secret: bool) -> Mixed:
    mixing = config.mixing
    source = Keyed.secret() if secret else Keyed.from_seed(config.seed)
    return Mixed(
        law=law_of(mixing), source=source, shuffle=mixing.shuffle, cloud_ends=mixing.cloud_ends
    )


def law_of(mixing: MixingConfig) -> MixingLaw:
    """Return the law of the coefficients; raises :class:`ConfigError` for bounds of no use."""
    return MixingLaw(
        name=mixing.law,
        group=mixing.group,
        max_share=mixing.max_share,
        max_condition=mixing.max_condition,
    )


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
        codec=inputs if config.spec.sends == "inputs" else features,
        reply_codec=_codec("--reply-codec", config.reply_codec, torch.float32, "fp16:scaled"),
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


def _steps(config: TrainConfig, epoch: int) -> Steps:
    cloud_epochs = config.cloud_epochs or config.epochs
    return Steps(
        epoch=epoch,
        edge=_capped(config, config.epochs * epoch),
        cloud=_capped(config, cloud_epochs * epoch),
    )


def steps_of(config: TrainConfig, train_examples: int) -> Steps:
    """Return the steps of a run with so many training examples."""
    return _steps(config, steps_per_epoch(train_examples, config.batch_size))


def uploads_of(config: TrainConfig, train_examples: int) -> int:
    """Return how many uploads one edge with so many training examples makes in a run."""
    steps = _steps(config, steps_per_epoch(train_examples, config.batch_size))
    if not config.sends_once:
        return steps.cloud
    copies = 1 if config.spec.sends == "inputs" else config.copies
    return min(copies * steps.epoch, steps.cloud)


def _capped(config: TrainConfig, steps: int) -> int:
    return steps if config.max_steps is None else min(steps, config.max_steps)


def _exit(config: TrainConfig) -> str:
    if config.exit != "auto":
        return config.exit
    # At a narrow cut each value has a meaning of its own: pooling would lose it.
    return "mlp" if config.hides else "conv"


def _refuse_few_examples(config: TrainConfig, samples: int) -> None:
    fitted = min(samples, config.batch_size * (config.max_steps or samples))
    if config.tunes and fitted < config.siamese.components:
        raise ConfigError(
            f"expected as many training examples as --components or more, got {fitted} for "
            f"{config.siamese.components}; ask for fewer components, or train on more"
        )


def _schedule(config: TrainConfig, steps: int) -> OneCycle:
    optimiser = config.optimiser
    if optimiser == "auto":
        optimiser = "adam" if config.hides and not config.tunes else "sgd"
    return OneCycle(
        total_steps=steps,
        optimiser=optimiser,
        lr=config.lr or _RATES[optimiser],
        precision=config.precision,
    )


def _net(
    config: TrainConfig, interface: Interface, net: nn.Module | None
) -> tuple[StagedNet, NetFacts]:
    input_shape, classes, name = interface.input_shape, len(interface.classes), config.net
    if net is None and name.startswith("own:"):
        raise ConfigError(
            f"the net {name} was passed in Python, so no code to build it is kept: name its file, "
            f"as in --net FILE.py:{name.removeprefix('own:')}; in Python pass net=..., built in "
            "the same way"
        )
    with _default_data_explained(config, interface):
        if net is None:
            whole = build_net(name, classes=classes, input_shape=input_shape, stem=config.stem)
            return whole, net_facts(name, whole)
        whole = staged(net, input_shape)
        answers = output_shape(whole, input_shape)
        if answers != (classes,):
            raise MisfitError(
                f"expected a net that answers {classes} logits for {config.data}, "
                f"this one answers {answers}"
            )
        return whole, net_facts(name, whole, net)


@contextmanager
def _default_data_explained(config: TrainConfig, interface: Interface) -> Iterator[None]:
    """Say first that the data are the default ones, where a net does not fit those."""
    try:
        yield
    except MisfitError as error:
        if config.data != TrainConfig.data:
            raise
        shape = "x".join(map(str, interface.input_shape))
        raise ConfigError(
            f"{config.net} does not fit the handwritten digits, the default data ({shape}, "
            f"{len(interface.classes)} classes): name yours with --data (data=... in Python). "
            f"The net says: {error}"
        ) from error


def _default_cut(config: TrainConfig, whole: StagedNet) -> str:
    cuts: tuple[str, ...] = whole.names[:-1]
    if config.net not in NETS:
        raise ConfigError(f"name a --cut for {config.net}: {', '.join(cuts)}")
    # What siamese projects to a few numbers should be as near to the answer as can be.
    return cuts[-1] if config.tunes else cuts[-2:][0]


def _refuse_lone_examples(config: TrainConfig, dataset: Dataset, method: Method) -> None:
    size = min(config.batch_size, len(dataset.train))
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    halves = [*method.edge_modules.values(), *method.cloud_modules.values()]
    if size == 1 and any(isinstance(m, norms) for half in halves for m in half.modules()):
        raise ConfigError(
            "a batch of 1 cannot be trained with BatchNorm, which needs 2 examples to compare; "
            "raise --batch-size or --train-samples"
        )
