"""A planning session in the terminal: read or take the figures, plan, probe, print, draw, write.

What needs torch is imported where it is needed: a plan from profiles answers without it.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar, final

from eaves.core.rates import Rate
from eaves.errors import ConfigError
from eaves.experiments.planconfig import DeviceConfig, PlanConfig, ProfileConfig
from eaves.experiments.planning import (
    Machines,
    candidates_of,
    fleet_of,
    plan_of,
    scenario_of,
    train_config_of,
)
from eaves.planner.embeddings import device_costs
from eaves.planner.profile import ON_DEVICE, Profile, load_profile
from eaves.planner.scenario import Candidate
from eaves.planner.search import Plan
from eaves.planner.simulate import Outcome
from eaves.report.figures import draw_plan, expect_figure
from eaves.report.plans import fleet_text, places_text, plan_facts, plan_table, words_text
from eaves.report.profiles import codecs_table, device_table, stages_table
from eaves.report.stdout import console, error_console
from eaves.runtime.files import write_atomically

_PLAN_BUDGET_S = 2.0  # of timing, so that a plan answers within seconds
_LONGEST_S = 86_400  # of timing for a profile

T = TypeVar("T")


@final
@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a plan is to be turned into."""

    as_json: bool = False
    everything: bool = False
    plot: Path | None = None
    write_config: Path | None = None


@final
@dataclass(frozen=True, kw_only=True)
class Taking:
    """How a profile is come by, and what becomes of it."""

    show: Path | None = None
    """One that was taken before; None: take one now."""
    out: Path | None = None
    seconds: float = 10.0
    as_json: bool = False


def show_profile(config: ProfileConfig, device: DeviceConfig, taking: Taking) -> int:
    """Take a profile of this machine, or read one, write it, print it.

    Raises:
        ConfigError: a combination that cannot work, or settings that are not those of the profile.
    """
    out = taking.out
    if out is not None and out.suffix != ".json":
        raise ConfigError(f"expected --out to end in .json, by which plans know it, got {out}")
    profile = _taken(config, taking.seconds) if taking.show is None else load_profile(taking.show)
    if taking.show is not None:
        config.of(profile)  # refuses flags that say otherwise
    costs = device_costs(profile, components=device.components, power=device.power())
    if out is not None:
        write_atomically(out, profile.to_json().encode())
    if taking.as_json:
        facts = {**json.loads(profile.to_json()), ON_DEVICE: [asdict(cost) for cost in costs]}
        console().out(json.dumps(facts, allow_nan=False), highlight=False)
        return 0
    for table in (stages_table(profile), codecs_table(profile), device_table(costs)):
        console().print(table)
    if out is not None:
        hint = f"Profile is in {out}; plan with it: eaves plan --edge {out} --cloud rtx-2080-ti"
        console().out(hint, highlight=False)
    return 0


def _taken(config: ProfileConfig, seconds: float) -> Profile:
    from eaves.experiments.profiling import take_profile

    if not 0 <= seconds <= _LONGEST_S:
        raise ConfigError(f"expected --seconds from 0 to {_LONGEST_S}, got {seconds}")
    return _last_of(take_profile(config, budget_s=seconds), Profile)


def show_plan(settings: ProfileConfig, config: PlanConfig, outputs: Outputs) -> int:
    """Plan, print, and write what is asked for.

    Raises:
        ConfigError: a combination that cannot work, or limits that leave nothing.
    """
    _refuse_in_vain(settings, config, outputs)
    machines = Machines.read(config)
    known = machines.known()
    asked = settings if known is None else settings.of(known)
    wanted, timed = machines.need(config)
    if wanted:
        from eaves.experiments.profiling import take_profile

        together = config.edge == config.cloud
        taken = take_profile(asked, timed=timed, together=together, budget_s=_PLAN_BUDGET_S)
        machines = replace(machines, here=_last_of(taken, Profile))
    scenario = scenario_of(config, machines)
    found = candidates_of(config, scenario, None if known is None else asked)
    plan = plan_of(config, scenario, found)
    if config.probe is not None:
        plan = plan_of(config, scenario, found, _probed(asked, config, plan))
    fleet = None if config.fleet is None else fleet_of(config, plan, config.fleet)
    if outputs.write_config is not None:
        written = train_config_of(asked, config, scenario, plan.best.candidate)
        write_atomically(outputs.write_config, written.to_toml().encode())
    if outputs.plot is not None:
        draw_plan(plan, outputs.plot)
    _print(plan, config, outputs, fleet)
    return 0


def _refuse_in_vain(settings: ProfileConfig, config: PlanConfig, outputs: Outputs) -> None:
    """Raise a :class:`ConfigError` for what cannot come of it, before anything is measured."""
    if outputs.plot is not None:
        expect_figure(outputs.plot)
    if settings.data is None and (config.probe is not None or outputs.write_config is not None):
        raise ConfigError("training needs data: name them to the plan with --data")
    if config.inference and outputs.write_config is not None:
        raise ConfigError("--write-config is of training: plan without --inference")


def _print(
    plan: Plan, config: PlanConfig, outputs: Outputs, fleet: tuple[Candidate, Outcome] | None
) -> None:
    out = console()
    if outputs.as_json:
        facts = plan_facts(plan, config, fleet)
        out.out(json.dumps(facts, allow_nan=False), highlight=False)
        return
    out.print(plan_table(plan, everything=outputs.everything))
    out.out(words_text(plan, everything=outputs.everything), highlight=False)
    out.out(places_text(config, plan.scenario), highlight=False)
    if fleet is not None and config.fleet is not None:
        out.out(fleet_text(config.fleet, *fleet), highlight=False)
    for what, path in (("Configuration", outputs.write_config), ("Figure", outputs.plot)):
        if path is not None:
            out.out(f"{what} is in {path}", highlight=False)


def _probed(settings: ProfileConfig, config: PlanConfig, plan: Plan) -> dict[Candidate, Rate]:
    from eaves.experiments.probing import probe

    accuracy: dict[Candidate, Rate] = _last_of(probe(settings, config, plan), dict)
    return accuracy


def _last_of(events: Iterator[str | T], kind: type[T]) -> T:
    """Show what is being done on the standard error, and return what comes in the end."""
    err = error_console()
    with err.status("") as status:
        for event in events:
            if isinstance(event, kind):
                return event
            status.update(str(event))
    raise RuntimeError("the work ended without a result")
