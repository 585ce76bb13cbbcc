"""How an edge reaches its cloud."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import final

import grpc

from eaves.errors import ConfigError
from eaves.network.credentials import device_credentials
from eaves.network.proxies import is_loopback
from eaves.network.wire import MAX_MESSAGE_BYTES, PING_S, PONG_S, channel_options


@final
@dataclass(frozen=True, kw_only=True)
class Target:
    """A cloud's address, and what proves that this edge may go there."""

    address: str
    credentials: grpc.ChannelCredentials | None
    """None: plaintext."""
    metadata: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    folder: Path | None = None
    """Where the credentials are from, to be read again when they were renewed."""
    name: str
    """Of this edge."""
    max_message_bytes: int = MAX_MESSAGE_BYTES
    receive_bytes: int | None = None
    """The largest message that may come from the cloud; None: as large as one to it."""
    ping_s: float = PING_S
    pong_s: float = PONG_S


def secure_target(address: str, folder: Path) -> Target:
    """Return the target for the credentials in ``folder``.

    Raises:
        ConfigError: something is missing in the folder, or out of date.
    """
    found = device_credentials(folder)
    return Target(
        address=address,
        credentials=found.channel,
        metadata=found.metadata,
        folder=folder,
        name=found.name,
    )


def insecure_target(address: str, name: str) -> Target:
    """Return the target of an edge that calls itself ``name``, in plaintext."""
    return Target(address=address, credentials=None, metadata=(("eaves-edge", name),), name=name)


def connect(target: Target) -> grpc.Channel:
    """Return a new channel; it connects when it is first used.

    To an address of this machine it goes straight, whatever proxy the environment names.
    """
    options = [
        *channel_options(
            target.max_message_bytes,
            receive_bytes=target.receive_bytes,
            ping_s=target.ping_s,
            pong_s=target.pong_s,
        )
    ]
    if is_loopback(target.address):
        options.append(("grpc.enable_http_proxy", 0))
    if target.credentials is None:
        return grpc.insecure_channel(target.address, options)
    return grpc.secure_channel(target.address, target.credentials, options)


def renewed(target: Target) -> Target:
    """Return ``target`` with the credentials that its folder has now, where they are of its name.

    What cannot be used, as while they are being copied there, changes nothing.
    """
    if target.folder is None:
        return target
    try:
        found = device_credentials(target.folder)
    except ConfigError:
        return target
    if found.name != target.name:
        return target
    return replace(target, credentials=found.channel, metadata=found.metadata)
