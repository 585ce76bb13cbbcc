"""The order in which work is taken, and who is waited for."""

import threading
from time import perf_counter
from typing import final

from hypothesis import given
from hypothesis import strategies as st

from eaves.errors import EavesError
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
    for most, keep in takes:
        taken = names(works := queue.take_uploads(most))
        firsts = list(dict.fromkeys(name[0] for name in left))  # the oldest of each edge
        assert taken == [next(n for n in left if n[0] == edge) for edge in firsts][:most]
        if not keep:
            queue.put_back(works)
            left = taken + [name for name in left if name not in taken]
            continue
        learnt += taken
        left = [name for name in left if name not in taken]
        assert len(queue) == len(left)
    for edge in "abc":
        of_edge = [name for name in learnt if name[0] == edge]
        assert of_edge == [f"{edge}{i}" for i, e in enumerate(edges) if e == edge][: len(of_edge)]


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
