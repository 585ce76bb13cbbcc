"""The command ``eaves infer``."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, final

import tyro

from eaves.commands.flags import given_settings
from eaves.experiments.netconfig import InferConfig


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

    @classmethod
    def given(cls, argv: Sequence[str]) -> "Infer":
        """Return what flags are added to: a file, and the environment above it."""
        return cls(source=tyro.MISSING, settings=given_settings(InferConfig, argv))

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
