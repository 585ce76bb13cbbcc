"""Targets that read files: those of a device's disk, of an operator, of whoever gave a bundle."""

import random
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, final

from benchmarks.fuzzing import mutate
from benchmarks.fuzzing.contract import MIB, Target, by_content, expect, joined, one_part, parted
from benchmarks.fuzzing.payloads import upload

from eaves.errors import (
    AccessError,
    ConfigError,
    EavesError,
    PayloadError,
    StateError,
    StorageError,
)
from eaves.experiments.config import TrainConfig
from eaves.experiments.netconfig import PREFIXES, AgentConfig, InferConfig, ServeConfig
from eaves.experiments.settings import from_environment, read_settings
from eaves.network.certificates import initialise, listed, make_device, make_token, revoke
from eaves.network.credentials import Gate, Peer, device_credentials, server_credentials
from eaves.network.spool import Spool
from eaves.network.x509 import read_certificate
from eaves.runtime.store import Store


class InFolder(Target):
    """A target that writes its input as files, and lets the code read them."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self._temporary.name)

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write files as they would be found."""
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o600)

    def close(self) -> None:
        self._temporary.cleanup()


@final
class SpoolFiles(InFolder):
    """The file of a spool, damaged on a device's card; all that an agent does with it."""

    name: ClassVar[str] = "spool"
    allowed: ClassVar = (StateError, StorageError)

    def seeds(self) -> Sequence[bytes]:
        path = self.folder / "seed.db"
        with closing(_spool(path, 20)) as spool:
            for seq in range(1, 6):
                spool.put(seq, bytes([seq]) * 300 * seq, 4, stop=threading.Event())
            spool.persist()
            spool.keep_reply(2, b"reply")
            spool.forget(1)
        return [path.read_bytes()]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        return (self._values if rng.random() < 0.5 else mutate.any_bytes)(rng, data)

    def _values(self, rng: random.Random, data: bytes) -> bytes:
        """Set a value in a table to one of another type or size."""
        path = self.folder / "mutated.db"
        path.write_bytes(data)
        tables = {
            "uploads": ("seq", "samples", "crc", "data"),
            "replies": ("seq", "crc", "data"),
            "dropped": ("first", "last", "samples", "crc"),
            "facts": (
                "forgotten",
                "dropped",
                "dropped_samples",
                "writes",
                "reserved",
                "lost",
                "crc",
            ),
        }
        table = rng.choice(list(tables))
        value = rng.choice(
            ("NULL", "'x'", "x'00'", "1.5", "-1", "0", str(2**63 - 1), str(-(2**63)))
        )
        statements = (
            f"UPDATE {table} SET {rng.choice(tables[table])} = {value}",
            f"INSERT INTO {table} VALUES ({', '.join([value] * len(tables[table]))})",
            f"DELETE FROM {table}",
            f"DROP TABLE {table}",
            f"ALTER TABLE {table} ADD COLUMN more",
            "INSERT INTO dropped VALUES (3, 9, 4, 0)",
            f"PRAGMA user_version = {rng.choice((0, 1, 2, -1))}",
        )
        try:
            with closing(sqlite3.connect(path)) as db:
                db.execute("PRAGMA journal_mode = DELETE")
                db.execute(rng.choice((statements[0], *statements)))
                db.commit()
            return path.read_bytes()
        except (sqlite3.Error, UnicodeDecodeError):
            return mutate.any_bytes(rng, data)

    def run(self, data: bytes) -> str:
        for old in self.folder.iterdir():
            old.unlink()
        path = self.folder / "spool.db"
        path.write_bytes(data)
        with closing(_spool(path, 5)) as spool:
            status = spool.status()
            whole = (status.waiting, status.bytes, status.dropped, status.dropped_samples)
            good = all(type(n) is int and n >= 0 for n in (*whole, status.highest))
            expect(good, "sizes that cannot be")
            seq, seen = 0, 0
            while (entry := spool.after(seq, timeout_s=0)) is not None:
                expect(type(entry.samples) is int and entry.seq > seq, "an upload that cannot be")
                seq, seen = entry.seq, seen + 1
            spool.reply(2)
            spool.put(status.highest + 1, b"new", 1, stop=threading.Event())
            spool.persist()
            spool.forget(status.highest + 1)
            spool.forget_replies(2)
            expect(spool.status().waiting == 0, "something is left")
        return f"{seen} uploads" if seen <= 5 else "uploads"


def _spool(path: Path, keep_through: int) -> Spool:
    return Spool(
        path, limit_bytes=MIB, memory_bytes=MIB, when_full="drop-oldest", keep_through=keep_through
    )


@final
class Stored(InFolder):
    """What a cloud keeps of uploads that were sent once: the lengths, the payloads."""

    name: ClassVar[str] = "store"
    allowed: ClassVar = (StateError, StorageError, PayloadError)

    def seeds(self) -> Sequence[bytes]:
        payloads = [upload("int8", 2), upload("fp32", 3)]
        lengths = b"".join(len(payload).to_bytes(8, "little") for payload in payloads)
        made = self.folder / "made"
        with closing(Store(made)) as store:
            for payload in payloads:
                store.append(payload)
        index = (made / "uploads.idx").read_bytes()
        return [joined([first, b"".join(payloads)]) for first in (index, lengths)]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        return one_part(mutate.any_bytes)(rng, data)

    def run(self, data: bytes) -> str:
        index, payloads = parted(data, 2)
        self.write({"uploads.idx": index, "uploads.bin": payloads})
        with closing(Store(self.folder, keep=2)) as store:
            return f"{sum(len(store.read(i).labels) for i in range(2))} examples"


@final
class Credentials(InFolder):
    """The folders of a device and of the server: authority, certificate, key, token."""

    name: ClassVar[str] = "credentials"
    allowed: ClassVar = (ConfigError,)
    _files: ClassVar[Sequence[str]] = ("ca.pem", "cert.pem", "key.pem", "token")

    def __init__(self) -> None:
        super().__init__()
        initialise(self.folder / "made", ["localhost"])
        self._device = make_device(self.folder / "made", "edge")
        self._token = make_token(self.folder / "made", "other")

    def seeds(self) -> Sequence[bytes]:
        def read(folder: Path) -> bytes:
            paths = [folder / name for name in self._files]
            return joined([path.read_bytes() if path.exists() else b"" for path in paths])

        return [read(self._device), read(self._token), read(self.folder / "made" / "server")]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        return one_part(by_content)(rng, data)

    def run(self, data: bytes) -> str:
        files = dict(zip(self._files, parted(data, 4), strict=True))
        for name in self._files:
            (self.folder / name).unlink(missing_ok=True)
        self.write({name: content for name, content in files.items() if content})
        if not files["token"]:
            server_credentials(self.folder)
        expect(0 < len(device_credentials(self.folder).name) <= 64, "a device without a name")
        return "a token" if files["token"] else "a certificate"


@final
class Certificate(Target):
    """The reader of certificates that needs no library."""

    name: ClassVar[str] = "certificate"
    allowed: ClassVar = (ValueError,)

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            initialise(Path(folder), ["localhost"])
            self._made = [path.read_bytes() for path in sorted(Path(folder).rglob("c*.pem"))]

    def seeds(self) -> Sequence[bytes]:
        return self._made

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        return mutate.pem(rng, data)

    def run(self, data: bytes) -> str:
        facts = read_certificate(data.decode("ascii", errors="replace"))
        expect(facts.starts.tzinfo is not None and isinstance(facts.name, str), "facts in part")
        return "a certificate"


@final
class Entrance(InFolder):
    """Proof of who a peer is: certificate, common name, authorization, claimed name, the lists."""

    name: ClassVar[str] = "gate"
    allowed: ClassVar = (AccessError, StateError)

    def __init__(self) -> None:
        super().__init__()
        made = self.folder / "made"
        initialise(made, ["localhost"])
        make_device(made, "gone")
        revoke(made, "gone")
        self._certificate = (make_device(made, "edge") / "cert.pem").read_bytes()
        self._token = (make_token(made, "other") / "token").read_bytes().strip()
        self._lists = [(made / "server" / f"{n}.json").read_bytes() for n in ("revoked", "tokens")]

    def seeds(self) -> Sequence[bytes]:
        token = b"Bearer " + self._token
        return [
            joined([b"c", self._certificate, b"edge", b"", b"", *self._lists]),
            joined([b"t", b"", b"", token, b"", *self._lists]),
            joined([b"i", b"", b"", b"", b"edge-1", *self._lists]),
        ]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        kind, *rest = parted(data, 7)
        return joined([kind, *parted(one_part(by_content)(rng, joined(rest)))])

    def run(self, data: bytes) -> str:
        kind, certificate, common_name, token, claimed, revoked, tokens = parted(data, 7)
        self.write({"revoked.json": revoked, "tokens.json": tokens})
        auth = "tokens" if kind == b"t" else "certificates"
        gate = Gate(None if kind == b"i" else self.folder, auth, recheck_s=0.0)
        context = {"x509_pem_cert": [certificate], "x509_common_name": [common_name]}
        words = {"authorization": token.decode(errors="replace")}
        peer = gate.identify(context, {**words, "eaves-edge": claimed.decode(errors="replace")})
        expect(isinstance(peer, Peer) and 0 < len(peer.name) <= 64, "a peer without a name")
        gate.expect_allowed(peer)
        return "a peer"


@final
class Register(InFolder):
    """The authority's list of all that was made."""

    name: ClassVar[str] = "issued"
    allowed: ClassVar = (StateError, ConfigError)

    def seeds(self) -> Sequence[bytes]:
        made = self.folder / "made"
        if not made.exists():
            initialise(made, ["localhost"])
            make_device(made, "edge")
            make_token(made, "other")
            revoke(made, "edge")
        return [(made / "authority" / "issued.json").read_bytes()]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        return mutate.json_values(rng, data)

    def run(self, data: bytes) -> str:
        self.write({"authority/issued.json": data})
        states = {entry.state for entry in listed(self.folder)}
        expect(states <= {"valid", "expired", "revoked"}, "an unknown state")
        return "a list"


@final
class Settings(InFolder):
    """Settings: which ones, their TOML, and the same as environment variables."""

    name: ClassVar[str] = "settings"
    allowed: ClassVar = (ConfigError,)
    _kinds: ClassVar[Mapping[bytes, type[Any]]] = {
        b"s": ServeConfig,
        b"a": AgentConfig,
        b"i": InferConfig,
        b"t": TrainConfig,
    }

    def seeds(self) -> Sequence[bytes]:
        serve = b'listen = "0.0.0.0:7443"\nedges = 2\nmerge = 2\nmb_per_s = 1.5\nlog = "json"\n'
        agent = b'cloud = "[::1]:7443"\ninsecure = true\nname = "e"\nspool_mb = 9\nout = "x"\n'
        infer = b'cloud = "a:1"\ndeadline_ms = 9.0\nthreshold = 0.5\nrule = "entropy"\n'
        train = TrainConfig(link="3g,delay=50ms", codec="int4+zstd", cut="layer1").to_toml()
        texts = {b"s": serve, b"a": agent, b"i": infer, b"t": train.encode()}
        return [joined([kind, text]) for kind, text in texts.items()]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        kind, written = parted(data, 2)
        return joined([kind if rng.random() < 0.9 else b"s", mutate.text(rng, written)])

    def run(self, data: bytes) -> str:
        kind, written = parted(data, 2)
        cls = self._kinds.get(kind, ServeConfig)
        prefix = PREFIXES.get(cls, "EAVES_TRAIN_")
        pairs = [line.partition("=") for line in written.decode(errors="replace").splitlines()]
        environ = {f"{prefix}{k.strip().upper()}": v.strip(' "') for k, _, v in pairs}
        tried: Sequence[Callable[[], object]] = (
            lambda: read_settings(cls, prefix=prefix, environ={}, path=self.folder / "x.toml"),
            lambda: from_environment(cls(), prefix, environ),
        )
        self.write({"x.toml": written})
        refused: list[EavesError] = []
        for read in tried:
            try:
                read()
            except ConfigError as error:
                str(error)
                refused.append(error)
        if refused:
            raise refused[0]
        return "settings"
