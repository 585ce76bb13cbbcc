"""The settings of ``eaves serve``, ``eaves agent`` and ``eaves infer``, checked. Imports no torch.

They come from flags, from the environment (:data:`PREFIXES`) and from TOML, as settings.py reads
them.
"""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from eaves.core.rules import RULES as RULE_KINDS
from eaves.core.rules import ExitRule
from eaves.errors import ConfigError
from eaves.experiments.settings import expect_at_least, expect_between, expect_choice, take_paths

AUTH: Final = ("certificates", "tokens")
WHEN_FULL: Final = ("block", "drop-oldest")
RULES: Final = ("confidence", "entropy")
LOGS: Final = ("text", "json")
MERGE_RULES: Final = ("auto", "mean", "clipped", "trimmed", "median", "krum")
_NAME: Final = "edge-1"
_LEAST, _MOST = 1e-3, 1e9  # of rates, sizes and times: no more than a way not to limit them
_MOST_MESSAGE_MB = 2000.0  # gRPC counts the bytes of a message in 31 bits
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_.])?")
_EDGE_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@final
@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """The cloud half, for edges that train and that ask.

    Every field is a flag of ``eaves serve``, a key of its TOML file, and an environment variable
    as in EAVES_SERVE_LISTEN.
    """

    listen: str = "127.0.0.1:7443"
    """Address to listen on, as HOST:PORT; 0.0.0.0:7443 or [::]:7443 for every network of this
    machine. Port 0 takes a free one."""
    credentials: Path | None = None
    """Folder with this server's certificate and key, as `eaves certs` makes it."""
    auth: str = "certificates"
    """How edges say who they are: by certificates, or by tokens."""
    insecure: bool = False
    """Neither encryption nor names that are proved: for one machine, or to try things out."""
    out: Path = Path("runs/cloud")
    """Folder for the checkpoint and the bundle."""
    edges: int = 1
    """Edges that will train: the learning-rate schedule is as long as all of their steps. 0: none
    may, the cloud only answers."""
    total_steps: int | None = None
    """Steps of the learning-rate schedule. By default they follow from the configuration and the
    size of the data; where the cloud does not know that, the schedule has no end."""
    final_rate: float = 0.0
    """Learning rate for uploads beyond the schedule, as a share of the highest; 0: they are
    refused."""
    merge: int = 1
    """Uploads of as many different edges are learnt from in one step, at most."""
    merge_rule: str = "auto"
    """How gradients of several edges are merged: mean, or robustly: clipped (norms), trimmed
    (mean), median, krum; auto: trimmed where 3 or more are merged, else mean."""
    merge_wait_s: float = 2.0
    """Seconds that a step which merges robustly waits for uploads of edges that are connected."""
    feature_limit: float = 10.0
    """Refuse uploads with features more than this many times larger than usual; 0: never."""
    gradient_limit: float = 20.0
    """Clip gradients at this many times their usual norm; 0: never."""
    quarantine: int = 3
    """Set an edge aside after so many refused uploads, until it is released; 0: never."""
    history: int = 8
    """Checkpoints of the past that are kept, for --rollback: the first, the newest, and some
    between."""
    keep_uploads: float = 0.0
    """Keep uploads, up to as many MB (10^6 bytes), so that --forget can take those of an edge
    back. With --send once they are kept anyway."""
    checkpoint_s: float = 10.0
    """Seconds between checkpoints. Edges keep what they sent until it is in one."""
    store_mb: float = 16_000.0
    """With --send once: uploads that are kept to be learnt from again take this many MB
    (10^6 bytes) on disk at most. Each of --edges has its share of it."""
    max_message_mb: float = 64.0
    """Largest message that is taken, in MB (10^6 bytes); less where the codec, the batch size and
    the shape of the features say that none can be so large."""
    max_edges: int = 1000
    """Edges that may be connected for training at the same time."""
    waiting_mb: float = 1000.0
    """MB (10^6 bytes) of uploads and queries that were received and wait, at most; of one edge, an
    eighth of it."""
    edge_queries: int = 64
    """Queries of one edge that may wait at the same time; more are refused."""
    queries_per_s: float | None = None
    """Queries that one edge may send in a second; more are refused."""
    calls_per_s: float = 20.0
    """Connections, requests for the status and refused calls of one edge in a second; more of them
    have to wait."""
    uploads_per_s: float | None = None
    """Uploads that one edge may send in a second."""
    mb_per_s: float | None = None
    """MB (10^6 bytes) that one edge may send in a second."""
    max_queries: int = 256
    """Examples that are answered in one batch, at most."""
    metrics: str | None = None
    """Address for Prometheus to read from, as HOST:PORT."""
    exit_when_done: bool = False
    """End once all --edges have trained to their end."""
    threads: int = 1
    """CPU threads."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: CUDA where present."""
    log: str = "text"
    """text, or json: one object on each line."""

    def __post_init__(self) -> None:
        take_paths(self)
        expect_choice(self, "auth", AUTH)
        expect_choice(self, "log", LOGS)
        self._check_training()
        expect_at_least(self, "edges", 0)
        for name in ("merge", "max_edges", "max_queries", "edge_queries", "threads"):
            expect_at_least(self, name, 1)
        expect_between(self, "checkpoint_s", 0, _MOST)
        expect_between(self, "store_mb", _LEAST, _MOST)
        expect_between(self, "max_message_mb", _LEAST, _MOST_MESSAGE_MB)
        expect_between(self, "waiting_mb", 1, _MOST)
        expect_between(self, "calls_per_s", _LEAST, _MOST)
        for name in ("uploads_per_s", "mb_per_s", "queries_per_s"):
            if getattr(self, name) is not None:
                expect_between(self, name, _LEAST, _MOST)
        if self.merge > max(1, self.edges):
            raise ConfigError(
                f"--merge {self.merge} takes uploads of {self.merge} different edges, and --edges "
                f"says that {self.edges} will train: raise --edges or lower --merge"
            )
        if self.insecure and self.auth == "tokens":
            raise ConfigError("--auth tokens needs encryption: leave --insecure out")
        _check_access(self)
        parse_address(self.listen)
        if self.metrics is not None:
            parse_address(self.metrics)
            if self.metrics == self.listen and parse_address(self.listen)[1] != 0:
                raise ConfigError(f"--listen and --metrics are both {self.listen}: change a port")

    def _check_training(self) -> None:
        expect_choice(self, "merge_rule", MERGE_RULES)
        if self.total_steps is not None:
            expect_at_least(self, "total_steps", 1)
        expect_between(self, "final_rate", 0, 1)
        expect_between(self, "merge_wait_s", 0, _MOST)
        expect_between(self, "keep_uploads", 0, _MOST)
        for name in ("quarantine", "history"):
            expect_at_least(self, name, 0)
        for name in ("feature_limit", "gradient_limit"):
            if getattr(self, name) != 0:
                expect_between(self, name, 2, _MOST)


@final
@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """The edge half, training with a cloud far away.

    Every field is a flag of ``eaves agent``, a key of its TOML file, and an environment variable
    as in EAVES_AGENT_CLOUD.
    """

    cloud: str = "localhost:7443"
    """Address of the cloud, as HOST:PORT."""
    credentials: Path | None = None
    """Folder with this device's certificate and key, or its token, as `eaves certs` makes it."""
    insecure: bool = False
    """Neither encryption nor a name that is proved: for one machine, or to try things out."""
    name: str = _NAME
    """Name of this edge, with --insecure only: otherwise its credentials say it."""
    out: Path = Path("runs/agent")
    """Folder for the checkpoint, the bundle, and uploads that wait for the cloud."""
    spool_mb: float = 512.0
    """Uploads that wait for the cloud take this many MB (10^6 bytes) at most."""
    spool_memory_mb: float = 64.0
    """As many MB of them stay in memory; the others go to disk."""
    when_full: str = "block"
    """When so many wait: block (training waits for the cloud), or drop-oldest (the cloud never
    learns from them)."""
    checkpoint_s: float = 60.0
    """Seconds between checkpoints."""
    overwrite: bool = False
    """Start over even if --out holds a run, which is replaced."""
    max_backoff_s: float = 30.0
    """Wait this long at most before connecting again."""
    log: str = "text"
    """text, or json: one object on each line."""

    def __post_init__(self) -> None:
        take_paths(self)
        expect_choice(self, "when_full", WHEN_FULL)
        expect_choice(self, "log", LOGS)
        expect_between(self, "spool_mb", _LEAST, _MOST)
        expect_between(self, "spool_memory_mb", 0, _MOST)
        expect_between(self, "checkpoint_s", 0, _MOST)
        expect_between(self, "max_backoff_s", _LEAST, _MOST)
        _check_access(self)
        _check_edge(self.cloud, self.name)


@final
@dataclass(frozen=True, kw_only=True)
class InferConfig:
    """Answers from the edge's exit where it is sure, and from the cloud where it is not.

    Every field is a flag of ``eaves infer``, a key of its TOML file, and an environment variable
    as in EAVES_INFER_CLOUD.
    """

    cloud: str | None = "localhost:7443"
    """Address of the cloud, as HOST:PORT; None: the edge answers everything."""
    credentials: Path | None = None
    """Folder with this device's certificate and key, or its token, as `eaves certs` makes it."""
    insecure: bool = False
    """Neither encryption nor a name that is proved: for one machine, or to try things out."""
    name: str = _NAME
    """Name of this edge, with --insecure only: otherwise its credentials say it."""
    deadline_ms: float = 500.0
    """Take the edge's own answer where the cloud's is not there after this many milliseconds."""
    rule: str | None = None
    """confidence or entropy: what tells whether the edge is sure; with --threshold. By default the
    rule in the bundle; where it has none, everything is sent."""
    threshold: float | None = None
    """How sure it has to be, in [0, 1]: confidence above, or entropy (as a share of the largest)
    below."""
    batch_size: int | None = None
    """Examples that are answered together; by default 1, or the group that datamix mixes."""
    samples: int | None = None
    """Answer this many examples; by default all of the test set."""

    def __post_init__(self) -> None:
        take_paths(self)
        if self.rule is not None:
            expect_choice(self, "rule", RULES)
        if self.threshold is not None:
            expect_between(self, "threshold", 0, 1)
        expect_between(self, "deadline_ms", _LEAST, _MOST)
        for name in ("batch_size", "samples"):
            if getattr(self, name) is not None:
                expect_at_least(self, name, 1)
        _check_access(self)
        if self.cloud is not None:
            _check_edge(self.cloud, self.name)


def given_rule(config: InferConfig) -> ExitRule | None:
    """Return the rule of the flags; None where they have none.

    Raises:
        ConfigError: a rule without a threshold, or the reverse.
    """
    if (config.rule is None) != (config.threshold is None):
        raise ConfigError("give --rule and --threshold together, or neither for the bundle's own")
    if config.rule is None or config.threshold is None:
        return None
    return RULE_KINDS[config.rule](threshold=config.threshold)


PREFIXES: Final[dict[type[ServeConfig | AgentConfig | InferConfig], str]] = {
    ServeConfig: "EAVES_SERVE_",
    AgentConfig: "EAVES_AGENT_",
    InferConfig: "EAVES_INFER_",
}
"""What the environment variables of each begin with."""


def parse_address(text: str) -> tuple[str, int]:
    """Read HOST:PORT; an IPv6 address stands in brackets, which are not returned.

    Port 0 is that of a listener who takes any free one.

    >>> parse_address("cloud.example:7443"), parse_address("[::1]:7443")
    (('cloud.example', 7443), ('::1', 7443))

    Raises:
        ConfigError: it is not like that.
    """
    host, colon, port = text.rpartition(":")
    if "://" in text:
        raise _no_address(text, "leave out what stands before ://")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise _no_address(text, "the port is a number up to 65535 behind the last colon")
    if not host:
        raise _no_address(text, f"for every network of this machine: 0.0.0.0:{port}")
    if host.startswith("[") and host.endswith("]"):
        return _checked(host[1:-1], 6, text), int(port)
    if ":" in host:
        raise _no_address(text, "an IPv6 address stands in brackets")
    if not _HOST.fullmatch(host):
        raise _no_address(text, "a host has letters, digits, '.', '_' and '-' only")
    if host.rpartition(".")[2].isdecimal():
        return _checked(host, 4, text), int(port)
    return host, int(port)


def _checked(host: str, version: int, text: str) -> str:
    """Return ``host``, which is a numeric address of this version of IP, or raise."""
    kind = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    try:
        kind(host)
    except ValueError as error:
        raise _no_address(text, f"{host!r} is no IPv{version} address") from error
    return host


def _no_address(text: str, hint: str) -> ConfigError:
    return ConfigError(
        f"expected an address as in localhost:7443 or [::1]:7443, got {text!r}: {hint}"
    )


def _check_access(config: ServeConfig | AgentConfig | InferConfig) -> None:
    if config.insecure and config.credentials is not None:
        raise ConfigError("give --credentials or --insecure, not both")
    if isinstance(config, ServeConfig) or config.credentials is None:
        return
    if config.name != _NAME:
        raise ConfigError(
            f"--name {config.name} is for --insecure: with --credentials an edge has the name that "
            "its certificate or token was made for"
        )


def _check_edge(cloud: str, name: str) -> None:
    if parse_address(cloud)[1] == 0:
        raise ConfigError(f"expected --cloud with the port that it listens on, got {cloud!r}")
    if not _EDGE_NAME.fullmatch(name):
        raise ConfigError(
            f"expected --name of 1 to 64 letters, digits, '.', '_' and '-', got {name!r}"
        )
