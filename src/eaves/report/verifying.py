"""What is whole on a disk and what is not, in the terminal."""

import json
from pathlib import Path

from eaves.experiments.verifying import verify
from eaves.report.stdout import console, plain_table


def show_verify(path: Path, *, as_json: bool) -> int:
    """Print a verdict for each thing in ``path``; return 1 where anything is damaged."""
    printed, table, damaged = console(), plain_table("what", "where", "state", "holds"), []
    for verdict in verify(path):
        if not verdict.whole:
            damaged.append(verdict)
        if as_json:
            printed.out(json.dumps(verdict.as_json()), highlight=False)
            continue
        where = str(verdict.path.relative_to(path)) if verdict.path != path else path.name
        state = "whole" if verdict.whole else "damaged"
        table.add_row(verdict.kind, where, state, verdict.says if verdict.whole else "")
    if not as_json:
        printed.print(table)
        for verdict in damaged:
            printed.out(f"{verdict.path}: {verdict.says}", highlight=False)
    return 1 if damaged else 0
