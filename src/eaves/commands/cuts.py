"""The command ``eaves cuts``."""

from dataclasses import dataclass
from typing import final

import tyro

from eaves.experiments.planconfig import parse_shape


@final
@dataclass(frozen=True, kw_only=True)
class Cuts:
    """List where a net can be cut, and what crosses there."""

    net: tyro.conf.Positional[str]
    """Net, as `eaves nets` lists them; also timm:NAME, torchvision:NAME, FILE.py:NAME."""
    input: str = "3x32x32"
    """Channels x height x width of one input."""
    classes: int = 10
    """Number of classes."""
    stem: str | None = None
    """imagenet or cifar, for nets that have the choice."""
    json: bool = False
    """Print a line of JSON for each cut."""

    def run(self) -> int:
        """Print the table."""
        from eaves.report.choices import show_cuts

        shape = parse_shape(self.input)
        return show_cuts(self.net, shape, self.classes, self.stem, as_json=self.json)
