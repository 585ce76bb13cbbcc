"""The command ``eaves agent``."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, final

import tyro

from eaves.commands.flags import given_settings
from eaves.experiments.netconfig import AgentConfig


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

    @classmethod
    def given(cls, argv: Sequence[str]) -> "Agent":
        """Return what flags are added to: a file, and the environment above it."""
        return cls(source=tyro.MISSING, settings=given_settings(AgentConfig, argv))

    def run(self) -> int:
        """Train, print, and return the exit code."""
        from eaves.report.serving import Local, show_agent

        return show_agent(
            self.source,
            self.settings,
            Local(data=self.data, data_root=self.data_root, net=self.net),
            as_json=self.json,
        )
