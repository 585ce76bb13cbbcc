"""The command ``eaves nets``."""

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, kw_only=True)
class Nets:
    """List the nets and what they need."""

    json: bool = False
    """Print a line of JSON for each."""

    def run(self) -> int:
        """Print the table."""
        from eaves.report.choices import show_nets

        return show_nets(as_json=self.json)
