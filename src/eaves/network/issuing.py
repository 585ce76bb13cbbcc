"""Makes keys and certificates: EC P-256, extensions those of RFC 5280 4.2.1. Writes no file."""

import ipaddress
import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple, final

from eaves.errors import ConfigError
from eaves.network.x509 import fingerprint_of

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ModuleNotFoundError as error:
    raise ConfigError('certificates need cryptography: pip install "eaves[serve]"') from error

AUTHORITY_DAYS: Final = 3650
MAX_DAYS: Final = 3650
_BACKDATED: Final = timedelta(hours=1)  # for devices whose clock is a little behind
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")


@final
class Pair(NamedTuple):
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, in hexadecimal digits."""
        return fingerprint_of(self.certificate.public_bytes(Encoding.DER))

    @property
    def certificate_pem(self) -> bytes:
        """The certificate, as files have it."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The key, unencrypted."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@final
class _Valid(NamedTuple):
    starts: datetime
    ends: datetime


def new_authority(now: datetime) -> Pair:
    """Return an authority with a name of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    # A name of its own: else a device that holds another authority sees a bad signature.
    name = _common_name(f"Eaves authority {secrets.token_hex(4)}")
    valid = _Valid(now, now + timedelta(days=AUTHORITY_DAYS))
    builder = _builder(name, name, key, key, valid)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), True)
    return Pair(builder.sign(key, hashes.SHA256()), key)


def server_pair(authority: Pair, hosts: Sequence[str], days: int, now: datetime) -> Pair:
    """Return the pair of a server with these names; raises as the checks below do."""
    names = x509.SubjectAlternativeName(expect_hosts(hosts))
    usage = ExtendedKeyUsageOID.SERVER_AUTH
    return _certificate(authority, "Eaves cloud", usage, _validity(authority, days, now), names)


def device_pair(authority: Pair, name: str, days: int, now: datetime) -> Pair:
    """Return the pair of a device; raises where ``days`` cannot be."""
    usage = ExtendedKeyUsageOID.CLIENT_AUTH
    return _certificate(authority, name, usage, _validity(authority, days, now))


def _certificate(
    authority: Pair,
    name: str,
    usage: x509.ObjectIdentifier,
    valid: _Valid,
    alternative: x509.SubjectAlternativeName | None = None,
) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.certificate.subject
    builder = _builder(_common_name(name), issuer, key, authority.key, valid)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), False)
    if alternative is not None:
        builder = builder.add_extension(alternative, False)
    return Pair(builder.sign(authority.key, hashes.SHA256()), key)


def expect_days(days: int) -> None:
    """Raise a :class:`ConfigError` where a certificate cannot be valid for so long."""
    if not 1 <= days <= MAX_DAYS:
        raise ConfigError(f"expected a validity of 1 to {MAX_DAYS} days, got {days}")


def _validity(authority: Pair, days: int, now: datetime) -> _Valid:
    """Return the validity of a certificate: none outlives its authority."""
    expect_days(days)
    ends = min(now + timedelta(days=days), authority.certificate.not_valid_after_utc)
    return _Valid(now, ends)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    valid: _Valid,
) -> x509.CertificateBuilder:
    """Return what all certificates have in common."""
    public, issuer_public = key.public_key(), issuer_key.public_key()
    by = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_public)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(valid.starts - _BACKDATED)
        .not_valid_after(valid.ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        .add_extension(by, False)
    )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def expect_hosts(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """Return host names and IP addresses for a certificate, or raise a :class:`ConfigError`."""
    if not hosts:
        raise ConfigError("name the hosts by which edges call the cloud, as in: cloud.example")
    return [_host(host) for host in hosts]


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    # Labels of digits only are addresses with a slip in them.
    if len(host) > 253 or not _HOST.fullmatch(host) or host.rpartition(".")[2].isdigit():
        raise ConfigError(
            f"expected a host name or an IP address, without a port, got {host[:80]!r}"
        ) from None
    return x509.DNSName(host.lower())
