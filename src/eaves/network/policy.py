"""The training policy of a cloud: how long it trains, and how much one edge may change.

All of it comes from the cloud's own configuration; nothing that an edge says changes it.
"""

from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Final, final

from eaves.errors import ConfigError
from eaves.network.merging import MERGE_RULES

_SLACK: Final = 2  # times the equal share, where edges may have different amounts of data


@final
@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large features are: their root mean square, and the largest of them by its size."""

    rms: float
    peak: float


@final
@dataclass(frozen=True, kw_only=True)
class TrainingPolicy:
    """How long a cloud trains, and what it does about uploads that are out of the ordinary."""

    run_uploads: int = 0
    """Uploads of one edge's run, as the cloud's configuration says; 0: it cannot know."""
    total_steps: int = 0
    """Steps of the schedule, as the operator says; 0: they follow from the runs."""
    final_rate: float = 0.0
    """Learning rate beyond the schedule, as a share of the highest; 0: uploads are refused."""
    merge_rule: str = "auto"
    merge_wait_s: float = 0.0
    """How long a robust step waits for uploads of other edges that are connected."""
    gradient_times: float = 0.0
    """Clip gradients at this many times their usual norm; 0: never."""
    feature_times: float = 0.0
    """Refuse features of more than this many times their usual size; 0: never."""
    probed: Scale | None = None
    """How large the features are of an edge part that has not learnt yet."""
    strikes: int = 0
    """Refused uploads after which an edge is set aside; 0: never."""
    folder: Path | None = None
    """Where the journal and the quarantine are; None: they are not written."""
    keep_bytes: int = 0
    """Uploads are kept, so that they can be taken back, until they take so much; 0: none are."""

    def __post_init__(self) -> None:
        if self.merge_rule not in MERGE_RULES:
            rules = ", ".join(MERGE_RULES)
            raise ConfigError(f"expected a merge rule of {rules}, got {self.merge_rule!r}")
        if not 0 <= self.final_rate <= 1:
            raise ConfigError(f"expected a final rate from 0 to 1, got {self.final_rate}")

    def steps(self, *, edges: int, at_once: int) -> int:
        """Return the steps that the uploads of all edges make; 0 where that is not known.

        >>> TrainingPolicy(run_uploads=6).steps(edges=3, at_once=2)
        9
        """
        return self.run_uploads and max(1, self.run_uploads * edges // at_once)

    def share(self, *, edges: int, at_once: int) -> int | None:
        """Return how many uploads of one edge are learnt from; None: there is no limit.

        Where the operator has said how long training is, edges may have different amounts of data,
        and each may use twice its equal share.

        >>> TrainingPolicy(run_uploads=6).share(edges=3, at_once=2)
        6
        >>> TrainingPolicy(total_steps=100).share(edges=10, at_once=1)
        20
        """
        if self.final_rate:
            return None
        if self.total_steps:
            return min(
                self.total_steps * at_once, ceil(_SLACK * self.total_steps * at_once / edges)
            )
        return self.run_uploads or None
