"""Answers of a device without torch in the terminal. Imports no torch."""

import json
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from eaves.core.rules import name_of
from eaves.core.units import bytes_text
from eaves.experiments.access import target_of
from eaves.experiments.netconfig import InferConfig, given_rule
from eaves.light.facts import read_facts
from eaves.light.inputs import read_inputs
from eaves.light.model import LightEdge
from eaves.light.running import LightAnswered, LightRecord, answer_all
from eaves.network.asking import CloudClient, answer_bytes
from eaves.network.waiting import Policy
from eaves.report.stdout import ANSWERED_BY, console, plain_table


def show_light(
    folder: Path, inputs: Path, config: InferConfig, *, threads: int, as_json: bool
) -> int:
    """Answer a file of inputs and print what came of it; as JSON, a line for each example too."""
    facts, target, printed = read_facts(folder), target_of(config), console()
    policy = Policy(rule=given_rule(config) or facts.rule, deadline_s=config.deadline_ms / 1000)
    examples = read_inputs(inputs, facts.input_shape)
    edge = LightEdge(folder, facts, threads=threads)
    with ExitStack() as stack:
        client = None
        if target is not None:
            most = answer_bytes(config.batch_size or 1, len(facts.classes))
            client = CloudClient(target, facts.session, answer_bytes=most)
            stack.callback(client.close)
        size = config.batch_size or 1
        for event in answer_all(edge, facts, examples, client, policy, batch_size=size):
            if isinstance(event, LightRecord):
                record = event
            elif as_json:
                _print_answers(event, facts.classes, printed)
    if as_json:
        printed.out(json.dumps(record.as_json()), highlight=False)
    else:
        _print_record(record, printed)
    return 0


def _print_answers(event: LightAnswered, classes: tuple[str, ...], printed: Console) -> None:
    for i, answer in enumerate(event.answers.answers):
        line = {
            "example": event.first + i,
            **answer.as_json(),
            "name": None if answer.label is None else classes[answer.label],
            "latency_s": event.answers.latency_s,
        }
        printed.out(json.dumps(line), highlight=False)


def _print_record(record: LightRecord, printed: Console) -> None:
    table = plain_table("answered by", "examples", "share %")
    for who in (who for who in ANSWERED_BY if record.by[who]):
        share = 100 * record.by[who] / record.examples
        table.add_row(ANSWERED_BY[who], f"{record.by[who]:,}", f"{share:.1f}")
    printed.print(table)
    rule, asked = record.rule, record.asked
    words = f"{name_of(rule)} {rule.threshold:.4g}" if rule else "none: everything is sent"
    printed.out(
        f"rule: {words}; latency {1e3 * record.latency_s(0.5):.1f} ms (p50), "
        f"{1e3 * record.latency_s(0.99):.1f} ms (p99); {bytes_text(record.bytes_up)} sent; "
        f"{asked['asked']:,} queries, {asked['late']:,} late, {asked['skipped']:,} not tried, "
        f"{asked['unusable']:,} answered with nonsense",
        highlight=False,
    )
    if record.payload_bytes:
        each = bytes_text(record.payload_bytes / record.examples)
        printed.out(f"payloads would take {each} for each example: name a cloud with --connect")
