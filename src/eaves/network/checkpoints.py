"""When the cloud keeps what it has learnt, and when that counts: alone or with a group.

Rank 0 decides and writes. In the turn in which a checkpoint begins, all processes hand in their
accounts; when it is done, all tell their edges what has become durable.
"""

import json
import logging
from concurrent.futures import Future
from typing import NamedTuple, final

from eaves.errors import StorageError
from eaves.network.counts import Counts
from eaves.network.group import Group
from eaves.network.keeper import Keeper, Kept
from eaves.network.ledger import Ledger, Run
from eaves.network.register import Register

_log = logging.getLogger(__name__)


@final
class Turn(NamedTuple):
    """What one process says at the beginning of a turn."""

    uploads: int
    waiting: int
    stopping: int
    wanted: int
    """Somebody waits for a checkpoint."""
    begin: int
    """Rank 0 begins a checkpoint in this turn."""
    settled: int
    """How many checkpoints rank 0 has done."""


@final
class Checkpoints:
    """The checkpoints of one process of a group."""

    def __init__(self, keeper: Keeper, group: Group, register: Register, counts: Counts):
        self._keeper, self._group = keeper, group
        self._register, self._counts = register, counts
        self._handed_in: dict[Run, int] = {}
        self.begin_next, self.settled = False, 0

    def settle(self, turns: list[Turn]) -> None:
        """Tell the edges of a checkpoint that has been done."""
        if self._group.rank == 0:
            self._end()
        elif turns[0].settled > self.settled:
            self._settle(self._handed_in)

    def plan(self, turns: list[Turn], *, ahead: bool) -> bool:
        """Decide whether a checkpoint begins in the next turn; only rank 0 decides.

        ``ahead``: the weights have changed without an upload.
        """
        if self._group.rank == 0:
            wanted = any(turn.wanted for turn in turns)
            # What the others of a group have done since is not known here.
            behind = wanted or ahead or self._group.size > 1 or self._register.behind()
            self.begin_next = behind and self._keeper.due(wanted=wanted)
        return self.begin_next

    def hand_in(self) -> None:
        """Bring the accounts of all processes together, for the checkpoint that begins now."""
        self.begin_next = False
        self._handed_in = self._register.hand_in()
        if self._group.size > 1:
            mine = json.dumps(self._register.accounts().as_json())
            texts = self._group.gather_text(mine)
            self._register.merge(Ledger.from_json(json.loads(text)) for text in texts)
            self._handed_in = self._register.accounts().applied()

    def begin(self, kept: Kept) -> "Future[None]":
        """Start to write, on rank 0."""
        return self._keeper.begin(kept)

    def last(self, kept: Kept) -> None:
        """Write what was handed in, and wait for it.

        Raises:
            StorageError: the disk is full or refuses.
        """
        problem: StorageError | None = None
        if self._group.rank == 0:
            try:
                self._keeper.save(kept)
            except StorageError as error:
                problem = error
        # The others may not say that anything is durable before rank 0 has written it.
        written = self._group.gather([problem is None])[0][0]
        if not written:
            raise problem or StorageError("rank 0 could not write the last checkpoint")
        self._settle(self._handed_in)

    def join(self) -> None:
        """Wait for a checkpoint that is being written."""
        self._keeper.join()
        self._end()

    def _end(self) -> None:
        try:
            durable = self._keeper.end()
        except StorageError as error:
            self._counts.failed_checkpoints += 1
            _log.error("%s; trying again", error)
            return
        if durable is not None:
            self._settle(durable)

    def _settle(self, durable: dict[Run, int]) -> None:
        self.settled += 1
        self._counts.checkpoints += 1
        self._register.settle(durable)
