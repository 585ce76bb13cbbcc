"""The cloud half at work: learns from uploads, answers queries, and keeps what it has learnt.

One thread owns the nets. An upload is learnt from once, in the order of its edge: one with a number
that is already applied is acknowledged again and not learnt from; one that leaves a gap is refused.
Weights and numbers are in one checkpoint, so that after a crash the edges send again exactly what
the weights have not seen.

Several processes may train the same half (:mod:`eaves.network.group`). They take turns together:
in each, all say what they have, those with uploads make one step, and rank 0 may begin a
checkpoint, for which the others hand in their numbers.
"""

import logging
import threading
from contextlib import ExitStack, closing
from time import perf_counter
from typing import Final, final

from torch import Tensor

from eaves.codecs.base import Codec
from eaves.core.roles import Upload
from eaves.errors import ConfigError, EavesError, PayloadError, StateError
from eaves.network.answers import Answers
from eaves.network.checkpoints import Checkpoints, Turn
from eaves.network.contributions import Contributions
from eaves.network.counts import Counts
from eaves.network.group import Group
from eaves.network.half import Half
from eaves.network.intake import Intake
from eaves.network.keeper import Keeper, Kept, expect_session, new_session
from eaves.network.learning import Learning
from eaves.network.ledger import Account, Ledger, Run
from eaves.network.opening import Opener
from eaves.network.refusals import OutOfOrderError
from eaves.network.register import Register
from eaves.network.replays import Replays
from eaves.network.workqueue import Line, UploadWork, WorkQueue

_POLL_S: Final = 0.2
_IDLE_TURN_S: Final = 0.02  # how long a process without work keeps the others of its group waiting
_BUSY_TURN_S: Final = 0.001
_NEXT: Final = 2  # uploads open beyond those of a step, or it would wait for a thread each time
_log = logging.getLogger(__name__)


@final
class Trainer:
    """Does the work of a :class:`WorkQueue`, in the thread that calls :meth:`run`.

    ``edges`` will train at the same time (0: none may): the schedule is as long as their steps
    together.
    ``merge`` uploads of different edges may be learnt from in one step, by each process.

    Raises:
        StateError: the checkpoint is damaged, of another training, or of another session.
    """

    def __init__(
        self,
        half: Half,
        keeper: Keeper,
        group: Group,
        *,
        edges: int = 1,
        merge: int = 1,
        max_queries: int = 256,
        session: str = "",
    ):
        self._half, self._keeper, self._group, self._edges = half, keeper, group, edges
        self.work = WorkQueue(opens=True, ahead=merge + _NEXT, spare_bytes=half.accepts.limit_bytes)
        self.counts, self.session = Counts(), session
        self._learning = Learning(half, group)
        self.figures, self._replays = self._learning.figures, Replays()
        self.contributions = Contributions(self._learning, half.policy, group)
        self._register, self._answers = Register(), Answers(half, self.counts, most=max_queries)
        self._checkpoints = Checkpoints(keeper, group, self._register, self.counts)
        self._intake = Intake(self.work, self._register, half.policy, merge)
        self._stopping, self._opener = threading.Event(), Opener(half.accepts, self.work)
        self.ask = self._opener.ask  # to be called from the server's thread, with a query
        with ExitStack() as on_error:
            on_error.callback(self.contributions.close)
            self._restore(merge)
            on_error.pop_all()

    def _restore(self, merge: int) -> None:
        kept = self._keeper.load()
        found = [bool(flag) for (flag,) in self._group.gather([kept is not None])]
        if any(found) != all(found):
            raise StateError("the processes of the group see different checkpoints: share --out")
        if kept is not None:
            expect_session(kept, self.session)
        self._learning.load_state(None if kept is None else kept.cloud)
        kept_steps = 0 if kept is None else kept.total_steps
        self._learning.plan(kept_steps, edges=self._edges, merge=merge)
        self.contributions.restore({} if kept is None else kept.contributions)
        self._keeper.before = self.contributions.flush
        if kept is None:
            session = self.session or new_session()
            self.session = self._group.gather_text(session)[0]
            if self._group.rank == 0:  # the session must not be another after a crash
                self._keeper.save(self._kept())
        else:
            self.session = kept.session
            self._register.restore(kept.ledger, kept.replies)
        self._learning.join()

    # Called from the server's thread

    def open(self, line: Line, *, steps: int, memory_bytes: int) -> int:
        """Let an edge in; return the number of the last upload that was applied.

        Raises:
            AccessError: the edge is in quarantine.
            BusyError: it has too many runs.
            ConfigError: this cloud does not train, or not for so long.
        """
        if not self._edges:
            raise ConfigError("this cloud answers queries and does not train (--edges 0)")
        known = line.run in self._register.accounts_of(line.run.edge)
        self.contributions.expect_welcome(line.run, steps=steps, known=known)
        return self._register.open(line, steps=steps, memory_bytes=memory_bytes)

    def port_offset(self, run: Run) -> int:
        """Return how many ports further the process is that has this edge: they take turns."""
        if self._group.rank or self._group.size == 1:
            return 0
        return self._register.place(run) % self._group.size

    def close(self, line: Line, *, superseded: bool = False) -> None:
        """Forget a line; what waits of one that was superseded, too: its edge sends it again."""
        self._register.close(line)
        self.counts.dropped += self.work.drop(line) if superseded else 0

    def finish(self, run: Run, seq: int) -> None:
        """Take note that an edge has sent its last upload, and make it durable soon."""
        self._register.finish(run, seq)
        self.work.wake()

    def connected(self) -> set[Run]:
        """Return the runs that have a line."""
        return self._register.connected()

    def accounts(self) -> Ledger:
        """Return a copy of the accounts; those of other processes are as of the last checkpoint."""
        return self._register.accounts()

    def accounts_of(self, edge: str) -> dict[Run, Account]:
        """Return a copy of the accounts of one edge."""
        return self._register.accounts_of(edge)

    @property
    def left(self) -> int:
        """Steps that are left for uploads that are kept; 0 until all edges have finished."""
        left = self._learning.left
        return left if left and 0 < self._edges <= self._register.finished() else 0

    def stop(self) -> None:
        """Let :meth:`run` do what waits, write a checkpoint, and return.

        Uploads that arrive from now on are not taken; their edges have them still.
        """
        self._stopping.set()
        self.work.close()

    # The trainer's own thread
    def run(self) -> None:
        """Work until :meth:`stop`, of this process or another of the group.

        Raises:
            DivergedError: the weights are no longer finite; the last checkpoint is intact.
            StorageError: the last checkpoint could not be written.
        """
        with closing(self._opener):
            self._opener.start()
            busy, again = True, False
            while True:
                none = again or self._stopping.is_set()
                self.work.wait(0.0 if none else _patience_s(self._group, busy=busy))
                self._answers.give_in_turn(self.work)
                uploads = self._intake.take(stopping=self._stopping.is_set())
                turns = self._take_turns(len(uploads))
                if busy := any(turn.uploads for turn in turns):
                    started = perf_counter()
                    self._learn(uploads)
                    self.work.pay_back(perf_counter() - started)
                # In turns with uploads: an edge that sends without end would stop this otherwise.
                if again := not self._stopping.is_set() and self.left > 0:
                    self._replays.step(self._learning, self.counts)
                self._keep(turns)
                if any(turn.stopping for turn in turns):
                    self.stop()
                    if not any(turn.uploads or turn.waiting for turn in turns):
                        break
        self._checkpoints.join()
        self._checkpoints.hand_in()
        self._checkpoints.last(self._kept())

    def _take_turns(self, uploads: int) -> list[Turn]:
        turn = Turn(
            uploads=uploads,
            waiting=len(self.work),
            stopping=self._stopping.is_set(),
            wanted=self._register.wanted,
            begin=self._checkpoints.begin_next,
            settled=self._checkpoints.settled,
        )
        return [Turn(*figures) for figures in self._group.gather(turn)]

    def _learn(self, uploads: list[UploadWork]) -> None:
        """Make one step of the uploads that can be learnt from, together with the group."""
        fresh = [(work, upload) for work in uploads if (upload := self._opened(work)) is not None]
        started = perf_counter()
        try:
            reply = self._learning.step([upload for _, upload in fresh])
        except Exception as error:  # of any kind: nothing that an edge sends ends the process
            self._learning.abstain()
            self._blame([work for work, _ in fresh], error)
            return
        if not fresh:
            return
        content, why = _packed(reply, self._half.reply_codec)
        for work, _ in fresh if why else ():  # the step is made, but the edges stop
            self._refuse(work, PayloadError(f"there is no reply to upload {work.seq}: {why}"))
        self.counts.step_s += perf_counter() - started
        self.counts.steps, self.counts.step_uploads = self.counts.steps + 1, len(fresh)
        self._learning.keep((work.payload, work.edge) for work, _ in fresh)
        self.contributions.learnt(fresh)
        for work, upload in fresh:
            self._register.apply(work, samples=len(upload.labels), reply=content)
            self.counts.uploads += 1
            self.counts.samples += len(upload.labels)
            work.line.receipt(self._register.receipt(work.line.run), done=1)

    def _opened(self, work: UploadWork) -> Upload | None:
        """Return what is to be learnt from; None where that is nothing."""
        if (applied := self._register.applied(work.line.run)) is None:
            self._refuse(work, OutOfOrderError(f"run {work.line.run.run} is not known any more"))
            return None
        self.counts.bytes_in += len(work.payload)
        if work.seq <= applied:
            self.counts.duplicates += 1
            work.line.receipt(self._register.receipt(work.line.run), done=1)
            return None
        try:
            if work.follows > applied:
                raise OutOfOrderError(
                    f"upload {work.seq} follows {work.follows}, but {applied} was the last here"
                )
            self._learning.expect_room(work.payload, work.edge)
            upload = work.opened.result()
            self.contributions.check(work, upload)
            return upload
        except EavesError as error:
            self._refuse(work, error)
            return None

    def _blame(self, uploads: list[UploadWork], error: Exception) -> None:
        """Refuse an upload that cannot be learnt from; if there are several, find out which.

        Raises:
            DivergedError: it is not the upload's fault: the weights are no longer finite.
        """
        _note(error, self.counts)
        if self.contributions.expect_sound(self._keeper) or len(uploads) > 1:
            self._intake.alone(uploads)
            return
        why = f"upload {uploads[0].seq} cannot be learnt from: {error}"
        self._refuse(uploads[0], PayloadError(why))

    def _refuse(self, work: UploadWork, error: EavesError) -> None:
        self.counts.refused += 1
        _log.warning("refused an upload", extra={"edge": work.line.run.edge, "why": str(error)})
        self.contributions.refused(work, error)
        work.line.refuse(error)

    def _keep(self, turns: list[Turn]) -> None:
        """Settle the checkpoint that is done, begin the one that is due."""
        self._checkpoints.settle(turns)
        if turns[0].begin:
            self._checkpoints.hand_in()
            if self._group.rank == 0:
                writing = self._checkpoints.begin(self._kept())
                writing.add_done_callback(lambda _: self.work.wake())
        elif self._checkpoints.plan(turns, ahead=self._learning.ahead):
            self.work.wake()

    def _kept(self) -> Kept:
        self.contributions.expect_sound(self._keeper)
        return Kept(
            session=self.session,
            total_steps=self._learning.total_steps,
            ledger=self._register.accounts(),
            cloud=self._learning.state(),
            replies=self._register.replies(),
            contributions=self.contributions.facts(),
        )


def _patience_s(group: Group, *, busy: bool) -> float:
    if group.size == 1:
        return _POLL_S
    return _BUSY_TURN_S if busy else _IDLE_TURN_S


def _packed(reply: Tensor | None, codec: Codec) -> tuple[bytes, str]:
    """Return a reply as bytes, or why it cannot be packed."""
    try:
        return (b"" if reply is None else codec.encode(reply)), ""
    except Exception as error:
        return b"", str(error) or repr(error)


def _note(error: Exception, counts: Counts) -> None:
    """Log and count what no upload should lead to, such as too little memory."""
    if not isinstance(error, EavesError | ValueError):
        counts.faults += 1
        _log.error("a training step has failed", extra={"why": repr(error)[:300]})
