"""The cloud's front against callers that do not behave: each is refused in words, alone."""

import gc
import json
import logging
import os
import resource
import shutil
import socket
import ssl
import struct
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import grpc
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.network.conftest import (
    FAST,
    VALUES,
    Caller,
    Cloud,
    Edge,
    hello,
    payload,
    wait_until,
)

from eaves.codecs.base import parse_codec
from eaves.codecs.upload import pack_upload
from eaves.errors import ConfigError
from eaves.network.accesslog import AccessLog
from eaves.network.certificates import make_device, make_server, revoke
from eaves.network.channel import insecure_target, secure_target
from eaves.network.credentials import Gate, server_credentials
from eaves.network.eaves_pb2 import (
    Answer,
    EdgeMessage,
    Finish,
    Query,
    StatusReply,
    StatusRequest,
)
from eaves.network.half import Accepts
from eaves.network.limits import AT_ONCE, Limits
from eaves.network.server import Server
from eaves.network.wire import INFER, MAX_MESSAGE_BYTES, PROTOCOL, STATUS, TRAIN, pack, unpack
from eaves.network.workqueue import QueryWork

CloudOf = Callable[..., Cloud]
CallerOf = Callable[..., Caller]
EdgeOf = Callable[..., Edge]
FP32 = parse_codec("fp32")


@pytest.fixture
def cloud(cloud_of: CloudOf) -> Cloud:
    return cloud_of()


def is_served(cloud: Cloud, caller_of: CallerOf, name: str = "bystander") -> bool:
    """Return whether an edge is let in, learnt from, and told so."""
    caller = caller_of(cloud.address, name)
    applied = caller.enter().applied
    caller.upload(applied + 1)
    caller.receipt_of(applied + 1)
    caller.close()
    return True


# What is welcomed


def test_an_edge_is_welcomed_and_its_uploads_are_learnt(cloud: Cloud, caller_of: CallerOf) -> None:
    caller = caller_of(cloud.address)
    welcome = caller.enter()
    assert welcome.session == cloud.trainer.session
    assert (welcome.applied, welcome.port_offset) == (0, 0)
    assert welcome.max_message_bytes == MAX_MESSAGE_BYTES
    caller.upload(1)
    caller.upload(2)
    assert caller.receipt_of(2).applied == 2
    assert cloud.seen == [1, 2]


def test_a_replay_is_acknowledged_and_learnt_once(cloud: Cloud, caller_of: CallerOf) -> None:
    caller = caller_of(cloud.address)
    caller.enter()
    for seq in (1, 2, 1, 2, 2, 3):
        caller.upload(seq)
    assert caller.receipt_of(3).applied == 3
    assert cloud.seen == [1, 2, 3]
    assert cloud.trainer.counts.duplicates == 3


def test_a_gap_that_the_edge_names_is_taken(cloud: Cloud, caller_of: CallerOf) -> None:
    caller = caller_of(cloud.address)
    caller.enter()
    caller.upload(1)
    caller.upload(5, follows=1)
    assert caller.receipt_of(5).applied == 5
    assert cloud.seen == [1, 5]


# What is refused


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"protocol": 2}, "FAILED_PRECONDITION", "install the same Eaves on both sides"),
        ({"protocol": 0}, "FAILED_PRECONDITION", "version 0 of the protocol"),
        ({"terms": '{"cut": "other"}'}, "FAILED_PRECONDITION", "cut is 'other' on the edge, 'c'"),
        ({"terms": "{"}, "INVALID_ARGUMENT", "no JSON"),
        ({"terms": "[" * 9999}, "INVALID_ARGUMENT", "no JSON"),
        ({"session": "of-another"}, "FAILED_PRECONDITION", "of-another"),
        ({"session": "x" * 10**6}, "FAILED_PRECONDITION", "not trained together"),
        ({"terms": '{"' + "x" * 10**6 + '": 1}'}, "FAILED_PRECONDITION", "do not fit"),
        ({"run": ""}, "INVALID_ARGUMENT", "a run's name"),
        ({"run": "../../etc"}, "INVALID_ARGUMENT", "a run's name"),
        ({"run": "x" * 65}, "INVALID_ARGUMENT", "a run's name"),
        ({"steps": 0}, "INVALID_ARGUMENT", "1 step or more"),
        ({"steps": 2**63}, "INVALID_ARGUMENT", "1 step or more"),
    ],
)
def test_a_hello_that_does_not_fit_is_refused_in_words(
    cloud: Cloud, caller_of: CallerOf, changes: dict[str, Any], code: str, words: str
) -> None:
    caller = caller_of(cloud.address)
    caller.send(EdgeMessage(hello=hello(**changes)))
    found, details = caller.refusal()
    assert found == code
    assert words in details
    assert is_served(cloud, caller_of)


@pytest.mark.parametrize(
    "message",
    [b"\xff" * 100, b"", (1, 0, b"x"), EdgeMessage(finish=Finish(seq=1))],
    ids=["garbage", "empty", "upload", "finish"],
)
def test_what_is_no_hello_is_refused(
    cloud: Cloud, caller_of: CallerOf, message: bytes | tuple[int, int, bytes] | EdgeMessage
) -> None:
    caller = caller_of(cloud.address)
    caller.send(message)
    assert caller.refusal()[0] == "INVALID_ARGUMENT"
    assert is_served(cloud, caller_of)


def _flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]


_BAD_UPLOADS = {
    "empty": b"",
    "garbage": os.urandom(200),
    "truncated": payload(1)[:-3],
    "prolonged": payload(1) + b"x",
    "wrong version": payload(1)[:4] + b"\x09" + payload(1)[5:],
    "a bit flipped in the labels": _flipped(payload(1), 12),
    "a bit flipped in the features": _flipped(payload(1), len(payload(1)) - 6),
    "wrong shape": payload(1, VALUES + 1),
    "wrong dtype": pack_upload(
        torch.ones(1, VALUES, dtype=torch.uint8), torch.tensor([1]), parse_codec("raw")
    ),
    "label too large": pack_upload(torch.ones(1, VALUES), torch.tensor([2**40]), FP32),
}


@pytest.mark.parametrize("kind", _BAD_UPLOADS)
def test_a_bad_upload_is_refused_and_not_learnt(
    cloud: Cloud, caller_of: CallerOf, kind: str
) -> None:
    caller = caller_of(cloud.address)
    caller.enter()
    caller.upload(1)
    caller.upload(2, content=_BAD_UPLOADS[kind])
    caller.upload(3)
    code, details = caller.refusal()
    assert code == "INVALID_ARGUMENT"
    assert details
    assert cloud.seen == [1]
    assert is_served(cloud, caller_of)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_not_finite_are_refused(
    cloud: Cloud, caller_of: CallerOf, bad: float
) -> None:
    # Our own encoder would refuse them: the bytes of a 1.0 are replaced, and the checksum made new.
    caller = caller_of(cloud.address)
    caller.enter()
    caller.upload(1, content=_with_value(bad))
    code, details = caller.refusal()
    assert (code, cloud.seen) == ("INVALID_ARGUMENT", [])
    assert "finite" in details


def _with_value(value: float) -> bytes:
    content = payload(1)
    start = content.index(b"EAVP")
    body = content[start:-4].replace(struct.pack("<f", 1.0), struct.pack("<f", value), 1)
    return content[:start] + body + struct.pack("<I", zlib.crc32(body))


def test_a_gap_is_refused_so_that_the_edge_sends_again(cloud: Cloud, caller_of: CallerOf) -> None:
    caller = caller_of(cloud.address)
    caller.enter()
    caller.upload(1)
    caller.upload(3, follows=2)
    code, details = caller.refusal()
    assert code == "OUT_OF_RANGE"
    assert "upload 3 follows 2, but 1 was the last here" in details
    again = caller_of(cloud.address)
    assert again.enter().applied == 1


def test_an_upload_beyond_the_limit_is_refused(cloud_of: CloudOf, caller_of: CallerOf) -> None:
    cloud = cloud_of(limits=Limits(max_message_bytes=10_000))
    caller = caller_of(cloud.address)
    assert caller.enter().max_message_bytes == 10_000
    caller.upload(1, content=bytes(20_000))
    code, details = caller.refusal()
    assert code == "RESOURCE_EXHAUSTED"
    assert "larger than max" in details
    assert cloud.seen == []
    assert is_served(cloud, caller_of)


# Who is let in


def test_two_of_one_name_take_turns_and_read_why(cloud: Cloud, caller_of: CallerOf) -> None:
    first = caller_of(cloud.address)
    first.enter()
    first.upload(1)
    first.receipt_of(1)
    second = caller_of(cloud.address)
    assert second.enter(run="run2").applied == 0
    code, details = first.refusal()
    assert code == "ABORTED"
    assert "two devices" in details
    second.upload(1)
    second.receipt_of(1)
    assert cloud.seen == [1, 1]  # two runs


def test_no_more_edges_than_the_limit_but_each_may_come_again(
    cloud_of: CloudOf, caller_of: CallerOf
) -> None:
    cloud = cloud_of(limits=Limits(max_edges=2))
    callers = [caller_of(cloud.address, name) for name in ("a", "b")]
    for caller in callers:
        caller.enter()
    third = caller_of(cloud.address, "c")
    third.send(EdgeMessage(hello=hello()))
    assert third.refusal() == ("RESOURCE_EXHAUSTED", "2 edges are connected, which is the limit")
    caller_of(cloud.address, "a").enter()
    callers[1].close()
    assert wait_until(lambda: len(cloud.trainer.connected()) == 1)
    caller_of(cloud.address, "c").enter()


@pytest.mark.parametrize(
    "limits", [Limits(uploads_per_s=20), Limits(bytes_per_s=20 * len(payload(1)))]
)
def test_rates_hold_also_for_an_edge_that_connects_anew(
    cloud_of: CloudOf, caller_of: CallerOf, limits: Limits
) -> None:
    cloud = cloud_of(limits=limits)
    started = monotonic()
    for first in (1, 11, 21, 31):  # 40 uploads: a burst of 20, and a second for the others
        caller = caller_of(cloud.address)
        caller.enter()
        for seq in range(first, first + 10):
            caller.upload(seq)
        caller.receipt_of(first + 9)
        caller.close()
    assert 0.9 < monotonic() - started < 5.0
    assert cloud.seen == list(range(1, 41))


@pytest.mark.parametrize("name", ["max_edges", "uploads_per_s", "depth", "hello_s", "bytes_per_s"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_limits_that_make_no_sense_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"expected {name} above 0"):
        Limits(**{name: value})  # type: ignore[arg-type]


def test_waiting_queries_are_bounded(cloud_of: CloudOf, opened: ExitStack) -> None:
    cloud = cloud_of(limits=Limits(max_waiting_queries=2))
    cloud.trainer.stop()  # nobody answers any more
    assert wait_until(lambda: not cloud.worker.is_alive())
    channel = opened.enter_context(grpc.insecure_channel(cloud.address))
    infer = channel.unary_unary(INFER, pack, unpack(Answer))
    metadata = (("eaves-edge", "edge-1"),)
    query = Query(protocol=PROTOCOL, payload=FP32.encode(torch.ones(1, VALUES)))
    waiting = [infer.future(query, timeout=1.0, metadata=metadata) for _ in range(2)]
    assert wait_until(lambda: len(cloud.trainer.work) == 2)
    with pytest.raises(grpc.RpcError) as refused:
        infer(query, timeout=1.0, metadata=metadata)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.value.details() == "2 queries are waiting, which is the limit"
    assert {call.code() for call in waiting} == {grpc.StatusCode.DEADLINE_EXCEEDED}


def test_status_tells_an_edge_of_itself_alone(
    cloud: Cloud, caller_of: CallerOf, opened: ExitStack
) -> None:
    assert is_served(cloud, caller_of, "a")
    assert is_served(cloud, caller_of, "b")
    channel = opened.enter_context(grpc.insecure_channel(cloud.address))
    ask = channel.unary_unary(STATUS, pack, unpack(StatusReply))
    reply = ask(StatusRequest(), timeout=5.0, metadata=(("eaves-edge", "b"),))
    assert [(edge.name, edge.applied) for edge in reply.edges] == [("b", 1)]
    assert (reply.session, reply.version) == (cloud.trainer.session, "1.2.3")
    with pytest.raises(grpc.RpcError) as refused:
        ask(StatusRequest(), timeout=5.0)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


# One edge beside the others


def asker(cloud: Cloud, opened: ExitStack, name: str = "edge-1") -> Callable[..., Any]:
    """Return what asks a cloud as an edge of this name; it returns a call."""
    channel = opened.enter_context(grpc.insecure_channel(cloud.address))
    infer = channel.unary_unary(INFER, pack, unpack(Answer))

    def ask(content: bytes, timeout_s: float = 20.0) -> Any:
        query = Query(protocol=PROTOCOL, payload=content)
        return infer.future(query, timeout=timeout_s, metadata=(("eaves-edge", name),))

    return ask


def code_of_call(call: Any) -> tuple[str, str]:
    try:
        call.result()
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""


GOOD = FP32.encode(torch.ones(1, VALUES))


def test_seventeen_runs_of_one_edge_end_nothing(cloud: Cloud, caller_of: CallerOf) -> None:
    for n in range(3 * 17):
        caller_of(cloud.address, "evil").enter(run=f"r{n}")
    assert is_served(cloud, caller_of)
    settled = cloud.trainer.counts.checkpoints
    assert is_served(cloud, caller_of, "another")
    assert wait_until(lambda: cloud.trainer.counts.checkpoints > settled)
    assert cloud.worker.is_alive()


def test_a_superseded_stream_that_reads_nothing_ends_and_is_learnt_from_no_more(
    cloud_of: CloudOf, caller_of: CallerOf
) -> None:
    cloud = cloud_of(reply_values=2**18, limits=Limits())  # replies of 1 MiB
    narrow = (("grpc.http2.lookahead_bytes", 2**16), ("grpc.http2.bdp_probe", 0))
    older = caller_of(insecure_target(cloud.address, "evil"), options=narrow)
    older.enter(run="old")
    for seq in range(1, 20):
        older.upload(seq)
    assert wait_until(lambda: len(cloud.seen) == 19)
    newer = caller_of(cloud.address, "evil")
    newer.enter(run="new")
    cloud.learner.step_s = 0.01
    for seq in range(20, 60):
        older.upload(seq)
    newer.upload(1)
    newer.receipt_of(1)
    sleep(1.5)
    assert cloud.seen[19:] == [1]  # nothing of what the older one has sent since
    assert wait_until(lambda: cloud.service.shares.of("evil")._streams == 1)


def test_what_a_superseded_stream_has_sent_is_let_go(cloud: Cloud, caller_of: CallerOf) -> None:
    cloud.learner.step_s = 0.2
    older = caller_of(cloud.address)
    older.enter()
    for seq in range(1, 5):
        older.upload(seq)
    assert wait_until(lambda: len(cloud.trainer.work) >= 2)
    newer = caller_of(cloud.address)
    applied = newer.enter().applied
    cloud.learner.step_s = 0.0
    for seq in range(applied + 1, 5):
        newer.upload(seq)
    newer.receipt_of(4)
    assert cloud.seen == [1, 2, 3, 4]  # each once, whoever has brought it
    assert cloud.trainer.counts.dropped >= 1


@pytest.mark.parametrize("auth", ["certificates", "tokens"])
@pytest.mark.parametrize("path", [INFER, STATUS, TRAIN, "/grpc.health.v1.Health/Check"])
def test_nothing_is_received_of_who_may_not_come_in(
    cloud_of: CloudOf, certs: Path, opened: ExitStack, auth: str, path: str
) -> None:
    cloud = secured(cloud_of, certs, auth)
    target = secure_target(cloud.address, certs / "ours" / "devices" / "edge-1")
    if auth == "certificates":
        revoke(certs / "ours", "edge-1")
        sleep(0.3)
    options = (("grpc.max_send_message_length", 2**27),)
    assert target.credentials is not None
    channel = opened.enter_context(grpc.secure_channel(cloud.address, target.credentials, options))
    call = channel.stream_unary(path, None, None)
    big = bytes(60 * 2**20)
    with suppress(grpc.RpcError):
        call(iter([b""]), timeout=5)  # the connection is made
    before = resident_bytes()
    calls = [call.future(iter([big]), timeout=20) for _ in range(10)]  # with neither
    found = {code_of_call(one)[0] for one in calls}
    assert found == ({"OK"} if "Health" in path else {"UNAUTHENTICATED"})
    # 600 MB were sent by this process, from one block of memory; the other end took none of it.
    assert resident_bytes() - before < 130 * 2**20


def test_the_queries_of_one_edge_that_wait_are_bounded_and_others_are_answered(
    cloud_of: CloudOf, opened: ExitStack
) -> None:
    cloud = cloud_of(limits=Limits(edge_queries=3, edge_bytes=2**20))
    stuck = threading.Event()
    cloud.trainer._answers._half.predictor.answer = (  # type: ignore[method-assign]
        lambda features: (stuck.wait(10), 2 * features)[1]
    )
    evil, honest = asker(cloud, opened, "evil"), asker(cloud, opened, "honest")
    calls = [evil(GOOD) for _ in range(10)]
    assert wait_until(lambda: sum(call.done() for call in calls) == 7)
    other = honest(GOOD)
    stuck.set()
    assert code_of_call(other)[0] == "OK"
    found = [code_of_call(call) for call in calls]
    words = "3 queries of edge evil are waiting, which is the limit"
    assert found.count(("OK", "")) == 3
    assert found.count(("RESOURCE_EXHAUSTED", words)) == 7


def test_queries_of_one_edge_take_turns_and_all_are_answered(
    cloud_of: CloudOf, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud, stuck = cloud_of(limits=Limits(edge_queries=64)), threading.Event()
    served, ask = list[QueryWork](), cloud.trainer.ask

    def counted(work: QueryWork) -> None:
        served.append(work)
        ask(work)

    monkeypatch.setattr(cloud.trainer, "ask", counted)
    cloud.trainer._answers._half.predictor.answer = (  # type: ignore[method-assign]
        lambda features: (stuck.wait(10), 2 * features)[1]
    )
    eager = asker(cloud, opened, "eager")
    calls = [eager(GOOD) for _ in range(40)]
    assert wait_until(lambda: len(served) == AT_ONCE)
    assert not wait_until(lambda: len(served) > AT_ONCE, 0.3)
    stuck.set()
    assert [code_of_call(call)[0] for call in calls] == ["OK"] * 40
    assert len(served) == 40


def test_what_one_edge_has_sent_and_waits_is_bounded_in_bytes(
    cloud_of: CloudOf, caller_of: CallerOf
) -> None:
    values = 2**15
    accepts = Accepts(feature_shape=(values,), dtype=torch.float32, classes=2**31)
    size = len(payload(1, values))
    limits = Limits(depth=100, edge_bytes=2 * size, max_waiting_bytes=2**30)
    cloud = cloud_of(limits=limits, accepts=accepts)
    cloud.learner.step_s = 0.05
    evil, honest = caller_of(cloud.address, "evil"), caller_of(cloud.address, "honest")
    for caller in (evil, honest):
        caller.enter()
    most = 0
    for seq in range(1, 21):
        evil.upload(seq, content=payload(seq, values))
    honest.upload(1, content=payload(1, values))
    while len(cloud.seen) < 21:
        most = max(most, cloud.service.held.total)
        sleep(0.005)
    assert cloud.seen.index(1, 1) < 8  # honest's, soon
    # Two wait, one more was received, one is learnt from; and as much of the other edge.
    assert most <= 8 * (size + 4096)
    del evil, honest
    assert wait_until(lambda: cloud.service.held.total == 0)


def test_streams_of_one_edge_are_bounded(cloud_of: CloudOf, caller_of: CallerOf) -> None:
    cloud = cloud_of(limits=Limits(edge_streams=2))
    silent = [caller_of(cloud.address, "evil") for _ in range(2)]  # they do not say hello
    assert wait_until(lambda: cloud.service.shares.of("evil")._streams == 2)
    third = caller_of(cloud.address, "evil")
    assert third.refusal() == (
        "RESOURCE_EXHAUSTED",
        "edge evil has 2 open streams, which is the limit",
    )
    assert is_served(cloud, caller_of)
    assert len(silent) == 2


def test_calls_that_come_too_often_wait_and_others_do_not(
    cloud_of: CloudOf, opened: ExitStack
) -> None:
    cloud = cloud_of(limits=Limits(calls_per_s=5))
    own = (("grpc.use_local_subchannel_pool", 1),)  # a connection for each
    evil, honest = (
        opened.enter_context(grpc.insecure_channel(cloud.address, own)).unary_unary(
            STATUS, pack, unpack(StatusReply)
        )
        for _ in range(2)
    )
    for ask, name in ((evil, "evil"), (honest, "honest")):
        ask(StatusRequest(), timeout=5, metadata=(("eaves-edge", name),))
    started = monotonic()
    words = (("eaves-edge", "evil"),)
    calls = [evil.future(StatusRequest(), timeout=20, metadata=words) for _ in range(100)]
    honest(StatusRequest(), timeout=5, metadata=(("eaves-edge", "honest"),))
    assert monotonic() - started < 1.0
    assert {code_of_call(call)[0] for call in calls} <= {"OK", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}
    assert monotonic() - started > 0.9


def test_health_is_told_whoever_asks_and_watchers_are_few(
    cloud: Cloud, caller_of: CallerOf, opened: ExitStack
) -> None:
    channel = opened.enter_context(grpc.insecure_channel(cloud.address))
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service="eaves.v1.Cloud")
    serving, not_serving = (health_pb2.HealthCheckResponse(status=status) for status in (1, 2))
    assert stub.Check(request, timeout=5) == serving
    watchers = [stub.Watch(request, timeout=20) for _ in range(8)]
    assert [next(watcher) for watcher in watchers] == [serving] * 8
    with pytest.raises(grpc.RpcError, match="too many watch"):
        next(stub.Watch(request, timeout=20))
    assert is_served(cloud, caller_of)
    cloud.server.drain()
    assert [next(watcher) for watcher in watchers] == [not_serving] * 8
    assert stub.Check(request, timeout=5) == not_serving


# With TLS


def secured(cloud_of: CloudOf, certs: Path, auth: str = "certificates") -> Cloud:
    folder = certs / "ours" / "server"
    gate = Gate(folder, auth, recheck_s=0.2)
    return cloud_of(gate=gate, credentials=server_credentials(folder, auth))


@pytest.mark.parametrize(("auth", "name"), [("certificates", "edge-1"), ("tokens", "edge-2")])
@pytest.mark.parametrize("busy", [False, True])
def test_what_is_revoked_ends_on_an_open_stream_within_two_seconds(
    cloud_of: CloudOf, caller_of: CallerOf, certs: Path, auth: str, name: str, busy: bool
) -> None:
    cloud = secured(cloud_of, certs, auth)
    stolen = certs / "ours" / "devices" / name
    caller = caller_of(secure_target(cloud.address, stolen))
    caller.enter()
    caller.upload(1)
    caller.receipt_of(1)
    revoke(certs / "ours", name)
    revoked_at = monotonic()
    if busy:
        threading.Thread(target=_upload_for, args=(caller, 3.0), daemon=True).start()
    code, details = caller.refusal()
    assert monotonic() - revoked_at < 2.0
    assert code == "UNAUTHENTICATED"
    assert "revoked" in details
    again = caller_of(secure_target(cloud.address, stolen))
    again.send(EdgeMessage(hello=hello()))
    assert again.refusal()[0] == "UNAUTHENTICATED"


def test_a_certificate_that_expires_ends_its_stream_and_the_log_says_so(
    cloud_of: CloudOf,
    caller_of: CallerOf,
    certs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = certs / "ours" / "server"
    gate = Gate(folder, log=AccessLog(tmp_path / "access.jsonl"))
    cloud = cloud_of(gate=gate, credentials=server_credentials(folder))
    make_device(certs / "ours", "edge-1", days=1, renew=True)
    callers = {
        name: caller_of(secure_target(cloud.address, certs / "ours" / "devices" / name))
        for name in ("edge-1", "edge-9")
        if name == "edge-1" or make_device(certs / "ours", name)
    }
    for caller in callers.values():
        caller.enter()
        caller.upload(1)
        caller.receipt_of(1)
    tomorrow = datetime.now(UTC) + timedelta(days=1, minutes=1)
    monkeypatch.setattr("eaves.network.credentials._now", lambda: tomorrow)
    expired_at = monotonic()
    code, details = callers["edge-1"].refusal()
    assert monotonic() - expired_at < 2.0
    assert code == "UNAUTHENTICATED"
    assert "the certificate expired on 20" in details
    callers["edge-9"].upload(2)
    callers["edge-9"].receipt_of(2)
    lines = [json.loads(line) for line in (tmp_path / "access.jsonl").read_text().splitlines()]
    found = [(line["event"], line["name"]) for line in lines]
    assert sorted(found[:2]) == [("admitted", "edge-1"), ("admitted", "edge-9")]
    assert found[2:] == [("refused", "edge-1")]
    assert lines[2]["address"].startswith(("ipv4:127.0.0.1:", "ipv6:"))
    assert "expired" in lines[2]["why"]


def test_a_renewed_certificate_is_shown_by_a_cloud_that_runs(
    cloud_of: CloudOf, caller_of: CallerOf, certs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eaves.network.credentials._RECHECK_S", 0.0)
    cloud = secured(cloud_of, certs)
    device = certs / "ours" / "devices" / "edge-1"
    caller = caller_of(secure_target(cloud.address, device))
    caller.enter()
    host, _, port = cloud.address.rpartition(":")
    make_server(certs / "ours", ["localhost", "127.0.0.1"], renew=True)
    context = ssl.create_default_context(cafile=str(device / "ca.pem"))
    context.load_cert_chain(device / "cert.pem", device / "key.pem")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        shown = tls.getpeercert(binary_form=True)
    pem = (certs / "ours" / "server" / "cert.pem").read_text()
    assert shown == ssl.PEM_cert_to_DER_cert(pem)
    caller.upload(1)  # the stream of before goes on
    caller.receipt_of(1)


def _upload_for(caller: Caller, seconds: float) -> None:
    seq, until = 1, monotonic() + seconds
    while monotonic() < until:
        seq += 1
        caller.upload(seq)
        sleep(0.01)


def test_a_revoked_edge_that_reads_nothing_is_not_learnt_from_either(
    cloud_of: CloudOf, caller_of: CallerOf, certs: Path
) -> None:
    folder = certs / "ours" / "server"
    gate = Gate(folder, recheck_s=0.1)
    cloud = cloud_of(
        gate=gate, credentials=server_credentials(folder), reply_values=2**18, limits=Limits()
    )
    caller = caller_of(secure_target(cloud.address, certs / "ours" / "devices" / "edge-1"))
    caller.enter()
    for seq in range(1, 40):  # replies of 1 MiB each, which nobody reads
        caller.upload(seq)
    assert wait_until(lambda: len(cloud.seen) == 39)
    revoke(certs / "ours", "edge-1")
    threading.Thread(target=_more, args=(caller, 40, 2.5), daemon=True).start()
    sleep(2.0)
    learnt = len(cloud.seen)
    sleep(0.4)
    assert len(cloud.seen) == learnt


def _more(caller: Caller, first: int, seconds: float) -> None:
    until = monotonic() + seconds
    while monotonic() < until:
        caller.upload(first)
        first += 1
        sleep(0.02)


def test_a_foreign_certificate_is_not_let_in(
    cloud_of: CloudOf, caller_of: CallerOf, certs: Path
) -> None:
    cloud = secured(cloud_of, certs)
    shutil.copy(certs / "ours/server/ca.pem", certs / "foreign/devices/edge-1/ca.pem")
    caller = caller_of(secure_target(cloud.address, certs / "foreign" / "devices" / "edge-1"))
    caller.send(EdgeMessage(hello=hello()))
    assert caller.refusal()[0] == "UNAVAILABLE"
    assert not cloud.trainer.accounts().accounts
    ours = caller_of(secure_target(cloud.address, certs / "ours" / "devices" / "edge-1"))
    assert ours.enter().applied == 0


# Sockets


def open_sockets(port: int, count: int, stack: ExitStack) -> list[socket.socket]:
    return [
        stack.enter_context(closing(socket.create_connection(("127.0.0.1", port))))
        for _ in range(count)
    ]


def hung_up(connection: socket.socket, timeout_s: float) -> bool:
    """Return whether the other side hangs up in time; what it says before does not matter."""
    connection.settimeout(timeout_s)
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize("tls", [False, True])
def test_a_thousand_connections_that_say_nothing_are_dropped_and_harm_nobody(
    cloud_of: CloudOf, caller_of: CallerOf, certs: Path, opened: ExitStack, tls: bool
) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(1000, (soft - 200) // 2)  # both ends are in this process
    cloud = secured(cloud_of, certs) if tls else cloud_of()
    silent = open_sockets(cloud.port, count, opened)
    if tls:
        target = secure_target(cloud.address, certs / "ours" / "devices" / "edge-1")
        caller_of(target).enter()
    else:
        assert is_served(cloud, caller_of)
    opened_at = monotonic()
    assert all(hung_up(connection, 5.0) for connection in silent)
    assert monotonic() - opened_at < FAST.handshake_s + 3.0
    assert count >= 400


@pytest.mark.parametrize(
    "garbage",
    [os.urandom(5000), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(999)],
    ids=["random", "http", "tls"],
)
@pytest.mark.parametrize("tls", [False, True])
def test_garbage_on_the_port_is_hung_up_on(
    cloud_of: CloudOf, certs: Path, opened: ExitStack, garbage: bytes, tls: bool
) -> None:
    cloud = secured(cloud_of, certs) if tls else cloud_of()
    for connection in open_sockets(cloud.port, 5, opened):
        with suppress(ConnectionError):
            connection.sendall(garbage)
        assert hung_up(connection, 5.0)
    assert not cloud.trainer.accounts().accounts


def test_a_stream_that_says_nothing_is_ended_and_may_come_again(
    cloud: Cloud, caller_of: CallerOf
) -> None:
    started = monotonic()
    code, details = caller_of(cloud.address).refusal()
    assert FAST.hello_s <= monotonic() - started < FAST.hello_s + 2.0
    # Not one of those that an edge gives up on: a link that stalls looks the same.
    assert (code, details) == ("DEADLINE_EXCEEDED", "no hello came within 0.4 s")


def test_an_edge_that_reads_no_receipts_costs_no_memory_and_harms_nobody(
    cloud_of: CloudOf, caller_of: CallerOf
) -> None:
    cloud = cloud_of(reply_values=2**16, limits=Limits())  # replies of 256 KiB
    narrow = (("grpc.http2.lookahead_bytes", 2**16), ("grpc.http2.bdp_probe", 0))
    slow = caller_of(insecure_target(cloud.address, "slow"), options=narrow)
    slow.enter()
    for seq in range(1, 21):
        slow.upload(seq)
    assert wait_until(lambda: len(cloud.seen) == 20)
    before = resident_bytes()
    for seq in range(21, 421):  # 100 MiB of replies
        slow.upload(seq)
    assert wait_until(lambda: len(cloud.seen) == 420)
    assert resident_bytes() - before < 30 * 2**20
    assert is_served(cloud, caller_of)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


# Time and the end


@pytest.mark.parametrize("jump_s", [86_400.0, -86_400.0])
def test_a_clock_that_jumps_changes_nothing(
    cloud: Cloud, edge_of: EdgeOf, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    edge = edge_of(cloud.address)
    edge.uplink.start()
    edge.put(1, 2, 3)
    assert wait_until(lambda: edge.status.applied == 3)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump_s)
    edge.put(4, 5)
    edge.finish(5)
    assert cloud.seen == [1, 2, 3, 4, 5]
    assert edge.status.connections == 1


def test_a_stop_ends_open_streams_with_words_that_let_edges_come_again(
    cloud: Cloud, caller_of: CallerOf, caplog: pytest.LogCaptureFixture
) -> None:
    idle, silent = caller_of(cloud.address), caller_of(cloud.address, "silent")
    idle.enter()
    with caplog.at_level(logging.ERROR):
        started = monotonic()
        cloud.stop()
    assert monotonic() - started < 3.0
    assert idle.refusal() == ("RESOURCE_EXHAUSTED", "the cloud has stopped; try again later")
    retried = ("DEADLINE_EXCEEDED", "UNAVAILABLE", "CANCELLED", "RESOURCE_EXHAUSTED")
    assert silent.refusal()[0] in retried  # the last where it had not been let in yet
    assert caplog.records == []


def test_a_cloud_that_stops_lets_nobody_in(cloud: Cloud, caller_of: CallerOf) -> None:
    cloud.server.drain()
    caller = caller_of(cloud.address)
    caller.send(EdgeMessage(hello=hello()))
    assert caller.refusal() == ("RESOURCE_EXHAUSTED", "the cloud is stopping; try again later")


def test_a_port_that_is_taken_is_refused_in_words_and_leaves_nothing(
    cloud: Cloud, capfd: pytest.CaptureFixture[str]
) -> None:
    threads = threading.active_count()
    server = Server(cloud.service, FAST)
    with pytest.raises(ConfigError, match="is the port in use"):
        server.start(cloud.address, None)
    assert threading.active_count() <= threads
    assert capfd.readouterr().err == ""  # gRPC has a line of its own for it


def test_edges_that_come_and_go_leave_nothing_behind(
    cloud: Cloud, caller_of: CallerOf, caplog: pytest.LogCaptureFixture
) -> None:
    assert is_served(cloud, caller_of)
    assert wait_until(lambda: cloud.trainer.counts.checkpoints > 0)  # its thread runs by then
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for n in range(30):
        caller = caller_of(cloud.address, f"edge-{n}")
        caller.enter()
        caller.upload(1)
        if n % 2:
            caller.receipt_of(1)
        caller.close()
    assert wait_until(lambda: not cloud.trainer.connected())
    assert wait_until(lambda: threading.active_count() <= threads, 3), threading.enumerate()
    assert wait_until(lambda: len(os.listdir("/proc/self/fd")) <= files + 3)
    gc.collect()
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]
