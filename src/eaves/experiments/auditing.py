"""An audit of a bundle: what the cloud could read in what its edge half sends.

The attacker is the cloud, and more: it has the edge part's weights, knows the bound and the law of
the noise, gets the task labels, and has labelled examples of its own.

Dimension key:  N examples   R releases of each   V victims   ... the shape of the features
"""

import threading
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, final

import torch
from torch import Tensor

from eaves.audit.attribute import attack, control
from eaves.audit.decoder import Decoder, DecoderPlan
from eaves.audit.findings import (
    Control,
    Finding,
    Progress,
    Reconstruction,
    Stage,
    Unmixed,
    Verdict,
)
from eaves.audit.inverters import Inverter
from eaves.audit.latent import GAN, LATENTS, LatentPlan, LatentSearch
from eaves.audit.leakage import label_leakage
from eaves.audit.optimisation import PIXELS, Optimisation
from eaves.audit.rank import Ranking, measure, rows_for
from eaves.audit.reconstruction import reconstruct
from eaves.audit.scene import Scene
from eaves.audit.search import SearchPlan
from eaves.audit.trial import Allowance
from eaves.experiments.auditconfig import AuditConfig
from eaves.experiments.exposing import (
    Examples,
    Subject,
    exposure_of,
    scene_of,
    unshielded,
)
from eaves.experiments.mixtures import MixtureAudit, mixed_exposure
from eaves.experiments.record import hardware, versions
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
    """Whose it is: the rank measure. None where it was not made, as of mixtures: they are nobody's.
    """
    versions: dict[str, str]
    hardware: dict[str, Any]
    time_s: float
    complete: bool
    """False where it was stopped: attacks are missing, and what is about them may be None."""

    @property
    def holds(self) -> bool | None:
        """Whether no attack was above the limit, for any attribute.

        None without a limit, and where attacks that might be above it were not made.
        """
        held = [(found["verdict"] or {}).get("holds") for found in self.attributes.values()]
        if False in held:
            return False
        return True if held and self.complete and None not in held else None

    @property
    def sound(self) -> bool:
        """False where an attacker read labels that belong to nobody: believe no figure then."""
        controls = [found["control"] for found in self.attributes.values()]
        return all(control["sound"] for control in controls if control is not None)

    @property
    def folder(self) -> Path:
        """Where it is written: what ``--out`` says, else ``audit`` beside the bundle."""
        return Path(self.settings["out"] or Path(self.subject["folder"]).parent / "audit")

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name, and ``holds`` and ``sound``."""
        return {
            **asdict(self),
            "holds": self.holds,
            "sound": self.sound,
        }


AuditEvent = Stage | Progress | Finding | Control | Reconstruction | Unmixed | Ranking | AuditRecord


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
    mixtures: list[Unmixed] = []
    gallery: dict[str, Tensor] = {}
    if subject.config.mixes and "unmixing" in config.wanted:
        mixed = MixtureAudit(subject, config, known, victims)
        for step in mixed.run():
            yield step
            mixtures += [step] if isinstance(step, Unmixed) else []
            if stop.is_set():
                break
        gallery = mixed.gallery
    ranking: Ranking | None = None
    if "rank" in config.wanted and not subject.config.mixes and not stop.is_set():
        yield Stage(what="whose it is")
        ranking = ranking_of(subject, victims, config)
        yield ranking
    audits = yield from _each_attribute(subject, config, known, victims, stop)
    record = AuditRecord(
        subject=subject.facts,
        settings={k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()},
        attributes={audit.attribute: audit.as_json() for audit in audits},
        mixtures=[unmixed.as_json() for unmixed in mixtures],
        identity=ranking and ranking.as_json(),
        versions=versions(),
        hardware=hardware(config.threads),
        time_s=round(perf_counter() - start_s, 1),
        complete=not stop.is_set(),
    )
    _write(record, gallery | {k: v for audit in audits for k, v in audit.gallery.items()})
    yield record


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

    No data set says which examples are of one person, so each is an identity of its own.
    """
    rows = rows_for(victims.features, subject.mechanism, releases=config.releases)
    features = victims.features[rows]
    return measure(subject.mechanism.bounded(features), subject.sent(features), subject.mechanism)


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


@final
class AttributeAudit:
    """All attacks on one private attribute, and their controls."""

    def __init__(
        self,
        subject: Subject,
        config: AuditConfig,
        attribute: str,
        known: Examples,
        victims: Examples,
    ):
        self._subject, self._config, self.attribute = subject, config, attribute
        self._known, self._victims = known, victims
        self._exposure = exposure_of(subject, attribute, known, victims, config)
        self._generator = torch.Generator().manual_seed(config.seed)
        self._findings: list[Finding] = []
        self._upper: list[Finding] = []
        self._control: Control | None = None
        self._rebuilt: list[dict[str, Reconstruction]] = []
        self.gallery: dict[str, Tensor] = {}

    def run(self) -> Iterator[AuditEvent]:
        """Yield progress and findings."""
        wanted = self._config.wanted
        if "labels" in wanted and not self._subject.config.in_one_place:  # then none travel
            yield self._kept(label_leakage(self._exposure))
        if "attribute" in wanted:
            yield from self._read()
            if self._subject.config.mixes:
                yield from self._read_queries()
        inverters = self._inverters()
        for inverter in inverters:
            yield from self._rebuild(inverter)
        yield from self._control_run()

    def _read(self) -> Iterator[AuditEvent]:
        """Let every attacker read the attribute."""
        cloud = self._subject.cloud_for(self.attribute)
        yield Stage(what=f"{self.attribute}: attackers")
        for event in attack(
            self._exposure, generator=self._generator, cloud=cloud, allowance=self._allowance(120)
        ):
            yield self._kept(event) if isinstance(event, Finding) else event
        yield Stage(what=f"{self.attribute}: without a shield")
        for event in attack(
            unshielded(self._exposure, self._known, self._victims),
            generator=self._generator,
            attackers=["deep", "mlp"],
            allowance=self._allowance(60),
        ):
            if isinstance(event, Finding):
                self._upper.append(event)
            yield event

    def _read_queries(self) -> Iterator[AuditEvent]:
        """Let attackers read the attribute of each mixture's strongest source, as it is."""
        yield Stage(what=f"{self.attribute}: single mixtures")
        exposure = mixed_exposure(
            self._subject, self._exposure, self._known, self._victims, generator=self._generator
        )
        for event in attack(
            exposure,
            generator=self._generator,
            attackers=["deep", "mlp"],
            allowance=self._allowance(60),
        ):
            if isinstance(event, Finding):
                yield self._kept(replace(event, attack="single mixture"))
            else:
                yield event

    def _control_run(self) -> Iterator[AuditEvent]:
        yield Stage(what=f"{self.attribute}: control, with shuffled labels")
        for event in control(
            self._exposure, generator=self._generator, allowance=self._allowance(30)
        ):
            if isinstance(event, Control):
                self._control = event
            yield event

    def _rebuild(self, inverter: Inverter) -> Iterator[AuditEvent]:
        """Rebuild images from what is sent, then from what is there before the noise."""
        scene = scene_of(self._subject, self._exposure, self._known, self._victims)
        results: dict[str, Reconstruction] = {}
        for kind, one in (("sent", scene), ("before noise", scene.unshielded())):
            yield Stage(what=f"{self.attribute}: {inverter.name}, {kind}")
            for event in reconstruct(inverter, one, generator=self._generator):
                if isinstance(event, Reconstruction):
                    results[kind.replace(" ", "_")] = event
                    self._keep_images(inverter, kind, one)
                    if kind == "sent":
                        self._rebuilt.append(results)
                        self._findings += [event.read] if event.read else []
                yield event

    def _keep_images(self, inverter: Inverter, kind: str, scene: Scene) -> None:
        """Keep what becomes of a few victims of each task and private class."""
        if not self._config.gallery:
            return
        rows = _spread(scene, self._config.gallery)
        made = inverter.invert(
            scene.seen[rows], scene.victims.labels[rows], generator=self._generator
        )
        self.gallery[f"{self.attribute}/input"] = scene.victims.images[rows]
        self.gallery[f"{self.attribute}/labels"] = scene.victims.labels[rows]
        self.gallery[f"{self.attribute}/private"] = scene.victims.private[rows]
        self.gallery[f"{self.attribute}/{inverter.name}/{kind}"] = made

    def _inverters(self) -> list[Inverter]:
        wanted = self._config.wanted if self._subject.sees_images else ()
        inverters: list[Inverter] = []
        if "decoder" in wanted:
            allowance = replace(self._allowance(240), batch_size=128)
            inverters.append(Decoder(DecoderPlan(allowance=allowance)))
        if "optimisation" in wanted:
            inverters.append(Optimisation(self._search(PIXELS)))
        if "gan" in wanted:
            gan = replace(GAN, allowance=GAN.allowance.scaled(self._config.effort))
            inverters.append(LatentSearch(LatentPlan(gan=gan, search=self._search(LATENTS))))
        return inverters

    def _search(self, plan: SearchPlan) -> SearchPlan:
        allowance = plan.allowance.scaled(self._config.effort)
        return replace(plan, victims=self._config.searched, allowance=allowance)

    def _allowance(self, time_s: float) -> Allowance:
        return Allowance(rounds=20, time_s=time_s).scaled(self._config.effort)

    def _kept(self, finding: Finding) -> Finding:
        self._findings.append(finding)
        return finding

    def as_json(self) -> dict[str, Any]:
        """Return what was found about the attribute; None for what is not known yet."""
        limit = self._config.max_attack
        verdict = Verdict.of(self._findings, max_attack=limit) if self._findings else None
        return {
            "classes": list(self._subject.dataset.private_classes[self.attribute]),
            "verdict": verdict and verdict.as_json(),
            "findings": [finding.as_json() for finding in self._findings],
            "control": self._control and self._control.as_json(),
            "unshielded": [finding.as_json() for finding in self._upper],
            "reconstructions": [
                {kind: result.as_json() for kind, result in results.items()}
                for results in self._rebuilt
            ],
        }


def _spread(scene: Scene, most: int) -> Tensor:
    """Return rows of victims, of each task and private class in turn."""
    victims = scene.victims
    pairs = torch.stack([victims.labels, victims.private], dim=1)
    groups = [
        (pairs == pair).all(dim=1).nonzero().flatten().tolist()
        for pair in torch.unique(pairs, dim=0)
    ]
    turns = [group[i] for i in range(most) for group in groups if i < len(group)]
    return torch.tensor(turns[:most])
