"""The command ``eaves serve``."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, final

import tyro

from eaves.commands.flags import given_settings
from eaves.experiments.netconfig import ServeConfig


@final
@dataclass(frozen=True, kw_only=True)
class Serve:
    """Run the cloud half as a service: it learns from the uploads of edges and answers queries.

    On this machine alone, credentials are generated automatically; for a network see `eaves certs`.
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

    @classmethod
    def given(cls, argv: Sequence[str]) -> "Serve":
        """Return what flags are added to: a file, and the environment above it."""
        return cls(source=tyro.MISSING, settings=given_settings(ServeConfig, argv))

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
