"""The configuration of a training run: frozen, checked, and the same thing as its TOML.

Imports no torch, so that the command line can print its help at once.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, final

import tyro

from eaves.core.methods import DEFAULT, METHODS, PROTECTING, MethodSpec
from eaves.core.specs import LinkSpec, parse_bottleneck, parse_link
from eaves.errors import ConfigError
from eaves.experiments.mixingconfig import MixingConfig
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.settings import (
    expect_at_least,
    expect_between,
    expect_choice,
    from_toml,
    read_text,
    take_paths,
)
from eaves.experiments.siameseconfig import SiameseConfig

CHOICES: dict[str, tuple[str, ...]] = {
    "method": tuple(METHODS),
    "exit": ("auto", "conv", "linear", "mlp"),
    "send": ("auto", "every-epoch", "once"),
    "augment": ("auto", "none", "flip", "crop", "crop-flip", "shift"),
    "feature_augment": ("none", "flip", "crop", "crop-flip", "shift"),
    "precision": ("fp32", "bf16", "auto"),
    "optimiser": ("auto", "sgd", "adam"),
}
_ONCE = tuple(name for name, spec in METHODS.items() if spec.once != "never")
# What a run produces does not depend on these, so they are not part of its hash.
_NOT_HASHED = ("data_root", "out", "checkpoint_s", "compare", "sweep")
_PLACES = ("data_root", "out")


@final
@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run.

    Every field is a flag of ``eaves train`` and a key of its TOML file.
    """

    method: str = DEFAULT
    """hierarchical, full-cloud, full-edge, split; priphit, which hides --private attributes, and to
    compare it with: nopeek, disco, deepobfuscator; datamix, which answers mixtures of inputs;
    siamese, which leaves a few numbers of features that tell classes apart and little else."""
    data: str = "digits"
    """Data set; `eaves data` lists them. Faces name an attribute, as in faces:Smiling."""
    data_root: Path | None = None
    """Folder that holds the data sets; by default the environment variable EAVES_DATA."""
    train_samples: int | None = None
    """Train on this many examples, always the same ones."""
    image_size: int | None = None
    """Resize images to this side (data sets of image files only)."""
    augment: str = "auto"
    """auto (what suits the data set), none, flip, crop, crop-flip, or shift (speech)."""
    net: str = "small"
    """Net; `eaves nets` lists them. Also timm:NAME, torchvision:NAME, FILE.py:NAME."""
    stem: str | None = None
    """imagenet or cifar, for nets that have the choice."""
    cut: str | None = None
    """Last stage on the edge; `eaves cuts NET` lists them. By default the last cut but one of our
    own nets (siamese: the last); of others it has to be named. With datamix also input: inputs are
    mixed themselves."""
    bottleneck: int | str | None = None
    """Narrow the features at the cut by learned layers: to so many channels (8), or to channels x
    height x width (2x4x4)."""
    exit: str = "auto"
    """Head that answers on the edge: conv, linear, mlp; auto: mlp for methods that hide, conv for
    all others."""
    codec: str = "int8+zstd"
    """How features travel: fp32 fp16 bf16 int8 int4 int2 int1, then +zstd or +range.
    int8:channel has a range for each channel, int2:tensor one for all."""
    input_codec: str = "raw"
    """How inputs travel in full-cloud: raw, png, jpeg or jpeg:QUALITY."""
    reply_codec: str = "fp16:scaled"
    """How gradients travel back in split: fp16:scaled (16 bits, scaled by a power of two so that
    small gradients stay), fp32, bf16, fp16 and others of --codec."""
    link: str = "unlimited"
    """3g, 4g, wifi, unlimited, or UP[/DOWN] in Mbit/s; then ,delay=50ms ,jitter=5ms ,loss=1%."""
    send: str = "auto"
    """every-epoch; once: the edge trains first, then sends a single time, or inputs are sent a
    single time (full-cloud); auto: once for methods that hide, every-epoch for all others."""
    copies: int = 1
    """With --send once: how many differently augmented copies of each example are sent."""
    cloud_epochs: int | None = None
    """With --send once, and methods that hide: epochs of the cloud; by default --epochs."""
    feature_augment: str = "none"
    """With --send once: how the cloud augments feature maps when it learns from them again: none,
    flip, crop, crop-flip or shift. Measured: a lower loss, and no higher accuracy."""
    edge_slowdown: float = 1.0
    """The edge device takes this many times as long as this machine."""
    epochs: int = 10
    """Passes over the training data."""
    max_steps: int | None = None
    """Stop after this many batches, to measure speed."""
    batch_size: int = 128
    """Examples in a batch."""
    optimiser: str = "auto"
    """sgd, adam, or auto: adam for methods that hide, sgd for all others."""
    lr: float | None = None
    """Highest learning rate of the one-cycle schedule; by default 0.1 for sgd, 0.002 for adam."""
    seed: int = 0
    """Of weights, order, augmentation and link."""
    precision: str = "fp32"
    """fp32, bf16 autocast, or auto: whichever is measured to be faster on this machine."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: CUDA where present."""
    threads: int = 1
    """CPU threads for each side."""
    checkpoint_s: float = 60.0
    """Seconds between checkpoints."""
    # Without a name of its own its flags, and errors about them, have no prefix.
    privacy: Annotated[PrivacyConfig, tyro.conf.arg(name="")] = field(default_factory=PrivacyConfig)
    """What the cloud shall not learn, and how that is hidden: the table `[privacy]`."""
    mixing: Annotated[MixingConfig, tyro.conf.arg(name="")] = field(default_factory=MixingConfig)
    """How datamix mixes inputs: the table `[mixing]`."""
    siamese: Annotated[SiameseConfig, tyro.conf.arg(name="")] = field(default_factory=SiameseConfig)
    """How siamese tunes and reduces features: the table `[siamese]`."""
    compare: str = ""
    """Also run these, under the same conditions, and print one table: METHOD or METHOD:VARIANT with
    commas between, where a variant is a codec or `once`: full-cloud,full-cloud:png,split."""
    sweep: str = ""
    """Train and audit each combination of these settings, in a folder of its own under --out, and
    draw task accuracy against the best attack: 'noise=0.5,1,2 bottleneck=4x2x2,8x4x4'. For methods
    that hide; the same command goes on with a sweep that was interrupted."""
    out: Path = Path("runs/latest")
    """Folder for the record, the bundle and the checkpoint."""

    def __post_init__(self) -> None:
        take_paths(self)
        for name, known in CHOICES.items():
            expect_choice(self, name, known)
        for name in ("epochs", "batch_size", "copies", "threads"):
            expect_at_least(self, name, 1)
        for name in ("train_samples", "max_steps", "cloud_epochs", "image_size"):
            if getattr(self, name) is not None:
                expect_at_least(self, name, 1)
        expect_between(self, "edge_slowdown", 1, 1e4)
        if self.lr is not None:
            expect_between(self, "lr", 1e-9, 1e3)
        expect_between(self, "checkpoint_s", 0, 1e9)
        if not 0 <= self.seed < 2**31:
            raise ConfigError(f"expected a seed from 0 to {2**31 - 1}, got {self.seed}")
        self._check_bottleneck()
        self._check_combinations()
        self._check_hiding()
        self._check_tuning()
        self.link_spec()

    def _check_combinations(self) -> None:
        if self.send == "once" and self.method not in _ONCE:
            raise ConfigError(
                f"--send once is for {', '.join(_ONCE)}; {self.method} sends nothing or needs an "
                "answer to every batch"
            )
        if self.copies > 1 and not self.sends_once:
            raise ConfigError("--copies needs --send once")
        features_once = self.sends_once and self.spec.sends == "features"
        if self.feature_augment != "none" and not features_once:
            raise ConfigError(
                "--feature-augment needs --send once, and a method that sends features: full-cloud "
                "augments the inputs themselves, as --augment says"
            )
        if self.cloud_epochs is not None and not (self.sends_once or self.spec.protects):
            raise ConfigError("--cloud-epochs needs --send once")
        if self.copies > (self.cloud_epochs or self.epochs):
            raise ConfigError(
                f"{self.copies} copies need as many epochs of the cloud or more, "
                f"got {self.cloud_epochs or self.epochs}"
            )

    def _check_bottleneck(self) -> None:
        if self.bottleneck is not None and parse_bottleneck(self.bottleneck)[0] < 1:
            raise ConfigError(
                f"expected a --bottleneck of 1 channel or more, got {self.bottleneck}"
            )

    def _check_hiding(self) -> None:
        if self.spec.protects and not self.privacy.attributes:
            raise ConfigError(
                f"{self.method} hides private attributes: name them, as in --private Male"
            )
        if self.privacy.keep_training and (self.sends_once or not self.spec.protects):
            raise ConfigError(
                f"--keep-training is for --send every-epoch and {', '.join(PROTECTING)}: with one "
                "release of each example there is nothing to go on learning for"
            )

    def _check_tuning(self) -> None:
        wanted = self.siamese
        lessons = wanted.tune_epochs or wanted.adapt_epochs or wanted.components or self.hides
        if self.tunes and wanted.start is not None and not lessons:
            raise ConfigError(
                "with --start, no tuning, no adapting, no components and no noise there is nothing "
                "to do: the net would stay as it is"
            )

    @property
    def spec(self) -> MethodSpec:
        """The facts of the method."""
        return METHODS[self.method]

    @property
    def hides(self) -> bool:
        """Whether features are bounded and noised before they leave."""
        if self.tunes:
            return self.privacy.noise != "none"
        return self.spec.protects or (self.mixes and self.mixing.hardened)

    @property
    def mixes(self) -> bool:
        """Whether what leaves are mixtures of a group's features."""
        return self.spec.mixes

    @property
    def tunes(self) -> bool:
        """Whether features are tuned to the task, and reduced."""
        return self.spec.tunes

    @property
    def in_one_place(self) -> bool:
        """Whether nothing is sent in training, so that no task labels ever are."""
        return self.spec.in_one_place

    @property
    def sends_once(self) -> bool:
        """Whether every example travels a single time."""
        return self.send == "once" or (self.send == "auto" and self.spec.once == "usual")

    def link_spec(self) -> LinkSpec:
        """Return the link that ``link`` names."""
        return parse_link(self.link)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are set, as TOML and JSON take them."""
        return _given(asdict(self))

    def hash(self) -> str:
        """Return a digest of all settings that the result depends on.

        What they point to (data, the file of a net) is compared by its content instead: see
        :mod:`eaves.experiments.identity`.

        >>> TrainConfig().hash() == TrainConfig(out=Path("elsewhere")).hash()
        True
        """
        return hashlib.sha256(json.dumps(counted(self), sort_keys=True).encode()).hexdigest()[:16]

    def to_toml(self) -> str:
        """Return the configuration as TOML that :func:`load_config` reads back.

        >>> parse_config(TrainConfig(epochs=3).to_toml(), "-").epochs
        3
        """
        values = self.to_dict()
        tables = {k: v for k, v in values.items() if isinstance(v, dict)}
        text = "".join(f"{k} = {_toml(v)}\n" for k, v in values.items() if k not in tables)
        for name, table in tables.items():
            text += f"\n[{name}]\n" + "".join(f"{k} = {_toml(v)}\n" for k, v in table.items())
        return text


def load_config(path: Path) -> TrainConfig:
    """Read a TOML file; raises :class:`ConfigError` for what it cannot be."""
    return parse_config(read_text(path), str(path))


def resumed_config(folder: Path) -> TrainConfig:
    """Return the configuration of the run in ``folder``, to go on with.

    Raises:
        ConfigError: there is no run in ``folder``.
    """
    path = folder / "config.toml"
    if not path.exists():
        raise ConfigError(f"there is no run to resume in {folder}: it has no {path.name}")
    return replace(load_config(path), out=folder)


def parse_config(text: str, source: str) -> TrainConfig:
    """Read TOML; ``source`` is named in errors. Unknown keys and wrong types are errors."""
    return from_toml(TrainConfig, text, source)


def counted(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that the result depends on, wherever files lie on this machine."""
    found = {k: v for k, v in config.to_dict().items() if k not in _NOT_HASHED}
    found["net"] = net_name(config.net)
    if config.siamese.start is not None:
        found["siamese"] = {**found["siamese"], "start": "given"}
    return found


def located(config: TrainConfig) -> TrainConfig:
    """Return the same settings with absolute paths, which hold from every folder."""
    net, siamese = config.net, config.siamese
    if net_name(net) != net:
        file, _, name = net.rpartition(":")
        net = f"{_absolute(Path(file))}:{name}"
    if siamese.start is not None:
        siamese = replace(siamese, start=_absolute(siamese.start))
    root = None if config.data_root is None else _absolute(config.data_root)
    return replace(config, net=net, siamese=siamese, data_root=root, out=_absolute(config.out))


def net_name(net: str) -> str:
    """Return how a net is called wherever its file lies.

    >>> net_name("nets/mine.py:Mine"), net_name("timm:resnet18")
    ('own:Mine', 'timm:resnet18')
    """
    file, _, name = net.rpartition(":")
    return f"own:{name}" if file.endswith(".py") else net


def without_places(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings, as :meth:`TrainConfig.to_dict` gives them, without where anything lies.

    What goes to other machines says nothing of the folders and users of this one.

    >>> without_places({"net": "/home/kim/mine.py:Mine", "out": "runs/a", "epochs": 3})
    {'net': 'mine.py:Mine', 'epochs': 3}
    """
    kept = {k: v for k, v in settings.items() if k not in _PLACES}
    if "net" in kept and net_name(kept["net"]) != kept["net"]:
        file, _, name = kept["net"].rpartition(":")
        kept["net"] = f"{Path(file).name}:{name}"
    if "siamese" in kept:
        kept["siamese"] = {k: v for k, v in kept["siamese"].items() if k != "start"}
    return kept


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path.expanduser()))  # symbolic links stay what they are


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """Return what is set, as TOML and JSON have it."""
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in values.items() if v is not None}
    return {k: _given(v) if isinstance(v, dict) else v for k, v in plain.items()}


def _toml(value: object) -> str:
    """Return a string, number or boolean as TOML: JSON, but for two of its escapes."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
