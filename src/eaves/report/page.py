"""One page about runs and their audits: HTML with all in it, and nothing fetched."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jinja2 import UndefinedError

from eaves.errors import EavesError, StateError
from eaves.report.markup import data_url, rendered
from eaves.report.runs import Run, read_runs
from eaves.report.sections import COST_HEADS, RUN_HEADS, View, view_of
from eaves.report.stdout import console
from eaves.report.tradeoff import draw_tradeoff
from eaves.report.verdicts import Row
from eaves.runtime.files import write_atomically

_DAMAGED = (KeyError, IndexError, TypeError, ValueError, AttributeError, UndefinedError)


def write_page(folders: Sequence[Path], out: Path, *, gallery: bool) -> int:
    """Write the page about the runs in ``folders``, and say where it is; return the exit code.

    Raises:
        ConfigError: no folders, one that does not exist, or matplotlib or pillow is missing.
        StateError: a folder without a run, or with one that is damaged.
        StorageError: the disk is full or refuses.
    """
    runs = read_runs(folders)
    write_atomically(out, page(runs, gallery=gallery))
    audited = sum(run.audit is not None for run in runs)
    message = f"Page is in {out}; runs: {len(runs)}, audited: {audited}"
    console().out(message, highlight=False)
    return 0


def page(runs: Sequence[Run], *, gallery: bool) -> bytes:
    """Return the page; without ``gallery`` it shows no example of any data set.

    Raises:
        ConfigError: matplotlib or pillow is missing.
        StateError: a run is damaged; the message names its folder.
    """
    views = []
    for run in runs:
        with _named(run):
            views.append(view_of(run, gallery=gallery))
    found = rendered(
        "page",
        figures=_tradeoffs(views),
        run_heads=RUN_HEADS,
        runs=[Row(cells=view.cells) for view in views],
        cost_heads=COST_HEADS,
        costs=[Row(cells=view.costs) for view in views],
        sections=[view.section for view in views],
    )
    return found.encode()


@contextmanager
def _named(run: Run) -> Iterator[None]:
    """Say whose record or audit it is that cannot be shown."""
    try:
        yield
    except EavesError:
        raise
    except _DAMAGED as error:
        raise StateError(f"the record or audit in {run.folder} is damaged: {error!r}") from error


def _tradeoffs(views: Sequence[View]) -> list[tuple[str, str]]:
    """Return a figure for each private attribute, and what it shows."""
    attributes = dict.fromkeys(name for view in views for name in view.points)
    figures = []
    for attribute in attributes:
        points = [view.points[attribute] for view in views if attribute in view.points]
        about = (
            f"Task accuracy against the best attack on {attribute}, with 95 % intervals. Upper "
            "left is better. Dashed: chance; dotted: read from the task label alone, which is "
            "sent in the clear. Numbers are those of the runs."
        )
        figures.append((data_url(draw_tradeoff(points), "image/svg+xml"), about))
    return figures
