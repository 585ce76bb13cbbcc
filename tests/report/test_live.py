from io import StringIO

import pytest
from rich.console import Console

from eaves.experiments.run import PhaseProgress
from eaves.report import live
from eaves.report.live import Line, Live
from eaves.runtime.meters import Totals
from eaves.runtime.traffic import Progress


def event(phase: str = "train", edge: int = 5, cloud: int = 3, first: int = 0) -> PhaseProgress:
    figures = {"loss": 0.5, "accuracy": 0.875}
    totals = Totals(bytes_up=2_500_000)
    progress = Progress(edge, cloud, figures if edge else {}, figures, 2, totals)
    return PhaseProgress(phase, 40, 10, first, progress)


def logged(monkeypatch: pytest.MonkeyPatch, *events: PhaseProgress) -> str:
    monkeypatch.setattr(live, "_LOG_EVERY_S", -1.0)
    out = StringIO()
    with Live(Console(file=out, width=200), "ours") as shown:
        for one in events:
            shown.show(one)
    return out.getvalue()


def test_a_log_tells_how_far_both_sides_are(monkeypatch: pytest.MonkeyPatch) -> None:
    text = logged(monkeypatch, event())
    assert "ours edge 5/40 epoch 1, loss 0.500, acc 0.875, sent 2.5 MB, queue 2" in text
    assert "ours cloud 3/40 epoch 1, loss 0.500, acc 0.875" in text


def test_steps_count_on_after_resuming_and_epochs_end_with_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "edge 25/40 epoch 3" in logged(monkeypatch, event(first=20))
    assert "edge 40/40 epoch 4" in logged(monkeypatch, event(edge=20, first=20))


def test_phases_are_named_and_show_who_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    edge = logged(monkeypatch, event("edge", cloud=0))
    assert "ours, edge: edge 5/40" in edge
    assert "cloud" not in edge
    cloud = logged(monkeypatch, event("cloud", edge=0))
    assert "ours, cloud: cloud 3/40" in cloud
    assert "sent" not in cloud


def test_a_log_is_not_flooded() -> None:
    out = StringIO()
    with Live(Console(file=out), "ours") as shown:
        for _ in range(100):
            shown.show(event())
    assert out.getvalue() == ""


def test_a_terminal_gets_bars() -> None:
    out = StringIO()
    console = Console(file=out, force_terminal=True, width=150)
    with Live(console, "ours") as shown:
        shown.show(event())
        shown.show(event(edge=20, cloud=18))
    assert "ours edge" in out.getvalue()
    assert "ours cloud" in out.getvalue()
    assert "20/40" in out.getvalue()


def test_bars_of_what_is_done_are_taken_away() -> None:
    out = StringIO()
    with Live(Console(file=out, force_terminal=True, width=150), "ours") as shown:
        shown.draw([Line("first", 1, 3, "acc 0.5")])
        shown.draw([Line("first", 2, 4, "acc 0.6")])  # it takes longer than was thought
        assert [(bar.description, bar.total) for bar in shown._bars.tasks] == [("first", 4)]
        shown.clear()
        shown.draw([Line("second", 5, 9, "")])
        assert [bar.description for bar in shown._bars.tasks] == ["second"]
    assert "5/9" in out.getvalue()
