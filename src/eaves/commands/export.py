"""The command ``eaves export``."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import tyro


@final
@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the edge half of a bundle as ONNX, for devices without torch.

    What was written is run and compared with torch before it is kept.
    """

    source: tyro.conf.Positional[Path]
    """Bundle with the edge's half, or the folder of the run that left it."""
    out: Path
    """Folder for the models and their device.json."""
    net: str | None = None
    """FILE.py:NAME of your own net, where the bundle does not hold its code."""
    json: bool = False
    """Print what was written as a line of JSON."""

    def run(self) -> int:
        """Export, print, and return the exit code."""
        from eaves.report.exporting import show_export

        return show_export(self.source, self.out, net=self.net, as_json=self.json)
