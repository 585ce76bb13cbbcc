"""What a cloud logs while it serves: what has happened, and nothing where nothing has."""

from dataclasses import replace

from eaves.experiments.serve import ServeProgress
from eaves.network.counts import Counts
from eaves.network.ledger import Ledger
from eaves.report.serving import _news

IDLE = ServeProgress(
    port=7443,
    session="s",
    connected=0,
    finished=0,
    ledger=Ledger(),
    counts=Counts(),
    figures={},
    waiting=0,
)


def test_an_idle_cloud_says_nothing() -> None:
    assert _news(IDLE, IDLE) is None
    assert _news(replace(IDLE, counts=Counts()), IDLE) is None


def test_what_has_happened_is_said_without_the_zeros() -> None:
    busy = replace(IDLE, connected=1, counts=Counts(uploads=3, steps=3, step_s=0.1234567))
    assert _news(busy, IDLE) == {"connected": 1, "uploads": 3, "steps": 3, "step_s": 0.123}
    assert _news(busy, busy) is None
    gone = replace(busy, connected=0)
    assert _news(gone, busy) == {"uploads": 3, "steps": 3, "step_s": 0.123}
