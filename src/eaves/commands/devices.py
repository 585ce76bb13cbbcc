"""The command ``eaves devices``."""

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, kw_only=True)
class Devices:
    """List the preset devices that a plan can be made for, and where their figures come from."""

    json: bool = False
    """Print a line of JSON for each."""

    def run(self) -> int:
        """Print the table."""
        from eaves.report.plans import show_devices

        return show_devices(as_json=self.json)
