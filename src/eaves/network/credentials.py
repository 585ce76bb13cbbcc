"""Who may come in: a folder of credentials as gRPC takes it, and the name of a peer that has proof.

Nothing here needs more than gRPC and Python, so a device can do with it. The files are made by
:mod:`eaves.network.certificates`. A device's folder holds ``ca.pem`` and either ``cert.pem`` with
``key.pem`` (mutual TLS) or ``token`` (TLS, and a bearer token); the server's holds ``ca.pem``,
``cert.pem``, ``key.pem``, ``revoked.json`` and ``tokens.json``.

A peer's name is that of its certificate or token, never one that it claims. What is revoked is
refused when it connects, and :meth:`Gate.expect_allowed` ends what is open by then. Not
guaranteed: a certificate that expires does not end a stream that is open; TLS looks at its dates
when a connection begins.
"""

import hashlib
import json
import logging
import os
import re
import ssl
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Generic, TypeVar, final

import grpc

from eaves.errors import AccessError, ConfigError, StateError, unknown
from eaves.network.x509 import CertificateFacts, fingerprint_of, read_certificate

CA: Final = "ca.pem"
CERTIFICATE: Final = "cert.pem"
KEY: Final = "key.pem"
TOKEN: Final = "token"  # the name of a file
REVOKED: Final = "revoked.json"
TOKENS: Final = "tokens.json"

AUTH: Final = ("certificates", "tokens")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TOKEN = re.compile(rf"eaves-token\.({_NAME.pattern})\.[A-Za-z0-9_-]{{43}}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SOON: Final = timedelta(days=30)
_log = logging.getLogger(__name__)
T = TypeVar("T")


def expect_name(name: str) -> str:
    """Return the name of an edge if it can be one, and hence that of a folder.

    Raises:
        ConfigError: it cannot.

    >>> expect_name("../edge")
    Traceback (most recent call last):
    eaves.errors.ConfigError: expected a name of 1 to 64 letters, digits, '.', '_' and '-' that...
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            "expected a name of 1 to 64 letters, digits, '.', '_' and '-' that begins with a "
            f"letter or digit, got {name[:80]!r}"
        )
    return name


def digest_of(token: str) -> str:
    """Return the SHA-256 of a token in hexadecimal digits: all that a server keeps of it.

    A token has 256 random bits, so that nobody finds it from there, and no salt is needed.
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
    ca, (certificate, key, _) = _authority(folder), _own_certificate(folder)
    mutual = auth == "certificates"
    return grpc.ssl_server_credentials([(key, certificate)], ca if mutual else None, mutual)


@final
@dataclass(frozen=True)
class Peer:
    """An edge, by its name, and what proved it."""

    name: str
    proof: str = field(repr=False)
    """SHA-256 of its certificate or token; empty where the name is only claimed."""


@final
class _Watched(Generic[T]):
    """What a file says, read again when it has changed; looks at most every ``recheck_s``."""

    def __init__(self, path: Path, read: Callable[[str], T], recheck_s: float):
        self._path, self._read, self._recheck_s = path, read, recheck_s
        self._stamp: tuple[int, ...] | None = None
        self._value: T | None = None
        self._problem, self._next_s = "", 0.0

    def value(self) -> T:
        """Return what the file says.

        Raises:
            StateError: the file is missing or damaged.
        """
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + self._recheck_s
            self._look()
        if self._value is None:
            raise StateError(
                f"the server's list {self._path.name} is {self._problem}: nobody is let in until "
                "its operator has mended it"
            )
        return self._value

    def _look(self) -> None:
        value, problem, stamp = None, "", None
        try:
            found = self._path.stat()  # before reading: what is written in between is seen later
            stamp = (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)
            if stamp == self._stamp:
                return
            value = self._read(self._path.read_text(encoding="utf-8"))
        except OSError as error:
            problem, stamp = f"not there or not readable ({error.strerror})", None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            problem = "damaged"
        if problem and problem != self._problem:
            _log.error("nobody is let in: %s is %s", self._path, problem)
        self._value, self._problem, self._stamp = value, problem, stamp


@final
class Gate:
    """Names each peer and refuses those who may not come in, by the lists in ``folder``.

    With no folder, peers are what they claim to be: for tests and trusted networks only. The lists
    are read again when they have changed, at most every ``recheck_s`` seconds.

    Raises:
        StateError: a list in ``folder`` is missing or damaged.
    """

    def __init__(self, folder: Path | None, auth: str = "certificates", *, recheck_s: float = 1.0):
        if auth not in AUTH:
            raise unknown("auth", auth, AUTH)
        self._insecure, self._by_token = folder is None, auth == "tokens"
        where = folder or Path()
        self._revoked = _Watched(where / REVOKED, read_revoked, recheck_s)
        self._tokens = _Watched(where / TOKENS, _by_digest, recheck_s)
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
        self, auth_context: Mapping[str, Iterable[bytes]], metadata: Mapping[str, str]
    ) -> Peer:
        """Return who is there, by what gRPC says of the connection and of the call.

        Raises:
            AccessError: it brings no proof, or one that is unknown or revoked.
            StateError: a list is damaged, so that nobody is let in.
        """
        if self._insecure:
            return Peer(_expect_peer_name(metadata.get("eaves-edge", "")), "")
        if self._by_token:
            return self._of_token(_bearer(metadata))
        return self._of_certificate(auth_context)

    def expect_allowed(self, peer: Peer) -> None:
        """Let a peer that was identified stay.

        Raises:
            AccessError: it has been revoked since.
            StateError: a list is damaged, so that nobody stays.
        """
        if not self._insecure:
            self._expect_proof(peer.proof)

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
            proof = fingerprint_of(ssl.PEM_cert_to_DER_cert(pem))
        except ValueError as error:
            raise AccessError("the certificate that was shown cannot be read") from error
        peer = Peer(_expect_peer_name(name), proof)
        self._expect_proof(peer.proof)
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


@final
@dataclass(frozen=True)
class TokenEntry:
    """A token that was given out, by its digest."""

    name: str
    digest: str = field(repr=False)
    revoked: bool


def read_revoked(text: str) -> frozenset[str]:
    """Return the fingerprints in ``revoked.json``.

    Raises:
        ValueError, TypeError, KeyError: it is damaged; no entry is passed over.
    """
    return frozenset(_digest(entry["sha256"]) for entry in _entries(text, "revoked"))


def read_tokens(text: str) -> tuple[TokenEntry, ...]:
    """Return the entries of ``tokens.json``.

    Raises:
        ValueError, TypeError, KeyError: it is damaged; no entry is passed over.
    """
    return tuple(
        TokenEntry(
            expect_name(entry["name"]), _digest(entry["sha256"]), entry["revoked"] is not None
        )
        for entry in _entries(text, "tokens")
    )


def _by_digest(text: str) -> dict[str, TokenEntry]:
    return {entry.digest: entry for entry in read_tokens(text)}


def _entries(text: str, kind: str) -> list[dict[str, Any]]:
    found = json.loads(text)[kind]
    if not isinstance(found, list):
        raise TypeError(f"expected a list of {kind}")
    return found


def _digest(value: str) -> str:
    if not _DIGEST.fullmatch(value):
        raise ValueError("expected 64 hexadecimal digits")
    return value


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
    now = datetime.now(UTC)
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


# Words for what TLS says

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
        f"by; {_RENEW}, with --hosts",
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
# All that a client learns of TLS 1.3 when the server does not like what it was shown.
_HUNG_UP: Final = ("Socket closed", "Connection reset", "Broken pipe", "GOAWAY")


def explain(error: grpc.RpcError) -> str | None:
    """Return why an edge could not connect, in words, if gRPC's details tell; else None.

    A server that hangs up does not say why: the words then name all that it may be.
    """
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
