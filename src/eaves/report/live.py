"""Live progress in the terminal: of a run, one line for the edge and one for the cloud."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Self, final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from eaves.experiments.run import PhaseProgress

_LOG_EVERY_S = 30.0


@final
@dataclass(frozen=True)
class Line:
    """How far something is."""

    name: str
    done: int
    total: int
    figures: str


@final
class Live:
    """Show events while the context is open: bars in a terminal, a line now and then in a log."""

    def __init__(self, console: Console, title: str):
        self._console, self._title = console, title
        self._bars = Progress(
            TextColumn("{task.description:<28}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[figures]}", markup=False),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._logged_at = monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:  # elsewhere stopping would print an empty line
            self._bars.stop()

    def show(self, event: PhaseProgress) -> None:
        """Bring the lines of a run up to date."""
        self.draw(_lines(event, self._title))

    def draw(self, lines: Sequence[Line]) -> None:
        """Bring lines up to date; those of other names stay as they are."""
        if self._console.is_terminal:
            for line in lines:
                self._draw_bar(line)
        elif monotonic() - self._logged_at > _LOG_EVERY_S:
            self._logged_at = monotonic()
            text = "; ".join(f"{x.name} {x.done}/{x.total} {x.figures}" for x in lines)
            self._console.out(text, highlight=False)

    def clear(self) -> None:
        """Take all bars away: something else begins."""
        for task in self._tasks.values():
            self._bars.remove_task(task)
        self._tasks.clear()

    def _draw_bar(self, line: Line) -> None:
        if line.name not in self._tasks:
            self._tasks[line.name] = self._bars.add_task(line.name, total=line.total, figures="")
        self._bars.update(
            self._tasks[line.name], total=line.total, completed=line.done, figures=line.figures
        )


def _lines(event: PhaseProgress, title: str) -> list[Line]:
    progress, lines = event.progress, []
    if event.phase != "train":
        title = f"{title}, {event.phase}:"
    if event.phase != "cloud":
        sent = f"sent {progress.totals.bytes_up / 1e6:.1f} MB, queue {progress.queued}"
        figures = [*_figures(progress.edge), sent]
        lines.append(_line(event, f"{title} edge", progress.edge_steps, figures))
    if progress.cloud_steps or event.phase == "cloud":
        figures = _figures(progress.cloud)
        lines.append(_line(event, f"{title} cloud", progress.cloud_steps, figures))
    return lines


def _line(event: PhaseProgress, name: str, steps: int, figures: list[str]) -> Line:
    done = event.first_step + steps
    epoch = f"epoch {min(done, event.steps - 1) // event.epoch_steps + 1}"
    return Line(name, done, event.steps, ", ".join([epoch, *figures]))


def _figures(figures: dict[str, float]) -> list[str]:
    names = {"loss": "loss", "accuracy": "acc"}
    return [f"{short} {figures[name]:.3f}" for name, short in names.items() if name in figures]
