"""Who is connected, and what has been learnt from whom.

The server's thread and the trainer's share it.
"""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from time import monotonic
from typing import Final, final

from eaves.network.ledger import MOST_RUNS, Account, Ledger, Run
from eaves.network.refusals import BusyError
from eaves.network.workqueue import Line, Receipt, UploadWork

_SOON_S: Final = 0.25  # between two checkpoints that one edge causes


@final
class Register:
    """Lines and accounts, and what edges must still hold.

    What an edge says of itself costs others little: it has ``MOST_RUNS`` runs at most, and causes
    a checkpoint only for what is not durable yet, a few times a second at most.
    """

    def __init__(self) -> None:
        self._ledger = Ledger()
        self._replies: dict[Run, tuple[int, bytes]] = {}
        self._lines: dict[Run, Line] = {}
        self._undurable: dict[Run, int] = {}  # bytes that an edge still has to hold
        self._room: dict[Run, int] = {}
        self._wanting: set[str] = set()  # edges that wait for a checkpoint
        self._served: dict[str, float] = {}  # when a checkpoint began that an edge had waited for
        self._lock = threading.Lock()

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for a checkpoint."""
        with self._lock:
            now = monotonic()
            return any(now >= self._served.get(edge, 0.0) + _SOON_S for edge in self._wanting)

    def restore(self, ledger: Ledger, replies: Mapping[Run, tuple[int, bytes]]) -> None:
        """Go on from what a checkpoint holds."""
        self._ledger, self._replies = ledger, dict(replies)

    def open(self, line: Line, *, steps: int, memory_bytes: int) -> int:
        """Take an edge in; return the number of the last upload that was applied.

        Raises:
            BusyError: it has too many runs of which not all is durable.
        """
        with self._lock:
            account = self._account(line.run)
            account.steps = steps
            self._room[line.run] = memory_bytes
            self._undurable.setdefault(line.run, 0)
            self._lines[line.run] = line
            self._forget_old_runs()
            # The receipt that said so may be lost, and an edge whose spool is full, or that waits
            # for a reply, sends nothing that would bring another.
            line.receipt(self.receipt(line.run))
            return account.applied

    def _account(self, run: Run) -> Account:
        """Return the account of a run, a new one where it is unknown and there is room for it."""
        known = self._ledger.accounts
        if run not in known and not self._ledger.make_room(run.edge, self._lines.keys()):
            raise BusyError(
                f"edge {run.edge} has {MOST_RUNS} runs that are connected or not in a checkpoint "
                "yet, which is the limit; try again later"
            )
        return self._ledger.of(run)

    def _forget_old_runs(self) -> None:
        """Keep nothing of runs whose accounts are gone."""
        known = self._ledger.accounts
        if len(self._room) > len(known):
            for table in (self._room, self._undurable, self._replies):
                for run in [run for run in table if run not in known]:
                    del table[run]

    def close(self, line: Line) -> None:
        """Forget a line that has ended."""
        with self._lock:
            if self._lines.get(line.run) is line:
                del self._lines[line.run]

    def finish(self, run: Run, seq: int) -> None:
        """Take note that an edge has sent its last upload, and wants it durable."""
        with self._lock:
            if (account := self._ledger.accounts.get(run)) is not None:
                new, account.last = account.last != seq, seq
                self._want(run, account.finished and (new or account.durable < account.applied))

    def _want(self, run: Run, wanted: bool) -> None:
        if wanted:
            self._wanting.add(run.edge)

    def place(self, run: Run) -> int:
        """Return the number of an edge, from 0, in the order in which they first came.

        Raises:
            BusyError: it has too many runs of which not all is durable.
        """
        with self._lock:
            self._account(run)
            return list(dict.fromkeys(known.edge for known in self._ledger.accounts)).index(
                run.edge
            )

    def connected(self) -> set[Run]:
        """Return the runs that have a line."""
        with self._lock:
            return set(self._lines)

    def training(self) -> int:
        """Return how many edges have a line, and have not finished."""
        with self._lock:
            return len({run.edge for run in self._lines if not self._ledger.of(run).finished})

    def finished(self) -> int:
        """Return how many edges have finished a run."""
        with self._lock:
            return self._ledger.finished()

    def accounts(self) -> Ledger:
        """Return a copy of the accounts."""
        with self._lock:
            return self._ledger.copy()

    def accounts_of(self, edge: str) -> dict[Run, Account]:
        """Return a copy of the accounts of one edge."""
        with self._lock:
            found = self._ledger.accounts.items()
            return {run: replace(account) for run, account in found if run.edge == edge}

    def replies(self) -> dict[Run, tuple[int, bytes]]:
        """Return the last reply to each run, with its number."""
        return dict(self._replies)

    def applied(self, run: Run) -> int | None:
        """Return the number of the last upload of a run that was applied; None: it is forgotten."""
        account = self._ledger.accounts.get(run)
        return None if account is None else account.applied

    def behind(self) -> bool:
        """Whether anything is applied that is not durable."""
        with self._lock:
            return any(a.durable < a.applied for a in self._ledger.accounts.values())

    def apply(self, work: UploadWork, *, samples: int, reply: bytes) -> None:
        """Take note that an upload was learnt from."""
        run = work.line.run
        with self._lock:
            account = self._ledger.of(run)
            account.applied, account.samples = work.seq, account.samples + samples
            self._undurable[run] = self._undurable.get(run, 0) + len(work.payload)
            # Early, before the edge's memory is full: its spool lets nothing go until a
            # checkpoint is written.
            full = self._undurable[run] > self._room.get(run, 0) // 2
            self._want(run, full or account.finished)
            if reply:
                self._replies[run] = (work.seq, reply)

    def receipt(self, run: Run) -> Receipt:
        """Return what an edge is told."""
        account = self._ledger.accounts.get(run) or Account()
        seq, reply = self._replies.get(run, (0, b""))
        return Receipt(account.applied, account.durable, reply if seq == account.applied else b"")

    def hand_in(self) -> dict[Run, int]:
        """Return what is applied, for a checkpoint that begins now."""
        with self._lock:
            self._served |= dict.fromkeys(self._wanting, monotonic())
            self._wanting = set()
            self._undurable = dict.fromkeys(self._undurable, 0)
            return self._ledger.applied()

    def merge(self, ledgers: Iterable[Ledger]) -> None:
        """Take over in what other processes have come further."""
        with self._lock:
            for ledger in ledgers:
                self._ledger.merge(ledger)

    def settle(self, durable: Mapping[Run, int]) -> None:
        """Tell edges what has become durable, those that do not know it."""
        with self._lock:
            known = self._ledger.durable()
            self._ledger.settle(durable)
            now = self._ledger.durable()
            # Hundreds of idle edges at once would keep the receipts of the others waiting.
            lines = [line for run, line in self._lines.items() if now.get(run) != known.get(run)]
        for line in lines:
            line.receipt(self.receipt(line.run))
