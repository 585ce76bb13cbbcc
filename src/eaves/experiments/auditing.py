"""An audit of a bundle: what the cloud could read in what its edge half sends.

The attacker is the cloud, and more: it has the edge part's weights, knows the bound and the law of
the noise, gets the task labels, and has labelled examples of its own.

Dimension key:  N examples   R releases of each   V victims   ... the shape of the features
"""

import threading
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, final

import torch
from torch import Tensor

from eaves.audit.convnets import precision
from eaves.audit.findings import Finding, Progress, Reconstruction, Stage, Unmixed
from eaves.audit.rank import Ranking, measure, rows_for
from eaves.audit.verdict import Control, Planted
from eaves.experiments.attacking import AttributeAudit
from eaves.experiments.auditconfig import AuditConfig
from eaves.experiments.exposing import Examples, Subject
from eaves.experiments.mixcontrols import MixControls
from eaves.experiments.mixtures import MixtureAudit
from eaves.experiments.record import hardware, versions
from eaves.privacy.sources import Keyed
from eaves.runtime.checkpoint import tensors_to_bytes
from eaves.runtime.files import write_atomically
from eaves.runtime.process import set_up
from eaves.runtime.sealed import sealed_json


@final
@dataclass(frozen=True, kw_only=True)
class AuditRecord:
    """All that an audit found, with what it takes to repeat it."""

    subject: dict[str, Any]
    """What the bundle is: method, net, cut, data, codec, accuracy, privacy."""
    settings: dict[str, Any]
    attributes: dict[str, dict[str, Any]]
    """For each private attribute: verdict, findings, control, upper bound, reconstructions."""
    mixtures: list[dict[str, Any]]
    """How much of the features that are mixed each attack got back; empty where none are mixed."""
    identity: dict[str, Any] | None
    """Whose it is: the rank measure. None where it was not made, as of mixtures.
    """
    controls: list[dict[str, Any]]
    """Positive controls of what is about no attribute: of the rank measure, of un-mixing."""
    precision: str
    """What attackers' convolutions were computed in: bf16 where that is faster here, else fp32."""
    versions: dict[str, str]
    hardware: dict[str, Any]
    time_s: float
    complete: bool
    """False where it was stopped: attacks are missing, and what is about them may be None."""

    @property
    def holds(self) -> bool | None:
        """Whether no attack was above its limit, for any attribute, and time ended none.

        None without a limit, and where attacks that might be above it were not made.
        """
        held = [(found["verdict"] or {}).get("holds") for found in self.attributes.values()]
        if False in held:
            return False
        return True if held and self.complete and None not in held else None

    @property
    def ended_by_time(self) -> list[str]:
        """Attackers that did less than was planned, as attribute: attacker."""
        return [
            f"{name}: {attacker}"
            for name, found in self.attributes.items()
            for attacker in (found["verdict"] or {}).get("early", [])
        ]

    @property
    def faults(self) -> list[str]:
        """Why no figure of this audit, or no failure in it, is to be believed; empty: none."""
        found = [reason for name, one in self.attributes.items() for reason in _faults(name, one)]
        passed = [c["passed"] for c in self.controls]
        passed += [c["passed"] for one in self.attributes.values() for c in one["controls"]]
        if self.complete and passed and not any(passed):
            found.append("no attacker found what was planted for it: none of them can fail")
        return found

    @property
    def sound(self) -> bool:
        """False where a control, or the comparison with the attacker's own examples, says so."""
        return not self.faults

    @property
    def folder(self) -> Path:
        """Where it is written: what ``--out`` says, else ``audit`` beside the bundle."""
        return Path(self.settings["out"] or Path(self.subject["folder"]).parent / "audit")

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name, and what they come to."""
        return {
            **asdict(self),
            "holds": self.holds,
            "ended_by_time": self.ended_by_time,
            "sound": self.sound,
            "faults": self.faults,
        }


def _faults(name: str, found: Mapping[str, Any]) -> Iterator[str]:
    """Yield why attacks on one attribute are not to be believed."""
    for shown in found["shuffled"]:
        if not shown["sound"]:
            yield f"{name}: {shown['finding']['attacker']} reads labels that were shuffled"
    controls = [c for c in found["controls"] if c["attack"] == "attribute"]
    if controls and not any(c["passed"] for c in controls):
        yield f"{name}: no attacker found the attribute that was planted"
    for finding in found["findings"]:
        if finding["differs"] and finding["check_unseen"]:
            yield (
                f"{name}: {finding['attacker']} reads the victims otherwise than its own held-out "
                "examples, which the net was not trained on either"
            )


AuditEvent = (
    Stage
    | Progress
    | Finding
    | Control
    | Planted
    | Reconstruction
    | Unmixed
    | Ranking
    | AuditRecord
)


def run_audit(
    source: Path, config: AuditConfig, *, stop: threading.Event | None = None
) -> Iterator[AuditEvent]:
    """Attack the bundle in ``source``; yield progress, what is found, and last the record.

    Leaves ``audit.json`` in ``config.out``, and ``gallery.safetensors`` where images were rebuilt.
    When ``stop`` is set, no more is tried, and the record is of what was found so far.

    Raises:
        ConfigError: nothing to audit, unknown attributes, too few victims for the interval.
        DataError: the data set is missing or damaged.
        StateError: the bundle is damaged.
        StorageError: the disk is full or refuses.
    """
    start_s, stop = perf_counter(), stop or threading.Event()
    set_up(config.threads)
    yield Stage(what="the bundle and its data")
    subject = Subject(source, config)
    yield Stage(what="the features of victims and attacker")
    victims, known = subject.victims(), subject.attacker()
    rest = Unnamed(subject, config, known, victims)
    for event in rest.run():
        yield event
        if stop.is_set():
            break
    audits = yield from _each_attribute(subject, config, known, victims, stop)
    record = AuditRecord(
        subject=subject.facts,
        settings={k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()},
        attributes={audit.attribute: audit.as_json() for audit in audits},
        mixtures=[unmixed.as_json() for unmixed in rest.mixtures],
        identity=rest.ranking and rest.ranking.as_json(),
        controls=[planted.as_json() for planted in rest.controls],
        precision=precision(),
        versions=versions(),
        hardware=hardware(config.threads),
        time_s=round(perf_counter() - start_s, 1),
        complete=not stop.is_set(),
    )
    _write(record, rest.gallery | {k: v for audit in audits for k, v in audit.gallery.items()})
    yield record


@final
class Unnamed:
    """Attacks on no attribute: mixtures taken apart, and whose an input is; with their controls."""

    def __init__(self, subject: Subject, config: AuditConfig, known: Examples, victims: Examples):
        self._subject, self._config = subject, config
        self._known, self._victims = known, victims
        self.mixtures: list[Unmixed] = []
        self.controls: list[Planted] = []
        self.ranking: Ranking | None = None
        self.gallery: dict[str, Tensor] = {}

    def run(self) -> Iterator[Stage | Progress | Unmixed | Ranking | Planted]:
        """Yield progress and what is found."""
        mixes, wanted = self._subject.config.mixes, self._config.wanted
        if mixes and "unmixing" in wanted:
            yield from self._unmix()
        if "rank" in wanted and not mixes:
            yield Stage(what="whose it is")
            self.ranking = ranking_of(self._subject, self._victims, self._config)
            yield self.ranking
            yield self._controlled(rank_control(self._subject, self._victims, self._config))

    def _unmix(self) -> Iterator[Stage | Progress | Unmixed | Planted]:
        mixed = MixtureAudit(self._subject, self._config, self._known, self._victims)
        for step in mixed.run():
            self.mixtures += [step] if isinstance(step, Unmixed) else []
            yield step
        self.gallery = mixed.gallery
        yield Stage(what="mixtures: positive controls")
        controls = MixControls(subject=self._subject, shape=mixed.map_shape, plan=mixed.plan)
        for planted in controls.run(generator=torch.Generator().manual_seed(self._config.seed)):
            yield self._controlled(planted)

    def _controlled(self, planted: Planted) -> Planted:
        self.controls.append(planted)
        return planted


def _each_attribute(
    subject: Subject,
    config: AuditConfig,
    known: Examples,
    victims: Examples,
    stop: threading.Event,
) -> Generator[AuditEvent, None, list["AttributeAudit"]]:
    """Yield what is found about each private attribute until ``stop`` is set; return the audits."""
    audits: list[AttributeAudit] = []
    for name in subject.config.privacy.attributes if config.reads else ():
        if stop.is_set():
            break
        audits.append(AttributeAudit(subject, config, name, known, victims))
        for event in audits[-1].run():
            yield event
            if stop.is_set():
                break
    return audits


def ranking_of(subject: Subject, victims: Examples, config: AuditConfig) -> Ranking:
    """Hold what is sent for the victims against the features of each of them.

    No data set says which examples are of one person, so each is an identity of its own. Distances
    are to what the codec makes of each candidate.
    """
    rows = rows_for(victims.features, subject.mechanism, releases=config.releases)
    features = victims.features[rows]
    bounded = subject.mechanism.bounded(features)
    generator = torch.Generator().manual_seed(config.seed)
    expected = subject.path.expected(bounded, generator=generator)
    return measure(bounded, subject.sent(features), subject.mechanism, expected=expected)


def rank_control(subject: Subject, victims: Examples, config: AuditConfig) -> Planted:
    """Positive control: the same candidates, sent without noise, must be found behind the codec."""
    rows = rows_for(victims.features, subject.mechanism, releases=config.releases)
    bounded, quiet = subject.mechanism.bounded(victims.features[rows]), subject.path.quiet()
    generator = torch.Generator().manual_seed(config.seed)
    sent = quiet.released(
        bounded, releases=1, source=Keyed.from_seed(config.seed), seed=config.seed
    )
    expected = quiet.expected(bounded, generator=generator)
    found = measure(bounded, sent, quiet.mechanism, expected=expected)
    return Planted(
        attack="rank",
        attacker="rank",
        what="the same features without noise, behind the codec; figures are mean rank / N",
        found=found.privacy.value,
        chance=found.chance,
        strength=None,
        passed=found.beats_chance,
    )


def _write(record: AuditRecord, gallery: Mapping[str, Tensor]) -> None:
    """Write what was found; where that is nothing, an earlier audit is left as it is."""
    found_any = any(found["findings"] for found in record.attributes.values())
    if not (found_any or record.mixtures or record.identity):
        return
    path = record.folder / "gallery.safetensors"
    if gallery:
        write_atomically(path, tensors_to_bytes(gallery))
    else:
        path.unlink(missing_ok=True)  # that of an earlier audit
    content = sealed_json(record.as_json())
    write_atomically(record.folder / "audit.json", content)
