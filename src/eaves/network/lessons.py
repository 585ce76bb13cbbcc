"""Uploads that travel a single time: kept on the cloud's disk, and learnt from again.

While edges send, every upload is learnt from as it comes. When all have sent their last, the cloud
learns on from what it has kept, in the order of ``eaves train --send once``: with one edge and the
same configuration it ends with the same weights.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from eaves.codecs.contract import Buffer
from eaves.core.roles import Upload
from eaves.core.units import bytes_text
from eaves.errors import ConfigError, StateError
from eaves.runtime.store import Store


@final
@dataclass(frozen=True, kw_only=True)
class Rounds:
    """How often uploads are learnt from that travel once, and where and how many are kept."""

    folder: Path
    limit_bytes: int
    epochs: int
    copies: int = 1
    """How often each example travels, augmented differently."""
    max_steps: int | None = None
    """As many steps at most, unless there are more uploads."""
    seed: int = 0
    edges: int = 1
    """Among which the room is divided."""

    def __post_init__(self) -> None:
        if self.edges < 1:
            raise ConfigError(f"expected edges >= 1, got {self.edges}")
        if not 1 <= self.copies <= self.epochs or self.limit_bytes < 1:
            raise ConfigError(
                "expected 1 <= copies <= epochs and limit_bytes >= 1, "
                f"got {self.copies}, {self.epochs} and {self.limit_bytes}"
            )

    def steps(self, uploads: int) -> int:
        """Return the steps that learning takes with so many uploads.

        >>> Rounds(folder=Path(), limit_bytes=1, epochs=6, copies=2).steps(8)
        24
        """
        steps = uploads * self.epochs // self.copies
        return steps if self.max_steps is None else min(steps, max(uploads, self.max_steps))


@final
class Lessons:
    """The uploads that are kept, and how far they were gone through again.

    Nothing is there before :meth:`open`. What was kept after the last :meth:`facts` that went into
    a checkpoint is dropped by the next one: its edges send it again.
    """

    def __init__(self, rounds: Rounds, change: Callable[[Upload, int], Upload] | None = None):
        """``change`` augments the upload of each step from 0; None: they are as they came."""
        self.rounds, self._change = rounds, change
        self._store: Store | None = None
        self._again = 0
        self._of_edge: dict[str, int] = {}  # bytes that are kept
        self._epoch: Iterator[Upload] | None = None

    def __len__(self) -> int:
        return 0 if self._store is None else len(self._store)

    def open(self, facts: Mapping[str, Any] | None) -> None:
        """Go on from the :meth:`facts` of a checkpoint; from None, begin.

        Raises:
            StateError: there is less than the checkpoint says.
            StorageError: the disk refuses.
        """
        found: Mapping[str, Any] = {"stored": 0, "again": 0} if facts is None else facts
        try:
            stored, again = found["stored"], found["again"]
            if not all(type(n) is int and n >= 0 for n in (stored, again)):
                raise TypeError("expected numbers of 0 or more")
            of_edge = dict(found.get("of_edge", {}))  # older checkpoints have none
            if not all(type(n) is int and n >= 0 for n in of_edge.values()):
                raise TypeError("expected bytes of each edge")
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"the checkpoint keeps no count of uploads: {found!r}") from error
        self.close()
        self._store, self._again = Store(self.rounds.folder, keep=stored), again
        self._of_edge = of_edge

    def expect_room(self, size_bytes: int, edge: str = "") -> None:
        """Raise a :class:`ConfigError` where an upload of this size is one too many.

        Each edge has its share of the room: one that sends too much takes none of the others'.
        """
        share_bytes = self.rounds.limit_bytes // self.rounds.edges
        if (
            self.rounds.edges > 1
            and (mine := self._of_edge.get(edge, 0) + size_bytes) > share_bytes
        ):
            raise ConfigError(
                f"the uploads of edge {edge} that travel once and are kept would take "
                f"{bytes_text(mine)}, and the cloud keeps {bytes_text(share_bytes)} of each of its "
                f"{self.rounds.edges} edges: raise its --store-mb, or choose a codec or bottleneck "
                "that says it in less"
            )
        if (total := self._opened.size_bytes + size_bytes) > self.rounds.limit_bytes:
            raise ConfigError(
                f"the uploads that travel once and are kept would take {bytes_text(total)}, and "
                f"the cloud keeps {bytes_text(self.rounds.limit_bytes)}: raise its --store-mb, or "
                "choose a codec or bottleneck that says it in less"
            )

    def keep(self, payload: Buffer, edge: str = "") -> None:
        """Add an upload of an edge that was learnt from; raises :class:`StorageError`."""
        self._opened.append(bytes(payload))
        self._of_edge[edge] = self._of_edge.get(edge, 0) + len(payload)
        self._epoch = None  # which was of fewer

    def next(self) -> Upload:
        """Return the next batch of what is kept, mixed again in each epoch."""
        epoch_steps = max(1, len(self) // self.rounds.copies)
        number, start = divmod(self._again, epoch_steps)
        if self._epoch is None or start == 0:
            self._epoch = self._opened.epoch(
                seed=self.rounds.seed, epoch=number, steps=epoch_steps, start=start
            )
        step = self._again
        self._again += 1
        try:
            upload = next(self._epoch)
        except BaseException:
            self._epoch = None  # one that has failed yields nothing more
            raise
        return upload if self._change is None else self._change(upload, step)

    def facts(self) -> dict[str, Any]:
        """Return how far this is, for a checkpoint, when all of it is on disk.

        Raises:
            StorageError: the disk is full or refuses.
        """
        self._opened.flush()
        facts = {"stored": len(self), "again": self._again}
        return {**facts, "of_edge": dict(self._of_edge)} if any(self._of_edge) else facts

    def close(self) -> None:
        """Close the files."""
        if self._store is not None:
            self._store.close()

    @property
    def _opened(self) -> Store:
        assert self._store is not None  # open() was called
        return self._store
