"""What both ends of the wire have in common: the version, the methods, the limits, the terms.

The messages are those of ``eaves.proto``. The bulk of an upload is its payload, and protobuf would
copy it twice; :func:`pack_edge_message` writes the same bytes with one copy.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from google.protobuf.message import DecodeError, Message

from eaves.errors import ConfigError, PayloadError
from eaves.network.eaves_pb2 import EdgeMessage

PROTOCOL: Final = 1
SERVICE: Final = "eaves.v1.Cloud"
TRAIN: Final = f"/{SERVICE}/Train"
INFER: Final = f"/{SERVICE}/Infer"
STATUS: Final = f"/{SERVICE}/Status"

MAX_MESSAGE_BYTES: Final = 64 * 2**20
_OVERHEAD_BYTES: Final = 4096  # of a message around its payload
_METADATA_BYTES: Final = 16 * 1024
_WINDOW_BYTES: Final = 2**18  # of a call, received before anybody has asked for it
_MOST_TERMS: Final = 2**20  # characters; a thousand classes have some 20 000
_MOST_NAMED: Final = 10  # differences in a message: gRPC carries a few KB
PING_S: Final = 20.0
"""A connection on which nothing comes for so long is asked for a sign of life,"""
PONG_S: Final = 60.0
"""and ends if there is none within so long. On a slow uplink the question waits behind what is
sent before it: 8 MB take a minute over 3G."""

Options = Sequence[tuple[str, int]]
Terms = Mapping[str, Any]
"""What the two halves must agree on, by name: method, net, cut, shapes, classes."""


def channel_options(
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    *,
    receive_bytes: int | None = None,
    ping_s: float = PING_S,
    pong_s: float = PONG_S,
) -> Options:
    """Return the options of an edge's channel; a dead link is noticed within both times.

    ``receive_bytes``: the largest message that may come back; by default as large as one sent.
    """
    received = max_message_bytes if receive_bytes is None else receive_bytes
    return (
        ("grpc.max_send_message_length", max_message_bytes + _OVERHEAD_BYTES),
        ("grpc.max_receive_message_length", received + _OVERHEAD_BYTES),
        # Of all headers or trailers together: refusals are words, at most 2,000 characters.
        ("grpc.max_metadata_size", _METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", 2 * _METADATA_BYTES),
        ("grpc.keepalive_time_ms", _ms(ping_s)),
        ("grpc.keepalive_timeout_ms", _ms(pong_s)),
        # Of pings that probe the bandwidth. On a slow link they wait behind what is being sent.
        ("grpc.http2.ping_timeout_ms", _ms(ping_s + pong_s)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.enable_retries", 0),  # the spool retries, and knows what has arrived
        ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection
    )


def server_options(
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    *,
    handshake_s: float = 10.0,
    ping_s: float = PING_S,
    pong_s: float = PONG_S,
) -> Options:
    """Return the options of the cloud's server; who has not shaken hands in time is dropped."""
    return (
        ("grpc.max_send_message_length", max_message_bytes + _OVERHEAD_BYTES),
        ("grpc.max_receive_message_length", max_message_bytes + _OVERHEAD_BYTES),
        ("grpc.server_handshake_timeout_ms", _ms(handshake_s)),
        ("grpc.keepalive_time_ms", _ms(ping_s)),
        ("grpc.keepalive_timeout_ms", _ms(pong_s)),
        # Of pings that probe the bandwidth. On a slow link they wait behind what is being sent.
        ("grpc.http2.ping_timeout_ms", _ms(ping_s + pong_s)),
        ("grpc.http2.min_ping_interval_without_data_ms", _ms(ping_s / 2)),
        ("grpc.max_connection_idle_ms", _ms(30 * ping_s)),
        ("grpc.max_concurrent_streams", 64),  # of one connection
        # gRPC lets the window of every call grow with the bandwidth, also that of a call which
        # no code reads: strangers on a fast link would fill a gigabyte before they are refused. A
        # message that is being read has a window of its own size.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", _WINDOW_BYTES),
        ("grpc.so_reuseport", 0),  # two clouds on one port would each get half of the edges
    )


def _ms(seconds: float) -> int:
    return round(1000 * seconds)


def pack_edge_message(message: EdgeMessage | tuple[int, int, bytes]) -> bytes:
    """Return a message as bytes; an upload may be given as (seq, follows, payload).

    >>> upload = EdgeMessage()
    >>> upload.upload.seq, upload.upload.follows, upload.upload.payload = 300, 299, b"abc"
    >>> pack_edge_message((300, 299, b"abc")) == upload.SerializeToString()
    True
    """
    if isinstance(message, EdgeMessage):
        return message.SerializeToString()
    seq, follows, payload = message
    fields = b"".join(
        (
            b"\x08" + _varint(seq) if seq else b"",
            b"\x10" + _varint(follows) if follows else b"",
            b"\x1a" + _varint(len(payload)) if payload else b"",
        )
    )
    return b"".join((b"\x12", _varint(len(fields) + len(payload)), fields, payload))


@final
@dataclass(frozen=True, slots=True)
class Uploaded:
    """An upload as it arrived; the payload is a view of the message."""

    seq: int
    follows: int
    payload: memoryview


def unpack_edge_message(content: bytes) -> EdgeMessage | Uploaded | None:
    """Return what an edge sent; None where it is no message.

    An upload in the order of :func:`pack_edge_message` is read without a copy; whatever else is
    left to protobuf.

    >>> upload = unpack_edge_message(pack_edge_message((300, 299, b"abc")))
    >>> upload.seq, upload.follows, bytes(upload.payload)
    (300, 299, b'abc')
    """
    try:
        return _uploaded(content) or EdgeMessage.FromString(content)
    except DecodeError:
        return None


def _uploaded(content: bytes) -> Uploaded | None:
    """Read 12 LENGTH, 08 SEQ, 10 FOLLOWS, 1a LENGTH PAYLOAD to the very end; None for all else."""
    at, numbers = 0, []
    for tag in (0x12, 0x08, 0x10, 0x1A):
        if at >= len(content) or content[at] != tag:
            if tag == 0x10:  # follows 0, which is not written
                numbers.append(0)
                continue
            return None
        value, at = _read_varint(content, at + 1)
        if tag in (0x12, 0x1A) and at + value != len(content):
            return None
        numbers.append(value)
    return Uploaded(numbers[1], numbers[2], memoryview(content)[at:])


def _read_varint(content: bytes, at: int) -> tuple[int, int]:
    """Return a number and where it ends; one that is cut or longer than nine bytes is -1."""
    value = 0
    for i, byte in enumerate(content[at : at + 9]):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, at + i + 1
    return -1, at


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def unpack(kind: type[Message]) -> Callable[[bytes], Message | None]:
    """Return a parser for messages of ``kind`` that answers None where the bytes are none.

    gRPC would end a call whose parser raises without saying why.
    """

    def parse(content: bytes) -> Message | None:
        try:
            return kind.FromString(content)
        except DecodeError:
            return None

    return parse


def pack(message: Message) -> bytes:
    """Return a message as bytes."""
    return message.SerializeToString()


def pack_terms(terms: Terms) -> str:
    """Return the terms as JSON, the same text for the same terms."""
    return json.dumps(terms, sort_keys=True)


def unpack_terms(text: str) -> dict[str, Any]:
    """Read what :func:`pack_terms` wrote; raises :class:`PayloadError` where it is something else.

    >>> unpack_terms(pack_terms({"cut": "layer3"}))
    {'cut': 'layer3'}
    """
    if len(text) > _MOST_TERMS:
        raise PayloadError(f"expected terms of at most {_MOST_TERMS} characters, got {len(text)}")
    try:
        terms = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"the terms are no JSON: {error}") from error
    if not isinstance(terms, dict):
        raise PayloadError("the terms are not a list of names and values")
    return terms


def expect_same_terms(edge: Terms, cloud: Terms) -> None:
    """Raise a :class:`ConfigError` that names what the two halves do not agree on.

    >>> expect_same_terms({"net": "vgg16", "cut": "pool3"}, {"net": "vgg16", "cut": "pool4"})
    Traceback (most recent call last):
    eaves.errors.ConfigError: edge and cloud do not fit: cut is 'pool3' on the edge, 'pool4' in...
    """
    names = sorted({*edge, *cloud})
    unlike = [
        f"{_plain(name)} is {_short(edge.get(name))} on the edge, "
        f"{_short(cloud.get(name))} in the cloud"
        for name in names
        if edge.get(name) != cloud.get(name)
    ]
    if unlike:
        more = f"; and {len(unlike) - _MOST_NAMED} more" if len(unlike) > _MOST_NAMED else ""
        raise ConfigError(
            f"edge and cloud do not fit: {'; '.join(unlike[:_MOST_NAMED])}{more}. "
            "Start both from the same configuration or bundle"
        )


def _plain(name: str) -> str:
    return name if name.isidentifier() and len(name) <= 60 else _short(name)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
