"""An edge's connection over links that drop, stall and cut: everything arrives, exactly once."""

import random
import shutil
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import grpc
import pytest
from tests.network.conftest import TERMS, Cloud, Edge, Proxy, payload, wait_until

from eaves.errors import StateError
from eaves.network import uplink as module
from eaves.network.channel import Target, connect, insecure_target, secure_target
from eaves.network.credentials import Gate, server_credentials
from eaves.network.limits import Limits
from eaves.network.refusals import RefusedError
from eaves.network.spool import Spool
from eaves.network.uplink import Enrolment, Uplink
from eaves.network.wire import pack_terms

CloudOf = Callable[..., Cloud]
EdgeOf = Callable[..., Edge]
ProxyOf = Callable[[Cloud], Proxy]


@pytest.fixture
def cloud(cloud_of: CloudOf) -> Cloud:
    return cloud_of()


@pytest.fixture
def proxy(cloud: Cloud, proxy_of: ProxyOf) -> Proxy:
    return proxy_of(cloud)


def feed(edge: Edge, first: int, last: int, pause_s: float = 0.002) -> None:
    for seq in range(first, last + 1):
        edge.put(seq)
        sleep(pause_s)


# Exactly once


def test_all_arrives_in_order_and_the_spool_forgets(cloud: Cloud, edge_of: EdgeOf) -> None:
    edge = edge_of(cloud.address)
    edge.put(1, 2)
    edge.uplink.start()
    edge.put(3)
    edge.finish(3)
    assert cloud.seen == [1, 2, 3]
    assert edge.spool.status().waiting == 0
    status = edge.status
    assert (status.applied, status.durable, status.sent, status.sent_samples) == (3, 3, 3, 3)
    assert (status.sent_bytes, status.connections) == (3 * len(payload(1)), 1)
    assert status.session == cloud.trainer.session
    assert cloud.trainer.accounts().all_durable(1)


@pytest.mark.parametrize("seed", range(10))
def test_a_link_that_is_cut_in_the_middle_loses_and_repeats_nothing(
    cloud: Cloud, proxy: Proxy, edge_of: EdgeOf, seed: int
) -> None:
    rng = random.Random(seed)
    edge = edge_of(proxy.address, max_backoff_s=0.02)
    edge.uplink.start()
    for first in range(1, 101, 10):
        proxy.cut_after(rng.randrange(1, 2500))
        feed(edge, first, first + 9, pause_s=0.001)
    edge.finish(100)
    assert cloud.seen == list(range(1, 101))
    assert edge.status.connections > 1


@pytest.mark.parametrize("how", ["drop", "stall", "freeze"])
def test_a_link_that_goes_and_returns_loses_and_repeats_nothing(
    cloud: Cloud, proxy: Proxy, edge_of: EdgeOf, how: str
) -> None:
    edge = edge_of(proxy.address, welcome_s=0.5)
    edge.uplink.start()
    feed(edge, 1, 10)
    assert wait_until(lambda: edge.status.applied == 10)
    for n in (1, 2):
        getattr(proxy, how)()
        feed(edge, 10 * n + 1, 10 * n + 10)
        # Neither side's connection outlives a link that is dead for longer than their patience.
        assert wait_until(lambda: not edge.status.connected, 8.0)
        assert wait_until(lambda: not cloud.trainer.connected(), 8.0)
        proxy.restore()
        last = 10 * n + 10
        assert wait_until(lambda last=last: edge.status.applied == last)  # type: ignore[misc]
    edge.finish(30)
    assert cloud.seen == list(range(1, 31))


def test_a_link_that_freezes_for_a_moment_needs_no_new_connection(
    cloud: Cloud, proxy: Proxy, edge_of: EdgeOf
) -> None:
    edge = edge_of(proxy.address)
    edge.uplink.start()
    feed(edge, 1, 10)
    assert wait_until(lambda: edge.status.applied == 10)
    proxy.freeze()
    feed(edge, 11, 20)
    proxy.restore()
    edge.finish(20)
    assert cloud.seen == list(range(1, 21))
    assert edge.status.connections == 1


def test_a_slow_link_only_takes_longer(cloud: Cloud, proxy: Proxy, edge_of: EdgeOf) -> None:
    proxy.delay_s = 0.05
    edge = edge_of(proxy.address)
    edge.uplink.start()
    feed(edge, 1, 20)
    edge.finish(20)
    assert cloud.seen == list(range(1, 21))
    assert edge.status.connections == 1


@pytest.mark.parametrize("times", [3])
def test_a_cloud_that_stops_and_starts_again_misses_nothing(
    cloud: Cloud, edge_of: EdgeOf, times: int
) -> None:
    edge = edge_of(cloud.address)
    edge.uplink.start()
    for n in range(times):
        feed(edge, 20 * n + 1, 20 * n + 20)
        cloud.stop()
        cloud.start()
    edge.finish(20 * times)
    assert cloud.seen == list(range(1, 20 * times + 1))
    assert edge.status.connections >= 2


def test_a_cloud_that_crashes_gets_again_what_its_checkpoint_lacks(
    cloud_of: CloudOf, edge_of: EdgeOf, tmp_path: Path
) -> None:
    cloud = cloud_of(every_s=3600.0)
    shutil.copytree(tmp_path / "cloud", tmp_path / "kept")
    edge = edge_of(cloud.address)
    edge.uplink.start()
    feed(edge, 1, 10)
    assert wait_until(lambda: edge.status.applied == 10)
    cloud.crash(tmp_path / "kept")
    cloud.start()
    feed(edge, 11, 12)
    edge.finish(12)
    assert cloud.seen == list(range(1, 13))


def test_an_edge_that_starts_before_its_cloud_waits_for_it(cloud: Cloud, edge_of: EdgeOf) -> None:
    cloud.stop()
    edge = edge_of(cloud.address)
    edge.uplink.start()
    edge.put(1)
    assert wait_until(lambda: edge.status.problem.startswith("UNAVAILABLE"))
    cloud.start()
    edge.finish(1)
    assert cloud.seen == [1]
    assert edge.status.problem == ""


def test_a_reply_that_was_lost_with_its_connection_comes_after_the_next_welcome(
    cloud_of: CloudOf, edge_of: EdgeOf, proxy_of: ProxyOf
) -> None:
    cloud = cloud_of(reply_values=3)
    proxy = proxy_of(cloud)
    edge = edge_of(proxy.address, reply_bytes=1000)
    edge.uplink.start()
    assert wait_until(lambda: edge.status.connected)
    cloud.learner.step_s = 0.3
    edge.put(1)
    assert wait_until(lambda: len(cloud.trainer.accounts().accounts) == 1)
    sleep(0.1)  # it is being learnt from
    proxy.drop()
    assert wait_until(lambda: cloud.seen == [1])
    assert wait_until(lambda: cloud.trainer.accounts().all_durable(0))
    sleep(0.3)  # the checkpoint is written: nothing else makes the cloud speak
    proxy.restore()
    answered, reply = edge.uplink.replies.get(timeout=5.0)
    assert (answered, bool(reply), cloud.seen) == (1, True, [1])


def test_two_edges_of_one_name_both_get_to_the_end(cloud: Cloud, edge_of: EdgeOf) -> None:
    edges = [edge_of(cloud.address, run=run) for run in ("run1", "run2")]
    for edge in edges:
        edge.uplink.start()
    for seq in range(1, 21):
        for edge in edges:
            edge.put(seq)
        sleep(0.01)
    for edge in edges:
        edge.uplink.finish(20)
    assert wait_until(lambda: all(edge.uplink.done for edge in edges))
    assert [edge.uplink.error for edge in edges] == [None, None]
    assert sorted(cloud.seen) == sorted([*range(1, 21), *range(1, 21)])


def test_the_end_comes_also_where_the_last_upload_had_to_be_dropped(
    cloud_of: CloudOf, opened: ExitStack, tmp_path: Path
) -> None:
    cloud = cloud_of(every_s=3600.0)
    spool = opened.enter_context(
        closing(
            Spool(
                tmp_path / "small.db",
                limit_bytes=3 * len(payload(1)),
                memory_bytes=2**20,
                when_full="drop-oldest",
                keep_through=0,
            )
        )
    )
    target = insecure_target(cloud.address, "edge-1")
    uplink = Uplink(target, spool, enrolment(), max_backoff_s=0.2)
    opened.callback(uplink.close)
    uplink.start()
    for seq in range(1, 6):
        spool.put(seq, payload(seq), 1, stop=threading.Event())
        assert wait_until(lambda seq=seq: uplink.status.applied == min(3, seq))  # type: ignore[misc]
    assert spool.status().dropped == 2  # all others were sent, so these could not come in
    uplink.finish(5)
    assert wait_until(lambda: uplink.done, 5.0)
    assert uplink.delivered
    assert cloud.seen == [1, 2, 3]
    assert cloud.trainer.accounts().all_durable(1)


def enrolment(**changes: Any) -> Enrolment:
    usual = {"version": "1", "terms": pack_terms(TERMS), "run": "run1", "session": ""}
    return Enrolment(**{**usual, "steps": 100, "memory_bytes": 2**20, **changes})


# What cannot be mended by trying again


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"terms": '{"cut": "x"}'}, "cut is 'x' on the edge, 'c' in the cloud"),
        ({"session": "other"}, "the edge belongs to session other"),
        ({"run": "a b"}, "a run's name"),
    ],
)
def test_a_refusal_reaches_the_user_in_words(
    cloud: Cloud, edge_of: EdgeOf, changes: dict[str, str], words: str
) -> None:
    edge = edge_of(cloud.address, **changes)
    edge.uplink.start()
    assert wait_until(lambda: edge.uplink.done)
    assert isinstance(edge.uplink.error, RefusedError)
    assert f"the cloud at {cloud.address} refuses: " in str(edge.uplink.error)
    assert words in str(edge.uplink.error)
    assert not edge.uplink.delivered


def test_another_protocol_is_refused_in_words(
    cloud: Cloud, edge_of: EdgeOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROTOCOL", 7)
    edge = edge_of(cloud.address)
    edge.uplink.start()
    assert wait_until(lambda: edge.uplink.done)
    assert "speaks version 7 of the protocol" in str(edge.uplink.error)
    assert "install the same Eaves" in str(edge.uplink.error)


def test_an_upload_that_the_cloud_will_never_take_ends_the_run_in_words(
    cloud_of: CloudOf, edge_of: EdgeOf
) -> None:
    cloud = cloud_of(limits=Limits(max_message_bytes=1000))
    edge = edge_of(cloud.address)
    edge.spool.put(1, bytes(1001), 1, stop=threading.Event())
    edge.uplink.start()
    assert wait_until(lambda: edge.uplink.done, 5.0)
    assert isinstance(edge.uplink.error, RefusedError)
    assert "upload 1 has 1001 bytes, and the cloud takes 1000" in str(edge.uplink.error)


@pytest.mark.parametrize("error", [StateError("damaged"), ZeroDivisionError("a bug")])
def test_what_goes_wrong_in_the_spool_is_handed_over(
    cloud: Cloud, edge_of: EdgeOf, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    edge = edge_of(cloud.address)

    def fail(seq: int, *, timeout_s: float) -> None:
        raise error

    def fail_too(seq: int) -> None:
        raise error

    monkeypatch.setattr(
        edge.spool,
        "after" if isinstance(error, StateError) else "rewind",
        fail if isinstance(error, StateError) else fail_too,
    )
    edge.uplink.start()
    assert wait_until(lambda: edge.uplink.done, 5.0)
    assert edge.uplink.error is error


def test_a_token_that_is_unknown_is_refused(
    cloud_of: CloudOf, edge_of: EdgeOf, certs: Path
) -> None:
    folder = certs / "ours" / "server"
    cloud = cloud_of(gate=Gate(folder, "tokens"), credentials=server_credentials(folder, "tokens"))
    target = secure_target(cloud.address, certs / "ours" / "devices" / "edge-2")
    scheme, _, token = target.metadata[0][1].partition(" ")
    forged = Target(
        address=target.address,
        credentials=target.credentials,
        metadata=(("authorization", f"{scheme} {token[:-5]}AAAAA"),),
        name=target.name,
    )
    edge = edge_of(forged)
    edge.uplink.start()
    assert wait_until(lambda: edge.uplink.done)
    assert "the token is unknown to this cloud" in str(edge.uplink.error)
    assert token not in str(edge.uplink.error)


def test_a_foreign_certificate_is_tried_again_and_the_words_say_what_it_may_be(
    cloud_of: CloudOf, edge_of: EdgeOf, certs: Path
) -> None:
    folder = certs / "ours" / "server"
    cloud = cloud_of(gate=Gate(folder), credentials=server_credentials(folder))
    edge = edge_of(secure_target(cloud.address, certs / "foreign" / "devices" / "edge-1"))
    edge.uplink.start()
    assert wait_until(lambda: bool(edge.status.problem))
    assert "another authority" in edge.status.problem
    assert not edge.uplink.done


# Backoff


class Waits:
    """Stands for the event that ends an uplink: notes how long it is waited on, and waits less."""

    def __init__(self, count: int):
        self.waits: list[float] = []
        self._count, self._real = count, threading.Event()

    def wait(self, timeout: float) -> bool:
        self.waits.append(timeout)
        if len(self.waits) >= self._count:
            self._real.set()
        return self._real.is_set()

    def is_set(self) -> bool:
        return self._real.is_set()

    def set(self) -> None:
        self._real.set()


def waited(uplink: Uplink, monkeypatch: pytest.MonkeyPatch, talk: Callable[[], None]) -> Waits:
    waits = Waits(1000)

    def failing(target: Target) -> bool:
        talk()
        raise Unavailable

    monkeypatch.setattr(uplink, "_closing", waits)
    monkeypatch.setattr(uplink, "_talk", failing)
    uplink.start()
    assert wait_until(lambda: uplink.done)
    return waits


class Unavailable(grpc.RpcError):  # type: ignore[misc]
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "nobody is there"


def test_the_backoff_grows_with_full_jitter_up_to_its_cap(
    edge_of: EdgeOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    tops: list[float] = []
    real = random.uniform

    def uniform(low: float, high: float) -> float:
        assert low == 0
        tops.append(high)
        return real(low, high)

    monkeypatch.setattr(random, "uniform", uniform)
    edge = edge_of("127.0.0.1:1", max_backoff_s=3.0)
    waits = waited(edge.uplink, monkeypatch, lambda: None).waits
    assert tops[:6] == [0.25, 0.5, 1.0, 2.0, 3.0, 3.0]
    assert set(tops[4:]) == {3.0}
    capped = sorted(waits[4:])
    # Uniform in (0, 3): of 996, fewer than 5 % or more than 20 % below a tenth have p < 1e-7.
    assert 0.05 < sum(w < 0.3 for w in capped) / len(capped) < 0.2
    assert 0.05 < sum(w > 2.7 for w in capped) / len(capped) < 0.2
    assert capped[-1] <= 3.0


def test_the_backoff_begins_anew_after_a_welcome(
    edge_of: EdgeOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    tops: list[float] = []

    def note(low: float, high: float) -> float:
        tops.append(high)
        return low

    monkeypatch.setattr(random, "uniform", note)
    edge = edge_of("127.0.0.1:1", max_backoff_s=100.0)
    calls = iter(range(10_000))

    def talk() -> None:
        if next(calls) % 4 == 3:
            edge.status.connections += 1

    waited(edge.uplink, monkeypatch, talk)
    assert tops[:10] == [0.25, 0.5, 1.0, 0.25, 0.5, 1.0, 2.0, 0.25, 0.5, 1.0]


# Closing


def closes_in(edge: Edge) -> float:
    started = monotonic()
    edge.uplink.close()
    return monotonic() - started


AT_ONCE_S = 1.0


def test_close_before_start(edge_of: EdgeOf) -> None:
    edge = edge_of("127.0.0.1:1")
    assert not edge.uplink.done
    assert closes_in(edge) < AT_ONCE_S


def test_close_while_nobody_is_there(edge_of: EdgeOf) -> None:
    edge = edge_of("127.0.0.1:1", max_backoff_s=60.0)
    edge.uplink.start()
    assert wait_until(lambda: bool(edge.status.problem))
    sleep(0.5)  # in a long backoff
    assert closes_in(edge) < AT_ONCE_S


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.3])
def test_close_while_connecting_to_what_does_not_answer(
    edge_of: EdgeOf, opened: ExitStack, after_s: float
) -> None:
    listener = opened.enter_context(closing(socket.create_server(("127.0.0.1", 0))))
    edge = edge_of(f"127.0.0.1:{listener.getsockname()[1]}")
    edge.uplink.start()
    sleep(after_s)
    assert closes_in(edge) < AT_ONCE_S


def test_close_at_the_moment_of_a_new_attempt(
    cloud_of: CloudOf, edge_of: EdgeOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The cloud never welcomes: its hello deadline is far away, and hellos are held back.
    cloud = cloud_of(limits=Limits())
    edge = edge_of(cloud.address, welcome_s=30.0)
    closing_now = threading.Event()

    def connecting(target: Target) -> Any:
        monkeypatch.setattr(edge.uplink, "_outgoing", lambda attempt: silent(attempt))
        closer = threading.Thread(target=edge.uplink.close)
        closer.start()
        assert wait_until(edge.uplink._closing.is_set)
        sleep(0.1)  # close() has looked for a call and found none
        closing_now.set()
        return connect(target)

    def silent(attempt: Any) -> Any:
        attempt.over.wait(20.0)
        yield from ()

    monkeypatch.setattr(module, "connect", connecting)
    edge.uplink.start()
    assert closing_now.wait(5.0)
    assert wait_until(lambda: edge.uplink.done, AT_ONCE_S)


def test_close_while_waiting_for_a_welcome(cloud: Cloud, proxy: Proxy, edge_of: EdgeOf) -> None:
    proxy.freeze()
    edge = edge_of(proxy.address)
    edge.uplink.start()
    sleep(0.2)
    assert closes_in(edge) < AT_ONCE_S


@pytest.mark.parametrize("how", ["flowing", "stall", "freeze"])
def test_close_while_sending(cloud: Cloud, proxy: Proxy, edge_of: EdgeOf, how: str) -> None:
    edge = edge_of(proxy.address)
    edge.uplink.start()
    assert wait_until(lambda: edge.status.connected)
    if how != "flowing":
        getattr(proxy, how)()
    for seq in range(1, 21):  # 20 MiB, more than what any buffer takes
        edge.spool.put(seq, payload(seq, 2**18), 1, stop=threading.Event())
    sleep(0.1)
    assert closes_in(edge) < AT_ONCE_S
    assert closes_in(edge) < AT_ONCE_S  # and once more


def test_a_cloud_that_does_not_answer_is_named_and_tried_again(
    edge_of: EdgeOf, opened: ExitStack, cloud: Cloud, proxy: Proxy
) -> None:
    proxy.freeze()
    edge = edge_of(proxy.address, welcome_s=0.3)
    edge.uplink.start()
    assert wait_until(lambda: "has not answered within 0.3 s" in edge.status.problem)
    proxy.restore()
    edge.put(1)
    edge.finish(1)
    assert cloud.seen == [1]


def test_attempts_leave_nothing_behind(edge_of: EdgeOf) -> None:
    edge = edge_of("127.0.0.1:1", max_backoff_s=0.001)
    before = threading.active_count()
    edge.uplink.start()
    sleep(1.0)
    timers = [t.name for t in threading.enumerate() if t.name == "eaves-welcome"]
    assert len(timers) <= 2
    edge.uplink.close()
    assert wait_until(lambda: threading.active_count() <= before, 5.0)
