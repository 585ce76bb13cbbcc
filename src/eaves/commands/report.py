"""The command ``eaves report``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, final

import tyro


@final
@dataclass(frozen=True, kw_only=True)
class Report:
    """Write one page about runs and their audits: HTML with all in it, to open or to hand on.

    Task accuracy against the best attack, all attacks, images before and after, what the noise
    proves, what it costs the device, and how to repeat each run.
    """

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs, or folders that these are in. Audits are looked for in `audit` in each."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("report.html")
    """Write the page here."""
    no_gallery: bool = False
    """Leave out all images of examples, so that the page can be handed on."""

    def run(self) -> int:
        """Read the runs, write the page, and return the exit code."""
        from eaves.report.page import write_page

        return write_page(self.folders, self.out, gallery=not self.no_gallery)
