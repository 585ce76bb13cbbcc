"""Flip bits and cut files of a stopped edge and its cloud: nothing may be lost silently.

    python -m benchmarks.bitflips [--cases 200] [--continued 40] [--seed 0] [--out FILE]

An edge and a cloud (the digits, features sent once) are stopped in the midst of a run, the edge
with uploads in its spool; beside them stand a finished run and a folder of credentials. The clouds
keep what they have learnt, and have an edge in quarantine. Each case
damages one file of a copy: a bit at random, a truncation, or zeros at the end as a loss of power
leaves them. Then `eaves verify` looks at it. Where it finds nothing, and in --continued cases
anyway, the run goes on from the damaged files to its end, and the weights of both halves are
compared with those of the undamaged run, bit for bit. Every case is one of

    detected   an error names it, or the record says what was lost
    harmless   the weights are the same to the bit; of what no run goes on from: what is read from
               the file is the same as before
    SILENT     neither: exit code 1

"""

import argparse
import contextlib
import io
import json
import logging
import random
import shutil
import sqlite3
import ssl
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch

from eaves.errors import EavesError
from eaves.experiments.agent import AgentProgress, run_agent
from eaves.experiments.config import TrainConfig, load_config
from eaves.experiments.halves import Origin
from eaves.experiments.netconfig import AgentConfig, ServeConfig
from eaves.experiments.record import RunRecord
from eaves.experiments.serve import serve
from eaves.experiments.verifying import verify
from eaves.network.certificates import initialise, make_device
from eaves.network.channel import insecure_target
from eaves.network.credentials import Gate, device_credentials, server_credentials
from eaves.network.quarantine import Quarantine
from eaves.runtime.sealed import unsealed_json

CONFIG = TrainConfig(train_samples=256, batch_size=16, epochs=2, send="once", cloud_epochs=3)
_UPLOADS = 16
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Case:
    """One damage to one file."""

    file: str
    how: str
    at: float

    def damage(self, path: Path) -> str:
        """Change the file; return where in words."""
        content = bytearray(path.read_bytes())
        place = int(self.at * len(content))
        if self.how == "bit":
            content[place] ^= 1 << int(self.at * 8e6) % 8
        elif self.how == "cut":
            del content[place:]
        else:
            content[place:] = bytes(len(content) - place)
        path.write_bytes(content)
        return f"{self.how} at byte {place}"


@contextlib.contextmanager
def cloud(folder: Path, uploads_per_s: float | None = None) -> Iterator[str]:
    """Serve from a folder until the context ends; give the address."""
    stop, there = threading.Event(), threading.Event()
    found: list[int | BaseException] = []

    def body() -> None:
        config = ServeConfig(
            listen="127.0.0.1:0",
            insecure=True,
            out=folder,
            checkpoint_s=0.2,
            uploads_per_s=uploads_per_s,
            keep_uploads=100.0,
        )
        try:
            for event in serve(Origin(config=CONFIG), config, Gate(None), None, stop=stop):
                found[:] = [event.port]
                there.set()
        except BaseException as error:
            found[:] = [error]
        there.set()

    thread = threading.Thread(target=body)
    thread.start()
    there.wait()
    try:
        if isinstance(found[0], BaseException):
            raise found[0]
        yield f"127.0.0.1:{found[0]}"
    finally:
        stop.set()
        thread.join()
    if isinstance(found[0], BaseException):
        raise found[0]


def agent(folder: Path, address: str, *, made: int = 10**9, durable: int = 10**9) -> RunRecord:
    """Run an agent to its end, or until so many uploads are made, or durable in the cloud."""
    config = AgentConfig(
        insecure=True, out=folder, max_backoff_s=0.1, checkpoint_s=0.0, cloud=address
    )
    stop, until = threading.Event(), time.monotonic() + _PATIENCE_S
    target = insecure_target(address, "edge-1")
    for event in run_agent(Origin(config=CONFIG), config, target, stop=stop):
        if isinstance(event, RunRecord):
            return event
        assert isinstance(event, AgentProgress)
        late = time.monotonic() > until
        if late or event.spool.highest >= made or event.uplink.durable >= durable:
            stop.set()
    raise AssertionError("no record came")


def weights(root: Path) -> list[str]:
    """Return digests of the weights of both halves."""
    paths = (root / "cloud/bundle/cloud", root / "edge/bundle/edge")
    files = [folder / "weights.safetensors" for folder in paths]
    return [sha256(path.read_bytes()).hexdigest()[:16] for path in files]


def prepare(root: Path) -> None:
    """Leave an edge and a cloud in the midst of a run, a finished one, and credentials."""
    done = root / "finished"
    with cloud(done / "cloud") as address:
        agent(done / "edge", address)
    with cloud(root / "cloud", uploads_per_s=1.0) as address:
        agent(root / "edge", address, durable=3)
    agent(root / "edge", "127.0.0.1:1", made=_UPLOADS)  # the rest waits in the spool
    assert keep_log(root / "edge") > 4
    for folder in (root / "cloud", done / "cloud"):
        Quarantine(folder / "quarantine", 0).set_aside("edge-9", "for what it has sent")
    initialise(root / "certs", ["localhost"])
    make_device(root / "certs", "edge-1")


def keep_log(edge: Path) -> int:
    """Put half of what waits in the spool into a log beside it, as a killed process leaves it."""

    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(edge / "spool.db", folder)
        db = sqlite3.connect(Path(folder) / "spool.db", isolation_level=None)
        db.execute("PRAGMA journal_mode = WAL")
        rows = db.execute("SELECT * FROM uploads ORDER BY seq").fetchall()
        half = len(rows) // 2
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.executemany("DELETE FROM uploads WHERE seq = ?", [(row[0],) for row in rows[half:]])
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for row in rows[half:]:
            db.execute("INSERT INTO uploads VALUES (?, ?, ?, ?)", row)
        for name in ("spool.db", "spool.db-wal"):
            shutil.copy(Path(folder) / name, edge)
        db.close()
    return len(rows)


def went_on(root: Path) -> tuple[str, list[str]]:
    """Let the damaged pair go on; return an error or a loss in words, and the weights."""
    try:
        with cloud(root / "cloud") as address:
            record = agent(root / "edge", address)
    except EavesError as error:
        return f"{type(error).__name__}: {error}", []
    network = record.network or {}
    if network.get("lost_uploads") or not record.complete:
        return f"the record: lost {network.get('lost_uploads')}, complete {record.complete}", []
    return "", weights(root)


def credentials_work(root: Path) -> str:
    """Return why the credentials cannot be used, or nothing."""
    try:
        made = make_device(root / "certs", "edge-2")  # reads the authority's key, and its list
        for device in (root / "certs/devices/edge-1", made):
            device_credentials(device)
            shake_hands(device, root / "certs/server")
        server_credentials(root / "certs/server")
    except (EavesError, ValueError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def shake_hands(device: Path, server: Path) -> None:
    """Connect one to the other with TLS, in memory; raises an OSError where either refuses."""
    ends, down, up = [], ssl.MemoryBIO(), ssl.MemoryBIO()
    for folder, side in ((device, ssl.PROTOCOL_TLS_CLIENT), (server, ssl.PROTOCOL_TLS_SERVER)):
        context = ssl.SSLContext(side)
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        context.load_verify_locations(folder / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        served = side == ssl.PROTOCOL_TLS_SERVER
        if served:
            ends.append(context.wrap_bio(up, down, server_side=True))
        else:
            ends.append(context.wrap_bio(down, up, server_hostname="localhost"))
    for _ in range(10):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    for end in ends:
        end.do_handshake()


def read(path: Path) -> object:
    """Return what is read from a file, whatever is around it."""
    if path.suffix == ".json":
        return unsealed_json(path.read_bytes())
    if path.suffix == ".toml":
        return load_config(path)
    if path.suffix in (".pem", ".key"):
        return (
            None  # hands were shaken with it: the signature of an authority by itself is not read
        )
    if path.suffix == ".db":
        with contextlib.closing(sqlite3.connect(path)) as db:
            return list(db.iterdump())
    return path.read_bytes()


def judge(case: Case, made: Path, right: list[str], *, goes_on: bool) -> tuple[str, str]:
    """Damage a copy; return what became of it, and why."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "x"
        shutil.copytree(made, root)
        where = case.damage(root / case.file)
        (found,) = [[v.says for v in verify(root) if not v.whole]]
        of_pair = case.file.split("/")[0] in ("edge", "cloud")
        if found and not goes_on:
            return "detected", f"{where}: {found[0]}"
        if not of_pair:
            why = found[0] if found else credentials_work(root)
            same = not why and read(root / case.file) == read(made / case.file)
            return ("detected" if why else "harmless" if same else "SILENT"), f"{where}: {why}"
        why, halves = went_on(root)
        if why or halves == right:
            kind = "detected" if why or found else "harmless"
            return kind, f"{where}: {why or found or 'same weights'}"
        return "SILENT", f"{where}: {found} {halves} instead of {right}"


def cases(made: Path, count: int, seed: int) -> list[Case]:
    """Return cases over every file, in turn."""
    rng = random.Random(seed)
    files = sorted(str(p.relative_to(made)) for p in made.rglob("*") if p.is_file())
    files = [name for name in files if (made / name).stat().st_size]
    rng.shuffle(files)
    hows = ("bit", "bit", "bit", "cut", "zeros")
    return [Case(files[i % len(files)], rng.choice(hows), rng.random()) for i in range(count)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--continued", type=int, default=40, help="cases that go on to the end")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    counts: Counter[tuple[str, str]] = Counter()
    rows, started_s = [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made"
        with contextlib.redirect_stderr(io.StringIO()):
            prepare(made)
        shutil.copytree(made, Path(folder) / "right")
        why, right = went_on(Path(folder) / "right")
        assert not why, why
        every = max(1, options.cases // max(1, options.continued))
        for i, case in enumerate(cases(made, options.cases, options.seed)):
            kind, words = judge(case, made, right, goes_on=i % every == 0)
            kinds = case.file.split("/")[-1]
            counts[("weights" if kinds.endswith("safetensors") else kinds, kind)] += 1
            rows.append({"file": case.file, "how": case.how, "is": kind, "says": words[:300]})
            if kind == "SILENT":
                print(f"SILENT {case}: {words}", flush=True)
    names = sorted({name for name, _ in counts})
    print(f"{'file':<22}{'detected':>10}{'harmless':>10}{'SILENT':>8}")
    for name in names:
        found = [counts[(name, kind)] for kind in ("detected", "harmless", "SILENT")]
        print(f"{name:<22}{found[0]:>10}{found[1]:>10}{found[2]:>8}")
    total = Counter(row["is"] for row in rows)
    print(f"{len(rows)} cases in {time.monotonic() - started_s:.0f} s: {dict(total)}")
    if options.out:
        options.out.write_text(json.dumps({"totals": total, "cases": rows}, indent=1) + "\n")
    return 1 if total["SILENT"] else 0


if __name__ == "__main__":
    sys.exit(main())
