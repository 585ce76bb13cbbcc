"""A cloud or an agent in the terminal: what happens goes to the log, what came of it is printed."""

import json
import logging
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import localtime, monotonic, strftime
from typing import Any, Final, final

from rich.console import Console

from eaves.core.units import bytes_text
from eaves.experiments.access import gate_of, target_of
from eaves.experiments.agent import AgentProgress, run_agent
from eaves.experiments.config import TrainConfig
from eaves.experiments.halves import Origin, open_origin, write_untrained
from eaves.experiments.netconfig import AgentConfig, ServeConfig
from eaves.experiments.record import RunRecord
from eaves.experiments.restoring import Undo
from eaves.experiments.serve import ServeProgress, serve
from eaves.network.history import History
from eaves.network.quarantine import Quarantine
from eaves.network.redaction import redact
from eaves.report.live import Live
from eaves.report.logs import configure
from eaves.report.signals import interruptible
from eaves.report.stdout import console, error_console, plain_table, print_lines
from eaves.report.tables import better_text
from eaves.runtime.files import held

_EVERY_S: Final = 10.0
_log = logging.getLogger("eaves")


def show_serve(
    source: Path,
    config: ServeConfig,
    undo: Undo | None = None,
    *,
    net: str | None = None,
    as_json: bool,
) -> int:
    """Serve until a signal, or until all edges have trained; then print what was done.

    Raises:
        KeyboardInterrupt: Ctrl-C ended it, after everything was written.
    """
    configure(config.log, redact=redact)
    origin = open_origin(source, net=net)
    logged_at = 0.0
    with _folder(config), interruptible() as asked:
        gate, credentials = gate_of(config)
        for event in serve(origin, config, gate, credentials, stop=asked.stop, undo=undo):
            if not logged_at:
                how = "in plaintext" if credentials is None else "with TLS"
                words = "serving %s on port %d %s"
                _log.info(words, source, event.port, how, extra={"session": event.session})
                if origin.config.mixes:
                    words = "what comes are mixtures of %d inputs each; none comes alone"
                    _log.info(words, origin.config.mixing.group)
                logged_at, said = monotonic(), event
            elif monotonic() - logged_at >= _EVERY_S:
                if (news := _news(event, said)) is not None:
                    _log.info("serving", extra=news)
                    said = event
                logged_at = monotonic()
        if as_json:
            line = json.dumps({**_figures(event), "edges": event.ledger.as_json()})
            console().out(line, highlight=False)
        else:
            _print_served(event, config.out)
        asked.raise_if_interrupted()
    return 0


def _news(event: ServeProgress, before: ServeProgress) -> dict[str, Any] | None:
    """Return the figures that are not 0; None where nothing has happened since ``before``."""
    figures = _figures(event)
    if figures == _figures(before):
        return None
    return {name: value for name, value in figures.items() if value}


def show_history(out: Path, *, as_json: bool) -> int:
    """Print the checkpoints of the past, the oldest first."""
    states = History(out / "history", 0).states()
    if as_json:
        return print_lines(
            {
                "number": state.number,
                "at": state.at,
                "steps": state.steps,
                "examples": dict(state.examples),
            }
            for state in states
        )
    table = plain_table("number", "written", "steps", "examples of each edge")
    for state in states:
        at = strftime("%Y-%m-%d %H:%M:%S", localtime(state.at))
        edges = ", ".join(f"{edge} {n:,}" for edge, n in state.examples.items() if n) or "none"
        table.add_row(str(state.number), at, f"{state.steps:,}", edges)
    console().print(table)
    hint = "go back with --rollback NUMBER, or --rollback before:EDGE"
    console().out(hint if states else f"no checkpoint was kept in {out}", highlight=False)
    return 0


def show_released(out: Path, edge: str, *, as_json: bool) -> int:
    """Release an edge from quarantine, or list those that are in it."""
    quarantine = Quarantine(out / "quarantine", 0)
    if edge == "list":
        found = quarantine.edges()
        if as_json:
            return print_lines({"edge": name, "why": why} for name, why in found.items())
        for name, why in found.items():
            console().out(f"{name}: {why}", highlight=False)
        if not found:
            console().out("no edge is in quarantine", highlight=False)
        return 0
    quarantine.release(edge)
    console().out(f"{edge} is released, and may connect at once", highlight=False)
    return 0


def _folder(config: ServeConfig) -> AbstractContextManager[None]:
    """Return the context that has the folder to itself; the first of a group has it for all."""
    return held(config.out) if os.environ.get("RANK", "0") == "0" else nullcontext()


def _figures(event: ServeProgress) -> dict[str, Any]:
    counts = asdict(event.counts)
    return {
        "connected": event.connected,
        "finished": event.finished,
        "waiting": event.waiting,
        **{name: round(v, 3) if isinstance(v, float) else v for name, v in counts.items()},
        **{f"training_{name}": round(value, 4) for name, value in event.figures.items()},
    }


def _print_served(event: ServeProgress, out: Path) -> None:
    table = plain_table("edge", "uploads", "examples", "in the checkpoint", "finished")
    for run, account in event.ledger.accounts.items():
        table.add_row(
            run.edge,
            f"{account.applied:,}",
            f"{account.samples:,}",
            f"{account.durable:,}",
            "yes" if account.finished else "no",
        )
    counts, printed = event.counts, console()
    if event.ledger.accounts:
        printed.print(table)
    printed.out(
        f"{counts.uploads:,} uploads ({bytes_text(counts.bytes_in)}), {counts.duplicates:,} sent "
        f"again, {counts.refused:,} refused; {counts.queries:,} queries answered",
        highlight=False,
    )
    printed.out(f"Checkpoint and bundle are in {out}", highlight=False)


@final
@dataclass(frozen=True, kw_only=True)
class Local:
    """What of a configuration or bundle is elsewhere on this machine; None: where it says."""

    data: str | None = None
    data_root: Path | None = None
    net: str | None = None

    def opened(self, source: Path) -> Origin:
        """Return the origin with what this machine has."""
        origin = open_origin(source, net=self.net)
        config = replace(
            origin.config,
            data=self.data or origin.config.data,
            data_root=self.data_root or origin.config.data_root,
            compare="",
            sweep="",
        )
        return replace(origin, config=config)


def show_agent(source: Path, config: AgentConfig, local: Local, *, as_json: bool) -> int:
    """Train the edge half with a cloud far away; print the record.

    Raises:
        KeyboardInterrupt: Ctrl-C ended it, after a checkpoint was written.
    """
    configure(config.log, redact=redact)
    origin = local.opened(source)
    target = target_of(config)
    assert target is not None  # an agent's settings name a cloud
    err = error_console()
    with interruptible() as asked, Live(err, origin.config.method) as live:
        for event in run_agent(origin, config, target, stop=asked.stop):
            if isinstance(event, AgentProgress):
                live.show(event.training)
            else:
                record: RunRecord = event
    if as_json:
        console().out(record.to_line(), highlight=False)
    else:
        _print_record(record, config.out)
    if (lost := (record.network or {}).get("lost_uploads", 0)) > 0:
        err.out(
            f"{lost:,} uploads were lost: the spool in {config.out} was damaged or removed, and "
            "they could not be made again. --overwrite trains again",
            highlight=False,
        )
        return 1
    if not record.complete:
        _say_what_waits(record, config.out, err)
        err.out("interrupted; the same command goes on", highlight=False)
        asked.raise_if_interrupted()
    return 0


def _say_what_waits(record: RunRecord, out: Path, err: Console) -> None:
    """Say that the cloud has not got everything, and what the edge's half can do without it."""
    waiting = (record.network or {}).get("uploads_waiting", 0)
    err.out(
        f"not finished: {waiting:,} uploads wait for the cloud in {out}, and the accuracy is not "
        "measured",
        highlight=False,
    )
    if (out / "bundle").exists():
        words = f"the edge's half answers without it: eaves infer {out} --cloud None"
        err.out(words, highlight=False)


def _print_record(record: RunRecord, out: Path) -> None:
    printed, network = console(), record.network or {}
    table = plain_table("answer by", "accuracy %", "n")
    for name, rate in record.accuracy.items():
        if rate is not None:
            half = 100 * (rate["high"] - rate["low"]) / 2
            table.add_row(name, f"{100 * rate['value']:.1f} ± {half:.1f}", f"{rate['n']:,}")
    if table.row_count:
        printed.print(table)
    if said := better_text(record.as_json()):
        printed.out(said, highlight=False)
    dropped = network["dropped_uploads"]
    printed.out(
        f"{record.steps:,} steps; {network['uploads_sent']:,} uploads sent "
        f"({bytes_text(record.bytes['up'] or 0)}), {dropped:,} dropped, "
        f"{network['connections']:,} connections",
        highlight=False,
    )
    if "problem" in network:
        printed.out(str(network["problem"]), highlight=False)
    there = [name for name in ("record.json", "bundle", "checkpoint") if (out / name).exists()]
    printed.out(f"{', '.join(there)} are in {out}", highlight=False)


def make_bundle(config: TrainConfig, out: Path) -> int:
    """Write an untrained bundle, and say what to do with it."""
    write_untrained(config, out)
    printed = console()
    printed.out(f"An untrained bundle is in {out}.", highlight=False)
    printed.out(
        f"Copy {out}/manifest.json and {out}/cloud to the cloud: eaves serve {out.name}; "
        f"{out}/manifest.json and {out}/edge to the device: eaves agent {out.name}",
        highlight=False,
    )
    return 0
