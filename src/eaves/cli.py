"""The command line: parse, call one function, print.

Whatever needs torch is imported inside the command that needs it: this keeps ``eaves --help`` at a
fraction of the time that importing torch takes.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar, final

import tyro

from eaves.cli_device import Export, Light, Verify
from eaves.cli_flags import accumulated, flags_of
from eaves.cli_network import Agent, Bundle, Calibrate, Certs, Infer, Serve
from eaves.cli_privacy import Audit, Report
from eaves.errors import ConfigError, EavesError
from eaves.experiments.config import TrainConfig, load_config, resumed_config
from eaves.experiments.netconfig import PREFIXES, AgentConfig, InferConfig, ServeConfig
from eaves.experiments.planconfig import DeviceConfig, PlanConfig, ProfileConfig, parse_shape
from eaves.experiments.settings import read_settings
from eaves.report.missing import explained
from eaves.report.printable import printable_line
from eaves.report.signals import exit_code_of, unwinding
from eaves.report.streams import PIPE_CLOSED, Guarded, OutputLostError, guarded_streams

Settings = TypeVar("Settings", ServeConfig, AgentConfig, InferConfig)

KEEPING = frozenset(
    {"train", "serve", "agent", "audit", "report", "export", "calibrate", "bundle", "certs"}
)
"""Commands that leave their results on disk: what they print is a copy, or says where it is."""


@final
@dataclass(frozen=True, kw_only=True)
class Train:
    """Train one net divided between edge and cloud, over an emulated link.

    With no flags: hierarchical training on the handwritten digits, in seconds.
    """

    settings: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    config: Path | None = None
    """TOML file with the same keys as the flags below; flags win."""
    resume: Path | None = None
    """Go on with the interrupted run in this folder."""
    overwrite: bool = False
    """Start over even if --out holds a run, which is replaced."""
    json: bool = False
    """Print records as lines of JSON, that of the method itself last, and no tables."""

    def run(self) -> int:
        """Train, print, and return the exit code."""
        from eaves.report.session import train

        resume = self.resume is not None
        return train(self.settings, resume=resume, overwrite=self.overwrite, as_json=self.json)


@final
@dataclass(frozen=True, kw_only=True)
class Nets:
    """List the nets and what they need."""

    json: bool = False
    """Print a line of JSON for each."""

    def run(self) -> int:
        """Print the table."""
        from eaves.report.choices import show_nets

        return show_nets(as_json=self.json)


@final
@dataclass(frozen=True, kw_only=True)
class Cuts:
    """List where a net can be cut, and what crosses there."""

    net: tyro.conf.Positional[str]
    """Net, as `eaves nets` lists them; also timm:NAME, torchvision:NAME, FILE.py:NAME."""
    input: str = "3x32x32"
    """Channels x height x width of one input."""
    classes: int = 10
    """Number of classes."""
    stem: str | None = None
    """imagenet or cifar, for nets that have the choice."""
    json: bool = False
    """Print a line of JSON for each cut."""

    def run(self) -> int:
        """Print the table."""
        from eaves.report.choices import show_cuts

        shape = parse_shape(self.input)
        return show_cuts(self.net, shape, self.classes, self.stem, as_json=self.json)


@final
@dataclass(frozen=True, kw_only=True)
class Data:
    """List the data sets and whether they are on this machine; download one, or make one up."""

    name: tyro.conf.Positional[str | None] = None
    """Data set to check or download; all of them without it."""
    data_root: Path | None = None
    """Folder that holds the data sets; by default the environment variable EAVES_DATA."""
    download: bool = False
    """Fetch it from its publisher, check it, and go on where an earlier try broke off."""
    synthetic: bool = False
    """Write made-up data in its layout instead, for trials: motion alone has such."""
    json: bool = False
    """Print a line of JSON for each."""

    def run(self) -> int:
        """Print the table."""
        from eaves.report.choices import fetch_data, show_data

        if self.download and self.synthetic:
            raise ConfigError("give --download or --synthetic, not both")
        if self.download and self.name is None:
            raise ConfigError("name the data set to download, as in: eaves data cifar10 --download")
        if self.synthetic and self.name is None:
            raise ConfigError("name the data set to make up, as in: eaves data motion --synthetic")
        if self.name is not None:
            return fetch_data(
                self.name, self.data_root, download=self.download, synthetic=self.synthetic
            )
        return show_data(self.data_root, as_json=self.json)


@final
@dataclass(frozen=True, kw_only=True)
class Profile:
    """Measure what each stage of a net costs on this machine, for plans made here or elsewhere.

    The last table says what each cut costs the device in inference: time, memory, bytes, energy.
    """

    settings: Annotated[ProfileConfig, tyro.conf.arg(name="")] = field(
        default_factory=ProfileConfig
    )
    question: Annotated[DeviceConfig, tyro.conf.arg(name="")] = field(default_factory=DeviceConfig)
    show: Path | None = None
    """Print this profile, which `eaves profile --out` wrote, and measure nothing."""
    out: Path | None = None
    """Write the profile here, as JSON that `eaves plan` reads."""
    seconds: float = 10.0
    """Repeat the timing for this long."""
    json: bool = False
    """Print the profile as JSON, and no tables."""

    def run(self) -> int:
        """Measure and print."""
        from eaves.report.planning import Taking, show_profile

        taking = Taking(show=self.show, out=self.out, seconds=self.seconds, as_json=self.json)
        return show_profile(self.settings, self.question, taking)


@final
@dataclass(frozen=True, kw_only=True)
class Plan:
    """Say where to cut, with which method and codec, and what that will cost.

    With no flags: a small net on this machine, with 3G to a cloud as fast as it.
    """

    settings: Annotated[ProfileConfig, tyro.conf.arg(name="")] = field(
        default_factory=ProfileConfig
    )
    question: Annotated[PlanConfig, tyro.conf.arg(name="")] = field(default_factory=PlanConfig)
    all: bool = False
    """Print every combination, not the best of each method at each cut alone."""
    plot: Path | None = None
    """Draw time, memory and the Pareto front into this file (.png, .pdf or .svg)."""
    write_config: Path | None = None
    """Write the best as a configuration for `eaves train --config`."""
    json: bool = False
    """Print the plan as one line of JSON, and no table."""

    def run(self) -> int:
        """Plan and print."""
        from eaves.report.planning import Outputs, show_plan

        outputs = Outputs(
            as_json=self.json,
            everything=self.all,
            plot=self.plot,
            write_config=self.write_config,
        )
        return show_plan(self.settings, self.question, outputs)


@final
@dataclass(frozen=True, kw_only=True)
class Devices:
    """List the preset devices that a plan can be made for, and where their figures come from."""

    json: bool = False
    """Print a line of JSON for each."""

    def run(self) -> int:
        """Print the table."""
        from eaves.report.plans import show_devices

        return show_devices(as_json=self.json)


Plain = (
    Export
    | Light
    | Calibrate
    | Bundle
    | Certs
    | Audit
    | Report
    | Plan
    | Profile
    | Nets
    | Cuts
    | Devices
    | Data
    | Verify
)
"""Commands whose defaults are those of their classes."""
Command = Train | Serve | Agent | Infer | Plain


def parse(argv: Sequence[str]) -> Command:
    """Return the command that ``argv`` asks for; exits with code 2 where it asks for none."""
    for word in argv:
        if not _is_utf8(word):  # neither a record nor a message could name such a file
            raise ConfigError(f"expected words in UTF-8, got {word!r}: rename the file or folder")
    argv = accumulated(argv)
    train = _subcommand("train", Train(settings=_base_settings(argv)))
    serve = _subcommand("serve", Serve(source=tyro.MISSING, settings=_given(ServeConfig, argv)))
    agent = _subcommand("agent", Agent(source=tyro.MISSING, settings=_given(AgentConfig, argv)))
    infer = _subcommand("infer", Infer(source=tyro.MISSING, settings=_given(InferConfig, argv)))
    command: Command = tyro.cli(
        Annotated[Train, train]
        | Annotated[Serve, serve]
        | Annotated[Agent, agent]
        | Annotated[Infer, infer]
        | Plain,
        args=list(argv),
        prog="eaves",
        description="Train one neural network divided between an edge device and a cloud.",
        config=(
            tyro.conf.OmitSubcommandPrefixes,
            tyro.conf.FlagCreatePairsOff,
        ),
    )
    return command


def _is_utf8(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _subcommand(name: str, default: Command) -> Any:
    return tyro.conf.subcommand(name, default=default)


def _given(kind: type[Settings], argv: Sequence[str]) -> Settings:
    """Return what flags are added to: a file, and the environment above it."""
    prefix = PREFIXES[kind]
    if prefix != f"EAVES_{argv[0].upper()}_" if argv else True:
        return kind()  # another command is asked for, which they do not concern
    config = _value_of("--config", argv)
    path = Path(config) if config else None
    return read_settings(kind, prefix=prefix, environ=os.environ, path=path)


def _base_settings(argv: Sequence[str]) -> TrainConfig:
    """Return what flags are added to: a file, the run to resume, or the defaults."""
    resume, config = _value_of("--resume", argv), _value_of("--config", argv)
    if resume and config:
        raise ConfigError("give --resume or --config, not both: a run keeps its own configuration")
    if resume:
        return resumed_config(Path(resume))
    return load_config(Path(config)) if config else TrainConfig()


def _value_of(flag: str, argv: Sequence[str]) -> str | None:
    """Return the value that counts: the last, as of all flags that take one."""
    given = [value for name, value in flags_of(argv) if name == flag and value is not None]
    return given[-1] if given else None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: done. 1: the world is in the way (a damaged file, a full disk, a diverged run). 2: a mistake
    in the command. 3 and 4: see :class:`Audit`. 130, 143, 129: ended by Ctrl-C, SIGTERM, SIGHUP.
    141: the reader of its output has gone, and the output is all there is. What cannot be printed
    changes no other exit code of a command that leaves its results on disk.
    """
    with guarded_streams() as (out, err):
        try:
            code = _ended(sys.argv[1:] if argv is None else list(argv), out, err)
        except SystemExit:  # of the parser, which has said why
            if _written(out):
                raise
            code = 0
        return code if _written(out) else _unprinted(code, out)


def _written(out: Guarded) -> bool:
    out.ends = False
    out.flush()
    return out.lost is None


def _ended(argv: Sequence[str], out: Guarded, err: Guarded) -> int:
    name = argv[0] if argv else ""
    out.ends = out.had_to_be_read = True  # as of --help
    try:
        with unwinding():
            out.escapes = err.escapes = True  # what is wrong with a word is said with that word
            command = parse(argv)
            out.escapes = err.escapes = False
            out.ends = out.had_to_be_read = name not in KEEPING
            return command.run()
    except OutputLostError:
        return 0  # _unprinted says what that comes to
    except EavesError as error:
        _say(error)
        return 2 if isinstance(error, ConfigError) else 1
    except ModuleNotFoundError as error:
        if (missing := explained(error, name)) is None:
            raise
        _say(missing)
        return 2
    except KeyboardInterrupt as error:
        return exit_code_of(error)


def _unprinted(code: int, out: Guarded) -> int:
    """Return the exit code of a command whose output is lost; say why, if it was no reader."""
    if isinstance(out.lost, BrokenPipeError):
        return PIPE_CLOSED if code == 0 and out.had_to_be_read else code
    why = out.lost.strerror if out.lost else ""
    _say(f"cannot write to the standard output: {why}")
    return 1 if code == 0 and out.had_to_be_read else code


def _say(what: object) -> None:
    # Further lines are indented: what a name or a peer has put there looks like no message of ours.
    first, *others = map(printable_line, str(what).split("\n"))
    lines = [first, *(line if line.startswith("  ") else f"  {line}" for line in others)]
    print("eaves: " + "\n".join(lines), file=sys.stderr)  # noqa: T201  # the place that prints
