"""Who is connected, and what has been learnt from whom.

The server's thread and the trainer's share it.
"""

import threading
from collections.abc import Iterable, Mapping
from typing import final

from eaves.network.ledger import Ledger, Run
from eaves.network.workqueue import Line, Receipt, UploadWork


@final
class Register:
    """Lines and accounts, and what edges must still hold."""

    def __init__(self) -> None:
        self._ledger = Ledger()
        self._replies: dict[Run, tuple[int, bytes]] = {}
        self._lines: dict[Run, Line] = {}
        self._undurable: dict[Run, int] = {}  # bytes that an edge still has to hold
        self._room: dict[Run, int] = {}
        self._wanted = False
        self._lock = threading.Lock()

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for a checkpoint."""
        return self._wanted

    def restore(self, ledger: Ledger, replies: Mapping[Run, tuple[int, bytes]]) -> None:
        """Go on from what a checkpoint holds."""
        self._ledger, self._replies = ledger, dict(replies)

    def open(self, line: Line, *, steps: int, memory_bytes: int) -> int:
        """Take an edge in; return the number of the last upload that was applied."""
        with self._lock:
            account = self._ledger.of(line.run)
            account.steps = steps
            self._room[line.run] = memory_bytes
            self._undurable.setdefault(line.run, 0)
            self._lines[line.run] = line
            self._forget_old_runs()
            # The receipt that said so may be lost, and an edge whose spool is full, or that waits
            # for a reply, sends nothing that would bring another.
            line.receipt(self.receipt(line.run))
            return account.applied

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
            account = self._ledger.of(run)
            account.last = seq
            self._wanted |= account.finished

    def place(self, run: Run) -> int:
        """Return the number of an edge, from 0, in the order in which they first came."""
        with self._lock:
            self._ledger.of(run)
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

    def replies(self) -> dict[Run, tuple[int, bytes]]:
        """Return the last reply to each run, with its number."""
        return dict(self._replies)

    def applied(self, run: Run) -> int:
        """Return the number of the last upload of a run that was applied."""
        return self._ledger.of(run).applied

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
            full = self._undurable[run] > self._room.get(run, 0) // 2
            self._wanted |= full or account.finished
            if reply:
                self._replies[run] = (work.seq, reply)

    def receipt(self, run: Run) -> Receipt:
        """Return what an edge is told."""
        account = self._ledger.of(run)
        seq, reply = self._replies.get(run, (0, b""))
        return Receipt(account.applied, account.durable, reply if seq == account.applied else b"")

    def hand_in(self) -> dict[Run, int]:
        """Return what is applied, for a checkpoint that begins now."""
        with self._lock:
            self._wanted = False
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
            lines = [line for run, line in self._lines.items() if now[run] != known.get(run)]
        for line in lines:
            line.receipt(self.receipt(line.run))
