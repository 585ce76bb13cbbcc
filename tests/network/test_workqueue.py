"""The order in which work is taken, and who is waited for."""

import threading
from time import perf_counter
from typing import final

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eaves.core.roles import Upload
from eaves.errors import EavesError, PayloadError
from eaves.network import workqueue as module
from eaves.network.ledger import Run
from eaves.network.workqueue import Line, QueryWork, Receipt, UploadWork, WorkQueue


@final
class Silent(Line):
    """A line on which nothing is heard."""

    def __init__(self, edge: str, run: str = "1"):
        self.run = Run(edge, run)

    def receipt(self, receipt: Receipt, *, done: int = 0) -> None:
        raise AssertionError("a queue tells nobody anything")

    def refuse(self, error: EavesError) -> None:
        raise AssertionError("a queue refuses nobody")


def upload(edge: str, seq: int) -> UploadWork:
    return UploadWork(Silent(edge), seq, seq - 1, b"")


def names(works: list[UploadWork]) -> list[str]:
    return [f"{work.line.run.edge}{work.seq}" for work in works]


@given(
    st.lists(st.sampled_from("abc"), max_size=12),
    st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=12),
)
def test_uploads_keep_the_order_of_their_edge_whatever_is_taken_and_put_back(
    edges: list[str], takes: list[tuple[int, bool]]
) -> None:
    queue, left, learnt = WorkQueue(), list[str](), list[str]()
    for i, edge in enumerate(edges):
        queue.put(upload(edge, i))
        left.append(f"{edge}{i}")
    turns = list(dict.fromkeys(edges))
    for most, keep in takes:
        taken = names(works := queue.take_uploads(most))
        heads = {edge: next(n for n in left if n[0] == edge) for edge in turns}
        assert taken == [heads[edge] for edge in turns][:most]
        if not keep:
            queue.put_back(works)
            continue
        learnt += taken
        left = [name for name in left if name not in taken]
        # Whoever was served waits behind the others.
        turns = turns[len(taken) :] + [n[0] for n in taken if any(m[0] == n[0] for m in left)]
        assert len(queue) == len(left)
    for edge in "abc":
        of_edge = [name for name in learnt if name[0] == edge]
        assert of_edge == [f"{edge}{i}" for i, e in enumerate(edges) if e == edge][: len(of_edge)]


def test_an_edge_that_floods_waits_behind_itself() -> None:
    queue = WorkQueue()
    for seq in range(100):
        queue.put(upload("flood", seq))
    for edge in "ab":
        for seq in (1, 2):
            queue.put(upload(edge, seq))
    taken = [name for _ in range(8) for name in names(queue.take_uploads(1))]
    assert taken == ["flood0", "a1", "b1", "flood1", "a2", "b2", "flood2", "flood3"]
    for i in range(100):
        queue.put(QueryWork(bytes([i]), edge="flood"))
    queue.put(QueryWork(b"x", edge="a"))
    assert [work.edge for work in queue.take_queries(3)] == ["flood", "a", "flood"]


def test_what_a_line_has_sent_can_be_dropped_and_the_rest_stays() -> None:
    queue, old, new = WorkQueue(), Silent("a", "old"), Silent("a", "new")
    for line, seq in ((old, 7), (new, 1), (old, 8)):
        queue.put(UploadWork(line, seq, seq - 1, b""))
    queue.put(upload("b", 1))
    assert queue.drop(old) == 2
    assert queue.drop(old) == 0
    assert len(queue) == 2
    assert sorted(names(queue.take_uploads(9))) == ["a1", "b1"]


# Work that other threads open


def opened(queue: WorkQueue) -> UploadWork | QueryWork:
    """Open the next, as one of the threads would."""
    work = queue.next_to_open(uploads_first=True)
    assert work is not None
    if isinstance(work, UploadWork):
        work.opened.value = Upload(torch.ones(2, 3), torch.zeros(2, dtype=torch.int64))
    else:
        work.opened.value = torch.ones(2, 3)
    queue.has_opened(work)
    return work


def test_uploads_are_taken_when_they_are_open_and_so_many_are_ahead() -> None:
    queue = WorkQueue(opens=True, ahead=2)
    for edge in "ab":
        for seq in (1, 2):
            queue.put(upload(edge, seq))
    assert queue.take_uploads(2) == []
    assert isinstance(work := opened(queue), UploadWork)
    assert names([work]) == ["a1"]
    assert queue.take_uploads(2) == []  # b1 is about to be open: the step is to be full
    opened(queue)
    assert names(queue.take_uploads(2)) == ["a1", "b1"]


def test_an_upload_that_is_long_in_opening_is_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.02)
    queue = WorkQueue(opens=True)
    queue.put(upload("slow", 1))
    queue.put(upload("a", 1))
    slow = queue.next_to_open(uploads_first=True)
    assert isinstance(slow, UploadWork)
    assert queue.take_uploads(1) == []
    threading.Event().wait(0.03)
    opened(queue)
    assert names(queue.take_uploads(1)) == ["a1"]
    slow.opened.error = PayloadError("damaged")
    queue.has_opened(slow)
    assert names(queue.take_uploads(1)) == ["slow1"]


def test_one_edge_keeps_one_thread_busy_and_has_so_much_open_at_most() -> None:
    queue = WorkQueue(opens=True, spare_bytes=24)  # those of one query
    for i in range(5):
        queue.put(QueryWork(bytes([i]), edge="flood"))
    queue.put(QueryWork(b"x", edge="a"))
    first = queue.next_to_open(uploads_first=False)
    other = queue.next_to_open(uploads_first=False)
    assert first is not None
    assert other is not None
    assert (first.edge, other.edge) == ("flood", "a")
    for work in (first, other):
        work.opened.value = torch.ones(2, 3)
        queue.has_opened(work)
    opened(queue)
    queue.put(QueryWork(b"y", edge="a"))
    assert opened(queue).edge == "a"  # of flood, two are open, and take more than they may
    assert len(queue) == 7
    assert [work.edge for work in queue.take_queries(4)] == ["flood", "a"]  # of two examples each
    queue.end_opening()
    assert queue.next_to_open(uploads_first=False) is None


def asked(queue: WorkQueue) -> list[str]:
    return [work.edge for work in queue.take_queries(1)]


def test_an_edge_whose_queries_take_long_rests_until_others_have_learnt_as_long() -> None:
    queue = WorkQueue()
    for i in range(9):
        queue.put(QueryWork(bytes([i]), edge="flood"))
    queue.charge(queue.take_queries(1), 0.05)
    assert asked(queue) == ["flood"]  # nobody else wants the thread
    queue.put(upload("a", 1))
    queue.put(QueryWork(b"x", edge="a"))
    assert asked(queue) == ["a"]
    assert asked(queue) == []
    queue.pay_back(0.03)
    assert asked(queue) == []
    queue.pay_back(0.015)
    assert asked(queue) == ["flood"]
    queue.charge([QueryWork(b"x", edge="flood")] * 100, 1e9)
    assert asked(queue) == []
    queue.pay_back(0.2)  # so much at most
    assert asked(queue) == ["flood"]


def test_time_is_shared_out_by_the_number_of_examples() -> None:
    queue, sizes = WorkQueue(opens=True), {"large": 9, "small": 1}
    queries = [QueryWork(b"x", edge=edge) for edge in sizes]
    for query in queries:
        query.opened.value = torch.ones(sizes[query.edge], 3)
    queue.charge(queries, 0.09)
    queue.put(upload("a", 1))
    for query in queries:
        queue.put(query)
    assert asked(queue) == ["small"]
    assert asked(queue) == []


def test_two_runs_of_one_edge_are_not_learnt_from_in_one_step() -> None:
    queue = WorkQueue()
    queue.put(UploadWork(Silent("a", "old"), 7, 6, b""))
    queue.put(UploadWork(Silent("a", "new"), 1, 0, b""))
    assert names(queue.take_uploads(9)) == ["a7"]
    assert names(queue.take_uploads(9)) == ["a1"]


def test_queries_are_taken_in_order_and_not_more_than_asked_for() -> None:
    queue = WorkQueue()
    for i in range(3):
        queue.put(QueryWork(bytes([i])))
    queue.put(upload("a", 1))
    assert len(queue) == 4
    assert [query.payload for query in queue.take_queries(2)] == [b"\0", b"\1"]
    assert [query.payload for query in queue.take_queries(2)] == [b"\2"]
    assert queue.take_queries(2) == []
    assert names(queue.take_uploads(9)) == ["a1"]


def test_queries_are_told_apart_even_if_they_ask_the_same() -> None:
    one, other = QueryWork(b"x"), QueryWork(b"x")
    assert one != other
    assert one.answer is not other.answer


def test_a_closed_queue_takes_queries_and_keeps_what_it_has_but_takes_no_more_uploads() -> None:
    queue = WorkQueue()
    queue.put(upload("a", 1))
    queue.close()
    queue.put(upload("a", 2))
    queue.put(QueryWork(b"x"))
    queue.put_back(works := queue.take_uploads(9))
    assert names(works) == names(queue.take_uploads(9)) == ["a1"]
    assert len(queue.take_queries(9)) == 1
    assert len(queue) == 0


def returns_after_s(queue: WorkQueue, timeout_s: float) -> float:
    started = perf_counter()
    queue.wait(timeout_s)
    return perf_counter() - started


def test_waiting_ends_with_work_with_a_wake_or_with_time() -> None:
    queue = WorkQueue()
    assert returns_after_s(queue, 0.05) >= 0.05
    queue.wake()
    assert returns_after_s(queue, 60) < 30
    assert returns_after_s(queue, 0.05) >= 0.05  # a wake counts once
    queue.close()
    assert returns_after_s(queue, 60) < 30
    for work in (upload("a", 1), QueryWork(b"")):
        queue = WorkQueue()
        timer = threading.Timer(0.05, queue.put, [work])
        timer.start()
        assert returns_after_s(queue, 60) < 30
        assert returns_after_s(queue, 60) < 30  # for as long as it is there
        timer.join()
