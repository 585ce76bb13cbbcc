"""Queries to a cloud: an answer, or in time the reason why there is none."""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from time import monotonic

import grpc
import pytest
import torch
from tests.network.conftest import FP32, VALUES, Cloud, Proxy, wait_until

from eaves.codecs.base import decode
from eaves.errors import PayloadError
from eaves.network.asking import CloudClient, NoAnswerError
from eaves.network.certificates import revoke
from eaves.network.channel import insecure_target, secure_target
from eaves.network.credentials import Gate, server_credentials
from eaves.network.eaves_pb2 import Answer, Query
from eaves.network.refusals import RefusedError
from eaves.network.trainer import Trainer
from eaves.network.wire import SERVICE

ONES = FP32.encode(torch.ones(1, VALUES))


@pytest.fixture
def cloud(cloud_of: Callable[..., Cloud]) -> Cloud:
    return cloud_of()


@pytest.fixture
def client_of(opened: ExitStack) -> Callable[..., CloudClient]:
    def make(address: str, session: str = "") -> CloudClient:
        client = CloudClient(insecure_target(address, "edge-1"), session)
        return opened.enter_context(closing(client))

    return make


ClientOf = Callable[..., CloudClient]


def asked(client: CloudClient, payload: bytes, timeout_s: float = 5.0) -> torch.Tensor:
    """Return the decoded answer."""
    return decode(client.ask(payload, timeout_s=timeout_s))


def test_an_answer_is_that_of_the_cloud(cloud: Cloud, client_of: ClientOf) -> None:
    client = client_of(cloud.address, cloud.trainer.session)
    x_BV = torch.arange(12.0).reshape(3, VALUES)
    assert torch.equal(asked(client, FP32.encode(x_BV)), 2 * x_BV)


def test_how_much_the_cloud_learns_on_is_what_it_says(
    cloud: Cloud, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(cloud.address)
    assert client.steps_left(timeout_s=5.0) == 0
    monkeypatch.setattr(Trainer, "left", 7)
    assert client.steps_left(timeout_s=5.0) == 7
    cloud.stop()
    with pytest.raises(NoAnswerError):
        client.steps_left(timeout_s=5.0)


def test_many_ask_at_once_and_each_gets_its_own_answer(cloud: Cloud, client_of: ClientOf) -> None:
    client = client_of(cloud.address)

    def ask(n: int) -> bool:
        answer = asked(client, FP32.encode(torch.full((1, VALUES), n / 256)), 10.0)
        return torch.equal(answer, 2 * torch.full((1, VALUES), n / 256))

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(200)))


def test_nobody_there(client_of: ClientOf) -> None:
    started = monotonic()
    with pytest.raises(NoAnswerError, match=r"refused|connect"):
        client_of("127.0.0.1:1").ask(ONES, timeout_s=5.0)
    assert monotonic() - started < 5.5


def test_the_deadline_holds_where_nothing_answers(client_of: ClientOf, opened: ExitStack) -> None:
    listener = opened.enter_context(closing(socket.create_server(("127.0.0.1", 0))))
    client = client_of(f"127.0.0.1:{listener.getsockname()[1]}")
    started = monotonic()
    with pytest.raises(NoAnswerError, match=r"Deadline|DEADLINE|timed out"):
        client.ask(ONES, timeout_s=0.3)
    assert 0.25 < monotonic() - started < 1.5


def test_a_link_that_returns_needs_no_new_client(
    cloud: Cloud, client_of: ClientOf, proxy_of: Callable[[Cloud], Proxy]
) -> None:
    proxy = proxy_of(cloud)
    client = client_of(proxy.address)
    assert asked(client, ONES).sum() == 8
    proxy.freeze()
    with pytest.raises(NoAnswerError):
        client.ask(ONES, timeout_s=0.2)
    proxy.restore()
    assert asked(client, ONES).sum() == 8
    proxy.drop()
    with pytest.raises(NoAnswerError):
        client.ask(ONES, timeout_s=1.0)
    proxy.restore()
    assert wait_until(lambda: answers(client))


def answers(client: CloudClient) -> bool:
    try:
        return bool(asked(client, ONES, 1.0).sum() == 8)
    except NoAnswerError:
        return False


def test_another_session_is_refused(cloud: Cloud, client_of: ClientOf) -> None:
    with pytest.raises(RefusedError, match="refuses: the edge belongs to session other"):
        client_of(cloud.address, "other").ask(ONES, timeout_s=5.0)


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", ONES[:-2], FP32.encode(torch.ones(1, VALUES + 1))],
    ids=["empty", "garbage", "truncated", "wrong shape"],
)
def test_a_bad_query_is_refused_and_the_next_is_answered(
    cloud: Cloud, client_of: ClientOf, content: bytes
) -> None:
    client = client_of(cloud.address)
    with pytest.raises(RefusedError):
        client.ask(content, timeout_s=5.0)
    assert asked(client, ONES).sum() == 8


def test_logits_that_are_not_finite_are_no_answer(cloud: Cloud, client_of: ClientOf) -> None:
    client = client_of(cloud.address)
    with pytest.raises(NoAnswerError, match="cannot answer"):
        client.ask(FP32.encode(torch.full((1, VALUES), 13.0)), timeout_s=5.0)
    assert asked(client, ONES).sum() == 8


def test_a_cloud_that_stops_says_so(cloud: Cloud, client_of: ClientOf) -> None:
    client = client_of(cloud.address)
    cloud.server.drain()
    with pytest.raises(NoAnswerError, match="stopping"):
        client.ask(ONES, timeout_s=5.0)


def test_a_revoked_edge_is_refused_at_its_next_query(
    cloud_of: Callable[..., Cloud], certs: Path, opened: ExitStack
) -> None:
    folder = certs / "ours" / "server"
    gate = Gate(folder, recheck_s=0.05)
    cloud = cloud_of(gate=gate, credentials=server_credentials(folder))
    target = secure_target(cloud.address, certs / "ours" / "devices" / "edge-1")
    client = opened.enter_context(closing(CloudClient(target, "")))
    assert asked(client, ONES).sum() == 8
    revoke(certs / "ours", "edge-1")
    assert wait_until(lambda: refused(client), 2.0)


def refused(client: CloudClient) -> bool:
    try:
        client.ask(ONES, timeout_s=5.0)
    except RefusedError as error:
        return "revoked" in str(error)
    return False


@contextmanager
def answering(answer: Callable[[bytes], bytes]) -> Iterator[str]:
    """Serve ``answer`` of every query's bytes; return the address."""
    server = grpc.server(ThreadPoolExecutor(1))
    method = grpc.unary_unary_rpc_method_handler(lambda request, context: answer(request))
    handlers = grpc.method_handlers_generic_handler(SERVICE, {"Infer": method})
    server.add_generic_rpc_handlers((handlers,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def answer_with(payload: bytes) -> Callable[[bytes], bytes]:
    """Return what answers every query with ``payload`` and its own ticket."""

    def answer(request: bytes) -> bytes:
        ticket = Query.FromString(request).ticket
        return Answer(payload=payload, ticket=ticket).SerializeToString()

    return answer


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (lambda request: b"\xff" * 50, NoAnswerError, None),
        (lambda request: b"", PayloadError, "another one"),
        (answer_with(b"no tensor"), PayloadError, None),
        (answer_with(ONES[:-1]), PayloadError, None),
        (lambda request: Answer(payload=ONES).SerializeToString(), PayloadError, "another one"),
    ],
    ids=["garbage", "empty", "no tensor", "truncated", "no ticket"],
)
def test_a_garbage_answer_is_an_error_of_ours(
    client_of: ClientOf,
    opened: ExitStack,
    answer: Callable[[bytes], bytes],
    error: type[Exception],
    words: str | None,
) -> None:
    address = opened.enter_context(answering(answer))
    with pytest.raises(error, match=words):
        asked(client_of(address), ONES)


def test_the_answer_to_another_query_is_refused(client_of: ClientOf, opened: ExitStack) -> None:
    earlier: list[bytes] = []

    def late_by_one(request: bytes) -> bytes:
        earlier.append(Query.FromString(request).ticket)
        return Answer(payload=ONES, ticket=earlier[-2:][0]).SerializeToString()

    client = client_of(opened.enter_context(answering(late_by_one)))
    assert asked(client, ONES).equal(decode(ONES))
    with pytest.raises(PayloadError, match="got that to another one"):
        client.ask(ONES, timeout_s=5.0)
