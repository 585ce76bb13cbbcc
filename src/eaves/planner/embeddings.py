"""What a cut costs the device in inference, for each embedding that may leave it.

All features leave, fine-tuned on pairs or not, which costs the same; or a linear map leaves a few
numbers of them. Noise on a few numbers is a few draws more, which no table shows. Plans of
:mod:`eaves.planner.phases` and the table of `eaves profile` take their figures from here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import final

from eaves.errors import ConfigError, unknown
from eaves.planner.parts import answering_bytes, part_of
from eaves.planner.profile import NUMBERS, CodecCost, Profile, Seconds, Stage, numbers_at
from eaves.planner.scenario import Power

FEATURES = "features"
WIDTHS = {"int8": 1, "fp16": 2}
"""Codecs of a few numbers, and the bytes of each number in them."""
_FLOAT_BYTES = 4
_ENVELOPE_BYTES = 64  # of a payload, and of the query around it, where they were not measured


@final
@dataclass(frozen=True, kw_only=True)
class Projection:
    """The linear map from the ``values`` of a cut's features to ``components``, and back.

    Source: :mod:`eaves.privacy.projection`. The mean of the features is taken off first, and added
    again in the cloud.
    """

    cut: str
    values: int
    components: int

    def __post_init__(self) -> None:
        if not 1 <= self.components <= self.values:
            raise ConfigError(
                f"expected 1 to {self.values} components at '{self.cut}', whose features have as "
                f"many values, got {self.components}"
            )

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one example."""
        return self.components * self.values

    @property
    def params(self) -> int:
        """Numbers that each side holds: the basis and the mean."""
        return (self.components + 1) * self.values

    def measured(self, profile: Profile) -> bool:
        """Return whether ``profile`` has times of it."""
        return numbers_at(self.cut) in profile.codecs

    def held_bytes(self, batch_size: int) -> int:
        """Return what the device holds for it, beside what the features took."""
        return _FLOAT_BYTES * (self.params + batch_size * self.components)

    def cost(self, profile: Profile, stages: Sequence[Stage], codec: str = "int8") -> CodecCost:
        """Return what the numbers cost on the machine of ``profile``: bytes, to map and code them.

        As :data:`NUMBERS` were measured there; more take longer in proportion, fewer take as long.
        What was not measured takes as long as its products at the speed of ``stages``, the part of
        the net on that machine: too little, since a map of that kind waits for memory.

        Raises:
            ConfigError: a codec whose bytes depend on what is in them.
        """
        if codec not in WIDTHS:
            raise unknown("codec of a few numbers", codec, WIDTHS)
        width, size = WIDTHS[codec], profile.subject.batch_size
        known = {cost.codec: cost for cost in profile.codecs.get(numbers_at(self.cut), ())}
        if codec not in known:
            products = size * self.macs
            time = Seconds(part_of(stages, size).extra_s(products) if profile.measured else 0.0)
            each_bytes = width * self.components + _ENVELOPE_BYTES / size
            return CodecCost(codec=codec, bytes_per_sample=each_bytes, encode=time, decode=time)
        found, factor = known[codec], max(1.0, self.components / NUMBERS)
        return CodecCost(
            codec=codec,
            bytes_per_sample=found.bytes_per_sample + width * (self.components - NUMBERS),
            encode=found.encode.times(factor),
            decode=found.decode.times(factor),
        )


def edge_bytes(profile: Profile, last: str) -> float:
    """Return the peak bytes of inference through the stages up to ``last``, inputs included.

    As they were followed when the profile was taken; else by the formula of
    :func:`eaves.planner.parts.answering_bytes`.
    """
    if last in profile.infer_peak_bytes:
        return profile.infer_peak_bytes[last]
    stages = profile.stages[: [stage.name for stage in profile.stages].index(last) + 1]
    size = profile.subject.batch_size
    return answering_bytes(stages, size) + size * prod(profile.subject.input_shape)


@final
@dataclass(frozen=True, kw_only=True)
class DeviceCost:
    """What answering costs the device at a cut: work and bytes of one input, time of a batch."""

    cut: str
    embedding: str
    """All features, or so many numbers."""
    codec: str
    batch_size: int
    macs: float
    macs_share: float
    """Of those of the whole net."""
    params: int
    params_share: float
    """The same of its weights."""
    time: Seconds | None
    """Of a batch, coded, without the link; None where the profile holds no times. The spread is the
    sum of its parts'."""
    time_measured: bool
    """False where what the projection takes is an estimate."""
    memory_bytes: float
    """Peak of all tensors for a batch: weights, inputs, activations and the projection."""
    memory_followed: bool
    """Through a forward pass, when the profile was taken; else it is the formula's."""
    bytes_per_input: float
    raw_bytes: int
    """Of one input as it is."""
    energy_j: float | None
    """Of one input, without the radio; None where times or watts are not known."""


def device_costs(profile: Profile, *, components: int, power: Power | None) -> list[DeviceCost]:
    """Return the costs of each cut, for all features and for ``components`` numbers of a byte.

    Features are coded by the first codec that ``profile`` has at the cut. Where they have fewer
    values than ``components`` there is nothing to reduce. ``power`` are the watts of the device.
    """
    found = []
    for i, cut in enumerate(profile.cuts, start=1):
        stages = profile.stages[:i]
        for codec in profile.codecs.get(cut, ())[:1]:
            found.append(_cost(profile, stages, codec, None, power))
        if components <= (values := stages[-1].values):
            reduced = Projection(cut=cut, values=values, components=components)
            found.append(_cost(profile, stages, reduced.cost(profile, stages), reduced, power))
    return found


def _cost(
    profile: Profile,
    stages: Sequence[Stage],
    codec: CodecCost,
    reduced: Projection | None,
    power: Power | None,
) -> DeviceCost:
    subject, cut = profile.subject, stages[-1].name
    size, time = subject.batch_size, _time(stages, codec)
    macs = sum(s.forward_macs for s in stages) + (reduced.macs if reduced else 0)
    params = sum(s.params for s in stages) + (reduced.params if reduced else 0)
    more_bytes = reduced.held_bytes(size) if reduced else 0
    return DeviceCost(
        cut=cut,
        embedding=f"{reduced.components} numbers" if reduced else FEATURES,
        codec=codec.codec,
        batch_size=size,
        macs=macs,
        macs_share=_share(macs, sum(s.forward_macs for s in profile.stages)),
        params=params,
        params_share=_share(params, sum(s.params for s in profile.stages)),
        time=time,
        time_measured=reduced is None or reduced.measured(profile),
        memory_bytes=edge_bytes(profile, cut) + more_bytes,
        memory_followed=cut in profile.infer_peak_bytes,
        bytes_per_input=codec.bytes_per_sample,
        raw_bytes=prod(subject.input_shape),
        energy_j=power.busy_w * time.median_s / size if power and time else None,
    )


def _time(stages: Sequence[Stage], codec: CodecCost) -> Seconds | None:
    """Return what a batch takes through ``stages`` and ``codec``; None where they have no times."""
    times = [stage.times.infer for stage in stages if stage.times is not None]
    if len(times) < len(stages):
        return None
    times.append(codec.encode)
    return Seconds(sum(t.median_s for t in times), sum(t.spread_s for t in times))


def _share(part: float, whole: float) -> float:
    """Return ``part / whole``; 0 of nothing."""
    return part / whole if whole else 0.0
