"""HTTP proxies on the way to a cloud: which one gRPC will use, by the rules that it has.

gRPC reads grpc_proxy, https_proxy and http_proxy, in this order and in small letters, and leaves
out the hosts that no_grpc_proxy or no_proxy names. An address of this machine is never behind a
proxy: :mod:`eaves.network.channel` tells gRPC so.
"""

import ipaddress
import os
import re
from collections.abc import Mapping
from typing import Final, NamedTuple, final

_VARIABLES: Final = ("grpc_proxy", "https_proxy", "http_proxy")
_EXCEPTIONS: Final = ("no_grpc_proxy", "no_proxy")


@final
class Proxy(NamedTuple):
    """A proxy, and the environment variable that names it."""

    url: str
    """Without the name and password that may be in it."""
    variable: str

    def __str__(self) -> str:
        return f"the proxy {self.url}, which the environment variable {self.variable} names"


def host_of(address: str) -> str:
    """Return the host of an address HOST:PORT, without the brackets of IPv6.

    >>> host_of("[::1]:7443"), host_of("cloud.example:7443")
    ('::1', 'cloud.example')
    """
    return address.rpartition(":")[0].removeprefix("[").removesuffix("]")


def is_loopback(address: str) -> bool:
    """Return whether an address HOST:PORT cannot be reached from another machine.

    >>> is_loopback("localhost:7443"), is_loopback("0.0.0.0:7443")
    (True, False)
    """
    host = host_of(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def proxy_for(address: str, environ: Mapping[str, str] = os.environ) -> Proxy | None:
    """Return the proxy that the way to ``address`` goes through; None: there is none.

    >>> str(proxy_for("cloud.example:7443", {"http_proxy": "http://me:secret@10.0.0.1:3128"}))
    'the proxy http://10.0.0.1:3128, which the environment variable http_proxy names'
    """
    if is_loopback(address):
        return None
    excepted = next((environ[name] for name in _EXCEPTIONS if environ.get(name)), "")
    host = host_of(address).lower()
    for one in (word.strip().lower() for word in excepted.split(",")):
        if one and (host.endswith(one) or _in_network(host, one)):
            return None
    for name in _VARIABLES:
        if url := environ.get(name):
            return Proxy(re.sub(r"//[^/@]*@", "//", url), name)
    return None


def _in_network(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
