"""The command ``eaves bundle``."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import tyro

from eaves.experiments.config import load_config


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
