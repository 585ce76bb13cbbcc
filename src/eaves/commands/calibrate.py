"""The command ``eaves calibrate``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import tyro

from eaves.experiments.netconfig import InferConfig


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
