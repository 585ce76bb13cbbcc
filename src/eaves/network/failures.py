"""Why an edge could not reach its cloud, in words: what TLS and gRPC say, and by which proxy."""

from typing import Final

import grpc

from eaves.network.proxies import proxy_for

_RENEW = "the operator makes a new one with `eaves certs init --renew`"
_FAILURES: Final = (
    (
        "certificate has expired",
        f"the cloud's certificate has expired ({_RENEW}), or this machine's clock is ahead",
    ),
    (
        "certificate is not yet valid",
        "the cloud's certificate is not valid yet: is this machine's clock behind?",
    ),
    (
        "Hostname Verification Check failed",
        "the cloud's certificate is for other host names or addresses than the one it was called "
        f"by; {_RENEW}, with --host",
    ),
    (
        "unsupported certificate purpose",
        "what answers there shows a certificate that is not a server's",
    ),
    (
        "WRONG_VERSION_NUMBER",
        "what answers there does not speak TLS: is it a cloud started with --insecure?",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "the cloud's certificate is of another authority than the ca.pem of this device",
    ),
    (
        "BAD_SIGNATURE",
        "the cloud's certificate is of another authority than the ca.pem of this device",
    ),
)
# What a cloud that is not reached looks like.
_NO_WAY: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
# All that a client learns of TLS 1.3 when the server does not like what it was shown.
_HUNG_UP: Final = ("Socket closed", "Connection reset", "Broken pipe", "GOAWAY")


def explain(error: grpc.RpcError, address: str = "") -> str | None:
    """Return why an edge could not connect, in words, if gRPC's details tell; else None.

    A server that hangs up does not say why: the words then name all that it may be. Where the way
    to ``address`` goes through a proxy, that is named: it may be what does not answer.
    """
    words = _explained(error)
    proxy = proxy_for(address) if address and error.code() in _NO_WAY else None
    if proxy is None:
        return words
    details = words or error.details() or error.code().name
    return f"{details} (the way there goes through {proxy})"


def _explained(error: grpc.RpcError) -> str | None:
    if error.code() is not grpc.StatusCode.UNAVAILABLE:
        return None
    details = error.details() or ""
    for mark, words in _FAILURES:
        if mark in details:
            return words
    if "failed to connect" in details and any(mark in details for mark in _HUNG_UP):
        return (
            "the cloud hung up while the connection was made. If that goes on: it does not take "
            "this device's certificate (expired, not valid yet, of another authority, or none), "
            "or only one side was started with --insecure; the cloud's log may say which"
        )
    return None
