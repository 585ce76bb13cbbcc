"""All attacks on one private attribute of a bundle, their controls, and what they come to.

Dimension key:  N examples   V victims   ... the shape of the features
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from eaves.audit.attribute import Budget, attack, control, positive_control
from eaves.audit.decoder import Decoder, DecoderPlan
from eaves.audit.findings import Finding, Progress, Reconstruction, Stage
from eaves.audit.inverters import Inverter
from eaves.audit.latent import GAN, LATENTS, LatentPlan, LatentSearch
from eaves.audit.leakage import label_control, label_leakage
from eaves.audit.optimisation import PIXELS, Optimisation
from eaves.audit.reconstruction import rebuilding_control, reconstruct
from eaves.audit.scene import Scene
from eaves.audit.search import SearchPlan
from eaves.audit.trial import Allowance
from eaves.audit.verdict import Control, Planted, Verdict
from eaves.experiments.auditconfig import AuditConfig
from eaves.experiments.exposing import (
    Examples,
    Subject,
    exposure_of,
    scene_of,
    unshielded,
)
from eaves.experiments.mixtures import mixed_exposure

AttributeEvent = Stage | Progress | Finding | Control | Planted | Reconstruction


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
        self._shuffled: list[Control] = []
        self._planted: list[Planted] = []
        self._rebuilt: list[dict[str, Reconstruction]] = []
        self.gallery: dict[str, Tensor] = {}

    def run(self) -> Iterator[AttributeEvent]:
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
        yield from self._controls(inverters)

    def _read(self) -> Iterator[AttributeEvent]:
        """Let every attacker read the attribute."""
        cloud = self._subject.cloud_for(self.attribute)
        yield Stage(what=f"{self.attribute}: attackers")
        for event in attack(
            self._exposure, generator=self._generator, cloud=cloud, budget=self._budget(120)
        ):
            yield self._kept(event) if isinstance(event, Finding) else event
        yield Stage(what=f"{self.attribute}: without a shield")
        for event in attack(
            unshielded(self._exposure, self._known, self._victims),
            generator=self._generator,
            attackers=["deep", "mlp"],
            budget=replace(self._budget(60), seeds=1),
        ):
            if isinstance(event, Finding):
                self._upper.append(event)
            yield event

    def _read_queries(self) -> Iterator[AttributeEvent]:
        """Let attackers read the attribute of each mixture's strongest source, as it is."""
        yield Stage(what=f"{self.attribute}: single mixtures")
        exposure = mixed_exposure(
            self._subject, self._exposure, self._known, self._victims, generator=self._generator
        )
        for event in attack(
            exposure,
            generator=self._generator,
            attackers=["deep", "mlp"],
            budget=replace(self._budget(60), seeds=1),
        ):
            if isinstance(event, Finding):
                yield self._kept(replace(event, attack="single mixture"))
            else:
                yield event

    def _controls(self, inverters: list[Inverter]) -> Iterator[AttributeEvent]:
        """Let every attacker look for what is planted, and for what is not there."""
        wanted = self._config.wanted
        yield Stage(what=f"{self.attribute}: positive controls")
        if "labels" in wanted and not self._subject.config.in_one_place:
            told = label_control(self._exposure, generator=self._generator)
            if told is not None:
                yield self._controlled(told)
        if "attribute" in wanted:
            cloud = self._subject.cloud_for(self.attribute, answers=2)
            for event in positive_control(
                self._exposure, generator=self._generator, cloud=cloud, budget=self._budget(120)
            ):
                yield self._controlled(event) if isinstance(event, Planted) else event
        for inverter in inverters:
            scene = scene_of(self._subject, self._exposure, self._known, self._victims)
            for made in rebuilding_control(inverter, scene, generator=self._generator):
                yield self._controlled(made) if isinstance(made, Planted) else made
        yield Stage(what=f"{self.attribute}: control, with shuffled labels")
        few = None if "attribute" in wanted else ["mlp"]
        cloud = self._subject.cloud_for(self.attribute)
        for shown in control(
            self._exposure,
            generator=self._generator,
            cloud=None if few else cloud,
            attackers=few,
            budget=self._budget(120),
        ):
            if isinstance(shown, Control):
                self._shuffled.append(shown)
            yield shown

    def _controlled(self, planted: Planted) -> Planted:
        self._planted.append(planted)
        return planted

    def _rebuild(self, inverter: Inverter) -> Iterator[AttributeEvent]:
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
            gan = replace(GAN, allowance=self._scaled(GAN.allowance))
            inverters.append(LatentSearch(LatentPlan(gan=gan, search=self._search(LATENTS))))
        return inverters

    def _search(self, plan: SearchPlan) -> SearchPlan:
        return replace(plan, victims=self._config.searched, allowance=self._scaled(plan.allowance))

    def _budget(self, time_s: float) -> Budget:
        return Budget(allowance=self._allowance(time_s), seeds=self._config.seeds)

    def _allowance(self, time_s: float) -> Allowance:
        return self._scaled(Allowance(rounds=20, time_s=time_s))

    def _scaled(self, allowance: Allowance) -> Allowance:
        return allowance.scaled(self._config.effort, patience=self._config.patience)

    def _kept(self, finding: Finding) -> Finding:
        self._findings.append(finding)
        return finding

    def as_json(self) -> dict[str, Any]:
        """Return what was found about the attribute; None for what is not known yet."""
        verdict = None
        if self._findings:
            verdict = Verdict.of(self._findings, limits=self._config.limits, controls=self._planted)
        worst = max(self._shuffled, key=lambda shown: shown.excess, default=None)
        known = self._exposure.known
        return {
            "classes": list(self._subject.dataset.private_classes[self.attribute]),
            "known": len(known),
            "unseen": known.not_trained_on,
            "verdict": verdict and verdict.as_json(),
            "findings": [finding.as_json() for finding in self._findings],
            "control": worst and worst.as_json(),
            "shuffled": [shown.as_json() for shown in self._shuffled],
            "controls": [planted.as_json() for planted in self._planted],
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
