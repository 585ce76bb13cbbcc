"""One step of the cloud half, together with the processes of its group."""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from eaves.codecs.contract import Buffer
from eaves.core.optimise import Optimised
from eaves.core.roles import Upload
from eaves.core.state import State
from eaves.errors import DivergedError
from eaves.network.group import Group
from eaves.network.half import Half
from eaves.runtime.meters import Smoothed


@final
class Learning:
    """Steps of the learner of ``half``, each on what all processes of ``group`` have at hand.

    Nothing can be learnt before :meth:`load_state`.
    """

    def __init__(self, half: Half, group: Group):
        self._learner, self._lessons, self._group = half.learner, half.lessons, group
        self.figures, self.total_steps = Smoothed(), 0
        self.ahead = False
        """Whether what is kept was learnt from since the last :meth:`state`."""

    def join(self) -> None:
        """Begin with the weights of the group's rank 0."""
        if self._part is not None:
            self._group.join(self._part)

    def plan(self, total_steps: int) -> None:
        """Make the schedule this long; 0: it is not known yet, and nothing changes."""
        if total_steps in (0, self.total_steps):
            return
        self.total_steps = total_steps
        if self._part is not None:
            self._part.schedule = self._part.schedule.over(total_steps)

    def plan_for(self, steps: int, *, edges: int, merge: int) -> None:
        """Make the schedule as long as it takes to learn from so many ``steps`` of each edge."""
        at_once = min(edges, merge * self._group.size)
        uploads = max(1, steps * edges // at_once)
        self.plan(uploads if self._lessons is None else self._lessons.rounds.steps(uploads))

    def step(self, uploads: list[Upload]) -> Tensor | None:
        """Learn from all uploads at once, or let the others of the group; return the reply.

        Raises:
            Exception: they cannot be learnt from; nothing has changed, and the others of the group
                still wait for :meth:`abstain`.
            DivergedError: the same, but weights may have changed in part.
        """
        if not uploads:
            self.abstain()
            return None
        one = uploads[0]
        if len(uploads) > 1:
            one = Upload(
                torch.cat([upload.features for upload in uploads]),
                torch.cat([upload.labels for upload in uploads]),
            )
        self._group.share(len(one.labels))
        with self._part.undone_on_error() if self._part else nullcontext():
            reply, losses = self._learner.step(one)
        self.figures.add(losses)
        return reply

    @property
    def left(self) -> int:
        """Steps of the schedule that remain for what is kept."""
        if not self._lessons or self._part is None:
            return 0
        return max(0, self.total_steps - self._part.steps)

    def again(self) -> None:
        """Take one of the steps that are left; raises :class:`DivergedError`."""
        assert self._lessons is not None  # something is left
        self.ahead = True
        self.step([self._lessons.next()])

    def expect_room(self, payload: Buffer, edge: str) -> None:
        """Raise a :class:`ConfigError` where there is no room to keep an upload of this edge."""
        if self._lessons is not None:
            self._lessons.expect_room(len(payload), edge)

    def keep(self, payloads: Iterable[tuple[Buffer, str]]) -> None:
        """Keep uploads that were learnt from, where they are to be learnt from again.

        Each comes with the name of its edge.

        Raises:
            StorageError: the disk is full or refuses.
        """
        if self._lessons is not None:
            for payload, edge in payloads:
                self._lessons.keep(payload, edge)

    def state(self) -> State:
        """Return the state of the learner, and of what is kept; raises :class:`StorageError`."""
        state, self.ahead = self._learner.state(), False
        if self._lessons is None:
            return state
        return replace(state, facts={**state.facts, "lessons": self._lessons.facts()})

    def load_state(self, state: State | None) -> None:
        """Go on from a state; from None, begin.

        Raises:
            StateError: it does not fit, or the disk lacks what is to be kept.
            StorageError: the disk refuses.
        """
        if state is not None:
            self._learner.load_state(state)
        if self._lessons is not None:
            self._lessons.open(None if state is None else state.facts.get("lessons"))

    def expect_finite(self) -> None:
        """Raise a :class:`DivergedError` where weights were changed in part, or are not finite."""
        if self._part is not None and self._part.torn:
            raise DivergedError(
                "a step has failed while it changed the cloud's weights; the last checkpoint is "
                "from before: start again from it, with more memory"
            )
        tensors = self._part.modules.state_dict().values() if self._part else ()
        if not all(bool(x.isfinite().all()) for x in tensors):
            raise DivergedError(
                "the cloud's weights have become NaN or infinite; the last checkpoint is from "
                "before: start again from it with a lower learning rate, or in fp32"
            )

    def abstain(self) -> None:
        """Let the others of the group make their step."""
        if self._group.size > 1 and self._part is not None:
            self._group.share(0)
            self._part.abstain()

    @property
    def _part(self) -> Optimised | None:
        return self._learner.part
