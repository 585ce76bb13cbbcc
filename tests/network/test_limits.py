"""What one edge has in progress is counted until it is over, however it ends."""

import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor

import pytest

from eaves.errors import ConfigError
from eaves.network import limits as module
from eaves.network.limits import Held, Limits, Shares
from eaves.network.refusals import BusyError
from eaves.network.workqueue import QueryWork

LIMITS = Limits(edge_streams=1, edge_queries=2, queries_per_s=1000, edge_bytes=20_000)


def test_streams_and_queries_are_counted_while_they_are_open() -> None:
    share, other = Shares(LIMITS).of("a"), Shares(LIMITS).of("b")
    assert share.idle
    with share.stream(), share.query(), share.query():
        assert not share.idle
        with pytest.raises(BusyError, match="1 open streams"), share.stream():
            pass
        with pytest.raises(BusyError, match="2 queries of edge a are waiting"), share.query():
            pass
        with other.stream(), other.query():
            pass
    with pytest.raises(KeyError), share.query():
        raise KeyError
    assert share.idle


def test_queries_that_come_too_often_are_refused() -> None:
    share = Shares(Limits(queries_per_s=2)).of("a")
    for _ in range(2):
        with share.query():
            pass
    with pytest.raises(BusyError, match="asks too often: 2/s"), share.query():
        pass


def test_the_share_of_an_edge_is_kept_while_it_is_away_but_not_of_all_that_ever_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_MOST_KNOWN", 100)
    shares = Shares(Limits(max_edges=10))
    first = shares.of("first")
    assert shares.of("first") is first
    with shares.of("busy").stream():
        busy = shares.of("busy")
        for i in range(1000):
            shares.of(f"edge-{i}")
        assert len(shares._shares) <= 110
        assert shares.of("busy") is busy
    assert shares.of("first") is not first


def test_work_is_held_until_it_is_freed_by_whatever_thread() -> None:
    held = Held(LIMITS)
    works = [QueryWork(b"x" * 1000) for _ in range(3)]
    for work in works:
        held.hold("a", work, len(work.payload))
    held.hold("b", works[0], 1)
    assert held.total == 3 * 5096 + 4097
    assert held.has_room("a")
    held.hold("a", works[0], 2000)
    assert not held.has_room("a")
    assert held.has_room("b")
    with pytest.raises(BusyError):
        held.expect_room("a")
    with ThreadPoolExecutor(1) as pool:
        del work
        pool.submit(works.clear).result()
    gc.collect()
    assert held.total == 0
    assert held.peak > 20_000
    assert held.has_room("a")


def test_who_waits_for_room_goes_on_when_there_is_some() -> None:
    async def main() -> None:
        held, work = Held(LIMITS), QueryWork(b"")
        held.hold("a", work, 30_000)
        await asyncio.wait_for(held.room("b"), 5)
        waiting = asyncio.ensure_future(held.room("a"))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        del work
        await asyncio.wait_for(waiting, 5)

    asyncio.run(main())


def test_all_edges_together_have_a_limit_too() -> None:
    held, work = Held(Limits(max_waiting_bytes=10_000)), QueryWork(b"")
    held.hold("a", work, 10_000)
    assert not held.has_room("b")


@pytest.mark.parametrize("name", ["edge_streams", "edge_bytes", "calls_per_s", "queries_per_s"])
def test_limits_that_make_no_sense_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"expected {name} above 0"):
        Limits(**{name: 0})
