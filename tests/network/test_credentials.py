"""Over real connections: who proves who they are is named, everybody else is refused, in words."""

import json
import logging
import os
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from eaves.errors import AccessError, ConfigError, StateError
from eaves.network import certificates
from eaves.network.accesslog import AccessLog
from eaves.network.certificates import (
    initialise,
    make_device,
    make_server,
    make_token,
    revoke,
)
from eaves.network.credentials import (
    Gate,
    Peer,
    device_credentials,
    server_credentials,
)
from eaves.network.failures import explain
from eaves.network.x509 import fingerprint_of, read_certificate

TIMEOUT_S = 10.0
HOSTS = ["localhost", "127.0.0.1"]
Metadata = tuple[tuple[str, str], ...]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return two authorities with servers and devices, some out of date. Not to be changed."""
    root = tmp_path_factory.mktemp("made")
    with _clock_ahead(-500):
        for name in ("ours", "foreign"):
            initialise(root / name, HOSTS)
    for folder in (root / "ours", root / "foreign"):
        make_server(folder, HOSTS, renew=True)
        make_device(folder, "edge-1")
    ours = root / "ours"
    make_device(ours, "edge-2")
    make_token(ours, "edge-3")
    for name, days in (("expired", -450), ("early", 10)):
        with _clock_ahead(days):
            make_device(ours, name)
        _another_server(ours, root / f"{name}-server", HOSTS, days)
    _another_server(ours, root / "elsewhere", ["cloud.example", "192.0.2.7"], 0)
    return root


@contextmanager
def _clock_ahead(days: int) -> Iterator[None]:
    now = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certificates, "_now", lambda: now)
        yield


def _another_server(ours: Path, to: Path, hosts: list[str], days: int) -> None:
    """Make a server's folder at ``to`` and leave that of ``ours`` as it was."""
    shutil.copytree(ours, to)
    with _clock_ahead(days):
        make_server(to, hosts, renew=True)


@pytest.fixture
def ours(made: Path, tmp_path: Path) -> Path:
    """Return a copy of the credentials, to be changed."""
    shutil.copytree(made / "ours", tmp_path / "ours")
    return tmp_path / "ours"


# A server that says who is there, and a client


@contextmanager
def _serving(gate: Gate, credentials: grpc.ServerCredentials | None) -> Iterator[int]:
    """Answer a call with the caller's name; a stream with its name for as long as it may stay."""
    ended = threading.Event()

    def admit(context: grpc.ServicerContext) -> Peer:
        metadata = {str(k): str(v) for k, v in context.invocation_metadata()}
        try:
            return gate.identify(context.auth_context(), metadata)
        except (AccessError, StateError) as error:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
            raise

    def name(request: bytes, context: grpc.ServicerContext) -> bytes:
        return admit(context).name.encode()

    def stream(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        peer = admit(context)
        while not ended.wait(0.01):
            try:
                gate.expect_allowed(peer)
            except AccessError as error:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
            yield peer.name.encode()

    handlers = {
        "Name": grpc.unary_unary_rpc_method_handler(name),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
    }
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))
        if credentials is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        try:
            yield port
        finally:
            ended.set()
            server.stop(0).wait()


@contextmanager
def _channel(
    port: int, credentials: grpc.ChannelCredentials | None, host: str = "127.0.0.1"
) -> Iterator[grpc.Channel]:
    address, options = f"{host}:{port}", [("grpc.use_local_subchannel_pool", 1)]
    if credentials is None:
        channel = grpc.insecure_channel(address, options)
    else:
        channel = grpc.secure_channel(address, credentials, options)
    with channel:
        yield channel


def _name(
    port: int,
    credentials: grpc.ChannelCredentials | None,
    metadata: Metadata = (),
    host: str = "127.0.0.1",
) -> str:
    """Return the name by which the server knows us."""
    with _channel(port, credentials, host) as channel:
        call = channel.unary_unary("/test/Name")
        return bytes(call(b"", timeout=TIMEOUT_S, metadata=metadata)).decode()


def _raw(folder: Path, *, own: bool = True) -> grpc.ChannelCredentials:
    """Return credentials without the checks that an edge makes before it connects."""
    ca = (folder / "ca.pem").read_bytes()
    if not own:
        return grpc.ssl_channel_credentials(ca)
    pair = (folder / "key.pem").read_bytes(), (folder / "cert.pem").read_bytes()
    return grpc.ssl_channel_credentials(ca, *pair)


def _server(folder: Path) -> grpc.ServerCredentials:
    """Return a server's mutual TLS without the checks that a cloud makes when it starts."""
    pair = (folder / "key.pem").read_bytes(), (folder / "cert.pem").read_bytes()
    return grpc.ssl_server_credentials([pair], (folder / "ca.pem").read_bytes(), True)


def _refusal(*args: Any, **options: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as refused:
        _name(*args, **options)
    return refused.value


# Mutual TLS


@pytest.mark.parametrize("host", HOSTS)
def test_a_device_is_known_by_its_certificate_whatever_it_claims(made: Path, host: str) -> None:
    folder = made / "ours"
    gate = Gate(folder / "server")
    with _serving(gate, server_credentials(folder / "server")) as port:
        for name in ("edge-1", "edge-2"):
            found = device_credentials(folder / "devices" / name)
            assert (found.name, found.metadata) == (name, ())
            claims = (("eaves-edge", "edge-9"), ("authorization", "Bearer edge-9"))
            assert _name(port, found.channel, claims, host) == name


HUNG_UP = "hung up while the connection was made"


@pytest.mark.parametrize(
    ("server", "device", "words"),
    [
        ("ours/server", "foreign/devices/edge-1", "of another authority"),
        ("foreign/server", "ours/devices/edge-1", "of another authority"),
        ("expired-server/server", "ours/devices/edge-1", r"certificate has expired"),
        ("early-server/server", "ours/devices/edge-1", "not valid yet"),
        ("elsewhere/server", "ours/devices/edge-1", "for other host names or addresses"),
        ("ours/devices/edge-2", "ours/devices/edge-1", "not a server's"),
        ("ours/server", "ours/devices/expired", HUNG_UP),
        ("ours/server", "ours/devices/early", HUNG_UP),
        ("ours/server", "ours/server", HUNG_UP),  # a server is no device
    ],
)
def test_who_is_not_whom_they_should_be_does_not_get_through(
    made: Path, server: str, device: str, words: str
) -> None:
    with _serving(Gate(made / "ours" / "server"), _server(made / server)) as port:
        refused = _refusal(port, _raw(made / device))
    assert refused.code() is grpc.StatusCode.UNAVAILABLE
    assert words in str(explain(refused))


def test_a_device_of_another_authority_that_trusts_ours_does_not_get_through(
    made: Path, tmp_path: Path
) -> None:
    shutil.copytree(made / "foreign" / "devices" / "edge-1", tmp_path / "edge-1")
    shutil.copy(made / "ours" / "authority" / "ca.pem", tmp_path / "edge-1" / "ca.pem")
    folder = made / "ours" / "server"
    with _serving(Gate(folder), server_credentials(folder)) as port:
        assert HUNG_UP in str(explain(_refusal(port, _raw(tmp_path / "edge-1"))))
        assert HUNG_UP in str(explain(_refusal(port, _raw(tmp_path / "edge-1", own=False))))


def test_plaintext_and_tls_do_not_mix_and_words_say_so(made: Path) -> None:
    folder = made / "ours"
    with _serving(Gate(folder / "server"), server_credentials(folder / "server")) as port:
        assert "--insecure" in str(explain(_refusal(port, None, (("eaves-edge", "edge-1"),))))
    with _serving(Gate(None), None) as port:
        refused = _refusal(port, _raw(folder / "devices" / "edge-1"))
        assert "does not speak TLS" in str(explain(refused))


def test_words_are_for_connections_that_fail_and_for_no_others(made: Path) -> None:
    with _serving(Gate(None), None) as port:
        refused = _refusal(port, None)
        assert refused.code() is grpc.StatusCode.UNAUTHENTICATED
        assert explain(refused) is None
    assert explain(_refusal(port, None)) is None  # nobody listens there any more


def test_a_revoked_device_is_refused_and_a_renewed_one_is_not(ours: Path) -> None:
    gate = Gate(ours / "server", recheck_s=0)
    home = ours / "devices" / "edge-1"
    with _serving(gate, server_credentials(ours / "server")) as port:
        old = device_credentials(home).channel
        assert _name(port, old) == "edge-1"
        revoke(ours, "edge-1")
        refused = _refusal(port, old)
        assert refused.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "the certificate is revoked" in str(refused.details())
        make_device(ours, "edge-1", renew=True)
        assert _name(port, device_credentials(home).channel) == "edge-1"
        assert _name(port, device_credentials(ours / "devices" / "edge-2").channel) == "edge-2"
        assert _refusal(port, old).code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(("auth", "name"), [("certificates", "edge-1"), ("tokens", "edge-3")])
def test_revocation_ends_a_stream_that_is_open(ours: Path, auth: str, name: str) -> None:
    gate = Gate(ours / "server", auth, recheck_s=0.05)
    found = device_credentials(ours / "devices" / name)
    with (
        _serving(gate, server_credentials(ours / "server", auth)) as port,
        _channel(port, found.channel) as channel,
    ):
        stream = channel.unary_stream("/test/Stream")(
            b"", timeout=TIMEOUT_S, metadata=found.metadata
        )
        assert {next(stream) for _ in range(10)} == {name.encode()}
        revoke(ours, "edge-2")  # another's is no reason
        assert {next(stream) for _ in range(10)} == {name.encode()}
        revoke(ours, name)
        with pytest.raises(grpc.RpcError) as refused:
            for _ in stream:
                pass
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "is revoked" in str(refused.value.details())


# What changes while a server runs


def _served_fingerprint(port: int, ours: Path) -> str:
    """Return the fingerprint of what the server shows to one who connects now."""
    context = ssl.create_default_context(cafile=ours / "server" / "ca.pem")
    home = ours / "devices" / "edge-1"
    context.load_cert_chain(home / "cert.pem", home / "key.pem")
    with (
        socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        return fingerprint_of(tls.getpeercert(binary_form=True) or b"")


def _on_disk(ours: Path) -> str:
    return read_certificate((ours / "server" / "cert.pem").read_text()).fingerprint


@pytest.mark.parametrize("auth", ["certificates", "tokens"])
def test_a_renewed_certificate_is_shown_without_a_restart_and_streams_go_on(
    ours: Path, auth: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("eaves.network.credentials._RECHECK_S", 0.0)
    name = "edge-1" if auth == "certificates" else "edge-3"
    found = device_credentials(ours / "devices" / name)
    gate = Gate(ours / "server", auth)
    with (
        _serving(gate, server_credentials(ours / "server", auth)) as port,
        _channel(port, found.channel) as channel,
    ):
        stream = channel.unary_stream("/test/Stream")(
            b"", timeout=TIMEOUT_S, metadata=found.metadata
        )
        next(stream)
        old = _on_disk(ours)
        assert _served_fingerprint(port, ours) == old
        make_server(ours, HOSTS, renew=True)
        assert _served_fingerprint(port, ours) == _on_disk(ours) != old
        next(stream)
        # Half copied: the new certificate beside the old key. It goes on with what it has.
        kept = _on_disk(ours)
        shutil.copytree(ours, ours.parent / "other")
        make_server(ours.parent / "other", HOSTS, renew=True)
        shutil.copy(ours.parent / "other" / "server" / "cert.pem", ours / "server" / "cert.pem")
        assert _served_fingerprint(port, ours) == kept
        assert _served_fingerprint(port, ours) == kept
        assert caplog.text.count("goes on with the certificate that it has") == 1
        shutil.copy(ours.parent / "other" / "server" / "key.pem", ours / "server" / "key.pem")
        assert _served_fingerprint(port, ours) == _on_disk(ours) != kept
        next(stream)
        assert _name(port, found.channel, found.metadata) == name


def test_a_certificate_that_expires_ends_its_stream_and_opens_no_other(
    ours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(ours / "server", log=AccessLog(ours / "access.jsonl"))
    first, second = (device_credentials(ours / "devices" / n).channel for n in ("edge-1", "edge-2"))
    with (
        _serving(gate, server_credentials(ours / "server")) as port,
        _channel(port, first) as one,
        _channel(port, second) as other,
    ):
        make_device(ours, "edge-1", days=1, renew=True)
        short = device_credentials(ours / "devices" / "edge-1").channel
        with _channel(port, short) as channel:
            stream = channel.unary_stream("/test/Stream")(b"", timeout=TIMEOUT_S)
            next(stream)
            bystander = other.unary_stream("/test/Stream")(b"", timeout=TIMEOUT_S)
            next(bystander)
            tomorrow = datetime.now(UTC) + timedelta(days=1, minutes=1)
            monkeypatch.setattr("eaves.network.credentials._now", lambda: tomorrow)
            with pytest.raises(grpc.RpcError) as ended:
                for _ in stream:
                    pass
            assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "the certificate expired on 20" in str(ended.value.details())
            with pytest.raises(grpc.RpcError, match="the certificate expired"):
                channel.unary_unary("/test/Name")(b"", timeout=TIMEOUT_S)
            next(bystander)
            assert bytes(one.unary_unary("/test/Name")(b"", timeout=TIMEOUT_S)) == b"edge-1"
    (line,) = map(json.loads, (ours / "access.jsonl").read_text().splitlines()[-1:])
    assert (line["event"], "the certificate expired" in line["why"]) == ("refused", True)


def test_whom_the_gate_refuses_and_why_is_written_down(ours: Path) -> None:
    gate = Gate(ours / "server", "tokens", log=AccessLog(ours / "denied.jsonl"))
    secret = "eaves-token.edge-3." + "x" * 43
    wrong: list[dict[str, str]] = [
        {},
        {"authorization": f"Bearer {secret}"},
        {"authorization": "Bearer a\nforged\x1b[2J"},
    ]
    for metadata in wrong:
        with pytest.raises(AccessError):
            gate.identify({}, metadata, "ipv4:192.0.2.7:4242")
    lines = [json.loads(line) for line in (ours / "denied.jsonl").read_text().splitlines()]
    assert [line["source"] for line in lines] == ["ipv4:192.0.2.7"] * 3
    assert [line["why"] for line in lines] == [
        "this cloud asks for a token, and none was sent",
        *["the token is unknown to this cloud"] * 2,
    ]
    assert secret[-43:] not in (ours / "denied.jsonl").read_text()


# Tokens


def test_a_device_is_known_by_its_token_and_a_revoked_one_is_worth_nothing(ours: Path) -> None:
    gate = Gate(ours / "server", "tokens", recheck_s=0)
    home = ours / "devices" / "edge-3"
    with _serving(gate, server_credentials(ours / "server", "tokens")) as port:
        old = device_credentials(home)
        assert old.name == _name(port, old.channel, old.metadata) == "edge-3"
        lower = tuple((k, v.replace("Bearer", "bearer")) for k, v in old.metadata)
        assert _name(port, old.channel, lower) == "edge-3"
        revoke(ours, "edge-3")
        make_token(ours, "edge-3", renew=True)
        stolen = _refusal(port, old.channel, old.metadata)
        assert stolen.code() is grpc.StatusCode.UNAUTHENTICATED
        assert stolen.details() == "the token is revoked; its holder needs a new one"
        new = device_credentials(home)
        assert _name(port, new.channel, new.metadata) == "edge-3"


def _wrong_tokens(token: str) -> dict[str, Metadata]:
    other = "A" if token[-5] != "A" else "B"
    return {
        "none": (),
        "only a claim": (("eaves-edge", "edge-3"),),
        "empty": (("authorization", "Bearer "),),
        "not as a bearer": (("authorization", f"Basic {token}"),),
        "one character off": (("authorization", f"Bearer {token[:-5]}{other}{token[-4:]}"),),
        "of another name": (("authorization", f"Bearer {token.replace('edge-3', 'edge-4')}"),),
        "cut short": (("authorization", f"Bearer {token[:-1]}"),),
        "very long": (("authorization", f"Bearer {token * 20}"),),
    }


def test_a_token_that_is_wrong_is_refused_and_not_repeated(
    made: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = made / "ours"
    token = (folder / "devices" / "edge-3" / "token").read_text().strip()
    tls = _raw(folder / "devices" / "edge-1", own=False)
    gate = Gate(folder / "server", "tokens")
    with (
        caplog.at_level(logging.DEBUG),
        _serving(gate, server_credentials(folder / "server", "tokens")) as port,
    ):
        for name, metadata in _wrong_tokens(token).items():
            refused = _refusal(port, tls, metadata)
            assert refused.code() is grpc.StatusCode.UNAUTHENTICATED, name
            assert "token" in str(refused.details())
            assert token[30:50] not in f"{refused!r} {refused} {caplog.text}"


def test_the_hash_that_the_server_keeps_is_no_token(made: Path) -> None:
    gate = Gate(made / "ours" / "server", "tokens")
    (kept,) = json.loads((made / "ours" / "server" / "tokens.json").read_text())["tokens"]
    with pytest.raises(AccessError, match="unknown"):
        gate.identify({}, {"authorization": f"Bearer {kept['sha256']}"})


def test_a_token_goes_to_no_server_but_ours(made: Path) -> None:
    """The device sees whom it talks to before it sends anything."""
    seen: list[Any] = []

    class _Thief(grpc.GenericRpcHandler):  # type: ignore[misc, unused-ignore]
        def service(self, details: grpc.HandlerCallDetails) -> None:
            seen.append(details.invocation_metadata)

    found = device_credentials(made / "ours" / "devices" / "edge-3")
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads, handlers=[_Thief()])
        foreign = server_credentials(made / "foreign" / "server", "tokens")
        port = server.add_secure_port("127.0.0.1:0", foreign)
        server.start()
        refused = _refusal(port, found.channel, found.metadata)
        server.stop(0).wait()
    assert "of another authority" in str(explain(refused))
    assert seen == []


# The gate by itself


def test_without_a_folder_peers_are_what_they_claim(tmp_path: Path) -> None:
    gate = Gate(None)
    peer = gate.identify({}, {"eaves-edge": "edge-1"})
    assert peer.name == "edge-1"
    assert gate.still_allowed(peer)
    for name in ("", "../edge", "a\nb", "x" * 65):
        with pytest.raises(AccessError, match="expected a name"):
            gate.identify({}, {"eaves-edge": name})


def test_a_certificate_must_be_readable_and_name_an_edge(made: Path) -> None:
    gate = Gate(made / "ours" / "server")
    pem = (made / "ours" / "devices" / "edge-1" / "cert.pem").read_bytes()
    assert gate.identify({"x509_common_name": [b"edge-1"], "x509_pem_cert": [pem]}, {})
    for context, words in [
        ({}, "none was shown"),
        ({"x509_common_name": [b"edge-1"]}, "none was shown"),
        ({"x509_common_name": [b"edge-1"], "x509_pem_cert": [b"nonsense"]}, "cannot be read"),
        ({"x509_common_name": [b"../edge"], "x509_pem_cert": [pem]}, "has no name"),
        ({"x509_common_name": [b"\xff"], "x509_pem_cert": [pem]}, "has no name"),
        ({"x509_pem_cert": [pem]}, "has no name"),
    ]:
        with pytest.raises(AccessError, match=words):
            gate.identify(context, {})


def _become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_text(""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "another kind": lambda path: path.write_text('{"others": []}'),
    "no list": lambda path: path.write_text('{"revoked": {}, "tokens": "none"}'),
    "not a digest": lambda path: path.write_text(
        '{"revoked": [{"sha256": "x"}], "tokens": [{"name": "edge-3", "sha256": "x"}]}'
    ),
    "not an entry": lambda path: path.write_text('{"revoked": [7], "tokens": [7]}'),
    "not a text": lambda path: path.write_bytes(b"\xff\xfe"),
    "too deep": lambda path: path.write_text("[" * 100_000),
    "a folder": _become_a_folder,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("auth", ["certificates", "tokens"])
def test_with_a_damaged_list_nobody_gets_in_or_stays_until_it_is_mended(
    ours: Path, auth: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = ours / "server" / ("revoked.json" if auth == "certificates" else "tokens.json")
    pem = (ours / "devices" / "edge-1" / "cert.pem").read_bytes()
    context = {"x509_common_name": [b"edge-1"], "x509_pem_cert": [pem]}
    token = (ours / "devices" / "edge-3" / "token").read_text().strip()
    metadata = {"authorization": f"Bearer {token}"}
    gate = Gate(ours / "server", auth, recheck_s=0)
    peer, whole = gate.identify(context, metadata), path.read_bytes()
    DAMAGE[damage](path)
    with pytest.raises(StateError, match=f"{path.name} is .*no one is admitted") as refused:
        gate.identify(context, metadata)
    assert str(ours) not in str(refused.value)  # the peer need not know where it lies
    assert not gate.still_allowed(peer)
    assert str(path) in caplog.text
    assert len(caplog.records) == 1  # not once for each that knocks
    with pytest.raises(StateError, match=r"server: .*eaves certs init"):
        Gate(ours / "server", auth)
    if path.is_dir():
        path.rmdir()
    path.write_bytes(whole)
    assert gate.still_allowed(peer)
    assert gate.identify(context, metadata) == peer


def test_a_list_is_looked_at_no_more_often_than_asked(
    ours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr("eaves.network.credentials.time.monotonic", lambda: now_s)
    gate = Gate(ours / "server")
    pem = (ours / "devices" / "edge-1" / "cert.pem").read_bytes()
    peer = gate.identify({"x509_common_name": [b"edge-1"], "x509_pem_cert": [pem]}, {})
    revoke(ours, "edge-1")
    now_s = 100.9
    assert gate.still_allowed(peer)
    now_s = 101.0
    assert not gate.still_allowed(peer)


def test_a_list_written_in_place_with_the_same_size_and_time_is_read_again(ours: Path) -> None:
    path = ours / "server" / "revoked.json"
    revoke(ours, "edge-2")
    there = path.stat()
    gate = Gate(ours / "server", recheck_s=0)
    pem = (ours / "devices" / "edge-1" / "cert.pem").read_bytes()
    peer = gate.identify({"x509_common_name": [b"edge-1"], "x509_pem_cert": [pem]}, {})
    (entry,) = json.loads(path.read_text())["revoked"]
    path.write_text(path.read_text().replace(entry["sha256"], peer.proof))
    os.utime(path, ns=(there.st_atime_ns, there.st_mtime_ns))
    assert path.stat().st_size == there.st_size
    assert not gate.still_allowed(peer)


def test_an_auth_that_is_not_one_is_refused(made: Path) -> None:
    for make in (Gate, server_credentials):
        with pytest.raises(ConfigError, match="unknown auth 'token'; choose from: tokens"):
            make(made / "ours" / "server", "token")


# What is wrong with a folder is said before anything connects


def _device(ours: Path) -> Path:
    return ours / "devices" / "edge-1"


@pytest.mark.parametrize("name", ["ca.pem", "cert.pem", "key.pem"])
@pytest.mark.parametrize("read", [device_credentials, server_credentials])
def test_what_is_missing_or_damaged_is_named(
    ours: Path, read: Callable[[Path], object], name: str
) -> None:
    folder = _device(ours) if read is device_credentials else ours / "server"
    (folder / name).write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(ConfigError, match=rf"{name}.* (is )?damaged"):
        read(folder)
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=rf"cannot read .*{name}: No such file.*eaves certs"):
        read(folder)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_secrets_that_others_may_read_are_refused_with_the_command(ours: Path, mode: int) -> None:
    for read, path in [
        (device_credentials, _device(ours) / "key.pem"),
        (device_credentials, ours / "devices" / "edge-3" / "token"),
        (server_credentials, ours / "server" / "key.pem"),
    ]:
        path.chmod(mode)
        with pytest.raises(ConfigError, match=rf"\(mode {mode:o}\): chmod 600 {path}$"):
            read(path.parent)
        path.chmod(0o400)
        read(path.parent)


def test_a_certificate_out_of_date_is_refused_with_the_date(made: Path) -> None:
    day = datetime.now(UTC) - timedelta(days=450 - 397)
    with pytest.raises(ConfigError, match=rf"cert\.pem expired on {day:%Y-%m-%d}.*--renew"):
        device_credentials(made / "ours" / "devices" / "expired")
    with pytest.raises(ConfigError, match=r"cert\.pem expired on"):
        server_credentials(made / "expired-server" / "server")
    with pytest.raises(ConfigError, match=r"valid from .* only, .* set the clock"):
        device_credentials(made / "ours" / "devices" / "early")


def test_one_that_expires_soon_is_told(ours: Path, caplog: pytest.LogCaptureFixture) -> None:
    device_credentials(make_device(ours, "long", days=31))
    assert caplog.text == ""
    device_credentials(make_device(ours, "short", days=29))
    assert "short/cert.pem expires on" in caplog.text


def test_a_key_of_another_certificate_is_refused(ours: Path) -> None:
    shutil.copy(ours / "devices" / "edge-2" / "key.pem", _device(ours) / "key.pem")
    with pytest.raises(ConfigError, match=r"key\.pem is not the key of .*cert\.pem"):
        device_credentials(_device(ours))


def test_the_servers_folder_is_no_devices(made: Path) -> None:
    with pytest.raises(ConfigError, match="not that of a device"):
        device_credentials(made / "ours" / "server")
    with pytest.raises(StateError, match=r"revoked\.json is .*eaves certs init"):
        Gate(made / "ours" / "devices" / "edge-1")


def test_a_folder_with_both_or_with_a_token_that_is_none_is_refused(ours: Path) -> None:
    token = ours / "devices" / "edge-3" / "token"
    shutil.copy(token, _device(ours) / "token")
    with pytest.raises(ConfigError, match="holds a certificate and a token; remove"):
        device_credentials(_device(ours))
    secret = token.read_text()[:-10]
    token.write_text(secret)
    with pytest.raises(ConfigError, match="holds no token") as refused:
        device_credentials(token.parent)
    assert secret.rpartition(".")[2] not in str(refused.value)


# No secret is shown


def test_nothing_shows_a_secret_when_printed(made: Path) -> None:
    found = device_credentials(made / "ours" / "devices" / "edge-3")
    token = (made / "ours" / "devices" / "edge-3" / "token").read_text().strip()
    gate = Gate(made / "ours" / "server", "tokens")
    peer = gate.identify({}, dict(found.metadata))
    assert repr(peer) == "Peer(name='edge-3')"
    shown = f"{found!r} {found} {gate!r} {gate}"
    assert token[20:] not in shown
    assert peer.proof not in shown
