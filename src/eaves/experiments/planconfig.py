"""The settings of ``eaves profile`` and ``eaves plan``, checked. Imports no torch."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from eaves.core.methods import BASELINE, METHODS
from eaves.core.specs import LinkSpec, parse_link
from eaves.errors import ConfigError, unknown
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.settings import expect_at_least, expect_between, expect_choice, take_paths
from eaves.planner.devices import DEVICES
from eaves.planner.phases import INFERENCE, TRAINING
from eaves.planner.profile import INPUT, Profile
from eaves.planner.scenario import Choices, Power
from eaves.planner.search import OBJECTIVES, Limits

THIS = "this"
CODECS = "int8,int8+zstd,int4+zstd,int2+zstd"
INPUT_CODECS = "raw"
MADE_UP = "made-up images"
"""Where payloads come from that no data set was coded for."""
_MOST_VALUES = 2**26  # of one input, 67 million
_MOST = 1e15  # of what a limit may allow: no more than a way not to have it


@final
@dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """A net and the conditions under which its figures are taken."""

    net: str | None = None
    """Net, as `eaves nets` lists them; small by default. Also timm:NAME, torchvision:NAME,
    FILE.py:NAME."""
    stem: str | None = None
    """imagenet or cifar, for nets that have the choice."""
    data: str | None = None
    """Data set whose images are coded, as for `eaves train`; without it images are synthetic."""
    data_root: Path | None = None
    """Folder that holds the data sets; by default the environment variable EAVES_DATA."""
    input: str | None = None
    """Channels x height x width of one input; 3x32x32 by default, or that of the data."""
    classes: int | None = None
    """Number of classes; 10 by default, or that of the data (and not less)."""
    exit: str | None = None
    """Head that answers on the edge: conv (the default), linear or mlp."""
    batch_size: int | None = None
    """Examples in a batch; 128 by default, 1 as on a phone."""
    precision: str | None = None
    """fp32 (the default), or bf16 autocast."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: CUDA where present."""
    threads: int = 1
    """CPU threads for each side."""
    codecs: str | None = None
    """Codecs of features to choose from, with commas between; by default those of the profile, else
    int8,int8+zstd,int4+zstd,int2+zstd."""
    input_codecs: str | None = None
    """Codecs of inputs for full-cloud: raw, png, jpeg, with commas between; raw by default."""

    def __post_init__(self) -> None:
        take_paths(self)
        if self.exit is not None:
            expect_choice(self, "exit", ("conv", "linear", "mlp"))
        if self.precision is not None:
            expect_choice(self, "precision", ("fp32", "bf16"))
        for name, least in (("batch_size", 1), ("classes", 2)):
            if getattr(self, name) is not None:
                expect_at_least(self, name, least)
        expect_at_least(self, "threads", 1)
        if self.input is not None:
            parse_shape(self.input)
        if self.data is not None and self.input is not None:
            raise ConfigError(
                "give --data or --input, not both: the data have a shape of their own"
            )

    def of(self, profile: Profile) -> "ProfileConfig":
        """Return these settings with those of ``profile`` where none are given.

        Raises:
            ConfigError: what is given is not what ``profile`` was taken with.
        """
        subject = profile.subject
        names = ("net", "stem", "classes", "exit", "batch_size", "precision")
        theirs = {name: getattr(subject, name) for name in names}
        given = {name: getattr(self, name) for name in names}
        theirs["input"] = "x".join(map(str, subject.input_shape))
        given["input"] = self.input and "x".join(map(str, parse_shape(self.input)))
        if profile.payloads_from != MADE_UP:
            theirs["data"], given["data"] = profile.payloads_from, self.data
        differences = [
            f"{name} {given[name]} and {theirs[name]}"
            for name in theirs
            if given[name] is not None and given[name] != theirs[name]
        ]
        if differences:
            raise ConfigError(
                f"the profile is not of what is asked for: {'; '.join(differences)}. "
                "Leave these flags out, or take another profile"
            )
        return replace(
            self,
            net=subject.net,
            stem=subject.stem,
            input=None if self.data else theirs["input"],
            classes=subject.classes,
            exit=subject.exit,
            batch_size=subject.batch_size,
            precision=subject.precision,
            codecs=self.codecs or _names(profile, profile.cuts[0]),
            input_codecs=self.input_codecs or _names(profile, INPUT),
        )


def _names(profile: Profile, where: str) -> str | None:
    """Return the codecs that ``profile`` knows at a cut, with commas between."""
    return ",".join(cost.codec for cost in profile.codecs.get(where, ())) or None


def parse_shape(text: str) -> tuple[int, int, int]:
    """Read CxHxW.

    >>> parse_shape("3x32x32")
    (3, 32, 32)
    """
    sides = text.lower().split("x")
    if len(sides) != 3 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise ConfigError(f"expected --input as CxHxW, as in 3x32x32, got {text!r}")
    channels, height, width = map(int, sides)
    if channels * height * width > _MOST_VALUES:
        raise ConfigError(f"expected an --input of at most {_MOST_VALUES:,} values, got {text!r}")
    return channels, height, width


def parse_watts(text: str) -> Power:
    """Read BUSY/IDLE.

    >>> parse_watts("10/2")
    Power(busy_w=10.0, idle_w=2.0)
    """
    busy, _, idle = text.partition("/")
    try:
        return Power(busy_w=float(busy), idle_w=float(idle))
    except ValueError as error:
        raise ConfigError(f"expected --watts as BUSY/IDLE, as in 10/2: {error}") from error


@final
@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """What the table of `eaves profile` says of the device, beside what was measured."""

    components: int = 8
    """Siamese: numbers sent for each input, in the table of the device."""
    watts: str | None = None
    """What the device draws at work and at rest, as in 10/2, for the energy of an input."""

    def __post_init__(self) -> None:
        expect_at_least(self, "components", 1)
        self.power()

    def power(self) -> Power | None:
        """Return the watts, where they are known."""
        return None if self.watts is None else parse_watts(self.watts)


@final
@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """Where the net will run, what to choose from, and what it may cost."""

    profile: Path | None = None
    """Figures of this machine that `eaves profile` took before; without it they are taken now."""
    edge: str = THIS
    """Edge device: this (machine), a preset as `eaves devices` lists them, or the FILE.json of a
    profile taken there."""
    cloud: str = THIS
    """Cloud: the same choice."""
    watts: str | None = None
    """What the edge draws at work and at rest, as in 10/2; by default that of a preset device."""
    edge_slowdown: float = 1.0
    """The edge takes this many times as long as --edge says."""
    link: str = "3g"
    """3g, 4g, wifi, unlimited, or UP[/DOWN] in Mbit/s; then ,delay=50ms ,loss=1%, and ,energy=1uJ
    for each bit."""
    methods: str | None = None
    """Methods to choose from, with commas between: hierarchical, full-cloud, full-edge, split,
    priphit; with --inference also datamix and siamese."""
    cuts: str | None = None
    """Cuts to choose from, with commas between; all of them by default."""
    samples: int | None = None
    """Examples in an epoch; those of the data by default, else 50,000."""
    epochs: int = 10
    """Of the training, which sending once is spread over."""
    inference: bool = False
    """Plan the answering of queries instead of training."""
    objective: str = "time"
    """What the best is best in: time, bytes, memory, energy or latency."""
    max_memory_mb: float | None = None
    """Edge memory of training at most, in MB (10^6 bytes); by default what a preset device has."""
    max_bytes: float | None = None
    """Bytes sent up for each sample of an epoch, at most."""
    max_epoch_s: float | None = None
    """Seconds per epoch, at most."""
    max_latency_ms: float | None = None
    """Milliseconds until a batch is answered in inference, at most."""
    max_energy_j: float | None = None
    """Joules of the edge per epoch, at most."""
    min_accuracy: float | None = None
    """Accuracy after the --probe, at least, in [0, 1]."""
    max_drop: float | None = None
    """How far the accuracy after the --probe may stay below full-cloud's, in [0, 1]."""
    probe: int | None = None
    """Train every method at every cut that the other limits leave, for this many batches."""
    private: str = ""
    """PriPHiT: attributes to hide, with commas between, for --probe and --write-config."""
    adversaries: int = 2
    """PriPHiT: adversarial exits."""
    group: int = 4
    """DataMix: inputs mixed together."""
    components: int = 8
    """Siamese: numbers sent for each input."""
    fleet: int | None = None
    """Also simulate this many edges, one link each, and one cloud, with the best plan."""
    shared_link: bool = False
    """The fleet shares one link."""

    def __post_init__(self) -> None:
        take_paths(self)
        for name in ("samples", "probe", "fleet"):
            if getattr(self, name) is not None:
                expect_at_least(self, name, 1)
        for name in ("epochs", "adversaries", "group", "components"):
            expect_at_least(self, name, 1)
        expect_between(self, "edge_slowdown", 1e-4, 1e4)
        limits = ("max_memory_mb", "max_bytes", "max_epoch_s", "max_latency_ms", "max_energy_j")
        for names, most in ((limits, _MOST), (("min_accuracy", "max_drop"), 1)):
            for name in names:
                if getattr(self, name) is not None:
                    expect_between(self, name, 0, most)
        expect_choice(self, "objective", OBJECTIVES)
        for place in (self.edge, self.cloud):
            _known_place(place)
        self._check_methods()
        self._check_combinations()
        self.link_spec()
        self.power()
        self.privacy()

    def _check_methods(self) -> None:
        """Raise a :class:`ConfigError` for a wrong name, before anything is measured."""
        known = INFERENCE if self.inference else TRAINING
        for method in words(self.methods) if self.methods is not None else ():
            if method not in known:
                raise unknown("method to plan", method, known)
        if self.cuts is not None:
            words(self.cuts)

    def _check_combinations(self) -> None:
        if self.probe is None and (self.min_accuracy is not None or self.max_drop is not None):
            raise ConfigError("--min-accuracy and --max-drop need --probe, which measures accuracy")
        if self.probe is not None and self.inference:
            raise ConfigError("--probe trains, and --inference plans no training: leave one out")
        methods = words(self.methods) if self.methods is not None else (BASELINE,)
        if self.max_drop is not None and BASELINE not in methods:
            raise ConfigError(f"--max-drop compares with {BASELINE}: add it to --methods")
        if self.shared_link and self.fleet is None:
            raise ConfigError("--shared-link is that of a --fleet: say of how many edges")
        hiding = [method for method in methods if METHODS[method].protects]
        if self.probe is not None and hiding and not self.privacy().attributes:
            raise needs_private(hiding[0])

    def link_spec(self) -> LinkSpec:
        """Return the link that ``link`` names."""
        return parse_link(self.link)

    def choices(self) -> Choices:
        """Return what some methods have beside a cut and a codec."""
        return Choices(adversaries=self.adversaries, group=self.group, components=self.components)

    def privacy(self) -> PrivacyConfig:
        """Return what a method that hides does, where it differs from the defaults."""
        return PrivacyConfig(private=self.private, adversaries=self.adversaries)

    def power(self) -> Power | None:
        """Return the watts of the edge, where they are known."""
        if self.watts is None:
            return DEVICES[self.edge].power if self.edge in DEVICES else None
        return parse_watts(self.watts)

    def limits(self) -> Limits:
        """Return the limits in SI units."""

        def scaled(value: float | None, factor: float) -> float | None:
            return None if value is None else value * factor

        memory_bytes = scaled(self.max_memory_mb, 1e6)
        if memory_bytes is None and self.edge in DEVICES:
            memory_bytes = DEVICES[self.edge].memory_bytes
        return Limits(
            edge_memory_bytes=memory_bytes,
            bytes_per_sample=self.max_bytes,
            epoch_s=self.max_epoch_s,
            latency_s=scaled(self.max_latency_ms, 1e-3),
            energy_j=self.max_energy_j,
            accuracy=self.min_accuracy,
            accuracy_drop=self.max_drop,
        )


def needs_private(method: str) -> ConfigError:
    """Return the error of a plan that trains ``method`` and does not know what to hide."""
    return ConfigError(
        f"{method} hides private attributes: name them to the plan with --private, as in "
        "--private Male"
    )


def _known_place(place: str) -> None:
    if place != THIS and place not in DEVICES and not place.endswith(".json"):
        raise unknown("device", place, [THIS, *DEVICES, "FILE.json (of eaves profile)"])


def words(text: str) -> tuple[str, ...]:
    """Return what stands between commas.

    >>> words("int8, int4+zstd")
    ('int8', 'int4+zstd')
    """
    found = tuple(word.strip() for word in text.split(",") if word.strip())
    if not found or len(set(found)) < len(found):
        raise ConfigError(f"expected names with commas between, each once, got {text!r}")
    return found
