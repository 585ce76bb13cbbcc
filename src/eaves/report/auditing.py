"""An audit in the terminal: what is tried, what was found, whether the limit holds."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eaves.audit.findings import Progress, Stage
from eaves.experiments.auditconfig import AuditConfig
from eaves.experiments.auditing import AuditEvent, AuditRecord, run_audit
from eaves.report.live import Line, Live
from eaves.report.signals import interruptible
from eaves.report.stdout import console, error_console
from eaves.report.verdicts import (
    ATTACK_CAPTION,
    ATTACK_HEADS,
    RANK_CAPTION,
    RANK_HEADS,
    REBUILT_HEADS,
    UNMIXED_CAPTION,
    UNMIXED_HEADS,
    Record,
    Row,
    accuracy_text,
    attack_rows,
    control_text,
    faults_text,
    known_text,
    rank_controls_text,
    rank_rows,
    rank_text,
    rebuilt_rows,
    statement_of,
    subject_text,
    unmixed_rows,
    verdict_text,
)

_BROKEN_LIMIT, _UNSOUND = 3, 4  # exit codes


def show_audit(source: Path, config: AuditConfig, *, as_json: bool) -> int:
    """Attack the bundle in ``source`` and print what was found; return the exit code.

    Progress goes to the standard error.

    Raises:
        KeyboardInterrupt: Ctrl-C ended the audit, after what was found is printed and written.
    """
    out, err = console(), error_console()
    with interruptible() as asked, Live(err, "audit") as live:
        stage = ""
        for event in run_audit(source, config, stop=asked.stop):
            if isinstance(event, AuditRecord):
                record = event
            else:
                stage = _show(live, stage, event)
    if as_json:
        out.out(json.dumps(record.as_json(), allow_nan=False), highlight=False)
    else:
        print_audit(record.as_json(), out)
        hint = "" if config.out else f"; eaves report {record.folder.parent} makes a page of it"
        out.out(f"Record is in {record.folder}{hint}", highlight=False)
    if not record.complete:
        err.out("interrupted; what is printed was found before", highlight=False)
        raise asked.interruption()
    return exit_code(record)


def exit_code(record: AuditRecord) -> int:
    """Return 4 where the audit is broken, 3 where its limit does not hold, and 0 otherwise."""
    if not record.sound:
        return _UNSOUND
    return _BROKEN_LIMIT if record.holds is False else 0


def _show(live: Live, stage: str, event: AuditEvent) -> str:
    """Show an event; return the stage that is at work now."""
    if isinstance(event, Stage):
        live.clear()
        live.draw([Line(event.what, 0, 1, "")])
        return event.what
    if isinstance(event, Progress):
        if event.attacker == "inverting":
            figures = ""
        else:
            what = "right" if event.attack == "attribute" else "loss"
            figures = f"{what} {event.figure:.3f}"
        live.draw([Line(f"{stage}: {event.attacker}", event.done, event.total, figures)])
    return stage


def print_audit(record: Record, out: Console) -> None:
    """Print the tables of each attribute, what they come to, and the noise statement."""
    if record.get("mixtures"):
        out.print(unmixed_table(record["mixtures"]))
    if identity := record.get("identity"):
        out.print(rank_table(identity))
    if whose := rank_text(record.get("identity"), record["subject"]["method"]):
        out.out(whose, highlight=False)
    for attribute, found in record["attributes"].items():
        out.print(attack_table(attribute, found, record["subject"]))
        if found["reconstructions"]:
            out.print(rebuilt_table(attribute, found))
        for text in (verdict_text(attribute, found), control_text(found)):
            out.out(text, highlight=False)
    for text in (rank_controls_text(record), faults_text(record)):
        if text:
            out.out(text, highlight=False)
    out.out(accuracy_text(record["subject"]), highlight=False)
    out.out("\nThe noise statement", highlight=False)
    subject = record["subject"]
    for sentence in statement_of(subject["method"], subject["privacy"]):
        out.out(f"- {sentence}", highlight=False)


def attack_table(attribute: str, found: Record, subject: Record) -> Table:
    """Return how well each attacker read one attribute; the best one is bold."""
    caption = f"{subject_text(subject)}. {known_text(found)} {ATTACK_CAPTION}"
    return _table(f"Who reads {attribute}", caption, ATTACK_HEADS, attack_rows(found))


def rebuilt_table(attribute: str, found: Record) -> Table:
    """Return how like their inputs the rebuilt images are, and what can be read from them."""
    caption = (
        "SSIM is 1 and PSNR high for the input itself. A mean image: the attacker's own, of all or "
        f"of each task label, whichever is more like. attribute: {attribute}, read from the images."
    )
    return _table("Who rebuilds the inputs", caption, REBUILT_HEADS, rebuilt_rows(found))


def unmixed_table(mixtures: Sequence[Record]) -> Table:
    """Return how much of what was mixed each attack got back."""
    return _table(
        "Who takes mixtures apart", UNMIXED_CAPTION, UNMIXED_HEADS, unmixed_rows(mixtures)
    )


def rank_table(identity: Record) -> Table:
    """Return where the right candidates were found among all."""
    return _table("Whose it is", RANK_CAPTION, RANK_HEADS, rank_rows(identity))


def _table(title: str, caption: str, heads: Sequence[str], rows: Sequence[Row]) -> Table:
    table = Table(
        title=escape(title),
        caption=escape(caption),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
    )
    for i, name in enumerate(heads):
        table.add_column(name, justify="right" if i else "left", no_wrap=i > 0)
    for row in rows:
        style = "bold" if row.best else "dim" if row.beside else ""
        table.add_row(*map(escape, row.cells), style=style)
    return table
