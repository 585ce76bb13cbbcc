"""The command ``eaves plan``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, final

import tyro

from eaves.experiments.planconfig import PlanConfig, ProfileConfig


@final
@dataclass(frozen=True, kw_only=True)
class Plan:
    """Say where to cut, with which method and codec, and what that will cost.

    With no flags: a small net on this machine, with 3G to a cloud as fast as it.
    """

    settings: Annotated[ProfileConfig, tyro.conf.arg(name="")] = field(
        default_factory=ProfileConfig
    )
    question: Annotated[PlanConfig, tyro.conf.arg(name="")] = field(default_factory=PlanConfig)
    all: bool = False
    """Print every combination, not the best of each method at each cut alone."""
    plot: Path | None = None
    """Draw time, memory and the Pareto front into this file (.png, .pdf or .svg)."""
    write_config: Path | None = None
    """Write the best as a configuration for `eaves train --config`."""
    json: bool = False
    """Print the plan as one line of JSON, and no table."""

    def run(self) -> int:
        """Plan and print."""
        from eaves.report.planning import Outputs, show_plan

        outputs = Outputs(
            as_json=self.json,
            everything=self.all,
            plot=self.plot,
            write_config=self.write_config,
        )
        return show_plan(self.settings, self.question, outputs)
