"""Which of the uploads that wait the next step takes.

A robust merge needs uploads of several edges: one that comes alone has nothing to be compared
with. So a step waits a moment for those of other edges that are connected and still train.
"""

from time import monotonic, sleep
from typing import Final, final

from eaves.network.merging import rule_for
from eaves.network.policy import TrainingPolicy
from eaves.network.register import Register
from eaves.network.workqueue import UploadWork, WorkQueue

_POLL_S: Final = 0.002


@final
class Intake:
    """Takes up to ``merge`` uploads of different edges out of ``work``."""

    def __init__(self, work: WorkQueue, register: Register, policy: TrainingPolicy, merge: int):
        self._work, self._register, self._merge = work, register, merge
        robust = rule_for(policy.merge_rule, merge) != "mean"
        self._wait_s = policy.merge_wait_s if robust else 0.0
        self._since: float | None = None
        self._suspects = 0  # uploads to be learnt from alone, because one of them is to blame

    def take(self, *, stopping: bool) -> list[UploadWork]:
        """Return the uploads of the next step; none where it is better to wait for others."""
        if self._suspects:
            taken = self._work.take_uploads(1)
            self._suspects -= len(taken)
            return taken
        if self._wait_s and not stopping and self._waits():
            sleep(_POLL_S)
            return []
        self._since = None
        return self._work.take_uploads(self._merge)

    def alone(self, uploads: list[UploadWork]) -> None:
        """Put back uploads that one step could not learn from: each is to be taken alone."""
        self._suspects = len(uploads)
        self._work.put_back(uploads)

    def _waits(self) -> bool:
        here = self._work.edges()
        if not here or here >= min(self._merge, self._register.training()):
            return False
        now = monotonic()
        if self._since is None:
            self._since = now
        return now - self._since < self._wait_s
