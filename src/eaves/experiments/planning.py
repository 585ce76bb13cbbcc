"""From figures to a plan: which machines, what to choose from, what is chosen. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from eaves.core.methods import METHODS
from eaves.core.rates import Rate
from eaves.errors import ConfigError
from eaves.experiments.config import TrainConfig
from eaves.experiments.planconfig import THIS, PlanConfig, ProfileConfig, needs_private, words
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.planner.devices import DEVICES, preset, slowed
from eaves.planner.profile import INPUT, Profile, load_profile
from eaves.planner.scenario import Candidate, Scenario
from eaves.planner.search import Plan, candidates, choose, rows_of
from eaves.planner.simulate import Fleet, Outcome, simulate

_SAMPLES = 50_000
_METHODS = "hierarchical,full-cloud,full-edge,split"
_ANSWERING = "hierarchical,full-cloud,full-edge,datamix,siamese"


@final
@dataclass(frozen=True, kw_only=True)
class Machines:
    """The figures at hand before anything is measured now: of this machine, the edge, the cloud."""

    here: Profile | None
    files: Mapping[str, Profile]

    @classmethod
    def read(cls, config: PlanConfig) -> "Machines":
        """Load the profiles that ``config`` names."""
        here = None if config.profile is None else load_profile(config.profile)
        places = {config.edge, config.cloud}
        files = {p: load_profile(Path(p)) for p in places if p.endswith(".json")}
        return cls(here=here, files=files)

    def known(self) -> Profile | None:
        """Return any figures of the net, from wherever they are."""
        return self.here or next(iter(self.files.values()), None)

    def need(self, config: PlanConfig) -> tuple[bool, bool]:
        """Return whether anything must be measured now, and whether its times matter."""
        timed = self.here is None and THIS in (config.edge, config.cloud)
        return timed or self.known() is None, timed

    def at(self, place: str) -> Profile:
        """Return the figures at ``place``."""
        if place in self.files:
            return self.files[place]
        base = self.here if place == THIS else self.known()
        assert base is not None, "what is needed was not measured"
        return base if place == THIS else preset(base, DEVICES[place])


def plan(question: PlanConfig, profile: Profile | None = None) -> Plan:
    """Return the answer to ``question``; ``profile`` holds the figures of this machine.

    Without it, ``question`` names a file for every machine that is no preset. Nothing is measured
    and no torch is imported: :func:`eaves.take_profile` takes figures.

    Raises:
        ConfigError: figures that are missing or do not belong together, unknown names, or limits
            that leave nothing.
        StateError: a file that is no profile.
    """
    if question.probe is not None:
        raise ConfigError("eaves.plan trains nothing: leave probe out, or use `eaves plan --probe`")
    machines = Machines.read(question)
    machines = machines if profile is None else replace(machines, here=profile)
    if machines.need(question)[0]:
        raise ConfigError(
            "no figures of the net on this machine: pass a profile (eaves.take_profile takes one)"
        )
    scenario = scenario_of(question, machines)
    return plan_of(question, scenario, candidates_of(question, scenario))


def scenario_of(config: PlanConfig, machines: Machines) -> Scenario:
    """Return where the net is to run.

    Raises:
        ConfigError: profiles that do not belong together, or without times.
    """
    edge, cloud = machines.at(config.edge), machines.at(config.cloud)
    for place, found in ((config.edge, edge), (config.cloud, cloud)):
        if not found.measured:
            raise ConfigError(f"the profile of '{place}' holds no times; take it again there")
    batch_size = edge.subject.batch_size
    size = config.samples or edge.samples or cloud.samples or _SAMPLES
    return Scenario(
        edge=slowed(edge, config.edge_slowdown),
        cloud=cloud,
        link=config.link_spec(),
        batches=max(1, size // batch_size),
        epochs=config.epochs,
        one_process=config.edge == config.cloud == THIS,
        power=config.power(),
        choices=config.choices(),
    )


def candidates_of(
    config: PlanConfig, scenario: Scenario, settings: ProfileConfig | None = None
) -> list[Candidate]:
    """Return what ``config`` lets choose from.

    The codecs are those of ``settings``; where it names none, those that the edge's profile knows.

    Raises:
        ConfigError: an unknown name, or nothing to choose from.
    """
    default = _ANSWERING if config.inference else _METHODS
    wanted = settings or ProfileConfig()
    cuts = scenario.edge.cuts
    return candidates(
        scenario,
        methods=words(config.methods or default),
        cuts=words(config.cuts) if config.cuts else cuts,
        codecs=_codecs(scenario.edge, cuts[0], wanted.codecs),
        input_codecs=_codecs(scenario.edge, INPUT, wanted.input_codecs),
        inference=config.inference,
    )


def _codecs(profile: Profile, where: str, wanted: str | None) -> list[str]:
    """Return the codecs that are wanted; raises :class:`ConfigError` for one not in ``profile``."""
    if wanted is None:
        return [cost.codec for cost in profile.codecs.get(where, ())]
    return [profile.codec(where, name).codec for name in words(wanted)]


def plan_of(
    config: PlanConfig,
    scenario: Scenario,
    found: list[Candidate],
    accuracy: Mapping[Candidate, Rate] | None = None,
) -> Plan:
    """Return the plan; before a probe (``accuracy`` is None) no limit of accuracy holds.

    Raises:
        ConfigError: the limits leave nothing.
    """
    limits = config.limits()
    if accuracy is None:
        limits = replace(limits, accuracy=None, accuracy_drop=None)
    rows = rows_of(scenario, found, inference=config.inference, accuracy=accuracy)
    return choose(scenario, rows, limits, objective=config.objective, inference=config.inference)


def fleet_of(config: PlanConfig, plan: Plan, edges: int) -> tuple[Candidate, Outcome]:
    """Return what ``edges`` devices come to in an epoch each, and by which way they train.

    It is the best one that sends without waiting for answers; what is sent once counts as spread
    over the epochs.

    Raises:
        ConfigError: there is no such way among those that keep the limits, or no simpy.
    """
    sending = [v.row for v in plan.verdicts if not v.refused and v.row.cost.bytes_up]
    best = next((row for row in sending if not METHODS[row.candidate.method].waits), None)
    if best is None:
        raise ConfigError("a fleet needs a way that sends and does not wait: add hierarchical")
    scenario, batches = plan.scenario, plan.scenario.batches
    fleet = Fleet(
        edges=edges,
        uploads=batches,
        period_s=max(best.cost.edge_s / batches, 1e-9),
        upload_bytes=max(1, round(best.cost.bytes_up / batches)),
        link=scenario.link,
        shared_link=config.shared_link,
        serve_fixed_s=0.0,
        serve_each_s=best.cost.cloud_s / batches,
        seed=0,
    )
    return best.candidate, simulate(fleet)


def train_config_of(
    settings: ProfileConfig, config: PlanConfig, scenario: Scenario, way: Candidate
) -> TrainConfig:
    """Return the training run that ``way`` is.

    Raises:
        ConfigError: no data are named to train on, or no attributes to a method that hides them.
    """
    subject = scenario.edge.subject
    if settings.data is None:
        raise ConfigError("training needs data: name them to the plan with --data")
    if config.inference:
        raise ConfigError("`eaves train` trains: plan without --inference")
    if METHODS[way.method].protects and not config.privacy().attributes:
        raise needs_private(way.method)
    fewer = config.samples is not None and config.samples < (scenario.edge.samples or 0)
    found = TrainConfig(
        method=way.method,
        data=settings.data,
        data_root=settings.data_root,
        train_samples=config.samples if fewer else None,
        net=subject.net,
        stem=subject.stem,
        cut=way.cut,
        exit=subject.exit,
        link=config.link,
        send=way.send,
        epochs=config.epochs,
        batch_size=subject.batch_size,
        precision=subject.precision,
        device=settings.device,
        threads=settings.threads,
        edge_slowdown=max(1.0, config.edge_slowdown),
        privacy=config.privacy() if METHODS[way.method].protects else PrivacyConfig(),
    )
    if way.codec is None:
        return found
    if METHODS[way.method].sends == "inputs":
        return replace(found, input_codec=way.codec)
    return replace(found, codec=way.codec)
