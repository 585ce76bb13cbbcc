"""The commands that go over a network; cli.py says how commands are made."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, final

import tyro

from eaves.experiments.config import load_config
from eaves.experiments.netconfig import AgentConfig, InferConfig, ServeConfig


@final
@dataclass(frozen=True, kw_only=True)
class Serve:
    """Run the cloud half as a service: it learns from the uploads of edges and answers queries.

    On this machine alone, credentials are made by themselves; for a network see `eaves certs`.
    """

    source: tyro.conf.Positional[Path]
    """Configuration of a training (TOML), or a bundle."""
    settings: Annotated[ServeConfig, tyro.conf.arg(name="")] = field(default_factory=ServeConfig)
    config: Path | None = None
    """TOML file with the same keys as the flags below; flags and environment win."""
    net: str | None = None
    """FILE.py:NAME of your own net, where it lies elsewhere on this machine."""
    json: bool = False
    """Print what was done as a line of JSON, and no table."""
    rollback: str | None = None
    """list: show the checkpoints of the history, and end. A number of that list, or before:EDGE:
    begin with the weights of then, and serve. Edges keep their accounts, and go on."""
    forget: str | None = None
    """Name of an edge: train again, from before its first upload, on the uploads of all others that
    were kept (--keep-uploads), set the edge aside, and serve."""
    release: str | None = None
    """list: show the edges in quarantine, and end. The name of an edge: release it, and end; the
    cloud may be running."""

    def run(self) -> int:
        """Serve until a signal, print, and return the exit code."""
        from eaves.experiments.restoring import Undo
        from eaves.report.serving import show_history, show_released, show_serve

        if self.release is not None:
            return show_released(self.settings.out, self.release, as_json=self.json)
        if self.rollback == "list":
            return show_history(self.settings.out, as_json=self.json)
        undo = Undo(rollback=self.rollback, forget=self.forget)
        return show_serve(self.source, self.settings, undo, net=self.net, as_json=self.json)


@final
@dataclass(frozen=True, kw_only=True)
class Agent:
    """Train the edge half on this device and send to the cloud; an interrupted run goes on."""

    source: tyro.conf.Positional[Path]
    """Configuration of a training (TOML), or a bundle: the same as the cloud's."""
    settings: Annotated[AgentConfig, tyro.conf.arg(name="")] = field(default_factory=AgentConfig)
    config: Path | None = None
    """TOML file with the same keys as the flags below; flags and environment win."""
    data: str | None = None
    """Data set of this device, where it is not that of the configuration."""
    data_root: Path | None = None
    """Folder that holds the data sets; by default the environment variable EAVES_DATA."""
    net: str | None = None
    """FILE.py:NAME of your own net, where it lies elsewhere on this machine."""
    json: bool = False
    """Print the record as a line of JSON, and no table."""

    def run(self) -> int:
        """Train, print, and return the exit code."""
        from eaves.report.serving import Local, show_agent

        return show_agent(
            self.source,
            self.settings,
            Local(data=self.data, data_root=self.data_root, net=self.net),
            as_json=self.json,
        )


@final
@dataclass(frozen=True, kw_only=True)
class Bundle:
    """Make an untrained bundle where the data is, for clouds and devices that do not know it."""

    source: tyro.conf.Positional[Path]
    """Configuration of a training (TOML)."""
    out: Path
    """Folder for the bundle."""

    def run(self) -> int:
        """Build both halves and write them."""
        from eaves.report.serving import make_bundle

        return make_bundle(load_config(self.source), self.out)


@final
@dataclass(frozen=True, kw_only=True)
class Infer:
    """Answer the test examples of this device: by the exit where it is sure, else by the cloud.

    Where the cloud does not answer in time, the exit's answer stands.
    """

    source: tyro.conf.Positional[Path]
    """Bundle with the edge's half, or the folder of the run that left it."""
    settings: Annotated[InferConfig, tyro.conf.arg(name="")] = field(default_factory=InferConfig)
    config: Path | None = None
    """TOML file with the same keys as the flags below; flags and environment win."""
    data: str | None = None
    """Data set of this device, where it is not that of the bundle."""
    data_root: Path | None = None
    """Folder that holds the data sets; by default the environment variable EAVES_DATA."""
    net: str | None = None
    """FILE.py:NAME of your own net, where the bundle does not hold its code."""
    json: bool = False
    """Print a line of JSON for each example, a summary last, and no table."""

    def run(self) -> int:
        """Answer, print, and return the exit code."""
        from eaves.report.inferring import show_infer
        from eaves.report.serving import Local

        return show_infer(
            self.source,
            self.settings,
            Local(data=self.data, data_root=self.data_root, net=self.net),
            as_json=self.json,
        )


@final
@dataclass(frozen=True, kw_only=True)
class Calibrate:
    """Choose when the exit of a bundle answers alone, and write the rule into the bundle.

    Half of the test set chooses, the other half measures. Without --cloud the bundle's own cloud
    half is asked.
    """

    source: tyro.conf.Positional[Path]
    """Bundle, or the folder of the run that left it."""
    target_accuracy: float | None = None
    """Send as little as reaches this accuracy."""
    target_share: float | None = None
    """Answer as well as sending this share of the examples allows."""
    rule: Literal["confidence", "entropy"] = "confidence"
    """What tells whether the exit is sure."""
    cloud: str | None = None
    """Address of the cloud, as HOST:PORT, where the bundle has no cloud half."""
    credentials: Path | None = None
    """Folder with this device's certificate and key, or its token."""
    insecure: bool = False
    """Neither encryption nor a name that is proved."""
    data: str | None = None
    """Data set of this device, where it is not that of the bundle."""
    data_root: Path | None = None
    """Folder that holds the data sets; by default the environment variable EAVES_DATA."""
    net: str | None = None
    """FILE.py:NAME of your own net, where the bundle does not hold its code."""
    plot: Path | None = None
    """Draw the curve into this file (.png, .pdf or .svg)."""
    json: bool = False
    """Print the choice and the curve as a line of JSON, and no table."""

    def run(self) -> int:
        """Choose, write, print, and return the exit code."""
        from eaves.experiments.calibrating import Target
        from eaves.report.inferring import show_calibration
        from eaves.report.serving import Local

        wanted = Target(rule=self.rule, accuracy=self.target_accuracy, share=self.target_share)
        config = InferConfig(cloud=self.cloud, credentials=self.credentials, insecure=self.insecure)
        return show_calibration(
            self.source,
            wanted,
            config,
            Local(data=self.data, data_root=self.data_root, net=self.net),
            plot=self.plot,
            as_json=self.json,
        )


@final
@dataclass(frozen=True, kw_only=True)
class Init:
    """Make a private authority and a server's certificate; or renew the latter."""

    host: tuple[str, ...] = ()
    """Names and addresses under which edges reach the server."""
    days: int = 397
    """Until the server's certificate expires."""
    renew: bool = False
    """Make a new certificate for the server, with the same authority."""
    folder: Path = Path("certs")
    """Where they are kept."""

    def run(self) -> int:
        """Make them and say where they are."""
        from eaves.report.certs import show_init

        return show_init(self.folder, self.host, days=self.days, renew=self.renew)


@final
@dataclass(frozen=True, kw_only=True)
class Device:
    """Make a certificate for a device."""

    name: tyro.conf.Positional[str]
    """Name of the device: letters, digits, '.', '_' and '-'."""
    days: int = 397
    """Until it expires."""
    renew: bool = False
    """Make a new one for a device that has one."""
    folder: Path = Path("certs")
    """Where they are kept."""

    def run(self) -> int:
        """Make it and say where it is."""
        from eaves.report.certs import show_device

        return show_device(self.folder, self.name, days=self.days, renew=self.renew)


@final
@dataclass(frozen=True, kw_only=True)
class Token:
    """Make a bearer token for a device, in place of a certificate."""

    name: tyro.conf.Positional[str]
    """Name of the device: letters, digits, '.', '_' and '-'."""
    renew: bool = False
    """Make a new one for a device that has one; the old one is refused from then on."""
    folder: Path = Path("certs")
    """Where they are kept."""

    def run(self) -> int:
        """Make it and say where it is."""
        from eaves.report.certs import show_token

        return show_token(self.folder, self.name, renew=self.renew)


@final
@dataclass(frozen=True, kw_only=True)
class Revoke:
    """Refuse a device from now on, also where it is connected."""

    name: tyro.conf.Positional[str]
    """Name of the device."""
    folder: Path = Path("certs")
    """Where they are kept."""

    def run(self) -> int:
        """Revoke it and say what that did."""
        from eaves.report.certs import show_revoked

        return show_revoked(self.folder, self.name)


@final
@dataclass(frozen=True, kw_only=True)
class List:
    """List all certificates and tokens that were made."""

    json: bool = False
    """Print a line of JSON for each."""
    folder: Path = Path("certs")
    """Where they are kept."""

    def run(self) -> int:
        """Print the table."""
        from eaves.report.certs import show_list

        return show_list(self.folder, as_json=self.json)


@final
@dataclass(frozen=True, kw_only=True)
class Certs:
    """Make, list and revoke what edges and clouds know each other by."""

    action: Init | Device | Token | Revoke | List

    def run(self) -> int:
        """Do it."""
        return self.action.run()
