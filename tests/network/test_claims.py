"""An edge and a cloud that lies: nothing is forgotten, memory and time stay bounded."""

import re
import resource
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import repeat
from time import monotonic, sleep
from typing import Any

import grpc
import pytest
import torch
from tests.network.conftest import FP32, Edge, wait_until

from eaves.codecs.base import parse_codec
from eaves.codecs.upload import pack_upload
from eaves.errors import PayloadError
from eaves.network.asking import CloudClient, NoAnswerError
from eaves.network.channel import insecure_target
from eaves.network.claims import expect_answer, expect_pace, expect_receipt, expect_reply
from eaves.network.eaves_pb2 import CloudMessage, Receipt, StatusReply, Welcome
from eaves.network.refusals import ProtocolError, RefusedError
from eaves.network.wire import SERVICE

EdgeOf = Callable[..., Edge]
Script = Callable[[Iterator[bytes]], Iterable[bytes]]


def welcome(**changes: Any) -> bytes:
    usual = {"session": "abc123", "applied": 0, "max_message_bytes": 2**20}
    return CloudMessage(welcome=Welcome(**{**usual, **changes})).SerializeToString()


def receipt(**numbers: Any) -> bytes:
    return CloudMessage(receipt=Receipt(**numbers)).SerializeToString()


@contextmanager
def lying(script: Script, *, details: str | None = None) -> Iterator[str]:
    """Serve what a script says for what an edge sends; return the address."""

    def train(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        if details is not None:
            context.set_trailing_metadata((("x-more", "y" * len(details)),))
            context.abort(grpc.StatusCode.UNAVAILABLE, details)
        yield from script(messages)

    handlers = {
        "Train": grpc.stream_stream_rpc_method_handler(train),
        "Status": grpc.unary_unary_rpc_method_handler(
            lambda _request, _context: StatusReply(steps_left=2**63).SerializeToString()
        ),
    }
    options = [("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 2**26)]
    server = grpc.server(ThreadPoolExecutor(4), options=options)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def says(*messages: bytes, then: Iterable[bytes] = ()) -> Script:
    def script(incoming: Iterator[bytes]) -> Iterator[bytes]:
        next(incoming)  # the hello
        yield from messages
        yield from then
        for _ in incoming:  # stay until the edge goes
            pass

    return script


def after_uploads(count: int, *messages: bytes) -> Script:
    """Welcome the edge, read so many uploads, then say something."""

    def script(incoming: Iterator[bytes]) -> Iterator[bytes]:
        next(incoming)
        yield welcome()
        for _ in range(count):
            next(incoming)
        yield from messages
        for _ in incoming:
            pass

    return script


LIES: dict[str, tuple[Script, str]] = {
    "it has what was never sent": (says(welcome(applied=3)), "0 is the highest that may have"),
    "it has the whole run": (says(welcome(applied=100)), "upload 100, and 0 is the highest"),
    "numbers of 2^64 - 1": (says(welcome(applied=2**64 - 1)), "is the highest"),
    "no session": (says(welcome(session="")), "expected 1 to 64 letters and digits"),
    "a session of 10 kB": (says(welcome(session="x" * 10_000)), r"\(10000 characters\)"),
    "a session of 50 MB": (says(welcome(session="x" * 50_000_000)), "more than is agreed on"),
    "a session with an escape": (says(welcome(session="a\x1b[2J")), r"'a\\x1b\[2J'"),
    "no message fits": (says(welcome(max_message_bytes=0)), "messages of 0 bytes"),
    "a port above all": (says(welcome(port_offset=65_000)), "65000 ports"),
    "a port far away": (says(welcome(port_offset=2**32 - 1)), "4294967295 ports"),
    "two welcomes": (says(welcome(), welcome()), "welcome again"),
    "a receipt first": (says(receipt(applied=0)), "receipt as the first"),
    "garbage": (says(b"\xff" * 20), "bytes that are no message"),
    "an empty message": (says(welcome(), b""), "bytes that are no message again"),
    "durable without applied": (after_uploads(2, receipt(durable=2)), "2 is in its checkpoint"),
    "durable in the future": (
        after_uploads(2, receipt(applied=50, durable=50)),
        "it has upload 50, and [2-5] is the highest",
    ),
    "receipts without an end": (says(welcome(), then=repeat(receipt(applied=0))), "messages for"),
    "a reply of 20 MB": (
        after_uploads(1, receipt(applied=1, reply=bytes(20_000_000))),
        "more than is agreed on",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_ends_the_connection_and_nothing_is_forgotten(
    lie: str, edge_of: EdgeOf, opened: ExitStack
) -> None:
    script, words = LIES[lie]
    edge = edge_of(opened.enter_context(lying(script)), max_backoff_s=0.05)
    edge.put(1, 2, 3, 4, 5)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    edge.uplink.start()
    assert wait_until(lambda: edge.status.violations > 0), edge.status
    status = edge.status
    assert (status.durable, edge.spool.status().waiting) == (0, 5)
    assert "does not keep to the protocol" in status.problem
    assert re.search(words, status.problem), status.problem
    assert len(status.problem) < 2500
    assert status.problem.isprintable()
    assert not edge.uplink.done  # training goes on: the cloud may be mended
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 200_000
    edge.uplink.finish(5)  # nothing is left to do but to deliver
    assert wait_until(lambda: edge.uplink.done)
    assert isinstance(edge.uplink.error, RefusedError)
    assert "What is not delivered is kept" in str(edge.uplink.error)
    assert edge.spool.status().waiting == 5


def test_another_session_in_the_next_welcome_is_a_lie(edge_of: EdgeOf, opened: ExitStack) -> None:
    names = iter(["one", *repeat("other", 1000)])

    def script(incoming: Iterator[bytes]) -> Iterator[bytes]:
        next(incoming)
        yield welcome(session=next(names))

    edge = edge_of(opened.enter_context(lying(script)), max_backoff_s=0.05)
    edge.put(1)
    edge.uplink.start()
    assert wait_until(lambda: edge.status.violations > 0)
    assert "of session other, and this run belongs to session one" in edge.status.problem
    assert edge.status.session == "one"


def test_replies_to_an_edge_that_expects_none_are_counted_and_not_kept(
    edge_of: EdgeOf, opened: ExitStack
) -> None:
    flood = [receipt(applied=1, reply=bytes(10_000))] * 900
    edge = edge_of(opened.enter_context(lying(after_uploads(1, *flood))))
    edge.put(1)
    edge.uplink.start()
    assert wait_until(lambda: edge.status.unasked == 900)
    assert edge.uplink.replies.empty()


def test_of_replies_that_are_not_waited_for_one_is_kept(edge_of: EdgeOf, opened: ExitStack) -> None:
    flood = [receipt(applied=1, reply=bytes([n % 256]) * 1000) for n in range(900)]
    address = opened.enter_context(lying(after_uploads(1, *flood, receipt(applied=1, durable=1))))
    edge = edge_of(address, reply_bytes=1000)
    edge.put(1)
    edge.uplink.start()
    assert wait_until(lambda: edge.status.durable == 1)
    assert edge.uplink.replies.qsize() == 1
    assert edge.uplink.replies.get()[1][:1] == bytes([899 % 256])


def test_numbers_that_go_backwards_change_nothing(edge_of: EdgeOf, opened: ExitStack) -> None:
    said = [receipt(applied=n, durable=n) for n in (2, 1, 0, 2)]
    edge = edge_of(opened.enter_context(lying(after_uploads(2, *said))))
    edge.put(1, 2, 3)
    edge.uplink.start()
    assert wait_until(lambda: edge.status.durable == 2)
    sleep(0.1)
    assert (edge.status.applied, edge.status.durable, edge.status.violations) == (2, 2, 0)
    assert edge.spool.status().waiting == 1


def test_uploads_that_a_cloud_takes_back_are_counted(edge_of: EdgeOf, opened: ExitStack) -> None:
    first = threading.Event()

    def script(incoming: Iterator[bytes]) -> Iterator[bytes]:
        next(incoming)
        yield welcome()
        if not first.is_set():
            first.set()
            for _ in range(3):
                next(incoming)
            yield receipt(applied=3, durable=3)
        else:
            for _ in incoming:
                pass

    edge = edge_of(opened.enter_context(lying(script)), max_backoff_s=0.05)
    edge.put(1, 2, 3)
    edge.uplink.start()
    assert wait_until(lambda: edge.status.taken_back == 3)


@pytest.mark.parametrize("details", ["x" * 1500, "no\x1b[2J\u202e room"])
def test_words_of_a_cloud_are_cut_and_printable(
    details: str, edge_of: EdgeOf, opened: ExitStack
) -> None:
    edge = edge_of(opened.enter_context(lying(says(), details=details)), max_backoff_s=0.05)
    edge.uplink.start()
    assert wait_until(lambda: bool(edge.status.problem))
    assert edge.status.problem.isprintable()
    assert len(edge.status.problem) < 2100


def test_trailers_of_megabytes_end_a_call_and_are_not_kept(
    edge_of: EdgeOf, opened: ExitStack
) -> None:
    edge = edge_of(opened.enter_context(lying(says(), details="x" * 2**20)), max_backoff_s=0.05)
    edge.uplink.start()
    assert wait_until(lambda: bool(edge.status.problem))
    assert len(edge.status.problem) < 2100


def test_a_status_that_cannot_be_is_refused(opened: ExitStack) -> None:
    client = CloudClient(insecure_target(opened.enter_context(lying(says())), "edge-1"), "")
    opened.callback(client.close)
    with pytest.raises(PayloadError, match="steps are left, which no training takes"):
        client.steps_left(timeout_s=5.0)


def test_an_answer_longer_than_agreed_is_not_read(opened: ExitStack) -> None:
    handler = grpc.unary_unary_rpc_method_handler(lambda _request, _context: bytes(20_000_000))
    server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.max_send_message_length", -1)])
    handlers = grpc.method_handlers_generic_handler(SERVICE, {"Infer": handler})
    server.add_generic_rpc_handlers((handlers,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    opened.callback(lambda: server.stop(None).wait())
    target = insecure_target(f"127.0.0.1:{port}", "edge-1")
    client = CloudClient(target, "", answer_bytes=1000)
    opened.callback(client.close)
    with pytest.raises(NoAnswerError, match="larger than max"):
        client.ask(b"", timeout_s=10.0)


# What is compared without a network


def test_receipts_within_what_was_sent_are_believed() -> None:
    expect_receipt(Receipt(applied=5, durable=5), most=5)
    expect_pace(1000, 0)
    with pytest.raises(ProtocolError):
        expect_pace(1001, 0)


FEATURES = pack_upload(torch.ones(2, 3, 4), torch.tensor([0, 300]), FP32)


@pytest.mark.parametrize(
    ("shape", "codec", "fits"),
    [
        ((2, 3, 4), "fp16", True),
        ((2, 3, 5), "fp16", False),
        ((2, 12), "fp16", False),
        ((4096, 3, 4), "fp16", False),
        ((2, 3, 4), "fp32", False),
        ((2, 3, 4), "fp16+range", False),
    ],
)
def test_a_reply_is_in_the_codec_and_shape_of_its_upload(
    shape: tuple[int, ...], codec: str, fits: bool
) -> None:
    reply = parse_codec(codec).encode(torch.zeros(shape))
    if fits:
        expect_reply(reply, FEATURES, codec="fp16")
    else:
        with pytest.raises(PayloadError, match=r"expected a reply of shape \(2, 3, 4\) in fp16"):
            expect_reply(reply, FEATURES, codec="fp16")


def test_a_tiny_answer_that_would_take_long_is_refused_at_once() -> None:
    """Seconds of decoding are behind some ten bytes: the envelope is compared first."""
    small = parse_codec("raw+range").encode(torch.zeros(1, 1, 3000, 3000, dtype=torch.uint8))
    assert len(small) < 2**17
    started_s = monotonic()
    with pytest.raises(PayloadError, match="expected an answer in fp32 or fp16"):
        expect_answer(small, rows=1, values=10, codecs=("fp32", "fp16"))
    assert monotonic() - started_s < 0.2
