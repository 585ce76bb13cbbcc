"""One connected edge in the event loop: only the newest receipt waits, and so many uploads."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaves.network import line as module
from eaves.network.ledger import Run
from eaves.network.line import Connection, Pace
from eaves.network.refusals import BusyError
from eaves.network.workqueue import Receipt


def in_loop(body: Callable[[Connection], Awaitable[None]], depth: int = 2) -> None:
    async def main() -> None:
        await body(Connection(Run("edge-1", "run1"), depth=depth))

    asyncio.run(main())


def test_only_the_newest_receipt_is_kept() -> None:
    async def body(line: Connection) -> None:
        for seq in range(1, 1001):
            await asyncio.to_thread(line.receipt, Receipt(seq, 0)) if seq % 100 == 0 else (
                line.receipt(Receipt(seq, 0))
            )
        assert await line.next(5.0) == Receipt(1000, 0)
        assert await line.next(0.01) is None

    in_loop(body)


def test_a_wake_and_a_timeout_bring_nothing() -> None:
    async def body(line: Connection) -> None:
        started = monotonic()
        assert await line.next(0.05) is None
        assert monotonic() - started >= 0.04
        line.wake()
        started = monotonic()
        assert await line.next(5.0) is None
        assert monotonic() - started < 1.0

    in_loop(body)


def test_the_first_refusal_is_raised_before_any_receipt() -> None:
    async def body(line: Connection) -> None:
        line.receipt(Receipt(1, 0))
        line.refuse(BusyError("first"))
        line.refuse(BusyError("second"))
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="first"):
            await line.next(5.0)

    in_loop(body)


def test_no_more_uploads_wait_than_its_depth() -> None:
    async def body(line: Connection) -> None:
        await line.room()
        await line.room()
        third = asyncio.ensure_future(line.room())
        await asyncio.sleep(0.01)
        assert not third.done()
        line.receipt(Receipt(1, 0))  # of a checkpoint: none of its uploads is done
        await asyncio.sleep(0.01)
        assert not third.done()
        line.receipt(Receipt(1, 0), done=1)
        await asyncio.wait_for(third, 5.0)

    in_loop(body)


def test_a_receipt_after_the_end_of_the_loop_is_let_go() -> None:
    kept: list[Connection] = []

    async def body(line: Connection) -> None:
        kept.append(line)

    in_loop(body)
    kept[0].receipt(Receipt(1, 1))
    kept[0].refuse(BusyError("gone"))


def test_no_rate_is_no_limit() -> None:
    pace = Pace(None)
    assert sum(pace.delay_s(10**9) for _ in range(10)) == 0


@given(
    rate=st.floats(0.1, 1e6),
    steps=st.lists(st.tuples(st.floats(0, 10), st.floats(0, 100)), max_size=50),
)
def test_never_more_than_the_rate_and_one_second_of_it(
    rate: float, steps: list[tuple[float, float]]
) -> None:
    """Who waits as told has taken at most rate * (t + 1) after t seconds, give or take a step."""
    with pytest.MonkeyPatch.context() as patch:
        now = 1000.0
        patch.setattr(module, "monotonic", lambda: now)
        pace, taken = Pace(rate), 0.0
        for idle_s, amount in steps:
            now += idle_s
            now += pace.delay_s(amount)
            taken += amount
            assert taken <= (now - 1000.0 + 1) * rate * (1 + 1e-6) + 1e-6
