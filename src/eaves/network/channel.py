"""How an edge reaches its cloud."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import grpc

from eaves.network.credentials import device_credentials
from eaves.network.wire import MAX_MESSAGE_BYTES, PING_S, PONG_S, channel_options


@final
@dataclass(frozen=True, kw_only=True)
class Target:
    """A cloud's address, and what proves that this edge may go there."""

    address: str
    credentials: grpc.ChannelCredentials | None
    """None: plaintext."""
    metadata: tuple[tuple[str, str], ...] = field(default=(), repr=False)
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
        name=found.name,
    )


def insecure_target(address: str, name: str) -> Target:
    """Return the target of an edge that calls itself ``name``, in plaintext."""
    return Target(address=address, credentials=None, metadata=(("eaves-edge", name),), name=name)


def connect(target: Target) -> grpc.Channel:
    """Return a new channel; it connects when it is first used."""
    options = channel_options(
        target.max_message_bytes,
        receive_bytes=target.receive_bytes,
        ping_s=target.ping_s,
        pong_s=target.pong_s,
    )
    if target.credentials is None:
        return grpc.insecure_channel(target.address, options)
    return grpc.secure_channel(target.address, target.credentials, options)
