"""Which proxy a connection goes through: none to this machine, and else the one that gRPC takes."""

import pytest

from eaves.network.proxies import is_loopback, proxy_for

HTTP, GRPC = "http://10.0.0.1:3128", "http://10.0.0.2:3128"


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("localhost:1", True),
        ("127.0.0.1:1", True),
        ("127.8.8.8:1", True),
        ("[::1]:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("192.168.0.1:1", False),
        ("cloud.example:1", False),
        ("localhost.example:1", False),
    ],
)
def test_what_cannot_be_reached_from_elsewhere(address: str, here: bool) -> None:
    assert is_loopback(address) == here


@pytest.mark.parametrize("address", ["localhost:1", "LOCALHOST:1", "127.0.0.1:1", "[::1]:1"])
@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
def test_this_machine_is_never_behind_a_proxy(address: str, variable: str) -> None:
    assert proxy_for(address, {variable: HTTP}) is None
    assert proxy_for("cloud.example:1", {variable: HTTP}) == (HTTP, variable)


def test_the_order_is_that_of_grpc() -> None:
    environ = {"http_proxy": HTTP, "grpc_proxy": GRPC, "https_proxy": ""}
    assert proxy_for("cloud.example:1", environ) == (GRPC, "grpc_proxy")
    assert proxy_for("cloud.example:1", {"HTTP_PROXY": HTTP}) is None  # gRPC reads small letters


@pytest.mark.parametrize(
    ("excepted", "left_out"),
    [
        ("cloud.example", True),
        ("other.example, .example", True),
        ("other.example", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("variable", ["no_proxy", "no_grpc_proxy"])
def test_hosts_that_are_left_out(variable: str, excepted: str, left_out: bool) -> None:
    found = proxy_for("cloud.example:1", {"http_proxy": HTTP, variable: excepted})
    assert (found is None) == left_out


def test_addresses_that_are_left_out_by_their_network() -> None:
    environ = {"http_proxy": HTTP, "no_proxy": "10.0.0.0/8,2001:db8::/32"}
    assert proxy_for("10.1.2.3:1", environ) is None
    assert proxy_for("[2001:db8::7]:1", environ) is None
    assert proxy_for("11.1.2.3:1", environ) is not None


def test_a_password_is_not_shown() -> None:
    found = proxy_for("cloud.example:1", {"http_proxy": "http://me:secret@10.0.0.1:3128"})
    assert "secret" not in str(found)
    assert "http_proxy" in str(found)
