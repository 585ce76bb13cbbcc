"""Short trainings of what a plan still lets choose from: what accuracy it leads to."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from eaves.core.methods import BASELINE
from eaves.core.rates import Rate
from eaves.errors import DivergedError
from eaves.experiments.config import CHOICES
from eaves.experiments.planconfig import PlanConfig, ProfileConfig
from eaves.experiments.planning import train_config_of
from eaves.experiments.record import RunRecord
from eaves.experiments.run import run
from eaves.planner.scenario import Candidate
from eaves.planner.search import Plan


def probe(
    settings: ProfileConfig, config: PlanConfig, plan: Plan
) -> Iterator[str | dict[Candidate, Rate]]:
    """Train each candidate that no other limit refuses for ``config.probe`` batches.

    Yield what is being done, and at last the accuracy of the full answer on the test data. Sending
    once has the accuracy of sending every epoch, since so few batches cannot tell them apart. What
    is known to be trainable is trained; the link and the slowness of the edge are left out, which
    change no weight. What diverges has no accuracy. With a limit on the drop, full-cloud is trained
    even where it is refused: the others are compared with it.

    Raises:
        ConfigError: there are no data to train on.
    """
    steps = config.probe or 0
    compared = config.max_drop is not None
    ways = [
        v.row.candidate
        for v in plan.verdicts
        if not v.refused or (compared and v.row.candidate.method == BASELINE)
    ]
    distinct = dict.fromkeys(replace(way, send="every-epoch") for way in ways)
    chosen = [way for way in distinct if way.method in CHOICES["method"]]
    found: dict[Candidate, Rate] = {}
    for i, way in enumerate(chosen):
        yield f"probe {i + 1} of {len(chosen)}: {way}, {steps} batches"
        with suppress(DivergedError):  # its accuracy is then not known
            found[way] = _accuracy(settings, config, plan, way)
    known = {way: found.get(replace(way, send="every-epoch")) for way in ways}
    yield {way: rate for way, rate in known.items() if rate is not None}


def _accuracy(settings: ProfileConfig, config: PlanConfig, plan: Plan, way: Candidate) -> Rate:
    with TemporaryDirectory(prefix="eaves-probe-") as folder:
        wanted = train_config_of(settings, config, plan.scenario, way)
        short = replace(
            wanted,
            train_samples=None,
            link="unlimited",
            edge_slowdown=1.0,
            epochs=config.probe or 1,  # enough, however few batches the data have
            max_steps=config.probe,
            checkpoint_s=1e9,
            out=Path(folder),
        )
        for event in run(short):
            if isinstance(event, RunRecord):
                rates = event.accuracy
    answer = rates["cloud"] or rates["exit"]
    assert answer is not None
    return Rate(answer["value"], answer["low"], answer["high"], int(answer["n"]))
