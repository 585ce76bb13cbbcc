"""What is read from a certificate without a library for it: whose it is, and when it is valid.

An edge device needs no more than that; gRPC does all that security rests on. DER, RFC 5280 4.1.
"""

import hashlib
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple, final

_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17  # with two digits of the year
_GENERALIZED_TIME: Final = 0x18
_COMMON_NAME: Final = b"\x55\x04\x03"  # object identifier 2.5.4.3


@final
@dataclass(frozen=True, kw_only=True)
class CertificateFacts:
    """Whose a certificate is, and when it is valid."""

    name: str
    """The subject's common name; empty where it has none."""
    starts: datetime
    ends: datetime
    fingerprint: str
    """SHA-256 of the certificate, in hexadecimal digits."""


@final
class _Item(NamedTuple):
    tag: int
    content: bytes


def read_certificate(pem: str) -> CertificateFacts:
    """Return the facts of the first certificate in ``pem``. Its signature is not checked.

    Raises:
        ValueError: there is no certificate in it, or a damaged one.
    """
    start, end = pem.find(ssl.PEM_HEADER), pem.find(ssl.PEM_FOOTER)
    if not 0 <= start < end:
        raise ValueError("expected a certificate in PEM, found none")
    der = ssl.PEM_cert_to_DER_cert(pem[start : end + len(ssl.PEM_FOOTER)])
    try:
        fields = _items(_items(_items(der)[0].content)[0].content)
        if fields[0].tag == _VERSION:
            fields = fields[1:]
        _serial, _algorithm, _issuer, validity, subject = fields[:5]
        starts, ends = (_moment(item) for item in _items(validity.content))
        name = _common_name(subject)
    except (IndexError, ValueError) as error:
        raise ValueError("the certificate is damaged") from error
    return CertificateFacts(name=name, starts=starts, ends=ends, fingerprint=fingerprint_of(der))


def fingerprint_of(der: bytes) -> str:
    """Return the SHA-256 of a certificate, in hexadecimal digits."""
    return hashlib.sha256(der).hexdigest()


def _items(data: bytes) -> list[_Item]:
    """Return the items that stand one after another in ``data``."""
    found, at = [], 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length >= 0x80:  # so many bytes of length follow
            wide = length & 0x7F
            length, at = int.from_bytes(data[at : at + wide], "big"), at + wide
        if at + length > len(data):
            raise ValueError("an item is longer than what holds it")
        found.append(_Item(tag, data[at : at + length]))
        at += length
    return found


def _moment(item: _Item) -> datetime:
    text = item.content.decode("ascii")
    if item.tag == _UTC_TIME:
        text = ("19" if text >= "50" else "20") + text
    elif item.tag != _GENERALIZED_TIME:
        raise ValueError("expected a time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _common_name(subject: _Item) -> str:
    for group in _items(subject.content):
        for pair in _items(group.content):
            kind, value = _items(pair.content)[:2]
            if kind.content == _COMMON_NAME:
                return value.content.decode("utf-8", errors="replace")
    return ""
