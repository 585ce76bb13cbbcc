"""The command ``eaves data``."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import tyro

from eaves.errors import ConfigError


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
    """Write synthetic data in its layout instead, for trials: motion alone has such."""
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
