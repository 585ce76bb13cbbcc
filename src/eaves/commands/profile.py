"""The command ``eaves profile``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, final

import tyro

from eaves.experiments.planconfig import DeviceConfig, ProfileConfig


@final
@dataclass(frozen=True, kw_only=True)
class Profile:
    """Measure what each stage of a net costs on this machine, for plans made here or elsewhere.

    The last table says what each cut costs the device in inference: time, memory, bytes, energy.
    """

    settings: Annotated[ProfileConfig, tyro.conf.arg(name="")] = field(
        default_factory=ProfileConfig
    )
    question: Annotated[DeviceConfig, tyro.conf.arg(name="")] = field(default_factory=DeviceConfig)
    show: Path | None = None
    """Print this profile, which `eaves profile --out` wrote, and measure nothing."""
    out: Path | None = None
    """Write the profile here, as JSON that `eaves plan` reads."""
    seconds: float = 10.0
    """Repeat the timing for this long."""
    json: bool = False
    """Print the profile as JSON, and no tables."""

    def run(self) -> int:
        """Measure and print."""
        from eaves.report.planning import Taking, show_profile

        taking = Taking(show=self.show, out=self.out, seconds=self.seconds, as_json=self.json)
        return show_profile(self.settings, self.question, taking)
