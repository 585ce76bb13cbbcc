"""What an edge believes of what its cloud says: each claim is held against what the edge knows.

A cloud may be broken, of another version, or hostile. Nothing that it says may make an edge take
memory without bound, forget an upload that it never sent, or connect somewhere else.
"""

import re
import struct
from typing import Final

from eaves.codecs.contract import Buffer
from eaves.codecs.payload import Payload
from eaves.errors import PayloadError
from eaves.network.eaves_pb2 import CloudMessage, Receipt, Welcome
from eaves.network.refusals import ProtocolError

_SESSION: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LEAST_MESSAGE_BYTES: Final = 256  # a cloud that takes less takes no upload at all
_MOST_PORTS: Final = 1024  # processes of one cloud
_SPARE_RECEIPTS: Final = 1000
_UPLOAD_HEAD: Final = struct.Struct("<4sBBI")


def expect_kind(message: CloudMessage | None, *, welcomed: bool) -> str:
    """Return what a message is: one welcome first, and receipts after it.

    Raises:
        ProtocolError: it is something else.
    """
    kind = None if message is None else message.WhichOneof("kind")
    if kind != ("receipt" if welcomed else "welcome"):
        said = kind or "bytes that are no message"
        raise ProtocolError(f"it says {said} {'again' if welcomed else 'as the first'}")
    return str(kind)


def expect_welcome(welcome: Welcome, *, session: str, most: int, port: int) -> None:
    """Raise a :class:`ProtocolError` for a welcome that no cloud of this run would give.

    ``session`` is that of the run, empty before its first connection. ``most`` is the highest
    number of an upload that may have been sent so far, ``port`` that of the cloud.
    """
    if welcome.port_offset > _MOST_PORTS or not port + welcome.port_offset < 2**16:
        raise ProtocolError(
            f"it sends this edge on by {welcome.port_offset} ports from port {port}, where there "
            "is none"
        )
    if welcome.port_offset:
        return
    if not _SESSION.fullmatch(welcome.session):
        raise ProtocolError(
            "it gives its session no name that one could be: expected 1 to 64 letters and digits, "
            f"got {welcome.session[:40]!r} ({len(welcome.session)} characters)"
        )
    if session not in ("", welcome.session):
        raise ProtocolError(
            f"it is of session {welcome.session}, and this run belongs to session {session}"
        )
    if welcome.applied > most:
        raise ProtocolError(
            f"it says that it has upload {welcome.applied}, and {most} is the highest that may "
            "have been sent (where this edge's folder was brought back from an older copy: remove "
            "its spool.db, and what waited there is made again)"
        )
    if welcome.max_message_bytes < _LEAST_MESSAGE_BYTES:
        raise ProtocolError(f"it takes messages of {welcome.max_message_bytes} bytes at most")


def expect_receipt(receipt: Receipt, *, most: int) -> None:
    """Raise a :class:`ProtocolError` for a receipt of what was not sent, or of more than applied.

    The spool would forget what it still has to keep.
    """
    if receipt.applied > most:
        raise ProtocolError(
            f"it says that it has upload {receipt.applied}, and {most} is the highest that may "
            "have been sent"
        )
    if receipt.durable > receipt.applied:
        raise ProtocolError(
            f"it says that upload {receipt.durable} is in its checkpoint, and that "
            f"{receipt.applied} is the last that it has learnt from"
        )


def expect_pace(messages: int, sent: int) -> None:
    """Raise a :class:`ProtocolError` where far more messages came than an answer to what was sent.

    Each costs the edge time that it needs for training.
    """
    if messages > _SPARE_RECEIPTS + 4 * sent:
        raise ProtocolError(f"it has sent {messages} messages for {sent} uploads")


def expect_reply(reply: bytes, upload: Buffer, *, codec: str) -> None:
    """Raise a :class:`PayloadError` where a reply is no gradient by the features of ``upload``.

    Only its envelope is read: after this, decoding takes the time and memory that were agreed on.
    """
    found = Payload.from_bytes(reply)
    _, _, width, count = _UPLOAD_HEAD.unpack_from(upload)
    shape = Payload.shape_of(memoryview(upload)[_UPLOAD_HEAD.size + count * width + 4 :])
    if found.codec != codec or found.layout.shape != shape:
        raise PayloadError(
            f"expected a reply of shape {shape} in {codec}, got one of shape "
            f"{found.layout.shape} in {found.codec}"
        )


def expect_answer(
    answer: Buffer, *, rows: int, values: int | None, codecs: tuple[str, ...]
) -> Payload:
    """Return the envelope of an answer for ``rows`` inputs with ``values`` logits (None: unknown).

    Only the envelope is read, as in :func:`expect_reply`.

    Raises:
        PayloadError: it is damaged, of another codec, or of another shape.
    """
    found = Payload.from_bytes(answer)
    shape = found.layout.shape
    if found.codec not in codecs:
        raise PayloadError(
            f"expected an answer in {' or '.join(codecs)}, got one in {found.codec!r}; is the "
            "cloud of a later Eaves?"
        )
    fits = shape[0] == rows if values is None else shape == (rows, values)
    if not fits:
        raise PayloadError(
            f"expected an answer of shape ({rows}, {values or '...'}) from the cloud, got {shape}"
        )
    return found
