"""One page about runs and their audits: HTML with all in it, and nothing fetched."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from eaves.errors import EavesError, StateError
from eaves.report.markup import Html, document, element, picture, table, words
from eaves.report.runs import Run, read_runs
from eaves.report.sections import COST_HEADS, RUN_HEADS, View, view_of
from eaves.report.stdout import console
from eaves.report.tradeoff import draw_tradeoff
from eaves.runtime.files import write_atomically

_DAMAGED = (KeyError, IndexError, TypeError, ValueError, AttributeError)
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; }
main { max-width: 70rem; margin: 0 auto; padding: 1rem; }
h1, h2, h3 { line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; }
th, td { white-space: nowrap; }
tr.best { font-weight: bold; background: var(--soft); }
tr.beside { font-style: italic; opacity: .8; }
.warning { background: #b00020; color: #fff; padding: .8rem 1rem; font-weight: bold; }
.verdict { border-left: 4px solid #0072B2; padding-left: .8rem; }
.gallery td, .gallery th { border: 0; padding: .15rem; text-align: center; }
.gallery th:first-child { text-align: right; padding-right: .6rem; }
.gallery img { width: 64px; image-rendering: pixelated; display: block; }
img.figure { max-width: 100%; background: #fff; }
pre, code { font-size: .85rem; white-space: pre-wrap; overflow-wrap: anywhere; }
"""


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
    body = [
        words("h1", "Runs, and what the cloud could read"),
        *_tradeoff_parts(views),
        words("h2", "Runs"),
        words(
            "p",
            "± half a 95 % interval. The best attack is the best on the victims, which no attacker "
            "could know: a little too high, in its favour. Both epsilons are of training.",
        ),
        table(RUN_HEADS, [("", view.cells) for view in views]),
        words("h2", "What it costs the device"),
        words("p", "In training, on the machine that is named in the section of each run."),
        table(COST_HEADS, [("", view.costs) for view in views]),
    ]
    for view in views:
        body += view.parts
    return document("Eaves: runs, and what the cloud could read", _STYLE, body)


@contextmanager
def _named(run: Run) -> Iterator[None]:
    """Say whose record or audit it is that cannot be shown."""
    try:
        yield
    except EavesError:
        raise
    except _DAMAGED as error:
        raise StateError(f"the record or audit in {run.folder} is damaged: {error!r}") from error


def _tradeoff_parts(views: Sequence[View]) -> list[Html]:
    """Return a figure for each private attribute."""
    attributes = dict.fromkeys(name for view in views for name in view.points)
    parts = []
    for attribute in attributes:
        points = [view.points[attribute] for view in views if attribute in view.points]
        about = (
            f"Task accuracy against the best attack on {attribute}, with 95 % intervals. Upper "
            "left is better. Dashed: chance; dotted: read from the task label alone, which is "
            "sent in the clear. Numbers are those of the runs."
        )
        figure = picture(draw_tradeoff(points), "image/svg+xml", about, "figure")
        parts.append(element("figure", [figure, words("figcaption", about)]))
    return parts or [words("p", "None of these runs was audited: see `eaves audit --help`.")]
