"""What the cloud has learnt from each run of each edge, and how much of it is durable."""

from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, NamedTuple, final

from eaves.errors import StateError

MOST_RUNS: Final = 16
"""Runs of one edge that are remembered: inventing others must not fill the memory."""


@final
class Run(NamedTuple):
    """One training run of one edge: the edge's name, and the random name of the run."""

    edge: str
    run: str


@final
@dataclass
class Account:
    """The account of one run; sequence numbers count uploads from 1."""

    # Two numbers, because one that meant durable at once would need a journal of all uploads
    # beside the checkpoints: everything would be written twice.
    applied: int = 0
    """Learnt from, in memory."""
    durable: int = 0
    """Learnt from, in the last checkpoint."""
    samples: int = 0
    """Examples learnt from."""
    steps: int = 0
    """Uploads that the run will make, as the edge says."""
    last: int = 0
    """The last upload of the run; 0 until the edge has said so."""

    @property
    def end(self) -> int:
        """The upload that ends the run; a crash may lose that its edge has said so, and gone."""
        return self.last or self.steps

    @property
    def finished(self) -> bool:
        """Whether the whole run has been learnt from."""
        return 0 < self.end <= self.applied


@final
@dataclass
class Ledger:
    """The accounts of all runs."""

    accounts: dict[Run, Account] = field(default_factory=dict)

    def of(self, run: Run) -> Account:
        """Return the account of a run, a new one where it is unknown."""
        if run not in self.accounts:
            self.accounts[run] = Account()
        return self.accounts[run]

    def make_room(self, edge: str, needed: Container[Run]) -> bool:
        """Forget the oldest run of an edge that has too many; return whether one more has room.

        Only a run that is not ``needed`` and of which all is durable is forgotten, and of those
        that have finished the last one stays: who has trained to the end has.
        """
        known = [run for run in self.accounts if run.edge == edge]
        finished = [run for run in known if self.accounts[run].finished]
        free = [run for run in known if run not in needed and self._settled(run)]
        spare = [run for run in free if run not in finished] + [r for r in free if r in finished]
        excess = len(known) + 1 - MOST_RUNS
        for run in spare[: max(0, excess)]:
            if finished == [run]:
                break
            finished = [other for other in finished if other != run]
            del self.accounts[run]
            excess -= 1
        return excess <= 0

    def _settled(self, run: Run) -> bool:
        return self.accounts[run].durable >= self.accounts[run].applied

    def settle(self, applied: Mapping[Run, int]) -> None:
        """Take note that these numbers are in a checkpoint; runs that are forgotten stay so."""
        for run, seq in applied.items():
            if (account := self.accounts.get(run)) is not None:
                account.durable = max(account.durable, seq)

    def merge(self, other: "Ledger") -> None:
        """Take over the accounts in which another process has come further.

        What is durable is left to :meth:`settle`: the checkpoint may yet fail.
        """
        for run, account in other.accounts.items():
            known = self.accounts.get(run)
            if known is None or account.applied > known.applied or account.last > known.last:
                durable = 0 if known is None else known.durable
                self.accounts[run] = replace(account, durable=durable)

    def applied(self) -> dict[Run, int]:
        """Return what is applied of each run."""
        return {run: account.applied for run, account in self.accounts.items()}

    def durable(self) -> dict[Run, int]:
        """Return what is durable of each run."""
        return {run: account.durable for run, account in self.accounts.items()}

    def copy(self) -> "Ledger":
        """Return a copy; deepcopy takes ten times as long, while others wait for the lock."""
        return Ledger({run: replace(account) for run, account in self.accounts.items()})

    def finished(self) -> int:
        """Return how many edges have finished a run."""
        return len({run.edge for run, account in self.accounts.items() if account.finished})

    def all_durable(self, edges: int) -> bool:
        """Return whether so many edges have finished a run, all of it in a checkpoint."""
        done = {
            run.edge
            for run, account in self.accounts.items()
            if account.finished and account.durable >= account.end
        }
        return len(done) >= edges

    def as_json(self) -> list[dict[str, Any]]:
        """Return the accounts, for a checkpoint."""
        return [{**run._asdict(), **asdict(account)} for run, account in self.accounts.items()]

    @classmethod
    def from_json(cls, rows: list[dict[str, Any]]) -> "Ledger":
        """Read what :meth:`as_json` wrote; what is applied in a checkpoint is durable.

        Raises:
            StateError: it is something else.
        """
        try:
            accounts = {}
            for row in rows:
                values = dict(row)
                run = Run(values.pop("edge"), values.pop("run"))
                numbers = {**values, "durable": values["applied"]}
                if not all(type(n) is int and n >= 0 for n in numbers.values()):
                    raise ValueError(f"expected numbers of 0 or more, got {numbers}")
                if not all(isinstance(name, str) for name in run):
                    raise TypeError(f"expected names, got {run}")
                accounts[run] = Account(**numbers)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StateError(f"the checkpoint has no accounts of the edges: {error!r}") from error
        return cls(accounts)
