"""Answers of a bundle, and the choice of its rule, in the terminal."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from eaves.core.rates import Rate
from eaves.core.units import bytes_text, percent_text
from eaves.errors import ConfigError, StateError
from eaves.experiments.access import target_of
from eaves.experiments.answering import Beside, Cloud, far_cloud
from eaves.experiments.calibrating import BATCH, Target, choose, score, write_rule
from eaves.experiments.halves import Origin, cloud_half, edge_job
from eaves.experiments.inferring import Answered, InferRecord, infer
from eaves.experiments.netconfig import InferConfig
from eaves.network.waiting import CloudLate
from eaves.report.calibration import calibration_json, calibration_table, draw_calibration
from eaves.report.figures import expect_figure
from eaves.report.serving import Local
from eaves.report.stdout import ANSWERED_BY, console, error_console, plain_table


def show_infer(source: Path, config: InferConfig, local: Local, *, as_json: bool) -> int:
    """Answer the test set and print what came of it; as JSON, a line for each example as well."""
    origin = local.opened(source)
    printed, target = console(), target_of(config)
    err = error_console()
    with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("answering", total=None)
        for event in infer(origin, config, target):
            if isinstance(event, Answered):
                bar.update(task, advance=len(event.labels))
                if as_json:
                    _print_answers(event, printed)
            else:
                record = event
    if as_json:
        printed.out(json.dumps(record.as_json()), highlight=False)
    else:
        _print_record(record, printed)
    return 0


def _print_answers(event: Answered, printed: Console) -> None:
    for i, answer in enumerate(event.answers.answers):
        line = {
            "example": event.first + i,
            "label": event.labels[i],
            **answer.as_json(),
            "latency_s": event.answers.latency_s,
        }
        printed.out(json.dumps(line), highlight=False)


def _print_record(record: InferRecord, printed: Console) -> None:
    table = plain_table("answered by", "examples", "share %", "accuracy %")
    for who in (who for who in ANSWERED_BY if record.by[who]):
        share = percent_text(record.by[who] / record.examples)
        table.add_row(
            ANSWERED_BY[who], f"{record.by[who]:,}", share, _percent(record.accuracy(who))
        )
    table.add_row("all", f"{record.examples:,}", "100.0", _percent(record.accuracy()))
    printed.print(table)
    asked = record.asked
    rule = f"{record.rule} {record.threshold:.4g}" if record.rule else "none: everything is sent"
    printed.out(
        f"rule: {rule}; latency {1e3 * record.latency_s(0.5):.1f} ms (p50), "
        f"{1e3 * record.latency_s(0.99):.1f} ms (p99); {bytes_text(record.bytes_up)} sent; "
        f"{asked['asked']:,} queries, {asked['late']:,} late, {asked['skipped']:,} not tried, "
        f"{asked['unusable']:,} answered with nonsense",
        highlight=False,
    )
    if record.shield:
        done = record.shield
        printed.out(
            f"mixed: {done['groups']:,} groups, {done['dummies']:,} dummies to fill them, "
            f"{done['redrawn']:,} mixtures drawn again because they were beyond a bound",
            highlight=False,
        )


def _percent(rate: Rate) -> str:
    return f"{percent_text(rate.value)} ± {50 * (rate.high - rate.low):.1f}"


def show_calibration(
    source: Path,
    wanted: Target,
    config: InferConfig,
    local: Local,
    *,
    plot: Path | None,
    as_json: bool,
) -> int:
    """Choose the rule of a bundle, write it there, and print the curve it was chosen from."""
    if plot is not None:
        expect_figure(plot)
    origin = local.opened(source)
    if origin.bundle is None:
        raise ConfigError("expected a bundle to calibrate, got a configuration: train it first")
    job, _ = edge_job(origin, trains=False)
    with _cloud(origin, config) as cloud:
        try:
            scored = score(
                job.method.edge_predictor,
                cloud,
                job.dataset.test,
                job.wire.codec,
                wanted.rule,
                shield=job.method.shield,
            )
        except CloudLate as error:
            raise StateError(f"the cloud at {config.cloud} does not answer: {error}") from error
    found = choose(scored, wanted)
    write_rule(origin.bundle, found)
    if plot is not None:
        draw_calibration(found, plot)
    if as_json:
        console().out(json.dumps(calibration_json(found)), highlight=False)
        return 0
    console().print(calibration_table(found))
    console().out(f"The rule is in {origin.bundle}", highlight=False)
    return 0


@contextmanager
def _cloud(origin: Origin, config: InferConfig) -> Iterator[Cloud]:
    """Give the cloud of the settings; without one, the bundle's own half."""
    target = target_of(config)
    if target is None:
        half, _, _ = cloud_half(origin, "auto")
        yield Beside(half.predictor)
        return
    assert origin.interface is not None  # a bundle has one
    classes = len(origin.interface.classes)
    with far_cloud(target, origin.session, origin.config, classes=classes, rows=BATCH) as cloud:
        yield cloud
