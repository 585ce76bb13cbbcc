"""The visible table of all targets."""

from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks.fuzzing import files, hostile, payloads, records, states, wire
from benchmarks.fuzzing.contract import Target

_KINDS: Final[Sequence[type[Target]]] = (
    hostile.Admission,
    hostile.Crowd,
    payloads.Decode,
    payloads.Unpack,
    payloads.Train,
    payloads.Ask,
    payloads.Hear,
    payloads.Reply,
    wire.Messages,
    wire.AgreedTerms,
    wire.WholeService,
    wire.Receipts,
    files.SpoolFiles,
    files.Stored,
    files.Credentials,
    files.Certificate,
    files.Entrance,
    files.Register,
    states.CloudCheckpoint,
    states.EdgeCheckpoint,
    states.Bundle,
    states.Rule,
    files.Settings,
    records.JournalFile,
    records.Past,
    records.SetAside,
    records.Identity,
    records.WhoCame,
    records.HalfDone,
)
TARGETS: Final[Mapping[str, type[Target]]] = {kind.name: kind for kind in _KINDS}
