"""Steps from uploads that are kept (the replay buffer); one that fails ends nothing."""

import logging
from typing import Final, final

from eaves.errors import StateError, StorageError
from eaves.network.counts import Counts
from eaves.network.learning import Learning

_MOST_FAILED: Final = 10  # one after the other
_log = logging.getLogger(__name__)


@final
class Replays:
    """Takes such steps; one that fails is left out, as long as others do not."""

    def __init__(self) -> None:
        self._failed = 0

    def step(self, learning: Learning, counts: Counts) -> None:
        """Take one step.

        Raises:
            DivergedError: the weights are no longer finite, or were changed in part.
            StorageError: the disk refuses.
            StateError: what is kept is damaged.
            Exception: too many steps have failed, one after the other; this is why the last has.
        """
        try:
            learning.again()
        except (StateError, StorageError):  # the disk: it would fail again
            raise
        except Exception as error:
            learning.expect_finite()
            self._failed += 1
            if self._failed >= _MOST_FAILED:
                raise
            counts.faults += 1
            _log.warning("a step from what is kept has failed", extra={"why": repr(error)[:300]})
            return
        self._failed = 0
        counts.again += 1
