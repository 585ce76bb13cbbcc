"""What is made is as it should be, is never overwritten unasked, and can all be revoked."""

import errno
import json
import os
import shutil
import signal
import stat
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from eaves.errors import ConfigError, StateError, StorageError
from eaves.network import certificates
from eaves.network.accesslists import read_revoked, read_tokens
from eaves.network.certificates import (
    DAYS,
    initialise,
    listed,
    make_device,
    make_server,
    make_token,
    prepare_machine,
    revoke,
)
from eaves.network.credentials import (
    Gate,
    device_credentials,
    digest_of,
    server_credentials,
)
from eaves.runtime.transaction import locked


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    initialise(tmp_path / "certs", ["cloud.example", "192.0.2.7", "2001:db8::7"])
    return tmp_path / "certs"


def _load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def _fingerprint(path: Path) -> str:
    return _load(path).fingerprint(hashes.SHA256()).hex()


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What is made


def test_another_library_takes_the_server_for_its_hosts_and_no_others(folder: Path) -> None:
    store = Store([_load(folder / "server" / "ca.pem")])
    server = _load(folder / "server" / "cert.pem")
    PolicyBuilder().store(store).build_server_verifier(x509.DNSName("cloud.example")).verify(
        server, []
    )
    with pytest.raises(VerificationError):
        PolicyBuilder().store(store).build_server_verifier(x509.DNSName("other.example")).verify(
            server, []
        )
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == [
        "192.0.2.7",
        "2001:db8::7",
    ]


@pytest.mark.parametrize("kind", ["authority", "server", "device"])
def test_extensions_are_those_of_the_standard(folder: Path, kind: str) -> None:
    home = folder / "authority" if kind == "authority" else folder / "server"
    if kind == "device":
        home = make_device(folder, "edge-1")
    certificate = _load(home / ("ca.pem" if kind == "authority" else "cert.pem"))
    found = {extension.oid: extension for extension in certificate.extensions}
    is_ca = kind == "authority"
    basic, usage = found[ExtensionOID.BASIC_CONSTRAINTS], found[ExtensionOID.KEY_USAGE]
    assert basic.critical
    assert basic.value == x509.BasicConstraints(ca=is_ca, path_length=0 if is_ca else None)
    assert usage.critical
    assert isinstance(usage.value, x509.KeyUsage)
    assert (usage.value.key_cert_sign, usage.value.digital_signature) == (is_ca, not is_ca)
    assert ExtensionOID.SUBJECT_KEY_IDENTIFIER in found
    authority = _load(folder / "authority" / "ca.pem").extensions
    key_of_issuer = authority.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    by = found[ExtensionOID.AUTHORITY_KEY_IDENTIFIER].value
    assert isinstance(by, x509.AuthorityKeyIdentifier)
    assert by.key_identifier == key_of_issuer
    purposes = {
        "server": [ExtendedKeyUsageOID.SERVER_AUTH],
        "device": [ExtendedKeyUsageOID.CLIENT_AUTH],
    }
    if kind in purposes:
        assert found[ExtensionOID.EXTENDED_KEY_USAGE].value == x509.ExtendedKeyUsage(purposes[kind])
    else:
        assert ExtensionOID.EXTENDED_KEY_USAGE not in found


def test_a_device_has_its_name_a_key_of_its_own_and_a_random_number(folder: Path) -> None:
    one, other = (_load(make_device(folder, name) / "cert.pem") for name in ("edge-1", "edge-2"))
    names = one.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert [name.value for name in names] == ["edge-1"]
    assert one.public_key() != other.public_key()
    assert isinstance(one.public_key(), ec.EllipticCurvePublicKey)
    assert one.serial_number.bit_length() > 100 < other.serial_number.bit_length()
    assert one.serial_number != other.serial_number


def test_validity(folder: Path) -> None:
    now = datetime.now(UTC)
    minute = timedelta(minutes=1)
    for path, days in [
        (folder / "authority" / "ca.pem", 3650),
        (folder / "server" / "cert.pem", 397),
        (make_device(folder, "short", days=2) / "cert.pem", 2),
    ]:
        certificate = _load(path)
        assert now - 2 * timedelta(hours=1) < certificate.not_valid_before_utc < now
        assert abs(certificate.not_valid_after_utc - now - timedelta(days=days)) < minute


def test_none_outlives_its_authority(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = datetime.now(UTC).replace(microsecond=0) + timedelta(days=3600)
    monkeypatch.setattr(certificates, "_now", lambda: late)
    ends = _load(make_device(folder, "edge-1") / "cert.pem").not_valid_after_utc
    assert ends == _load(folder / "authority" / "ca.pem").not_valid_after_utc
    monkeypatch.setattr(certificates, "_now", lambda: late + timedelta(days=51))
    with pytest.raises(ConfigError, match="has expired"):
        make_device(folder, "edge-2")


def test_secrets_are_for_their_owner_alone(folder: Path) -> None:
    make_device(folder, "edge-1")
    make_token(folder, "edge-2")
    secret = {path for path in _contents(folder) if path.name in ("ca.key", "key.pem", "token")}
    assert len(secret) == 4
    for path in secret:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for path in (folder / "authority", folder / "server", folder / "devices" / "edge-1"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    keys = b"".join(content for path, content in _contents(folder).items() if path not in secret)
    assert b"PRIVATE" not in keys


def test_the_server_knows_a_token_by_its_hash_only(folder: Path) -> None:
    home = make_token(folder, "edge-1")
    token = (home / "token").read_text().strip()
    assert token.startswith("eaves-token.edge-1.")
    assert len(token.rpartition(".")[2]) == 43  # 256 bits in base64
    secret = token.rpartition(".")[2].encode()
    assert [path for path, content in _contents(folder).items() if secret in content] == [
        home / "token"
    ]
    (entry,) = read_tokens((folder / "server" / "tokens.json").read_text())
    assert (entry.name, entry.digest, entry.revoked) == ("edge-1", digest_of(token), False)
    assert entry.digest not in repr(entry)
    assert all(issued.sha256 not in repr(issued) for issued in listed(folder))


# Nothing is overwritten unasked


def test_an_authority_is_never_replaced(folder: Path) -> None:
    before = _contents(folder)
    with pytest.raises(ConfigError, match="holds an authority already"):
        initialise(folder, ["x.example"])
    (folder / "authority" / "ca.pem").unlink()
    with pytest.raises(ConfigError, match="holds an authority already"):
        initialise(folder, ["x.example"])
    assert (folder / "authority" / "ca.key").read_bytes() == before[folder / "authority" / "ca.key"]


def test_a_certificate_is_replaced_only_when_told(folder: Path) -> None:
    make_device(folder, "edge-1")
    make_token(folder, "edge-2")
    before = _contents(folder)
    with pytest.raises(ConfigError, match="to replace it: --renew"):
        make_server(folder, ["other.example"])
    for make, name in ((make_device, "edge-1"), (make_token, "edge-2")):
        with pytest.raises(ConfigError, match=f"{name} has a .* that is valid.*--renew"):
            make(folder, name)
    for make, name in ((make_token, "edge-1"), (make_device, "edge-2")):
        with pytest.raises(ConfigError, match="a certificate or a token, not both"):
            make(folder, name, renew=True)
    assert _contents(folder) == before
    make_server(folder, ["other.example"], renew=True)
    make_device(folder, "edge-1", renew=True)
    make_token(folder, "edge-2", renew=True)
    changed = {path for path, content in _contents(folder).items() if before[path] != content}
    assert {path.name for path in changed} == {
        *("cert.pem", "key.pem", "token", "issued.json", "tokens.json", "access.jsonl")
    }


def test_a_name_stays_taken_when_its_files_have_moved_to_the_device(folder: Path) -> None:
    home = make_device(folder, "edge-1")
    home.rename(folder / "on-the-device")
    with pytest.raises(ConfigError, match="edge-1 has a certificate that is valid"):
        make_device(folder, "edge-1")
    assert not home.exists()
    revoke(folder, "edge-1")
    make_device(folder, "edge-1")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-x", "a b", "ä", "x" * 65, "a\n"])
def test_a_name_that_cannot_be_one_is_refused(folder: Path, name: str) -> None:
    before = _contents(folder)
    for make in (make_device, make_token):
        with pytest.raises(ConfigError, match="expected a name of 1 to 64"):
            make(folder, name)
    assert _contents(folder) == before


@pytest.mark.parametrize(
    "hosts", [[], [""], ["a:443"], ["a b"], ["-a.example"], ["10.0.0.256"], ["x" * 64], ["ü.de"]]
)
def test_hosts_that_cannot_be_ones_are_refused_before_anything_is_made(
    tmp_path: Path, hosts: list[str]
) -> None:
    with pytest.raises(ConfigError, match="host"):
        initialise(tmp_path / "certs", hosts)
    assert not (tmp_path / "certs").exists()


@pytest.mark.parametrize("days", [0, -1, 3651])
def test_days_that_cannot_be_are_refused(tmp_path: Path, days: int) -> None:
    with pytest.raises(ConfigError, match=f"1 to 3650 days, got {days}"):
        initialise(tmp_path / "certs", ["localhost"], days=days)
    assert not (tmp_path / "certs").exists()


def test_without_an_authority_there_is_nothing_to_make(tmp_path: Path) -> None:
    for make in (make_device, make_token, revoke):
        with pytest.raises(ConfigError, match=r"no authority in .*: eaves certs init"):
            make(tmp_path / "certs", "edge-1")
    with pytest.raises(ConfigError, match="no authority in"):
        listed(tmp_path / "certs")
    assert not (tmp_path / "certs").exists()


@pytest.mark.parametrize("name", ["ca.pem", "ca.key", "issued.json"])
def test_a_damaged_authority_is_named(folder: Path, name: str) -> None:
    (folder / "authority" / name).write_bytes(b"{}")
    with pytest.raises(StateError, match=r"authority.* is damaged"):
        make_device(folder, "edge-1")


def test_the_key_of_another_authority_is_refused(folder: Path, tmp_path: Path) -> None:
    initialise(tmp_path / "other", ["localhost"])
    (tmp_path / "other" / "authority" / "ca.key").replace(folder / "authority" / "ca.key")
    with pytest.raises(StateError, match="is not the key of"):
        make_device(folder, "edge-1")


def test_a_key_that_others_may_read_is_not_used(folder: Path) -> None:
    (folder / "authority" / "ca.key").chmod(0o640)
    with pytest.raises(ConfigError, match=r"chmod 600 .*ca\.key"):
        make_device(folder, "edge-1")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"a file")
    with pytest.raises(StorageError, match=r"cannot use the folder .*taken/certs"):
        initialise(tmp_path / "taken" / "certs", ["x.example"])


# Revocation


def _revoked(folder: Path) -> frozenset[str]:
    return read_revoked((folder / "server" / "revoked.json").read_text())


def test_all_that_a_name_ever_had_is_revoked_and_a_new_one_is_valid(folder: Path) -> None:
    home = make_device(folder, "edge-1")
    first = _fingerprint(home / "cert.pem")
    make_device(folder, "edge-1", renew=True)
    second = _fingerprint(home / "cert.pem")
    other = _fingerprint(make_device(folder, "edge-2") / "cert.pem")
    assert _revoked(folder) == frozenset()
    assert {entry.sha256 for entry in revoke(folder, "edge-1")} == {first, second}
    assert _revoked(folder) == {first, second}
    make_device(folder, "edge-1", renew=True)
    assert _revoked(folder) == {first, second}
    assert _fingerprint(home / "cert.pem") not in {first, second, other}
    states = {entry.sha256: entry.state for entry in listed(folder)}
    assert states[first] == states[second] == "revoked"
    assert states[other] == states[_fingerprint(home / "cert.pem")] == "valid"


def test_a_token_is_revoked(folder: Path) -> None:
    make_token(folder, "edge-1")
    (gone,) = revoke(folder, "edge-1")
    make_token(folder, "edge-1", renew=True)
    old, new = read_tokens((folder / "server" / "tokens.json").read_text())
    assert (old.digest, old.revoked, new.revoked) == (gone.sha256, True, False)


def test_revoking_twice_mends_the_servers_lists_and_changes_nothing(folder: Path) -> None:
    make_device(folder, "edge-1")
    revoke(folder, "edge-1")
    before = _contents(folder)
    (folder / "server" / "revoked.json").unlink()
    assert revoke(folder, "edge-1") == []
    assert _contents(folder) == before


def test_what_was_never_made_cannot_be_revoked(folder: Path) -> None:
    make_device(folder, "edge-1")
    for name in ("edge-2", "authority"):
        with pytest.raises(ConfigError, match=f"unknown device '{name}'; choose from: edge-1"):
            revoke(folder, name)


@pytest.mark.parametrize("failing", ["mkdir", "open", "fsync", "rename"])
def test_a_disk_that_refuses_leaves_all_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    before = _contents(folder)

    def fail(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        real = os.open
        patch.setattr(os, failing, fail)
        if failing == "open":  # what only reads goes on

            def no_new_file(path: Path, flags: int, *rest: int, **options: int) -> int:
                return fail() if flags & os.O_CREAT else real(path, flags, *rest, **options)  # type: ignore[func-returns-value, return-value]

            patch.setattr(os, "open", no_new_file)
        with pytest.raises(StorageError):
            make_device(folder, "edge-1")
    assert _contents(folder) == before
    make_device(folder, "edge-1")


# Killed at any moment. A child counts what it does to the file system and ends before one of the
# steps, without any cleaning up: what is on disk then is what SIGKILL leaves.


def _killed_before(step: int, work: Callable[[], object]) -> bool:
    """Do ``work`` in a child that is killed before its file-system operation number ``step``.

    Return whether it was killed; False: it was done before.
    """
    pid = os.fork()
    if pid == 0:
        seen = 0

        def count(event: str, args: tuple[object, ...]) -> None:
            nonlocal seen
            if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod"):
                seen += 1
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def _steps(work: Callable[[Path], object], fresh: Callable[[Path], None], root: Path) -> list[Path]:
    """Return a folder for each step before which ``work`` was killed, as it was left."""
    left = []
    for step in range(1, 200):
        folder = root / str(step)
        fresh(folder)
        killed = _killed_before(step, lambda folder=folder: work(folder))  # type: ignore[misc]
        left.append(folder)
        if not killed:
            return left
    raise AssertionError("more than 200 steps")


def _whole(folder: Path) -> bool:
    """Whether a cloud and its edge have all that they need in ``folder``."""
    server_credentials(folder / "server")
    Gate(folder / "server")
    return device_credentials(folder / "devices" / "edge-1").name == "edge-1"


def test_a_first_start_killed_at_any_step_is_made_good_by_the_next(tmp_path: Path) -> None:
    def first(folder: Path) -> bool:
        return prepare_machine(folder, ["localhost"], "edge-1")

    left = _steps(first, lambda folder: None, tmp_path)
    assert len(left) > 20  # else the steps are not seen
    for folder in left:
        first(folder)
        assert _whole(folder)
        assert {entry.kind for entry in listed(folder)} == {"authority", "server", "device"}
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("kind", ["init", "device", "token", "renew", "revoke"])
def test_a_command_killed_at_any_step_has_happened_or_has_not(tmp_path: Path, kind: str) -> None:
    made = tmp_path / "made"
    initialise(made, ["localhost"])
    make_device(made, "edge-1")

    def fresh(folder: Path) -> None:
        if kind != "init":
            shutil.copytree(made, folder)

    works: dict[str, Callable[[Path], object]] = {
        "init": lambda folder: initialise(folder, ["localhost"]),
        "device": lambda folder: make_device(folder, "edge-2"),
        "token": lambda folder: make_token(folder, "edge-3"),
        "renew": lambda folder: make_server(folder, ["localhost"], renew=True),
        "revoke": lambda folder: revoke(folder, "edge-1"),
    }
    happened = []
    for folder in _steps(works[kind], fresh, tmp_path):
        if kind == "init" and not folder.exists():
            continue
        with locked(folder):  # as the next command does
            pass
        happened.append(_consistent(folder))
    assert min(happened) < max(happened)  # some had not happened, some had


def _consistent(folder: Path) -> int:
    """Return how much is on the list, after checking that it is what is there."""
    if not (folder / "authority").exists():
        assert not (folder / "server").exists()
        return 0
    issued = listed(folder)
    digests = {entry.sha256 for entry in issued}
    for home in [folder / "server", *(folder / "devices").glob("*")]:
        if (home / "token").exists():
            assert digest_of((home / "token").read_text().strip()) in digests
        else:
            assert _fingerprint(home / "cert.pem") in digests
            key = load_pem_private_key((home / "key.pem").read_bytes(), password=None)
            assert key.public_key() == _load(home / "cert.pem").public_key()
    held = {path.name for path in (folder / "devices").glob("*")}
    assert held == {entry.name for entry in issued if entry.kind in ("device", "token")}
    revoked = {e.sha256 for e in issued if e.kind == "device" and e.revoked}
    assert revoked == _revoked(folder)
    return len(issued) + len(revoked)


def test_two_first_starts_at_once_make_one_set(tmp_path: Path) -> None:
    made = []
    start = threading.Barrier(4)

    def first() -> None:
        start.wait()
        made.append(prepare_machine(tmp_path / "certs", ["localhost"], "edge-1"))

    threads = [threading.Thread(target=first) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False, False, False, True]
    assert _whole(tmp_path / "certs")


def test_what_is_done_is_written_down_and_holds_no_secret(folder: Path) -> None:
    make_device(folder, "edge-1")
    make_token(folder, "edge-2")
    make_device(folder, "edge-1", renew=True)
    revoke(folder, "edge-2")
    with pytest.raises(ConfigError):
        make_device(folder, "edge-1")
    path = folder / "access.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["event"], line.get("name")) for line in lines] == [
        ("authority made", None),
        ("server certificate made", None),
        ("device certificate made", "edge-1"),
        ("token made", "edge-2"),
        ("device certificate renewed", "edge-1"),
        ("token revoked", "edge-2"),
    ]
    assert all(line["uid"] == os.getuid() and line["ts"] for line in lines)
    token = (folder / "devices" / "edge-2" / "token").read_text().strip()
    assert token.rpartition(".")[2] not in path.read_text()


def test_commands_at_the_same_time_lose_nothing(folder: Path) -> None:
    names = [f"edge-{n}" for n in range(12)]
    start = threading.Barrier(len(names))

    def make(name: str) -> None:
        start.wait()
        make_token(folder, name)

    threads = [threading.Thread(target=make, args=[name]) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(e.name for e in listed(folder) if e.kind == "token") == sorted(names)
    assert len(json.loads((folder / "server" / "tokens.json").read_text())["tokens"]) == len(names)


def test_the_list_tells_what_has_expired(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    then = datetime.now(UTC).replace(microsecond=0) - timedelta(days=DAYS + 1)
    monkeypatch.setattr(certificates, "_now", lambda: then)
    make_device(folder, "edge-1")
    states = {entry.kind: (entry.name, entry.state) for entry in listed(folder)}
    assert states == {
        "authority": ("authority", "valid"),
        "server": ("cloud.example 192.0.2.7 2001:db8::7", "valid"),
        "device": ("edge-1", "expired"),
    }
