"""Makes what :mod:`eaves.network.credentials` reads: an authority, certificates, tokens; revokes.

A folder of credentials, where only ``authority`` is needed to make more of them::

    authority/{ca.pem, ca.key, issued.json}      who has ca.key can make devices: keep it apart
    server/{ca.pem, cert.pem, key.pem, revoked.json, tokens.json}     for the cloud
    devices/NAME/{ca.pem, cert.pem, key.pem}     for that edge, or
    devices/NAME/{ca.pem, token}

``issued.json`` lists all that was made, so that a name can be revoked when its files are long on
the device; the server's two lists are derived from it. Keys are EC P-256, extensions those of
RFC 5280 4.2.1. Commands that run at the same time wait for each other.
"""

import fcntl
import ipaddress
import json
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple, final

from eaves.errors import ConfigError, StateError, StorageError, unknown
from eaves.network.credentials import (
    CA,
    CERTIFICATE,
    KEY,
    REVOKED,
    TOKEN,
    TOKENS,
    digest_of,
    expect_name,
    read_file,
)
from eaves.network.x509 import fingerprint_of
from eaves.runtime.files import write_atomically

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ModuleNotFoundError as error:
    raise ConfigError('certificates need cryptography: pip install "eaves[serve]"') from error

DAYS: Final = 397
"""How long a certificate is valid: the longest that browsers took of public ones (398) less one."""
AUTHORITY_DAYS: Final = 3650
_MAX_DAYS: Final = 3650
_BACKDATED: Final = timedelta(hours=1)  # for devices whose clock is a little behind
_SECRET, _PUBLIC = 0o600, 0o644  # the server's lists may be written by root and read by a service
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")


@final
@dataclass(frozen=True, kw_only=True)
class Issued:
    """A certificate or token that was made."""

    kind: str
    """authority, server, device or token."""
    name: str
    """Of the edge; of the server, its hosts."""
    sha256: str = field(repr=False)
    """Of the certificate or token, in hexadecimal digits."""
    made: datetime
    expires: datetime | None
    """None: never, as tokens do."""
    revoked: datetime | None = None

    @property
    def state(self) -> str:
        """Today's: valid, expired or revoked."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires and self.expires <= datetime.now(UTC) else "valid"


@final
class _Pair(NamedTuple):
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def issued(self, kind: str, name: str) -> Issued:
        return Issued(
            kind=kind,
            name=name,
            sha256=fingerprint_of(self.certificate.public_bytes(Encoding.DER)),
            made=_now(),
            expires=self.certificate.not_valid_after_utc,
        )


def make_authority(folder: Path) -> Path:
    """Make the authority that certificates in ``folder`` come from; return its own folder.

    Raises:
        ConfigError: there is one already; it is never replaced.
        StorageError: the disk is full or refuses.
    """
    home = _made_folder(folder / "authority")
    with _locked(folder):
        if any(home.iterdir()):
            raise ConfigError(
                f"{home} holds an authority already. To give the server a new certificate, renew "
                "that (--renew); to start anew, so that every device needs new credentials, "
                "remove or rename the folder"
            )
        key = ec.generate_private_key(ec.SECP256R1())
        # A name of its own: else a device that holds another authority sees a bad signature.
        name = _common_name(f"Eaves authority {secrets.token_hex(4)}")
        builder = _builder(name, name, key, key, _now() + timedelta(days=AUTHORITY_DAYS))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        builder = builder.add_extension(_key_usage(signs_certificates=True), True)
        made = _Pair(builder.sign(key, hashes.SHA256()), key)
        _write_key(home / "ca.key", key)
        _write_certificate(home / CA, made.certificate)
        _record(folder, [made.issued("authority", "authority")])
    return home


def initialise(folder: Path, hosts: Sequence[str], *, days: int = DAYS) -> None:
    """Make an authority and the server's certificate, or neither where that cannot be.

    Raises:
        ConfigError: a host cannot be one, or there is an authority already.
        StorageError: the disk is full or refuses.
    """
    _hosts(hosts)
    _expect_days(days)
    make_authority(folder)
    make_server(folder, hosts, days=days)


def make_server(
    folder: Path, hosts: Sequence[str], *, days: int = DAYS, renew: bool = False
) -> Path:
    """Make the server's certificate for host names and IP addresses; return the server's folder.

    Raises:
        ConfigError: a host cannot be one, or there is a certificate and ``renew`` is not given.
        StorageError: the disk is full or refuses.
    """
    alternative = x509.SubjectAlternativeName(_hosts(hosts))
    home = folder / "server"
    with _locked(folder):
        _expect_free(home, (CERTIFICATE, KEY), renew=renew)
        usage = ExtendedKeyUsageOID.SERVER_AUTH
        authority = _authority(folder)
        made = _certificate(authority, "Eaves cloud", usage, days, alternative)
        _record(folder, [*_recorded(folder), made.issued("server", " ".join(hosts))])
        _write_pair(home, made, authority)
    return home


def make_device(folder: Path, name: str, *, days: int = DAYS, renew: bool = False) -> Path:
    """Make a device's certificate; return the folder to copy to it.

    With ``renew`` it may have one already, which stays valid until it expires or is revoked.

    Raises:
        ConfigError: the name cannot be one, or is taken and ``renew`` is not given.
        StorageError: the disk is full or refuses.
    """
    home = folder / "devices" / expect_name(name)
    with _locked(folder):
        issued = _recorded(folder)
        _expect_untaken(issued, name, home, renew=renew)
        _expect_free(home, (CERTIFICATE, KEY), renew=renew)
        _expect_no_other(home, TOKEN)
        authority = _authority(folder)
        made = _certificate(authority, name, ExtendedKeyUsageOID.CLIENT_AUTH, days)
        _record(folder, [*issued, made.issued("device", name)])
        _write_pair(home, made, authority)
    return home


def make_token(folder: Path, name: str, *, renew: bool = False) -> Path:
    """Make a device's bearer token; return the folder to copy to it.

    The server keeps the token's SHA-256 only. With ``renew`` the device may have one already,
    which stays valid until it is revoked.

    Raises:
        ConfigError: the name cannot be one, or is taken and ``renew`` is not given.
        StorageError: the disk is full or refuses.
    """
    home = folder / "devices" / expect_name(name)
    with _locked(folder):
        issued = _recorded(folder)
        _expect_untaken(issued, name, home, renew=renew)
        _expect_free(home, (TOKEN,), renew=renew)
        _expect_no_other(home, CERTIFICATE)
        token = f"eaves-token.{name}.{secrets.token_urlsafe(32)}"
        entry = Issued(kind="token", name=name, sha256=digest_of(token), made=_now(), expires=None)
        authority = _authority(folder)
        _record(folder, [*issued, entry])
        _write_certificate(_made_folder(home) / CA, authority.certificate)
        write_atomically(home / TOKEN, f"{token}\n".encode(), mode=_SECRET)
    return home


def revoke(folder: Path, name: str) -> list[Issued]:
    """Revoke every certificate and token of a device; return those that were valid until now.

    The server notices within seconds where ``folder/server`` is the folder it runs with; else copy
    its ``revoked.json`` and ``tokens.json`` there.

    Raises:
        ConfigError: nothing was made for that name.
        StorageError: the disk is full or refuses.
    """
    with _locked(folder):
        issued, now = _recorded(folder), _now()
        names = {entry.name for entry in issued if entry.kind in ("device", "token")}
        if name not in names:
            raise unknown("device", name, names)
        valid = [entry for entry in issued if entry.name == name and _revocable(entry)]
        _record(folder, [replace(e, revoked=now) if e in valid else e for e in issued])
    return [replace(entry, revoked=now) for entry in valid]


def listed(folder: Path) -> list[Issued]:
    """Return all that was made in ``folder``, the oldest first.

    Raises:
        ConfigError: there is no authority in ``folder``.
        StateError: the list is damaged.
    """
    return _recorded(folder)


# What was made


def _revocable(entry: Issued) -> bool:
    return entry.kind in ("device", "token") and entry.revoked is None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other commands away: none may write a list without what this one adds."""
    try:
        lock = os.open(folder / "authority", os.O_RDONLY)
    except OSError as error:
        raise _no_authority(folder) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _no_authority(folder: Path) -> ConfigError:
    return ConfigError(
        f"no authority in {folder}; make one with: eaves certs init --hosts NAME-OF-THE-CLOUD"
    )


def _recorded(folder: Path) -> list[Issued]:
    path = folder / "authority" / "issued.json"
    if not path.exists():
        raise _no_authority(folder)
    try:
        return [_entry(facts) for facts in json.loads(path.read_bytes())["issued"]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StateError(f"{path} is damaged; bring it back from a backup") from error


def _entry(facts: dict[str, Any]) -> Issued:
    times = {name: facts[name] for name in ("made", "expires", "revoked")}
    read = {name: text and datetime.fromisoformat(text) for name, text in times.items()}
    if not all(isinstance(facts[name], str) for name in ("kind", "name", "sha256", "made")):
        raise TypeError("expected texts")
    if any(moment is not None and moment.tzinfo is None for moment in read.values()):
        raise ValueError("expected times with their zone")
    return Issued(**(facts | read))


def _record(folder: Path, issued: Sequence[Issued]) -> None:
    """Write the list of all that was made, and the server's lists that follow from it.

    Before the secret itself is written: there must be none that cannot be revoked.
    """
    rows = [{k: _plain(v) for k, v in asdict(entry).items()} for entry in issued]
    server = _made_folder(folder / "server")
    lists = {
        folder / "authority" / "issued.json": {"issued": rows},
        server / REVOKED: {
            "revoked": [row for row in rows if row["kind"] == "device" and row["revoked"]]
        },
        server / TOKENS: {"tokens": [row for row in rows if row["kind"] == "token"]},
    }
    for path, content in lists.items():
        write_atomically(path, json.dumps(content, indent=1).encode(), mode=_PUBLIC)


def _plain(value: str | datetime | None) -> str | None:
    return value.isoformat() if isinstance(value, datetime) else value


def _expect_untaken(issued: Sequence[Issued], name: str, home: Path, *, renew: bool) -> None:
    taken = [entry for entry in issued if entry.name == name and _revocable(entry)]
    valid = [entry for entry in taken if entry.state == "valid"]
    if valid and not renew:
        kind = "a token" if valid[-1].kind == "token" else "a certificate"
        raise ConfigError(
            f"{name} has {kind} that is valid. Choose another name; or renew it (--renew), which "
            f"replaces what is in {home} and leaves the old one valid; or revoke it first"
        )


def _expect_free(home: Path, names: Sequence[str], *, renew: bool) -> None:
    there = [name for name in names if (home / name).exists()]
    if there and not renew:
        raise ConfigError(f"{home / there[0]} is there already; to replace it: --renew")


def _expect_no_other(home: Path, other: str) -> None:
    if (home / other).exists():
        raise ConfigError(
            f"{home / other} is there already, and a device has a certificate or a token, not "
            "both; choose another name, or move that file away"
        )


# Certificates


def _authority(folder: Path) -> _Pair:
    home = folder / "authority"
    certificate_pem, key_pem = read_file(home / CA), read_file(home / "ca.key", secret=True)
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        key = load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError) as error:
        raise StateError(f"{home} is damaged; bring it back from a backup") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != (
        certificate.public_key()
    ):
        raise StateError(f"{home / 'ca.key'} is not the key of {home / CA}")
    if certificate.not_valid_after_utc <= _now():
        raise ConfigError(f"the authority in {home} has expired; remove the folder and start anew")
    return _Pair(certificate, key)


def _certificate(
    authority: _Pair,
    name: str,
    usage: x509.ObjectIdentifier,
    days: int,
    alternative: x509.SubjectAlternativeName | None = None,
) -> _Pair:
    _expect_days(days)
    key = ec.generate_private_key(ec.SECP256R1())
    # None outlives its authority.
    ends = min(_now() + timedelta(days=days), authority.certificate.not_valid_after_utc)
    issuer = authority.certificate.subject
    builder = _builder(_common_name(name), issuer, key, authority.key, ends)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), False)
    if alternative is not None:
        builder = builder.add_extension(alternative, False)
    return _Pair(builder.sign(authority.key, hashes.SHA256()), key)


def _expect_days(days: int) -> None:
    if not 1 <= days <= _MAX_DAYS:
        raise ConfigError(f"expected a validity of 1 to {_MAX_DAYS} days, got {days}")


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    ends: datetime,
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
        .not_valid_before(_now() - _BACKDATED)
        .not_valid_after(ends)
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


def _hosts(hosts: Sequence[str]) -> list[x509.GeneralName]:
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


# Files


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _made_folder(path: Path) -> Path:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {path}: {error.strerror}") from error
    return path


def _write_pair(home: Path, made: _Pair, authority: _Pair) -> None:
    _write_certificate(_made_folder(home) / CA, authority.certificate)
    _write_key(home / KEY, made.key)
    _write_certificate(home / CERTIFICATE, made.certificate)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_atomically(path, pem, mode=_SECRET)


def _write_certificate(path: Path, certificate: x509.Certificate) -> None:
    write_atomically(path, certificate.public_bytes(Encoding.PEM), mode=_PUBLIC)
