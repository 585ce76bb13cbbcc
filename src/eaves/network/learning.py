"""One step of the cloud half, together with the processes of its group."""

from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from eaves.core.optimise import Optimised
from eaves.core.roles import CloudLearner, Upload
from eaves.errors import DivergedError, EavesError
from eaves.network.group import Group
from eaves.runtime.meters import Smoothed


@final
class Learning:
    """Steps of ``learner``, each on what all processes of ``group`` have at hand."""

    def __init__(self, learner: CloudLearner, group: Group):
        self._learner, self._group = learner, group
        self.figures, self.total_steps = Smoothed(), 0

    def join(self) -> None:
        """Begin with the weights of the group's rank 0."""
        if self._part is not None:
            self._group.join(self._part)

    def plan(self, total_steps: int) -> None:
        """Make the schedule this long; 0: it is not known yet."""
        self.total_steps = total_steps
        if total_steps and self._part is not None:
            self._part.schedule = replace(self._part.schedule, total_steps=total_steps)

    def step(self, uploads: list[Upload]) -> Tensor | None:
        """Learn from all uploads at once, or let the others of the group; return the reply.

        Raises:
            EavesError, ValueError: they cannot be learnt from; nothing has changed, and the others
                of the group still wait for :meth:`abstain`.
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
        buffers = self._part.modules.buffers() if self._part else ()
        before = [(buffer, buffer.clone()) for buffer in buffers]
        try:
            reply, losses = self._learner.step(one)
        except (EavesError, ValueError):
            for buffer, value in before:  # BatchNorm has seen what is not to be learnt
                buffer.copy_(value)
            raise
        self.figures.add(losses)
        return reply

    def expect_finite(self) -> None:
        """Raise a :class:`DivergedError` where the weights are no longer finite."""
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
