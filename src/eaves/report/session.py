"""A training session in the terminal: the run, the runs it is compared with, the table."""

import json
import threading
from dataclasses import replace
from typing import Any

from rich.console import Console

from eaves.experiments.compare import compared, own_name
from eaves.experiments.config import TrainConfig
from eaves.experiments.position import expect_vacant
from eaves.experiments.precision import AUTO, choice_text
from eaves.experiments.record import RunRecord
from eaves.experiments.run import PhaseProgress, run
from eaves.report.live import Live
from eaves.report.signals import interruptible
from eaves.report.stdout import console, error_console
from eaves.report.sweeping import show_sweep
from eaves.report.tables import better_text, comparison_table
from eaves.runtime.files import held


def train(config: TrainConfig, *, resume: bool, overwrite: bool, as_json: bool) -> int:
    """Run ``config`` and what it is compared with; print the table or lines of JSON.

    Progress goes to the standard error. Returns the exit code.

    Raises:
        KeyboardInterrupt: Ctrl-C ended the session, after a checkpoint was written.
    """
    if config.sweep:
        return show_sweep(config, overwrite=overwrite, as_json=as_json)
    out, err = console(), error_console()
    runs = {own_name(config): config, **compared(config)}
    if not (resume or overwrite):
        for one in runs.values():  # all of them, before the first is trained
            with held(one.out):
                expect_vacant(one.out)
    records: dict[str, dict[str, Any]] = {}
    with interruptible() as asked:
        for name, one in runs.items():
            if one.precision == AUTO and records:  # compare under the same conditions
                one = replace(one, precision=records[own_name(config)]["config"]["precision"])
            how = {"resume": resume, "overwrite": overwrite}
            record = _run(one, name, err, asked.stop, **how)
            if not record["complete"]:
                hint = f"interrupted; go on with: eaves train --resume {config.out}"
                err.out(hint, highlight=False)  # in one line, as it is: it is there to be copied
                raise asked.interruption()
            records[name] = record
            if (choice := record["hardware"].get("precision_chosen")) is not None:
                err.out(f"{name}: {choice_text(choice)}", highlight=False)
            for notice in record.get("notices", ()):
                err.out(f"{name}: {notice}", highlight=False)
    if as_json:
        for record in [*list(records.values())[1:], records[own_name(config)]]:
            out.out(json.dumps(record), highlight=False)
        return 0
    out.print(comparison_table(records))
    for name, record in records.items():
        if said := better_text(record):
            out.out(f"{name}: {said}", highlight=False)
    out.out(f"Record, bundle and checkpoint are in {config.out}", highlight=False)
    return 0


def _run(
    config: TrainConfig,
    name: str,
    err: Console,
    stop: threading.Event,
    *,
    resume: bool,
    overwrite: bool,
) -> dict[str, Any]:
    with Live(err, name) as live:
        for event in run(config, stop=stop, resume=resume, overwrite=overwrite):
            if isinstance(event, PhaseProgress):
                live.show(event)
            else:
                record: RunRecord = event
    return record.as_json()
