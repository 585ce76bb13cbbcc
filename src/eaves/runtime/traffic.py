"""What the stages of a pipeline pass on and report, and what lies between them."""

from dataclasses import dataclass
from typing import final

from eaves.codecs.base import Codec
from eaves.core.specs import LinkSpec
from eaves.core.state import State
from eaves.runtime.meters import Totals


@final
@dataclass(frozen=True, kw_only=True)
class Wire:
    """What lies between the two halves: the codecs, the link, and how slow the device is."""

    codec: Codec
    reply_codec: Codec
    link: LinkSpec
    edge_slowdown: float = 1.0
    """The edge takes this many times as long as this machine does."""
    depth: int = 4
    """Payloads that may wait in each queue; those that the link's delay keeps in flight do not."""
    seed: int = 0
    """Of the link's jitter and loss."""


@final
@dataclass(frozen=True)
class Progress:
    """How far a run is, for display."""

    edge_steps: int
    cloud_steps: int
    edge: dict[str, float]
    cloud: dict[str, float]
    queued: int
    totals: Totals


@final
@dataclass(frozen=True)
class Snapshot:
    """States of both halves that belong together, after ``steps`` steps.

    None stands for a half that took no part.
    """

    steps: int
    edge: State | None
    cloud: State | None
    totals: Totals


@final
@dataclass(frozen=True, slots=True)
class Parcel:
    """A payload on its way; times are those of ``time.perf_counter``."""

    data: bytes
    samples: int
    queued_at: float
    ready_at: float = 0.0


@final
@dataclass(frozen=True, slots=True)
class Mark:
    """A snapshot of the edge that follows the payloads it had sent; the cloud adds its own half."""

    snapshot: Snapshot
    last: bool
