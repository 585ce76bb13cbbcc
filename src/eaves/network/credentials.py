"""Who may come in: a folder of credentials as gRPC takes it, and the name of a peer that has proof.

Nothing here needs more than gRPC and Python, so a device can do with it. The files are made by
:mod:`eaves.network.certificates`. A device's folder holds ``ca.pem`` and either ``cert.pem`` with
``key.pem`` (mutual TLS) or ``token`` (TLS, and a bearer token); the server's holds ``ca.pem``,
``cert.pem``, ``key.pem``, ``revoked.json`` and ``tokens.json``.

A peer's name is that of its certificate or token, never one that it claims. What is revoked or has
expired is refused when it connects, and :meth:`Gate.expect_allowed` ends what is open by then. A
server takes up new files while it runs: each new connection gets what is in the folder then.

Not guaranteed: whom TLS itself refuses (a certificate of another authority, or none) is turned away
before a name is known, and is in no access log.
"""

import hashlib
import logging
import os
import re
import ssl
import stat
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, final

import grpc

from eaves.errors import AccessError, ConfigError, StateError, unknown
from eaves.network.accesslists import (
    EDGE_NAME,
    Watched,
    by_digest,
    expect_name,
    read_revoked,
    stamp_of,
)
from eaves.network.accesslog import AccessLog
from eaves.network.x509 import CertificateFacts, read_certificate

CA: Final = "ca.pem"
CERTIFICATE: Final = "cert.pem"
KEY: Final = "key.pem"
TOKEN: Final = "token"  # the name of a file
REVOKED: Final = "revoked.json"
TOKENS: Final = "tokens.json"

AUTH: Final = ("certificates", "tokens")
_TOKEN = re.compile(rf"eaves-token\.({EDGE_NAME.pattern})\.[A-Za-z0-9_-]{{43}}")
_SOON: Final = timedelta(days=30)
_RECHECK_S: Final = 1.0  # how often the server's files are looked at, at most
_log = logging.getLogger(__name__)


def digest_of(token: str) -> str:
    """Return the SHA-256 of a token in hexadecimal digits: all that a server keeps of it.

    A token has 256 random bits, so that it cannot be found from there, and no salt is needed.
    """
    return hashlib.sha256(token.encode()).hexdigest()


# The server's side


def server_credentials(folder: Path, auth: str = "certificates") -> grpc.ServerCredentials:
    """Return what a server listens with: mutual TLS for ``certificates``, else only its own TLS.

    Raises:
        ConfigError: something is missing in ``folder``, out of date, or open to other users.
    """
    if auth not in AUTH:
        raise unknown("auth", auth, AUTH)
    mutual = auth == "certificates"
    files = _ServerFiles(folder, mutual)
    return grpc.dynamic_ssl_server_credentials(files.first, files.renewed, mutual)


@final
class _ServerFiles:
    """The server's certificate, key and authority; those that were renewed are taken up.

    What cannot be used is said in the log, once, and what was used before stays.
    """

    def __init__(self, folder: Path, mutual: bool):
        self._folder, self._mutual = folder, mutual
        self._lock, self._next_s = threading.Lock(), 0.0
        self._stamp = self._stamped()  # before reading: what is written in between is seen later
        self.first = self._read()

    def renewed(self) -> Any:
        """Return what new connections get from now on; None: the same as before.

        gRPC asks with each connection, in threads of its own.
        """
        with self._lock:
            if (now_s := time.monotonic()) < self._next_s:
                return None
            self._next_s = now_s + _RECHECK_S
            if (stamp := self._stamped()) == self._stamp:
                return None
            self._stamp = stamp
            try:
                found = self._read()
            except ConfigError as error:
                _log.error("the server goes on with the certificate that it has: %s", error)
                return None
            _log.info("new certificate of the server, from %s", self._folder)
            return found

    def _read(self) -> Any:
        ca, (certificate, key, _) = _authority(self._folder), _own_certificate(self._folder)
        return grpc.ssl_server_certificate_configuration(
            [(key, certificate)], ca if self._mutual else None
        )

    def _stamped(self) -> tuple[tuple[int, ...], ...]:
        return tuple(stamp_of(self._folder / name) for name in (CA, CERTIFICATE, KEY))


@final
@dataclass(frozen=True)
class Peer:
    """An edge, by its name, and what proved it."""

    name: str
    proof: str = field(repr=False)
    """SHA-256 of its certificate or token; empty where the name is only claimed."""
    expires: datetime | None = field(default=None, repr=False)
    """When its certificate does; None: never, as tokens do."""


@final
class Gate:
    """Names each peer and refuses those who may not come in, by the lists in ``folder``.

    With no folder, peers are what they claim to be: for tests and trusted networks only. The lists
    are read again when they have changed, at most every ``recheck_s`` seconds. Who is admitted or
    refused is written to ``log``.

    Raises:
        StateError: a list in ``folder`` is missing or damaged.
    """

    def __init__(
        self,
        folder: Path | None,
        auth: str = "certificates",
        *,
        log: AccessLog | None = None,
        recheck_s: float = 1.0,
    ):
        self._log = log
        if auth not in AUTH:
            raise unknown("auth", auth, AUTH)
        self._insecure, self._by_token = folder is None, auth == "tokens"
        where = folder or Path()
        self._revoked = Watched(where / REVOKED, read_revoked, recheck_s)
        self._tokens = Watched(where / TOKENS, by_digest, recheck_s)
        if folder is not None:
            try:
                self._expect_proof("")
            except AccessError:
                pass
            except StateError as error:
                raise StateError(
                    f"{folder}: {error}. Is this the server's folder, of `eaves certs init`?"
                ) from error

    def identify(
        self,
        auth_context: Mapping[str, Iterable[bytes]],
        metadata: Mapping[str, str],
        address: str = "",
    ) -> Peer:
        """Return who is there, by what gRPC says of the connection and of the call.

        ``address`` is where it comes from, for the access log.

        Raises:
            AccessError: it brings no proof, or one that is unknown, revoked or has expired.
            StateError: a list is damaged, so that no device is admitted.
        """
        try:
            return self._identified(auth_context, metadata)
        except (AccessError, StateError) as error:
            self.refused(error, address=address)
            raise

    def _identified(
        self, auth_context: Mapping[str, Iterable[bytes]], metadata: Mapping[str, str]
    ) -> Peer:
        if self._insecure:
            return Peer(_expect_peer_name(metadata.get("eaves-edge", "")), "")
        if self._by_token:
            return self._of_token(_bearer(metadata))
        return self._of_certificate(auth_context)

    def admitted(self, peer: Peer, address: str = "") -> None:
        """Write to the access log that ``peer`` was admitted to train."""
        if self._log is not None:
            source = f"edge {peer.name}"  # an edge that comes from many addresses counts once
            self._log.write(
                "admitted", source=source, address=address, name=peer.name, proof=peer.proof[:16]
            )

    def refused(self, error: Exception, *, name: str = "", address: str = "") -> None:
        """Write to the access log that a peer was refused, or its stream ended, and why."""
        if self._log is not None:
            source = f"edge {name}" if name else _host_of(address)
            kind = type(error).__name__
            self._log.write(
                "refused", source=source, address=address, name=name, kind=kind, why=str(error)
            )

    def expect_allowed(self, peer: Peer) -> None:
        """Let a peer that was identified stay.

        Raises:
            AccessError: it has been revoked since, or its certificate has expired.
            StateError: a list is damaged, so that no connection stays.
        """
        if not self._insecure:
            self._expect_proof(peer.proof)
            _expect_current(peer.expires)

    def still_allowed(self, peer: Peer) -> bool:
        """Whether :meth:`expect_allowed` lets ``peer`` stay."""
        try:
            self.expect_allowed(peer)
        except (AccessError, StateError):
            return False
        return True

    def _of_certificate(self, auth_context: Mapping[str, Iterable[bytes]]) -> Peer:
        pem = b"".join(auth_context.get("x509_pem_cert", ())).decode("ascii", errors="replace")
        name = b"".join(auth_context.get("x509_common_name", ())).decode(errors="replace")
        if not pem:
            raise AccessError("this cloud asks for a certificate, and none was shown")
        try:
            facts = read_certificate(pem)
        except ValueError as error:
            raise AccessError("the certificate that was shown cannot be read") from error
        peer = Peer(_expect_peer_name(name), facts.fingerprint, facts.ends)
        self._expect_proof(peer.proof)
        _expect_current(peer.expires)  # TLS looked when the connection began, which may be long ago
        return peer

    def _of_token(self, token: str) -> Peer:
        proof = digest_of(token)
        return Peer(self._expect_proof(proof), proof)

    def _expect_proof(self, proof: str) -> str:
        """Return the name that a token's digest stands for; empty for a certificate."""
        if not self._by_token:
            if proof in self._revoked.value():
                raise AccessError("the certificate is revoked; its holder needs a new one")
            return ""
        # Looked up by digest: what its time tells says nothing about the token.
        found = self._tokens.value().get(proof)
        if found is None:
            raise AccessError("the token is unknown to this cloud")
        if found.revoked:
            raise AccessError("the token is revoked; its holder needs a new one")
        return found.name


def _expect_current(ends: datetime | None) -> None:
    if ends is not None and _now() >= ends:
        raise AccessError(f"the certificate expired on {_day(ends)}; its holder needs a new one")


def _now() -> datetime:
    return datetime.now(UTC)


def _host_of(address: str) -> str:
    """Return gRPC's name of a peer without its port, which is another one each time."""
    return address.rpartition(":")[0] or address or "unknown"


def _expect_peer_name(name: str) -> str:
    try:
        return expect_name(name)
    except ConfigError as error:
        raise AccessError(f"the edge has no name: {error}") from error


def _bearer(metadata: Mapping[str, str]) -> str:
    scheme, _, token = metadata.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise AccessError("this cloud asks for a token, and none was sent")
    return token.strip()


# The device's side


@final
@dataclass(frozen=True, kw_only=True)
class DeviceCredentials:
    """What a device connects with."""

    channel: grpc.ChannelCredentials = field(repr=False)
    metadata: tuple[tuple[str, str], ...] = field(repr=False)
    """To be sent with each call."""
    name: str


def device_credentials(folder: Path) -> DeviceCredentials:
    """Return what is in a device's folder: a certificate with its key, or a token.

    Raises:
        ConfigError: something is missing in ``folder``, out of date, or open to other users.
    """
    has_token = (folder / TOKEN).exists()
    if has_token and (folder / CERTIFICATE).exists():
        raise ConfigError(
            f"{folder} holds a certificate and a token; remove the one that the cloud does not take"
        )
    ca = _authority(folder)
    if has_token:
        token, name = _own_token(folder)
        return DeviceCredentials(
            channel=grpc.ssl_channel_credentials(ca),
            metadata=(("authorization", f"Bearer {token}"),),
            name=name,
        )
    certificate, key, facts = _own_certificate(folder)
    try:
        name = expect_name(facts.name)
    except ConfigError as error:
        raise ConfigError(f"{folder / CERTIFICATE} is not that of a device: {error}") from error
    channel = grpc.ssl_channel_credentials(ca, key, certificate)
    return DeviceCredentials(channel=channel, metadata=(), name=name)


def _own_token(folder: Path) -> tuple[str, str]:
    """Return the token and the name in it."""
    token = read_file(folder / TOKEN, secret=True).decode("ascii", errors="replace").strip()
    found = _TOKEN.fullmatch(token)
    if found is None:
        raise ConfigError(f"{folder / TOKEN} holds no token; make one with: eaves certs token NAME")
    return token, found[1]


def _authority(folder: Path) -> bytes:
    pem = read_file(folder / CA)
    _expect_valid(folder / CA, pem)
    return pem


def _own_certificate(folder: Path) -> tuple[bytes, bytes, CertificateFacts]:
    certificate = read_file(folder / CERTIFICATE)
    key = read_file(folder / KEY, secret=True)
    facts = _expect_valid(folder / CERTIFICATE, certificate)
    try:
        pair = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # Without a password Python would ask for one on the terminal.
        pair.load_cert_chain(folder / CERTIFICATE, folder / KEY, password="")
    except ssl.SSLError as error:
        raise ConfigError(
            f"{folder / KEY} is not the key of {folder / CERTIFICATE}, or is damaged"
        ) from error
    return certificate, key, facts


def read_file(path: Path, *, secret: bool = False) -> bytes:
    """Return what is in a file of credentials.

    Raises:
        ConfigError: it cannot be read, or is ``secret`` and open to other users.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read()
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}; `eaves certs` makes the folders of credentials"
        ) from error
    if secret and mode & 0o077:
        raise ConfigError(f"other users may read {path} (mode {mode:o}): chmod 600 {path}")
    return content


def _expect_valid(path: Path, pem: bytes) -> CertificateFacts:
    try:
        facts = read_certificate(pem.decode("ascii", errors="replace"))
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    now = _now()
    if now >= facts.ends:
        raise ConfigError(
            f"{path} expired on {_day(facts.ends)}; make a new one with `eaves certs` (--renew)"
        )
    if now < facts.starts:
        raise ConfigError(
            f"{path} is valid from {_day(facts.starts)} only, and this machine's clock says "
            f"{_day(now)}: set the clock"
        )
    if facts.ends - now < _SOON:
        _log.warning("%s expires on %s", path, _day(facts.ends))
    return facts


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")
