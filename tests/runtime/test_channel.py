import threading
from time import sleep

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaves.runtime.channel import Channel, Closed


@given(items=st.lists(st.integers(), max_size=20))
def test_first_in_first_out(items: list[int]) -> None:
    channel: Channel[int] = Channel(depth=20)
    for item in items:
        channel.put(item)
    assert len(channel) == len(items)
    assert [channel.get()[0] for _ in items] == items


@pytest.mark.parametrize("depth", [1, 3])
def test_a_full_channel_blocks_until_something_is_taken(depth: int) -> None:
    channel: Channel[int] = Channel(depth)
    blocked: list[float] = []
    seen: list[int] = []

    def fill() -> None:
        for i in range(depth + 1):
            blocked.append(channel.put(i))
            seen.append(len(channel))

    producer = threading.Thread(target=fill)
    producer.start()
    sleep(0.1)
    assert len(channel) == depth
    assert len(blocked) == depth  # the last one waits
    channel.get()
    producer.join()
    assert max(seen) <= depth
    assert blocked[-1] > 0.05
    assert all(wait < blocked[-1] for wait in blocked[:-1])


def test_an_empty_channel_says_how_long_it_kept_waiting() -> None:
    channel: Channel[str] = Channel(1)
    timer = threading.Timer(0.1, channel.put, ["late"])
    timer.start()
    item, waited_s = channel.get()
    timer.join()
    assert item == "late"
    assert waited_s > 0.05


def test_what_takes_no_room_yet_does_not_block() -> None:
    channel: Channel[int] = Channel(1, takes_room=lambda item: item > 0)
    for item in (0, 0, 0, 1):
        channel.put(item)
    assert len(channel) == 4
    timer = threading.Timer(0.1, channel.close)
    timer.start()
    with pytest.raises(Closed):
        channel.put(2)  # the 1 takes the room there is
    timer.join()


def test_closing_turns_away_those_who_wait_and_those_who_come() -> None:
    full: Channel[int] = Channel(1)
    empty: Channel[int] = Channel(1)
    full.put(0)
    turned_away: list[str] = []

    def wait(name: str, channel: Channel[int]) -> None:
        try:
            channel.put(1) if name == "put" else channel.get()
        except Closed:
            turned_away.append(name)

    threads = [
        threading.Thread(target=wait, args=("put", full)),
        threading.Thread(target=wait, args=("get", empty)),
    ]
    for thread in threads:
        thread.start()
    for channel in (full, empty):
        channel.close()
        channel.close()  # twice does no harm
    for thread in threads:
        thread.join()
    assert sorted(turned_away) == ["get", "put"]
    with pytest.raises(Closed):
        full.get()  # what was in it is given up


@pytest.mark.parametrize("depth", [0, -1])
def test_a_channel_holds_one_item_or_more(depth: int) -> None:
    with pytest.raises(ValueError, match=f"expected a depth of 1 or more, got {depth}"):
        Channel(depth)
