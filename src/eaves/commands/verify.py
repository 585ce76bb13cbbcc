"""The command ``eaves verify``."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import tyro


@final
@dataclass(frozen=True, kw_only=True)
class Verify:
    """Read everything that Eaves has written into a folder and compare its checksums.

    A spool, a store, a checkpoint, a bundle, the folder of a run, an agent, a service, an export or
    of credentials; nothing is changed. Stop what is at work there first. Exit code 1: damage.
    """

    path: tyro.conf.Positional[Path]
    """File or folder."""
    json: bool = False
    """Print a line of JSON for each thing, and no table."""

    def run(self) -> int:
        """Read, print, and return the exit code."""
        from eaves.report.verifying import show_verify

        return show_verify(self.path, as_json=self.json)
