"""What each edge has contributed to the training of a cloud, and whether it may contribute more.

The trainer asks before it learns from an upload, and says what came of it. Screening, quarantine,
the share of each edge in the schedule, the store of uploads and the journal are behind this.
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Final, final

from eaves.codecs.contract import Buffer
from eaves.core.roles import Upload
from eaves.errors import ConfigError, DivergedError, EavesError, PayloadError, StateError
from eaves.network.group import Group
from eaves.network.journal import Journal
from eaves.network.keeper import Keeper
from eaves.network.learning import Learning
from eaves.network.ledger import Run
from eaves.network.policy import Scale, TrainingPolicy
from eaves.network.quarantine import Quarantine
from eaves.network.screening import Screening
from eaves.network.workqueue import UploadWork
from eaves.runtime.store import Store

KEPT: Final = "uploads"
"""The folder of uploads that are kept so that they can be taken back."""
_MOST_ROLLBACKS: Final = 3
_LONGEST: Final = 300
_log = logging.getLogger(__name__)


@final
class Contributions:
    """The contributions of all edges to ``learning``, by the rules of ``policy``.

    Nothing may be contributed before :meth:`restore`.
    """

    def __init__(self, learning: Learning, policy: TrainingPolicy, group: Group):
        self._learning, self._policy, self._group = learning, policy, group
        folder = self._folder = policy.folder
        self._screening = Screening(policy.feature_times, policy.probed)
        self._quarantine = (
            None if folder is None else Quarantine(folder / "quarantine", policy.strikes)
        )
        self._uploads: dict[str, int] = {}
        self._steps = 0  # that took uploads, since this training began
        self._scales: dict[str, Scale | None] = {}  # of uploads that were opened, not yet learnt
        self._since_sound: set[str] = set()  # edges learnt from since the weights were seen finite
        self._rollbacks = 0  # one after the other
        self._journal: Journal | None = None
        self._store: Store | None = None

    def restore(self, found: object) -> None:
        """Go on from the :meth:`facts` of a checkpoint; from an empty dict, begin.

        Raises:
            StateError: they are damaged, or the journal is.
            StorageError: the disk refuses.
        """
        try:
            if not isinstance(found, dict):
                raise TypeError("expected contributions by their names")
            lines, kept = int(found.get("journal", 0)), int(found.get("kept", 0))
            steps = int(found.get("steps", 0))
            uploads = {str(edge): int(n) for edge, n in found.get("uploads", {}).items()}
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            raise StateError(f"the checkpoint's contributions are damaged: {error}") from error
        self._screening.restore(found.get("levels", {}))
        self._uploads, self._steps = uploads, steps
        if self._folder is None:
            return
        rank = self._group.rank
        suffix = f"-{rank}" if rank else ""
        # Only rank 0 knows by the checkpoint how far its journal is.
        path = self._folder / f"journal{suffix}.jsonl"
        self._journal = Journal(path, lines=0 if rank else lines)
        if self._policy.keep_bytes:
            self._store = Store(self._folder / KEPT, keep=kept)

    def expect_welcome(self, run: Run, *, steps: int, known: bool) -> None:
        """Raise where an edge with a run of so many steps may not begin; ``known``: or go on.

        Raises:
            AccessError: the edge is set aside.
            ConfigError: the schedule is over, or the run is longer than the edge's share of it.
        """
        if self._quarantine is not None:
            self._quarantine.expect_free(run.edge)
        if not known:
            self._learning.expect_time()
        share = self._learning.share
        if share is not None and steps > share:
            raise ConfigError(
                f"the run of {run.edge} has {steps:,} uploads, and the schedule of this cloud has "
                f"room for {share:,} of each edge: configure both sides the same, or start `eaves "
                "serve` with --total-steps or --final-rate"
            )

    def check(self, work: UploadWork, upload: Upload) -> None:
        """Raise where an upload is not to be learnt from.

        Raises:
            AccessError: its edge is set aside.
            ConfigError: the schedule is over, or its edge has had its share.
            PayloadError: its features are outliers.
        """
        edge, share = work.line.run.edge, self._learning.share
        if self._quarantine is not None:
            self._quarantine.expect_free(edge)
        self._learning.expect_time()
        if share is not None and self._uploads.get(edge, 0) >= share:
            raise ConfigError(
                f"{share:,} uploads of {edge} were learnt from, in this run and those before: that "
                "is its share of the schedule; start `eaves serve` with a larger --total-steps, or "
                "with a --final-rate"
            )
        self._scales[edge] = self._screening.check(edge, upload.features)

    def learnt(self, fresh: Sequence[tuple[UploadWork, Upload]]) -> None:
        """Take note of uploads that one step has learnt from."""
        self._steps += 1
        kept = self._learning.kept()  # with these, the last ones
        places = None if kept is None else iter(range(kept - len(fresh), kept))
        for work, upload in fresh:
            run = work.line.run
            self._since_sound.add(run.edge)
            self._uploads[run.edge] = self._uploads.get(run.edge, 0) + 1
            self._screening.learnt(run.edge, self._scales.pop(run.edge, None))
            if self._journal is not None:
                self._journal.add(
                    "learnt",
                    work.payload,
                    **run._asdict(),
                    seq=work.seq,
                    examples=len(upload.labels),
                    step=self._steps,
                    kept=self._keep(work.payload) if places is None else next(places),
                )

    def _keep(self, payload: Buffer) -> int | None:
        """Keep an upload where there is room; return its place in the store."""
        store = self._store
        if store is None or store.size_bytes + len(payload) > self._policy.keep_bytes:
            return None
        store.append(bytes(payload))
        return len(store) - 1

    def refused(self, work: UploadWork, error: EavesError) -> None:
        """Take note of an upload that was refused; too many bad ones, and its edge is set aside."""
        run = work.line.run
        self.note("refused", **run._asdict(), seq=work.seq, why=str(error))
        if self._quarantine is None or not isinstance(error, PayloadError):
            return
        if self._quarantine.strike(run.edge, str(error)):
            self.note("quarantined", edge=run.edge, why=str(error))

    def expect_sound(self, keeper: Keeper) -> bool:
        """Go back to the last checkpoint where the weights are not finite; return whether.

        Uploads that were learnt from since are not in the weights any more, and are not sent again:
        the journal says so. If they are all of one edge, that edge is set aside.

        Raises:
            DivergedError: there is no going back: one edge alone trains, or it has come to this
                several times, one after the other.
        """
        try:
            self._learning.expect_finite()
        except DivergedError as error:
            self._recover(keeper, error)
            return True
        self._since_sound.clear()
        self._rollbacks = 0
        return False

    def _recover(self, keeper: Keeper, error: DivergedError) -> None:
        keeper.join()
        kept = keeper.load()
        hopeless = self._rollbacks >= _MOST_ROLLBACKS or self._group.size > 1
        if kept is None or kept.cloud is None or hopeless or len(self._uploads) < 2:
            raise error
        self._rollbacks += 1
        self._learning.go_back(kept.cloud)
        suspects = sorted(self._since_sound)
        lines = int(kept.contributions.get("journal", 0))
        self.note("rolled back", lines=lines, why=str(error))
        _log.error(
            "weights were not finite: rolled back to the last checkpoint",
            extra={"edges": ", ".join(suspects)[:_LONGEST]},
        )
        if len(suspects) == 1:
            self.set_aside(suspects[0], "after its uploads the weights were not finite")
        self._since_sound.clear()

    def set_aside(self, edge: str, why: str) -> None:
        """Refuse an edge from now on."""
        if self._quarantine is not None:
            self._quarantine.set_aside(edge, why)
        self.note("quarantined", edge=edge, why=why)

    def note(self, event: str, **facts: Any) -> None:
        """Add a line to the journal."""
        if self._journal is not None:
            self._journal.add(event, **facts)

    def facts(self) -> dict[str, Any]:
        """Return what :meth:`restore` goes on from, when all uploads that are kept are on disk.

        Raises:
            StorageError: the disk is full or refuses.
        """
        if self._store is not None:
            self._store.flush()
        return {
            "levels": self._screening.facts(),
            "uploads": dict(self._uploads),
            "steps": self._steps,
            "journal": 0 if self._journal is None else self._journal.lines,
            "kept": 0 if self._store is None else len(self._store),
        }

    def flush(self) -> None:
        """Force the journal to the disk; raises :class:`StorageError`."""
        if self._journal is not None:
            self._journal.flush()

    def close(self) -> None:
        """Close the files."""
        with ExitStack() as stack:
            if self._store is not None:
                stack.callback(self._store.close)
            if self._journal is not None:
                stack.callback(self._journal.close)
