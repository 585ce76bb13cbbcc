"""The command ``eaves train``."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, final

import tyro

from eaves.commands.flags import value_of
from eaves.errors import ConfigError
from eaves.experiments.config import TrainConfig, load_config, resumed_config


@final
@dataclass(frozen=True, kw_only=True)
class Train:
    """Train one net divided between edge and cloud, over an emulated link.

    With no flags: hierarchical training on the handwritten digits, in seconds.
    """

    settings: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    config: Path | None = None
    """TOML file with the same keys as the flags below; flags win."""
    resume: Path | None = None
    """Go on with the interrupted run in this folder."""
    overwrite: bool = False
    """Start over even if --out holds a run, which is replaced."""
    json: bool = False
    """Print records as lines of JSON, that of the method itself last, and no tables."""

    @classmethod
    def given(cls, argv: Sequence[str]) -> "Train":
        """Return what flags are added to: a file, the run to resume, or the defaults."""
        resume, config = value_of("--resume", argv), value_of("--config", argv)
        if resume and config:
            raise ConfigError(
                "give --resume or --config, not both: a run keeps its own configuration"
            )
        if resume:
            return cls(settings=resumed_config(Path(resume)))
        return cls(settings=load_config(Path(config)) if config else TrainConfig())

    def run(self) -> int:
        """Train, print, and return the exit code."""
        from eaves.report.session import train

        resume = self.resume is not None
        return train(self.settings, resume=resume, overwrite=self.overwrite, as_json=self.json)
