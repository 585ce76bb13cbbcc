"""Makes what :mod:`eaves.network.credentials` reads: an authority, certificates, tokens; revokes.

A folder of credentials, where only ``authority`` is needed to make more of them::

    authority/{ca.pem, ca.key, issued.json}      who has ca.key can make devices: keep it apart
    server/{ca.pem, cert.pem, key.pem, revoked.json, tokens.json}     for the cloud
    devices/NAME/{ca.pem, cert.pem, key.pem}     for that edge, or
    devices/NAME/{ca.pem, token}

``issued.json`` lists all that was made, so that a name can be revoked when its files are long on
the device; the server's two lists are derived from it. Commands that run at the same time wait for
each other. Each changes all of its files or none, whatever ends it
(:mod:`eaves.runtime.transaction`), and leaves a line in ``access.jsonl``.
"""

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, final

from eaves.errors import ConfigError, StateError, unknown
from eaves.network.accesslists import expect_name
from eaves.network.accesslog import NAME, AccessLog
from eaves.network.credentials import (
    CA,
    CERTIFICATE,
    KEY,
    REVOKED,
    TOKEN,
    TOKENS,
    digest_of,
    read_file,
)
from eaves.network.issuing import (
    Pair,
    device_pair,
    expect_days,
    expect_hosts,
    new_authority,
    server_pair,
)
from eaves.runtime.sealed import sealed_json, unsealed_json
from eaves.runtime.transaction import Content, commit, locked

try:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
except ModuleNotFoundError as error:
    raise ConfigError('certificates need cryptography: pip install "eaves[serve]"') from error

DAYS: Final = 397
"""How long a certificate is valid: the longest that browsers took of public ones (398) less one."""
_SECRET, _PUBLIC = 0o600, 0o644  # the server's lists may be written by root and read by a service
_ISSUED: Final = "authority/issued.json"
_AUTHORITY: Final = ("authority", "authority")  # its kind and name in that list


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


def initialise(folder: Path, hosts: Sequence[str], *, days: int = DAYS) -> None:
    """Make an authority and the server's certificate, or neither, whatever ends the process.

    Raises:
        ConfigError: a host cannot be one, or there is an authority already.
        StorageError: the disk is full or refuses.
    """
    expect_hosts(hosts)
    expect_days(days)
    with _locked(folder, make=True):
        _expect_no_authority(folder)
        _expect_free(folder / "server", (CERTIFICATE, KEY), renew=False)
        _make_all(folder, hosts, days, devices=())


def prepare_machine(folder: Path, hosts: Sequence[str], device: str) -> bool:
    """Make an authority, a server's certificate and that of one device: all of them, or nothing.

    Nothing is made where ``folder`` has a server's credentials already, which may be those of
    another process that was quicker. Return whether something was made.

    Raises:
        ConfigError: there is an authority, and no server.
        StorageError: the disk is full or refuses.
    """
    expect_hosts(hosts)
    with _locked(folder, make=True):
        if (folder / "server").exists():
            return False
        _expect_no_authority(folder)
        _make_all(folder, hosts, DAYS, devices=(expect_name(device),))
    return True


def _make_all(folder: Path, hosts: Sequence[str], days: int, devices: Sequence[str]) -> None:
    authority = new_authority(_now())
    server = server_pair(authority, hosts, days, _now())
    made = {name: device_pair(authority, name, days, _now()) for name in devices}
    issued = [_issued(authority, *_AUTHORITY), _issued(server, "server", " ".join(hosts))]
    issued += [_issued(pair, "device", name) for name, pair in made.items()]
    files = _lists(issued) | _authority_files(authority)
    files |= _pair_files("server", server, authority)
    for name, pair in made.items():
        files |= _pair_files(f"devices/{name}", pair, authority)
    commit(folder, files)
    _record(folder, "authority made", authority)
    _record(folder, "server certificate made", server, hosts=" ".join(hosts))
    for name, pair in made.items():
        _record(folder, "device certificate made", pair, name=name)


def make_server(
    folder: Path, hosts: Sequence[str], *, days: int = DAYS, renew: bool = False
) -> Path:
    """Make the server's certificate for host names and IP addresses; return the server's folder.

    Raises:
        ConfigError: a host cannot be one, or there is a certificate and ``renew`` is not given.
        StorageError: the disk is full or refuses.
    """
    expect_hosts(hosts)
    home = folder / "server"
    with _locked(folder):
        _expect_free(home, (CERTIFICATE, KEY), renew=renew)
        authority = _authority(folder)
        made = server_pair(authority, hosts, days, _now())
        issued = [*_recorded(folder), _issued(made, "server", " ".join(hosts))]
        commit(folder, _lists(issued) | _pair_files("server", made, authority))
        _record(folder, _word("server certificate", renew), made, hosts=" ".join(hosts))
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
        made = device_pair(authority, name, days, _now())
        files = _lists([*issued, _issued(made, "device", name)])
        commit(folder, files | _pair_files(f"devices/{name}", made, authority))
        _record(folder, _word("device certificate", renew), made, name=name)
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
        files = _lists([*issued, entry])
        files[f"devices/{name}/{CA}"] = Content(_authority(folder).certificate_pem, _PUBLIC)
        files[f"devices/{name}/{TOKEN}"] = Content(f"{token}\n".encode(), _SECRET)
        commit(folder, files)
        _log_of(folder).write(
            _word("token", renew), name=name, sha256=entry.sha256[:16], uid=os.getuid()
        )
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
        commit(folder, _lists([replace(e, revoked=now) if e in valid else e for e in issued]))
        for entry in valid:
            digest = entry.sha256[:16]
            _log_of(folder).write(
                f"{entry.kind} revoked", name=name, sha256=digest, uid=os.getuid()
            )
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
def _locked(folder: Path, *, make: bool = False) -> Iterator[None]:
    """Keep other commands away: none may write a list without what this one adds."""
    try:
        with locked(folder, make=make):
            yield
    except FileNotFoundError as error:
        raise _no_authority(folder) from error


def _no_authority(folder: Path) -> ConfigError:
    return ConfigError(
        f"no authority in {folder}; make one with: eaves certs init --host NAME-OF-THE-CLOUD"
    )


def _recorded(folder: Path) -> list[Issued]:
    path = folder / _ISSUED
    if not path.exists():
        raise _no_authority(folder)
    try:
        return [_entry(facts) for facts in unsealed_json(path.read_bytes())["issued"]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StateError(f"{path} is damaged; bring it back from a backup") from error


def _issued(made: Pair, kind: str, name: str) -> Issued:
    ends = made.certificate.not_valid_after_utc
    return Issued(kind=kind, name=name, sha256=made.fingerprint, made=_now(), expires=ends)


def _entry(facts: dict[str, Any]) -> Issued:
    times = {name: facts[name] for name in ("made", "expires", "revoked")}
    read = {name: text and datetime.fromisoformat(text) for name, text in times.items()}
    if not all(isinstance(facts[name], str) for name in ("kind", "name", "sha256", "made")):
        raise TypeError("expected texts")
    if any(moment is not None and moment.tzinfo is None for moment in read.values()):
        raise ValueError("expected times with their zone")
    return Issued(**(facts | read))


def _lists(issued: Sequence[Issued]) -> dict[str, Content]:
    """Return the list of all that was made, and the server's lists that follow from it.

    They come before the secrets themselves: there must be none that cannot be revoked.
    """
    rows = [{k: _plain(v) for k, v in asdict(entry).items()} for entry in issued]
    lists = {
        _ISSUED: {"issued": rows},
        f"server/{REVOKED}": {
            "revoked": [row for row in rows if row["kind"] == "device" and row["revoked"]]
        },
        f"server/{TOKENS}": {"tokens": [row for row in rows if row["kind"] == "token"]},
    }
    return {path: Content(sealed_json(content), _PUBLIC) for path, content in lists.items()}


def _log_of(folder: Path) -> AccessLog:
    return AccessLog(folder / NAME)


def _record(folder: Path, event: str, made: Pair, **facts: str) -> None:
    _log_of(folder).write(event, sha256=made.fingerprint[:16], **facts, uid=os.getuid())


def _word(what: str, renew: bool) -> str:
    return f"{what} renewed" if renew else f"{what} made"


def _plain(value: str | datetime | None) -> str | None:
    return value.isoformat() if isinstance(value, datetime) else value


def _expect_no_authority(folder: Path) -> None:
    home = folder / "authority"
    if home.is_dir() and any(home.iterdir()):
        raise ConfigError(
            f"{home} holds an authority already. To give the server a new certificate, renew "
            "that (--renew); to start again, so that every device needs new credentials, "
            "remove or rename the folder"
        )


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


# Files


def _authority(folder: Path) -> Pair:
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
        raise ConfigError(f"the authority in {home} has expired; remove the folder and start again")
    return Pair(certificate, key)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _authority_files(made: Pair) -> dict[str, Content]:
    return {
        "authority/ca.key": Content(made.key_pem, _SECRET),
        f"authority/{CA}": Content(made.certificate_pem, _PUBLIC),
    }


def _pair_files(home: str, made: Pair, authority: Pair) -> dict[str, Content]:
    return {
        f"{home}/{CA}": Content(authority.certificate_pem, _PUBLIC),
        f"{home}/{KEY}": Content(made.key_pem, _SECRET),
        f"{home}/{CERTIFICATE}": Content(made.certificate_pem, _PUBLIC),
    }
