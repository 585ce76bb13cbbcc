"""What a net costs on one machine, stage by stage: the figures that a plan is made from.

A profile is plain numbers and its JSON. It is taken on one machine (:mod:`eaves.planner.measure`)
and read on any other; reading it imports no torch.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar, final

from eaves.errors import ConfigError, StateError

T = TypeVar("T")
FORMAT = 1
_LIMIT_BYTES = 16 * 2**20
INPUT = "input"
"""Stands for a cut before the first stage: what full-cloud sends."""
ON_DEVICE = "on_device"
"""Where a printed profile holds what follows from it, which is not read back."""


def reply_to(cut: str) -> str:
    """Return the name under which a profile keeps what travels back to ``cut``."""
    return f"{cut}/reply"


NUMBERS = 8
"""How many a cut's features are projected to, where that is timed."""


def numbers_at(cut: str) -> str:
    """Return the name under which a profile keeps what is projected to a few numbers at ``cut``."""
    return f"{cut}/{NUMBERS} numbers"


@final
@dataclass(frozen=True, kw_only=True)
class Subject:
    """What was measured. Figures of two machines belong together only where these are the same."""

    net: str
    stem: str | None
    input_shape: tuple[int, ...]
    classes: int
    batch_size: int
    precision: str
    exit: str
    version: str
    """Of Eaves."""
    structure: str
    """Digest of the stages: their names, weights, work and output shapes."""

    def differences(self, other: "Subject") -> list[str]:
        """Return what differs, in words; empty where the two are the same.

        The structure is named only where nothing else explains that it differs.
        """
        pairs = [(f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        found = [f"{name} {ours} and {theirs}" for name, ours, theirs in pairs if ours != theirs]
        return [text for text in found if not text.startswith("structure")] or found


@final
@dataclass(frozen=True, slots=True)
class Seconds:
    """A measured time: the median over repeats, and half of their interquartile range."""

    median_s: float
    spread_s: float = 0.0

    def times(self, factor: float) -> "Seconds":
        """Return the time of ``factor`` times as much."""
        return Seconds(self.median_s * factor, self.spread_s * factor)


@final
@dataclass(frozen=True)
class StageTimes:
    """What one batch takes in one stage, on the machine that was measured.

    ``backward`` includes the gradient by the stage's input, ``backward_leaf`` leaves it out, as for
    the first stage of a part that nothing goes back from. ``infer`` is a forward pass in evaluation
    mode without gradient.
    """

    forward: Seconds
    backward: Seconds
    backward_leaf: Seconds
    update: Seconds
    infer: Seconds


@final
@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage, or an exit. Work, values and bytes are those of one example, unless ``fixed``.

    Multiply-accumulates (MACs) are those of convolutions and matrix products.
    """

    name: str
    output_shape: tuple[int, ...]
    params: int
    buffer_bytes: int
    """Of running statistics and other state that is not trained."""
    forward_macs: float
    backward_macs: float
    backward_leaf_macs: float
    kept_bytes: float
    """What autograd keeps for the backward pass, for each example, in the profile's precision."""
    kept_fixed_bytes: float
    """What it keeps whatever the batch, beside the weights themselves."""
    moved_bytes: float
    """What every operation reads and writes going forward, for each example."""
    operations: int
    """Of one forward pass."""
    times: StageTimes | None
    """None where the machine was not measured, only the net."""
    uncounted: tuple[str, ...] = ()
    """Operations on weights whose multiply-accumulates are not known, by name."""

    @property
    def values(self) -> int:
        """How many numbers leave the stage for one example."""
        count = 1
        for side in self.output_shape:
            count *= side
        return count


@final
@dataclass(frozen=True, kw_only=True)
class CodecCost:
    """What a codec makes of the features at a cut, labels and headers included."""

    codec: str
    bytes_per_sample: float
    encode: Seconds
    decode: Seconds


@final
@dataclass(frozen=True, kw_only=True)
class Profile:
    """All figures of one net on one machine."""

    subject: Subject
    machine: Mapping[str, Any]
    """Processor, cores, threads, torch, memory: for people, and for nothing else."""
    # Payloads are part of a profile, not only times: so a plan needs neither the net nor torch.
    payloads_from: str
    """The data whose features were coded."""
    samples: int | None
    """How many there are to train on; None where the data were synthetic."""
    fetch: Seconds
    """Fetching and augmenting one batch."""
    contention: float
    """How many times longer a step takes while another runs beside it in the same process."""
    stages: tuple[Stage, ...]
    exits: Mapping[str, Stage]
    """The exit at each cut."""
    codecs: Mapping[str, tuple[CodecCost, ...]]
    """By cut; of the inputs under ``input``, of gradients under :func:`reply_to` the cut; of a few
    numbers, without labels, under :func:`numbers_at` it: their times are those of the projection,
    or of the way back, too. Profiles of before have none of these."""
    peak_bytes: Mapping[str, int]
    """Measured peak of all tensors in a training step, by cut: of the edge part with its exit;
    that of the whole net under the name of its last stage."""
    infer_peak_bytes: Mapping[str, int] = field(default_factory=dict)
    """The same in inference, of the edge part without an exit; none in profiles of before."""

    @property
    def cuts(self) -> tuple[str, ...]:
        """The places where the net can be cut, from input to output."""
        return tuple(stage.name for stage in self.stages[:-1])

    @property
    def uncounted(self) -> tuple[str, ...]:
        """The operations on weights of any stage that no count is known for."""
        return tuple(sorted({name for stage in self.stages for name in stage.uncounted}))

    @property
    def measured(self) -> bool:
        """Whether the profile holds times."""
        return all(stage.times is not None for stage in self.stages)

    def codec(self, cut: str, name: str) -> CodecCost:
        """Return the figures of a codec; raises :class:`ConfigError` where there are none."""
        known = {cost.codec: cost for cost in self.codecs.get(cut, ())}
        if name not in known:
            raise ConfigError(
                f"the profile has no figures for the codec {name!r} at '{cut}', only for: "
                f"{', '.join(known) or 'none'}; take it again with "
                f"{'--input-codecs' if cut == INPUT else '--codecs'} {name}"
            )
        return known[name]

    def to_json(self) -> str:
        """Return the profile as JSON that :func:`parse_profile` reads back."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, allow_nan=False) + "\n"


def structure_digest(stages: Iterable[Stage]) -> str:
    """Return a digest of what the stages are: names, output shapes, weights, work."""
    facts = [(s.name, list(s.output_shape), s.params, s.forward_macs) for s in stages]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def load_profile(path: Path) -> Profile:
    """Read a profile.

    Raises:
        ConfigError: there is no such file.
        StateError: it is no profile, or one of another format.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LIMIT_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the profile {path}: {error.strerror or error}") from error
    if len(content) > _LIMIT_BYTES:
        raise StateError(f"{path} is no profile: it is larger than {_LIMIT_BYTES} bytes")
    return parse_profile(content.decode(errors="replace"), str(path))


def parse_profile(text: str, source: str) -> Profile:
    """Read what :meth:`Profile.to_json` wrote; ``source`` is named in errors.

    Raises:
        StateError: it is something else, damaged, or of another format.
    """
    try:
        facts = json.loads(text, parse_constant=_refuse_constant)
        found = facts.get("format") if isinstance(facts, dict) else None
        if found != FORMAT:
            raise StateError(
                f"{source}: expected a profile of format {FORMAT}, got {found}; "
                "take it again with: eaves profile"
            )
        del facts["format"]
        facts.pop(ON_DEVICE, None)
        return _profile(facts)
    except (
        AttributeError,
        KeyError,
        OverflowError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise StateError(f"{source} is no profile, or damaged: {error!r}") from error


def refuse_difference(ours: Profile, theirs: Profile, names: tuple[str, str]) -> None:
    """Raise a :class:`ConfigError` where two profiles are not of the same net and settings."""
    if differences := ours.subject.differences(theirs.subject):
        raise ConfigError(
            f"the profiles of {names[0]} and {names[1]} do not belong together: "
            f"{'; '.join(differences)}. Take both with the same flags and version"
        )


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no figure")


def _profile(facts: dict[str, Any]) -> Profile:
    samples = facts["samples"]
    profile = Profile(
        **{
            **facts,
            "subject": _subject(facts["subject"]),
            "machine": _expect(dict, facts["machine"]),
            "payloads_from": _expect(str, facts["payloads_from"]),
            "samples": None if samples is None else _count(samples),
            "fetch": _seconds(facts["fetch"]),
            "contention": _one_or_more(facts["contention"]),
            "stages": tuple(map(_stage, facts["stages"])),
            "exits": {cut: _stage(stage) for cut, stage in facts["exits"].items()},
            "codecs": {cut: tuple(map(_codec, costs)) for cut, costs in facts["codecs"].items()},
            "peak_bytes": _peaks(facts["peak_bytes"]),
            "infer_peak_bytes": _peaks(facts.get("infer_peak_bytes", {})),
        }
    )
    _refuse_gaps(profile)
    return profile


def _peaks(facts: dict[str, Any]) -> dict[str, int]:
    return {name: int(_positive(size_bytes)) for name, size_bytes in facts.items()}


def _refuse_gaps(profile: Profile) -> None:
    names = {stage.name for stage in profile.stages}
    if not 2 <= len(profile.stages) == len(names):
        raise ValueError("expected two stages or more, each with a name of its own")
    if set(profile.exits) != set(profile.cuts):
        raise ValueError("expected an exit for each cut, and for nothing else")
    if not all(profile.codecs.get(reply_to(cut)) for cut in profile.cuts):
        raise ValueError("expected a codec of the gradients at each cut")


def _subject(facts: dict[str, Any]) -> Subject:
    subject = Subject(
        **{
            **facts,
            "input_shape": _shape(facts["input_shape"]),
            "classes": _count(facts["classes"]),
            "batch_size": _count(facts["batch_size"]),
        }
    )
    texts = ("net", "precision", "exit", "version", "structure")
    for name in (*texts, *(["stem"] if subject.stem is not None else [])):
        _expect(str, facts[name])
    return subject


_FIGURES = (
    *("params", "buffer_bytes", "forward_macs", "backward_macs", "backward_leaf_macs"),
    *("kept_bytes", "kept_fixed_bytes", "moved_bytes", "operations"),
)
_LARGEST = 2**31  # of counts, so that products of a few of them are still floats
_MAX_DIMS = 8


def _stage(facts: dict[str, Any]) -> Stage:
    times = facts["times"]
    if times is not None:
        times = StageTimes(**{name: _seconds(value) for name, value in times.items()})
    for name in _FIGURES:
        _figure(facts[name])
    _expect(str, facts["name"])
    uncounted = tuple(_expect(str, name) for name in _expect(list, facts.get("uncounted", [])))
    return Stage(
        **{
            **facts,
            "output_shape": _shape(facts["output_shape"]),
            "times": times,
            "uncounted": uncounted,
        }
    )


def _codec(facts: dict[str, Any]) -> CodecCost:
    times = {name: _seconds(facts[name]) for name in ("encode", "decode")}
    size = _positive(facts["bytes_per_sample"])
    return CodecCost(codec=_expect(str, facts["codec"]), bytes_per_sample=size, **times)


def _seconds(facts: dict[str, Any]) -> Seconds:
    return Seconds(_figure(facts["median_s"]), _figure(facts["spread_s"]))


def _shape(sides: Any) -> tuple[int, ...]:
    if len(_expect(list, sides)) > _MAX_DIMS:
        raise ValueError(f"expected a shape of {_MAX_DIMS} sides or fewer, got {len(sides)}")
    return tuple(map(_count, sides))


def _count(value: Any) -> int:
    if type(value) is not int or not 0 < value < _LARGEST:
        raise ValueError(f"expected a whole number from 1 on, got {value!r}")
    return value


def _expect(kind: type[T], value: Any) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, got {value!r}")
    return value


def _figure(value: Any) -> float:
    if type(value) not in (int, float) or not (isfinite(value) and value >= 0):
        raise ValueError(f"expected a number of 0 or more, got {value!r}")
    return float(value)


def _one_or_more(value: Any) -> float:
    if not _figure(value) >= 1:
        raise ValueError(f"expected a number of 1 or more, got {value!r}")
    return float(value)


def _positive(value: Any) -> float:
    if not _figure(value) > 0:
        raise ValueError(f"expected a number above 0, got {value!r}")
    return float(value)
