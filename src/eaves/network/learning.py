"""One step of the cloud half, together with the processes of its group."""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from statistics import median
from typing import final

import torch
from torch import Tensor

from eaves.codecs.contract import Buffer
from eaves.core.levels import GradientClip, Level
from eaves.core.optimise import OneCycle, Optimised, Unending
from eaves.core.roles import Losses, Upload
from eaves.core.state import State
from eaves.errors import ConfigError, DivergedError, StateError
from eaves.network.group import Group
from eaves.network.half import Half
from eaves.network.merging import GradientsAlone, merged, merged_buffers, rule_for, trained
from eaves.runtime.meters import Smoothed


@final
class Learning:
    """Steps of the learner of ``half``, each on what all processes of ``group`` have at hand.

    Nothing can be learnt before :meth:`load_state` and :meth:`plan`.
    """

    def __init__(self, half: Half, group: Group):
        self._learner, self._lessons, self._group = half.learner, half.lessons, group
        self._policy = half.policy
        self.figures, self.total_steps = Smoothed(), 0
        """The steps are those of the schedule; 0: it has no end."""
        self.ahead = False
        """Whether what is kept was learnt from since the last :meth:`state`."""
        self.share: int | None = None
        """Uploads of one edge that are learnt from; None: there is no limit."""
        self._at_once, self._over = 1, 0  # uploads for a step of the schedule, and beyond the last
        self._clip = (
            GradientClip(half.policy.gradient_times) if half.policy.gradient_times else None
        )
        if self._part is not None:
            self._part.clip = self._clip

    def join(self) -> None:
        """Begin with the weights of the group's rank 0."""
        if self._part is not None:
            self._group.join(self._part)

    def plan(self, kept_steps: int, *, edges: int, merge: int) -> None:
        """Make the schedule: as long as the operator says, as it was, or as the runs of all edges.

        ``kept_steps`` is how long it was by the last checkpoint. Where none of them is known, it
        has no end.
        """
        policy, self._at_once = self._policy, max(1, min(edges, merge * self._group.size))
        planned = policy.steps(edges=edges, at_once=self._at_once)
        if planned and self._lessons is not None:
            planned = self._lessons.rounds.steps(planned)
        self._set_length(policy.total_steps or kept_steps or planned)
        once = self._lessons is not None and policy.total_steps
        self.share = None if once else policy.share(edges=max(1, edges), at_once=self._at_once)

    def _set_length(self, total_steps: int) -> None:
        self.total_steps = total_steps
        if self._part is None:
            return
        if not total_steps:
            self._part.schedule = Unending.like(self._part.schedule)
            return
        schedule = self._part.schedule.over(total_steps)
        if isinstance(schedule, OneCycle):
            schedule = replace(schedule, floor=self._policy.final_rate)
        self._part.schedule = schedule

    def expect_time(self) -> None:
        """Raise a :class:`ConfigError` where the schedule is over, and its rate 0."""
        if self._part is None or not self.total_steps or self._policy.final_rate:
            return
        if self._part.steps >= self.total_steps:
            raise ConfigError(
                f"the cloud has trained for all {self.total_steps:,} steps of its schedule, and "
                "its learning rate is 0: start `eaves serve` with a larger --total-steps, or with "
                "a --final-rate above 0"
            )

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
        self._group.share(sum(len(upload.labels) for upload in uploads), len(uploads))
        steps = self._steps
        with self._part.undone_on_error() if self._part else nullcontext():
            if len(uploads) > 1 and rule_for(self._policy.merge_rule, len(uploads)) != "mean":
                reply, losses = None, self._merge(uploads)
            else:
                reply, losses = self._learner.step(_joined(uploads))
        self.figures.add(losses)
        self._go_on(steps)
        return reply

    def _merge(self, uploads: list[Upload]) -> Losses:
        """Make one step by the gradients of all uploads, merged by the rule of the policy.

        One-way methods only: there is no reply.
        """
        part, alone, losses = self._part, GradientsAlone(), list[Losses]()
        assert part is not None  # it has gradients
        before = [(buffer, buffer.clone()) for buffer in part.modules.buffers()]
        part.averaging = alone
        try:
            for upload in uploads:
                for buffer, value in before:
                    buffer.copy_(value)
                losses.append(self._learner.step(upload)[1])
        finally:
            part.averaging = None
        examples = [len(upload.labels) for upload in uploads]
        found = merged(self._policy.merge_rule, alone.gradients, examples)
        for parameter, gradient in zip(trained(part.modules), found, strict=True):
            parameter.grad = gradient
        values = merged_buffers(alone.buffers, [value for _, value in before])
        for (buffer, _), value in zip(before, values, strict=True):
            buffer.copy_(value)
        part.update()
        return {name: median(one[name] for one in losses) for name in losses[0]}

    def _go_on(self, before: int) -> None:
        """Go on in the schedule from a step by the uploads taken, where one may take several.

        One that took fewer than could have come is a part of a step: else the schedule would be
        over before all uploads are there.
        """
        if self._at_once == 1 or self._part is None or self._part.steps == before:
            return
        steps, self._over = divmod(self._over + self._group.taken(), self._at_once)
        self._part.steps = before + steps

    @property
    def left(self) -> int:
        """Steps of the schedule that remain for what is kept."""
        if not self._lessons or self._part is None:
            return 0
        total_steps = self.total_steps or self._lessons.rounds.steps(len(self._lessons))
        return max(0, total_steps - self._part.steps)

    def again(self) -> None:
        """Take one of the steps that are left; raises :class:`DivergedError`."""
        assert self._lessons is not None  # something is left
        if not self.total_steps:  # all that there is to learn from is here now
            self._set_length(self._lessons.rounds.steps(len(self._lessons)))
        self.ahead = True
        at_once, self._at_once = self._at_once, 1
        try:
            self.step([self._lessons.next()])
        finally:
            self._at_once = at_once

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

    def kept(self) -> int | None:
        """Return how many uploads are kept to be learnt from again; None: that is not done."""
        return None if self._lessons is None else len(self._lessons)

    def state(self) -> State:
        """Return the state of the learner, and of what is kept; raises :class:`StorageError`."""
        state, self.ahead = self._learner.state(), False
        facts = dict(state.facts)
        if self._clip is not None:
            facts["gradient_level"] = self._clip.level.facts()
        if self._over:
            facts["uploads_over"] = self._over
        if self._lessons is not None:
            facts["lessons"] = self._lessons.facts()
        return replace(state, facts=facts)

    def load_state(self, state: State | None) -> None:
        """Go on from a state; from None, begin.

        Raises:
            StateError: it does not fit, or the disk lacks what is to be kept.
            StorageError: the disk refuses.
        """
        facts = {} if state is None else state.facts
        if state is not None:
            self._learner.load_state(state)
        try:
            if self._clip is not None and "gradient_level" in facts:
                self._clip.level = Level.of(facts["gradient_level"])
            if type(over := facts.get("uploads_over", 0)) is not int or over < 0:
                raise ValueError(f"expected a number of uploads, got {over!r}")
            self._over = over
        except ValueError as error:
            raise StateError(f"the checkpoint of the cloud is damaged: {error}") from error
        if self._lessons is not None:
            self._lessons.open(facts.get("lessons"))

    def go_back(self, state: State) -> None:
        """Go back to a state that was; what is kept to be learnt from again stays."""
        kept = {} if self._lessons is None else {"lessons": self._lessons.facts()}
        self.load_state(replace(state, facts={**state.facts, **kept}))

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
            self._group.share(0, 0)
            before = self._part.steps
            self._part.abstain()
            self._go_on(before)

    @property
    def _steps(self) -> int:
        return 0 if self._part is None else self._part.steps

    @property
    def _part(self) -> Optimised | None:
        return self._learner.part


def _joined(uploads: list[Upload]) -> Upload:
    if len(uploads) == 1:
        return uploads[0]
    return Upload(
        torch.cat([upload.features for upload in uploads]),
        torch.cat([upload.labels for upload in uploads]),
    )
