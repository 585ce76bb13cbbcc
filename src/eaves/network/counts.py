"""What a cloud has done since it started."""

from dataclasses import dataclass
from typing import final


@final
@dataclass
class Counts:
    """Sums, for metrics and status. One thread writes them."""

    uploads: int = 0
    duplicates: int = 0
    refused: int = 0
    dropped: int = 0
    """Uploads of streams that another took the place of: their edges send them again."""
    faults: int = 0
    """Training steps that have failed for a reason that is not ours, such as too little memory."""
    samples: int = 0
    bytes_in: int = 0
    steps: int = 0
    step_s: float = 0.0
    again: int = 0
    """Steps from uploads that are kept."""
    step_uploads: int = 0
    """Uploads in the last step: how full it was."""
    queries: int = 0
    answered: int = 0
    """Examples in queries."""
    answer_batches: int = 0
    answer_s: float = 0.0
    checkpoints: int = 0
    failed_checkpoints: int = 0
