"""What an edge may contribute: its share, in time, of the usual size, and only while it is free."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.network.test_trainer import (
    AMPLE,
    STEPS,
    Ear,
    cloud,
    do_all,
    entered,
    expect_equal,
    half,
    net,
    packed,
    plain,
    put,
    state_of,
    upload,
)
from torch import nn

from eaves.core.optimise import OneCycle, Unending
from eaves.core.roles import Upload
from eaves.core.state import State
from eaves.errors import AccessError, ConfigError, DivergedError, PayloadError, StateError
from eaves.network import workqueue
from eaves.network.half import Half
from eaves.network.journal import learnt, read_journal
from eaves.network.policy import Scale
from eaves.network.refusals import FATAL, code_of
from eaves.network.trainer import Trainer
from eaves.runtime.sealed import sealed_json, unsealed_json

PROBED = Scale(rms=1.0, peak=3.0)


@pytest.fixture(autouse=True)
def _all_are_opened_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine as well: which uploads make a step must not depend on it here."""
    monkeypatch.setattr(workqueue, "_PATIENCE_S", 20.0)


@contextmanager
def guarded(folder: Path, made: Half | None = None, **kinds: Any) -> Iterator[Trainer]:
    """A cloud with all defences as `eaves serve` has them, and its folder."""
    policy = {"strikes": kinds.pop("strikes", 3)}
    usual: dict[str, Any] = {
        "gradient_times": 10.0,
        "feature_times": 10.0,
        "probed": PROBED,
        "strikes": 3,
    }
    made = made or half(net(), folder=folder, **{**usual, **policy})
    with cloud(folder / "checkpoint", made, **kinds) as trainer:
        try:
            yield trainer
        finally:
            trainer.contributions.close()


def part_of(trainer: Trainer) -> Any:
    part = trainer._half.learner.part
    assert part is not None
    return part


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in part_of(trainer).modules.state_dict().items()}


# The schedule is the cloud's own


@pytest.mark.parametrize("steps", [1, STEPS - 1, STEPS])
def test_no_edge_changes_the_schedule(tmp_path: Path, steps: int) -> None:
    made = half(net())
    with cloud(tmp_path, made) as trainer:
        line = entered(trainer, Ear(), steps=steps)
        for seq in range(1, STEPS + 1):
            put(trainer, line, seq, seq - 1)
        do_all(trainer)
    expect_equal(state_of(made), plain([upload(seq) for seq in range(1, STEPS + 1)]))


@pytest.mark.parametrize("steps", [STEPS + 1, 1000, 2**47])
def test_a_run_longer_than_its_share_is_refused_as_it_begins(tmp_path: Path, steps: int) -> None:
    made = half(net())
    with cloud(tmp_path, made, edges=2) as trainer:
        with pytest.raises(ConfigError, match=rf"has {steps:,} uploads.*room for 6.*--total-steps"):
            trainer.open(Ear("greedy"), steps=steps, memory_bytes=AMPLE)
        assert part_of(trainer).schedule == OneCycle(total_steps=2 * STEPS, lr=0.1)
        do_all(trainer)


def test_no_edge_uses_up_the_schedule_of_the_others(tmp_path: Path) -> None:
    with cloud(tmp_path, edges=3) as trainer:
        greedy = entered(trainer, Ear("greedy"), steps=1)
        for seq in range(1, STEPS + 3):
            put(trainer, greedy, seq, seq - 1)
        again = entered(trainer, Ear("greedy", run="2"), steps=1)  # the same edge, another run
        put(trainer, again, 1, 0)
        honest = [entered(trainer, Ear(edge)) for edge in "ab"]
        for line in honest:
            for seq in range(1, STEPS):
                put(trainer, line, seq, seq - 1)
        do_all(trainer)
    assert greedy.last == (STEPS, STEPS)
    assert isinstance(greedy.errors[0], ConfigError)
    assert "that is its share of the schedule" in str(greedy.errors[0])
    assert isinstance(again.errors[0], ConfigError)
    assert [line.last for line in honest] == [(STEPS - 1, STEPS - 1)] * 2
    assert [line.errors for line in honest] == [[], []]


def test_a_share_is_remembered(tmp_path: Path) -> None:
    for run in ("1", "2"):
        with cloud(tmp_path, edges=2) as trainer:
            line = entered(trainer, Ear("greedy", run=run))
            for seq in range(1, STEPS):
                put(trainer, line, seq, seq - 1)
            do_all(trainer)
    assert line.last == (1, 1)
    assert "its share of the schedule" in str(line.errors[0])


def test_the_operator_says_how_long_training_is(tmp_path: Path) -> None:
    for total, steps in ((40, 40), (0, 40), (80, 80)):  # and the checkpoint remembers it
        made = half(net(), total_steps=total)
        with cloud(tmp_path, made) as trainer:
            assert part_of(trainer).schedule == OneCycle(total_steps=steps, lr=0.1)
            do_all(trainer)


def test_where_the_length_is_not_known_the_schedule_has_no_end(tmp_path: Path) -> None:
    made = half(net(), run_uploads=0)
    with cloud(tmp_path, made) as trainer:
        line = entered(trainer, Ear(), steps=3)
        assert part_of(trainer).schedule == Unending(lr=0.1)
        before = weights(trainer)
        for seq in range(1, 30):
            put(trainer, line, seq, seq - 1, packed(upload(seq)))
        do_all(trainer)
        assert line.last == (29, 29)
        assert not torch.equal(weights(trainer)["cloud.1.weight"], before["cloud.1.weight"])


@pytest.mark.parametrize("merge", [2, 3])
def test_the_schedule_lasts_for_all_uploads_however_they_are_merged(
    tmp_path: Path, merge: int
) -> None:
    """Edges that come one after the other are merged with nobody: their steps count less."""
    rates = list[float]()
    for edge in "abc":
        with cloud(tmp_path, edges=3, merge=merge) as trainer:
            part = part_of(trainer)
            line = entered(trainer, Ear(edge))
            for seq in range(1, STEPS + 1):
                put(trainer, line, seq, seq - 1)
            part._optimiser.register_step_post_hook(
                lambda optimiser, *_: rates.append(optimiser.param_groups[0]["lr"])
            )
            do_all(trainer)
        assert line.last == (STEPS, STEPS)
    assert len(rates) == 3 * STEPS
    assert sum(rate == 0 for rate in rates) <= merge  # a schedule's very last step has the rate 0
    assert part.steps == 3 * STEPS // merge


# Beyond the schedule


def test_beyond_the_schedule_uploads_are_refused_and_nothing_drifts(tmp_path: Path) -> None:
    with cloud(tmp_path) as trainer:
        line = entered(trainer, Ear())
        for seq in range(1, STEPS + 1):
            put(trainer, line, seq, seq - 1)
        do_all(trainer)
    with cloud(tmp_path) as trainer:
        before = weights(trainer)
        line = entered(trainer, Ear())  # it may hear what became of its uploads
        assert line.last == (STEPS, STEPS)
        put(trainer, line, STEPS + 1, STEPS)
        do_all(trainer)
        with pytest.raises(ConfigError, match=r"all 6 steps of its schedule.*--total-steps"):
            trainer.open(Ear(run="2"), steps=STEPS, memory_bytes=AMPLE)
        after = weights(trainer)
    assert "its learning rate is 0" in str(line.errors[0])
    assert code_of(line.errors[0]) in FATAL
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_beyond_the_schedule_uploads_are_learnt_from_at_the_final_rate(tmp_path: Path) -> None:
    made = half(net(), final_rate=0.05)
    with cloud(tmp_path, made) as trainer:
        line = entered(trainer, Ear(), steps=1000)
        for seq in range(1, 3 * STEPS):
            put(trainer, line, seq, seq - 1)
        do_all(trainer)
        part = part_of(trainer)
    assert line.errors == []
    assert part.schedule.rate(10**6) == pytest.approx(0.05 * 0.1)
    assert part._optimiser.param_groups[0]["lr"] == pytest.approx(0.05 * 0.1)


# Features and gradients


def huge(value: float = 1e9) -> bytes:
    one = upload(1)
    signs = torch.sign(one.features)
    return packed(Upload(value * signs, one.labels))


@pytest.mark.parametrize("value", [1e9, -1e9, 1e4])
@pytest.mark.parametrize("before", [0, 3])
def test_huge_features_are_refused_and_harm_nobody(
    tmp_path: Path, value: float, before: int
) -> None:
    made = half(nn.Linear(3, 4), folder=tmp_path, feature_times=10.0, probed=PROBED, strikes=3)
    with cloud(tmp_path / "checkpoint", made, edges=2) as trainer:
        good, bad = entered(trainer, Ear("good")), entered(trainer, Ear("bad"))
        for seq in range(1, before + 1):
            put(trainer, good, seq, seq - 1)
        put(trainer, bad, 1, 0, huge(value))
        put(trainer, good, before + 1, before)
        do_all(trainer)
        trainer.contributions.close()
    assert isinstance(bad.errors[0], PayloadError)
    assert "(--feature-limit)" in str(bad.errors[0])
    assert good.errors == []
    honest = half(nn.Linear(3, 4))
    assert honest.learner.part is not None
    honest.learner.part.schedule = OneCycle(total_steps=2 * STEPS, lr=0.1)
    for seq in range(1, before + 2):
        honest.learner.step(upload(seq))
    expect_equal(state_of(made), state_of(honest))


def test_honest_training_with_all_defences_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    with guarded(tmp_path) as trainer:
        line = entered(trainer, Ear())
        for seq in range(1, STEPS + 1):
            put(trainer, line, seq, seq - 1)
        do_all(trainer)
        expect_equal(state_of(trainer._half), plain([upload(seq) for seq in range(1, STEPS + 1)]))
    records = learnt(read_journal(tmp_path / "journal.jsonl"))
    assert [(r["edge"], r["seq"], r["examples"]) for r in records] == [
        ("attic", seq, 5) for seq in range(1, STEPS + 1)
    ]


# Quarantine


def test_an_edge_that_is_refused_too_often_is_set_aside_until_released(tmp_path: Path) -> None:
    with guarded(tmp_path, strikes=2, edges=2) as trainer:
        bad, good = entered(trainer, Ear("bad")), entered(trainer, Ear("good"))
        put(trainer, bad, 1, 0, b"nothing")
        put(trainer, bad, 1, 0, huge())
        put(trainer, bad, 1, 0)  # now it is honest, and too late
        put(trainer, good, 1, 0)
        do_all(trainer)
        assert [type(error) for error in bad.errors] == [PayloadError, PayloadError, AccessError]
        assert good.last == (1, 1)
        with pytest.raises(AccessError, match="bad is in quarantine"):
            trainer.open(Ear("bad"), steps=STEPS, memory_bytes=AMPLE)
        trainer.open(Ear("good"), steps=STEPS, memory_bytes=AMPLE)
    events = [record["event"] for record in read_journal(tmp_path / "journal.jsonl")]
    assert events.count("learnt") == 1  # of the good one, which has its turn among the others
    events.remove("learnt")
    assert events == ["begun", "refused", "refused", "quarantined", "refused"]
    with guarded(tmp_path, strikes=2, edges=2) as trainer:
        with pytest.raises(AccessError):
            trainer.open(Ear("bad"), steps=STEPS, memory_bytes=AMPLE)
        next((tmp_path / "quarantine").iterdir()).unlink()
        trainer.open(Ear("bad"), steps=STEPS, memory_bytes=AMPLE)
        do_all(trainer)


def test_a_gap_is_no_reason_to_set_an_edge_aside(tmp_path: Path) -> None:
    with guarded(tmp_path, strikes=1) as trainer:
        line = entered(trainer, Ear())
        put(trainer, line, 5, 4)
        do_all(trainer)
        trainer.open(Ear(), steps=STEPS, memory_bytes=AMPLE)


# Weights that are no longer finite


def spoil(trainer: Trainer) -> None:
    with torch.no_grad():
        next(part_of(trainer).modules.parameters()).fill_(math.nan)


def test_weights_that_are_not_finite_are_rolled_back_and_the_culprit_is_set_aside(
    tmp_path: Path,
) -> None:
    with guarded(tmp_path, edges=2) as trainer:
        for edge in ("good", "bad"):
            put(trainer, entered(trainer, Ear(edge)), 1, 0)
        do_all(trainer)
        sound = state_of(trainer._half)
    with guarded(tmp_path, edges=2) as trainer:
        bad = entered(trainer, Ear("bad"))
        put(trainer, bad, 2, 1)
        part = part_of(trainer)
        step = part._optimiser.step

        def breaking(*args: Any) -> Any:
            step(*args)
            spoil(trainer)

        part._optimiser.step = breaking
        do_all(trainer)
        expect_equal(state_of(trainer._half), sound)
        with pytest.raises(AccessError, match="the weights were not finite"):
            trainer.open(Ear("bad"), steps=STEPS, memory_bytes=AMPLE)
        assert trainer.accounts().applied()[bad.run] == 2  # it is not asked to send it again
    records = read_journal(tmp_path / "journal.jsonl")
    assert [one["undone"] for one in learnt(records)] == [False, False, True]
    with guarded(tmp_path, edges=2) as trainer:  # and it goes on
        good = entered(trainer, Ear("good"))
        put(trainer, good, 2, 1)
        do_all(trainer)
        assert good.last == (2, 2)


def test_an_upload_is_not_blamed_for_weights_that_others_have_spoilt(tmp_path: Path) -> None:
    with guarded(tmp_path, edges=2) as trainer:
        for edge in ("good", "bad"):
            put(trainer, entered(trainer, Ear(edge)), 1, 0)
        do_all(trainer)
    with guarded(tmp_path, edges=2) as trainer:
        spoil(trainer)
        good = entered(trainer, Ear("good"))
        put(trainer, good, 2, 1)
        do_all(trainer)
    assert good.errors == []
    assert good.last == (2, 2)


def test_one_edge_alone_is_told_as_before(tmp_path: Path) -> None:
    with guarded(tmp_path) as trainer:
        put(trainer, entered(trainer, Ear()), 1, 0)
        do_all(trainer)
    with guarded(tmp_path) as trainer:
        spoil(trainer)
        line = entered(trainer, Ear())
        put(trainer, line, 2, 1)
        with pytest.raises(DivergedError, match="lower learning rate"):
            do_all(trainer)
        trainer.open(Ear(), steps=STEPS, memory_bytes=AMPLE)  # it was not the edge's fault


# Across restarts


def test_a_crash_leaves_journal_and_checkpoint_in_step(tmp_path: Path) -> None:
    with guarded(tmp_path, edges=1) as trainer:
        line = entered(trainer, Ear())
        put(trainer, line, 1, 0)
        do_all(trainer)
    old = {p.name: p.read_bytes() for p in (tmp_path / "checkpoint").iterdir()}
    with guarded(tmp_path) as trainer:
        line = entered(trainer, Ear())
        put(trainer, line, 2, 1)
        put(trainer, line, 3, 2)
        do_all(trainer)
    for name, content in old.items():  # killed before the checkpoint was replaced
        (tmp_path / "checkpoint" / name).write_bytes(content)
    with guarded(tmp_path) as trainer:
        line = entered(trainer, Ear())
        assert line.last[0] == 1
        put(trainer, line, 2, 1)
        do_all(trainer)
    records = learnt(read_journal(tmp_path / "journal.jsonl"))
    assert [(r["seq"], r["step"]) for r in records] == [(1, 1), (2, 2)]


@pytest.mark.parametrize(
    "facts", [[], {"journal": "many"}, {"uploads": 3}, {"uploads": {"a": None}}, {"levels": 5}]
)
def test_contributions_of_another_kind_are_refused(tmp_path: Path, facts: object) -> None:
    with guarded(tmp_path) as trainer:
        do_all(trainer)
    path = tmp_path / "checkpoint" / "checkpoint.json"
    index = unsealed_json(path.read_bytes())
    index["facts"]["contributions"] = facts
    path.write_bytes(sealed_json(index))
    words = r"contributions are damaged|no levels of the edges"
    with pytest.raises(StateError, match=words), guarded(tmp_path):
        pass


def test_states_of_before_are_read(tmp_path: Path) -> None:
    """A checkpoint of a version without contributions goes on."""
    with guarded(tmp_path) as trainer:
        put(trainer, entered(trainer, Ear()), 1, 0)
        do_all(trainer)
        before: State = state_of(trainer._half)
    path = tmp_path / "checkpoint" / "checkpoint.json"
    index = unsealed_json(path.read_bytes())
    del index["facts"]["contributions"], index["states"]["cloud"]["facts"]["gradient_level"]
    path.write_bytes(sealed_json(index))
    (tmp_path / "journal.jsonl").unlink()
    with guarded(tmp_path) as trainer:
        expect_equal(state_of(trainer._half), before)
        do_all(trainer)
