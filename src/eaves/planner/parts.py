"""What a cut makes of a profile: the edge part, its exit, the cloud part, and what they take."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import final

from eaves.errors import ConfigError, unknown
from eaves.planner.profile import INPUT, CodecCost, Stage, reply_to
from eaves.planner.scenario import Scenario

SGD, ADAM = 3, 4
"""Copies of each weight in training: itself, its gradient, and what the optimiser keeps of it."""
_FLOAT_BYTES = 4


@final
@dataclass(frozen=True)
class Part:
    """Consecutive stages, or an exit, on one machine: seconds per batch, and what they hold."""

    forward_s: float
    backward_s: float
    update_s: float
    infer_s: float
    infer_macs: float
    state_bytes: float
    kept_bytes: float
    """In a training step, of a whole batch."""
    answering_bytes: float
    """In inference, as :func:`answering_bytes` has it."""

    @property
    def step_s(self) -> float:
        """Seconds of a training step."""
        return self.forward_s + self.backward_s + self.update_s

    def extra_s(self, macs: float) -> float:
        """Return the time of ``macs`` more at the speed that the part has in inference."""
        return macs * self.infer_s / self.infer_macs if self.infer_macs else 0.0


def part_of(
    stages: Sequence[Stage], batch_size: int, *, linked: bool = False, copies: int = SGD
) -> Part:
    """Add up ``stages``; ``linked`` where the gradient goes on to what lies before them.

    Where it does not, it ends at the first stage that has weights. ``copies`` of each weight are
    held in training: :data:`SGD` or :data:`ADAM`.

    Raises:
        ConfigError: the stages have no times.
    """
    times = [stage.times for stage in stages if stage.times is not None]
    if len(times) < len(stages):
        raise ConfigError("the profile holds no times; take it with: eaves profile")
    first = -1 if linked else next((i for i, s in enumerate(stages) if s.params), len(stages))
    backward = [t.backward_leaf if i <= first else t.backward for i, t in enumerate(times)]
    weights = sum(_FLOAT_BYTES * stage.params for stage in stages)
    buffers = sum(stage.buffer_bytes for stage in stages)
    return Part(
        forward_s=sum(t.forward.median_s for t in times),
        backward_s=sum(time.median_s for time in backward),
        update_s=sum(t.update.median_s for t in times),
        infer_s=sum(t.infer.median_s for t in times),
        infer_macs=batch_size * sum(stage.forward_macs for stage in stages),
        state_bytes=copies * weights + buffers,
        kept_bytes=sum(s.kept_fixed_bytes + batch_size * s.kept_bytes for s in stages),
        answering_bytes=answering_bytes(stages, batch_size),
    )


def answering_bytes(stages: Sequence[Stage], batch_size: int) -> float:
    """Return what ``stages`` hold in inference by a formula: weights, and twice the widest output.

    That is an operation's input and output, were every stage a single one: what is wider inside of
    a stage is not in it.
    """
    weights = sum(_FLOAT_BYTES * stage.params + stage.buffer_bytes for stage in stages)
    widest = max((stage.values for stage in stages), default=0)
    return weights + 2 * _FLOAT_BYTES * batch_size * widest


@final
class Parts:
    """The parts that a cut makes of a net in a scenario; without a cut, the whole of it.

    ``copies`` of each weight are held in training, as :func:`part_of` has it.
    """

    def __init__(self, scenario: Scenario, cut: str | None, *, copies: int = SGD):
        names = [stage.name for stage in scenario.edge.stages]
        if cut is not None and cut not in names[:-1]:
            raise unknown("cut", cut, names[:-1])
        self._scenario, self.cut, self._copies = scenario, cut, copies
        self._i = 0 if cut is None else names.index(cut) + 1

    @property
    def batch_size(self) -> int:
        """Examples in a batch."""
        return self._scenario.batch_size

    @property
    def input_bytes(self) -> int:
        """Of a batch of raw inputs."""
        return self.batch_size * prod(self._scenario.edge.subject.input_shape)

    @property
    def feature_bytes(self) -> int:
        """Of a batch of features as floats."""
        return _FLOAT_BYTES * self.batch_size * self.values

    @property
    def values(self) -> int:
        """How many numbers cross the cut for one example."""
        return self._scenario.edge.stages[self._i - 1].values

    @property
    def fetch_s(self) -> float:
        """Of a batch, on the edge."""
        return self._scenario.edge.fetch.median_s

    @property
    def edge_stages(self) -> Sequence[Stage]:
        """The stages of the edge part."""
        return self._scenario.edge.stages[: self._i]

    @property
    def cloud_stages(self) -> Sequence[Stage]:
        """The stages of the cloud part."""
        return self._scenario.cloud.stages[self._i :]

    def edge(self) -> Part:
        """Return the edge part, trained by its exit or by a gradient that comes back."""
        return self._part(self.edge_stages)

    def exit(self, *, linked: bool = True) -> Part:
        """Return the exit; ``linked`` where its gradient goes on into the edge part."""
        assert self.cut is not None
        return self._part([self._scenario.edge.exits[self.cut]], linked=linked)

    def cloud(self, *, linked: bool = False) -> Part:
        """Return the cloud part; ``linked`` where the gradient by the features is wanted."""
        return self._part(self.cloud_stages, linked=linked)

    def whole_edge(self) -> Part:
        """Return the whole net on the edge."""
        return self._part(self._scenario.edge.stages)

    def _part(self, stages: Sequence[Stage], *, linked: bool = False) -> Part:
        return part_of(stages, self.batch_size, linked=linked, copies=self._copies)

    def codec(self, name: str | None) -> tuple[CodecCost, CodecCost]:
        """Return the figures of a codec for what is sent, on the edge and in the cloud."""
        if name is None:
            raise ConfigError("this method sends something: name a codec")
        where = INPUT if self.cut is None else self.cut
        return self._scenario.edge.codec(where, name), self._scenario.cloud.codec(where, name)

    def reply(self) -> tuple[CodecCost, CodecCost]:
        """Return the figures of the codec of gradients, on the edge and in the cloud."""
        assert self.cut is not None
        where = reply_to(self.cut)
        ours, theirs = (p.codecs.get(where) for p in (self._scenario.edge, self._scenario.cloud))
        if not (ours and theirs):
            raise ConfigError(
                f"the profile has no figures for gradients that go back to '{self.cut}'; "
                "take it again with: eaves profile"
            )
        return ours[0], theirs[0]
