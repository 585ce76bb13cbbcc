"""How an edge reaches its cloud: with the options and proofs that its target says."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.network.conftest import Caller, Cloud

from eaves.errors import ConfigError
from eaves.network.channel import Target, insecure_target, secure_target
from eaves.network.credentials import Gate, server_credentials
from eaves.network.wire import MAX_MESSAGE_BYTES, channel_options, server_options


def test_a_dead_link_is_noticed_within_80_seconds_by_both_sides() -> None:
    for options in (dict(channel_options()), dict(server_options())):
        assert options["grpc.keepalive_time_ms"] == 20_000
        assert options["grpc.keepalive_timeout_ms"] == 60_000
        assert options["grpc.http2.ping_timeout_ms"] == 80_000
    server = dict(server_options())
    assert server["grpc.server_handshake_timeout_ms"] == 10_000
    # A cloud that found an edge's pings too many would hang up on it.
    assert server["grpc.http2.min_ping_interval_without_data_ms"] < 20_000


def test_one_connection_fills_little_memory_with_calls_that_nobody_reads() -> None:
    """Were gRPC to probe the bandwidth, the windows would have grown with it."""
    server = dict(server_options())
    assert server["grpc.http2.bdp_probe"] == 0
    assert server["grpc.http2.lookahead_bytes"] * server["grpc.max_concurrent_streams"] <= 2**24


def test_a_target_does_not_print_its_secrets(certs: Path) -> None:
    folder = certs / "ours" / "devices" / "edge-2"
    target = secure_target("localhost:1", folder)
    secret = (folder / "token").read_text().strip()
    assert target.metadata == (("authorization", f"Bearer {secret}"),)
    assert target.name == "edge-2"
    assert secret not in repr(target)


def test_a_folder_without_credentials_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="eaves certs"):
        secure_target("localhost:1", tmp_path)


@pytest.mark.parametrize(("auth", "name"), [("certificates", "edge-1"), ("tokens", "edge-2")])
def test_the_name_is_that_of_the_proof(
    cloud_of: Callable[..., Cloud],
    caller_of: Callable[..., Caller],
    certs: Path,
    auth: str,
    name: str,
) -> None:
    folder = certs / "ours" / "server"
    cloud = cloud_of(gate=Gate(folder, auth), credentials=server_credentials(folder, auth))
    target = secure_target(cloud.address, certs / "ours" / "devices" / name)
    claims = Target(
        address=target.address,
        credentials=target.credentials,
        metadata=(*target.metadata, ("eaves-edge", "somebody-else")),
        name=target.name,
    )
    caller_of(claims).enter()
    assert [run.edge for run in cloud.trainer.accounts().accounts] == [name]


def test_in_plaintext_the_name_is_claimed(
    cloud_of: Callable[..., Cloud], caller_of: Callable[..., Caller]
) -> None:
    cloud = cloud_of()
    target = insecure_target(cloud.address, "some.edge")
    assert target.max_message_bytes == MAX_MESSAGE_BYTES
    caller_of(target).enter()
    assert [run.edge for run in cloud.trainer.accounts().accounts] == ["some.edge"]
    refused = caller_of(insecure_target(cloud.address, "../x"))
    assert refused.refusal()[0] == "UNAUTHENTICATED"
