"""What tests of more than one file share: the command, here and in processes, and figures of a net.

A process is forked where torch is imported already: that is quick, and it can be killed.
"""

import json
import logging
import multiprocessing
import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple, final

import pytest
from hypothesis import settings

from eaves.commands.main import main
from eaves.planner.profile import (
    INPUT,
    CodecCost,
    Profile,
    Seconds,
    Stage,
    StageTimes,
    Subject,
    reply_to,
)

# A busy machine is no failure: time is measured by benchmarks.
settings.register_profile("eaves", deadline=None)
settings.load_profile("eaves")


@final
class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@contextmanager
def _files_end_at(size_bytes: int) -> Iterator[None]:
    """Let real writes beyond ``size_bytes`` of a file fail (Python ignores the signal SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def files_end_at() -> Callable[[int], AbstractContextManager[None]]:
    return _files_end_at


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Undo what a command in this process does to logging; else warnings would fail no test."""
    root, ours = logging.getLogger(), logging.getLogger("eaves")
    before = list(root.handlers), root.level, ours.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])
    logging.captureWarnings(False)


@pytest.fixture
def eaves(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ended]:
    """Return the command as a function in this process; no data root is set."""
    monkeypatch.delenv("EAVES_DATA", raising=False)

    def run(*words: str | Path) -> Ended:
        try:
            code = main([str(word) for word in words])
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Ended(code, *capsys.readouterr())

    return run


# What a process does; exec, because a test module cannot be imported where it is forked.
_CHILD = """
import os, sys
os.chdir(folder)
os.environ.update(environ)
for stream, path in ((1, out), (2, err)):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
sys.stdout = os.fdopen(1, "w", buffering=1)
sys.stderr = os.fdopen(2, "w", buffering=1)
if file_bytes:
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
from eaves.commands.main import main
sys.exit(main(words))
"""
_AT_MOST_S = 60.0


def _wait_for(condition: Callable[[], bool], *, why: Callable[[], str]) -> None:
    deadline = monotonic() + _AT_MOST_S
    while not condition():
        assert monotonic() < deadline, f"what the test waits for never came; {why()}"
        sleep(0.01)


@final
class Started:
    """A command that runs."""

    context = multiprocessing.get_context("forkserver")

    def __init__(self, folder: Path, words: list[str], environ: dict[str, str], file_bytes: int):
        self.context.set_forkserver_preload(
            [
                "eaves.commands.main",
                "eaves.report.serving",
                "eaves.report.inferring",
                "sklearn.datasets",
            ]
        )
        self._out, self._err = (folder / f".{id(self)}.{kind}" for kind in ("out", "err"))
        given = {
            "folder": str(folder),
            "words": words,
            "environ": environ,
            "out": str(self._out),
            "err": str(self._err),
            "file_bytes": file_bytes,
        }
        self.process = self.context.Process(target=exec, args=(_CHILD, given))
        self.process.start()

    @property
    def out(self) -> str:
        return self._out.read_text() if self._out.exists() else ""

    @property
    def err(self) -> str:
        return self._err.read_text() if self._err.exists() else ""

    @property
    def result(self) -> Any:
        """What it printed with --json, in its last line."""
        return json.loads(self.out.splitlines()[-1])

    def says(self, words: str) -> "Started":
        """Wait until it has logged these words."""
        _wait_for(
            lambda: words in self.err or not self.process.is_alive(),
            why=lambda: f"expected {words!r} in {self.err}",
        )
        assert words in self.err
        return self

    def signal(self, number: int) -> "Started":
        assert self.process.pid is not None
        os.kill(self.process.pid, number)
        return self

    def ended(self) -> int:
        """Wait for its end; return its exit code, negative for a signal that killed it."""
        self.process.join(_AT_MOST_S)
        assert self.process.exitcode is not None, f"it goes on and on: {self.err}"
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


@final
class Machine:
    """A folder to run commands in; several of them stand for several machines."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.started: list[Started] = []

    def start(
        self, *words: str | Path | float, environ: dict[str, str] | None = None, file_bytes: int = 0
    ) -> Started:
        begun = Started(self.folder, [str(w) for w in words], environ or {}, file_bytes)
        self.started.append(begun)
        return begun

    def run(self, *words: str | Path | float) -> Started:
        begun = self.start(*words)
        begun.ended()
        return begun


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Return a way to find a port on loopback that nobody listens on."""

    def find() -> int:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port: int = found.getsockname()[1]
            return port

    return find


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Machine]]:
    """Return a way to set up folders with TOML files, whose processes end with the module."""
    made: list[Machine] = []

    def make(**files: str) -> Machine:
        made.append(Machine(tmp_path_factory.mktemp("machine")))
        for name, text in files.items():
            (made[-1].folder / f"{name}.toml").write_text(text)
        return made[-1]

    yield make
    for machine in made:
        for begun in machine.started:
            begun.kill()


# The small net on the digits, in batches of 128: names, output shapes, weights, MACs, times in ms.
_STAGES = (
    ("conv1", (32, 8, 8), 352, 18_432.0, 1.0),
    ("conv2", (64, 4, 4), 18_560, 294_912.0, 2.0),
    ("conv3", (128, 2, 2), 73_984, 294_912.0, 4.0),
    ("head", (10,), 1_290, 1_280.0, 0.25),
)
_BYTES = {
    INPUT: {"raw": 65.0, "png": 80.0},
    "conv1": {"int8": 2_049.0, "int4+zstd": 580.0},
    "conv2": {"int8": 1_025.0, "int4+zstd": 260.0},
    "conv3": {"int8": 513.0, "int4+zstd": 135.0},
    reply_to("conv1"): {"fp16": 4_096.0},
    reply_to("conv2"): {"fp16": 2_048.0},
    reply_to("conv3"): {"fp16": 1_024.0},
}


def _stage(name: str, shape: tuple[int, ...], params: int, macs: float, ms: float) -> Stage:
    def times(factor: float) -> Seconds:
        return Seconds(ms * factor * 1e-3, 1e-5)

    return Stage(
        name=name,
        output_shape=shape,
        params=params,
        buffer_bytes=64,
        forward_macs=macs,
        backward_macs=2 * macs,
        backward_leaf_macs=macs,
        kept_bytes=4_096.0,
        kept_fixed_bytes=256.0,
        moved_bytes=16_384.0,
        operations=4,
        times=StageTimes(times(1), times(2), times(1.5), times(0.25), times(0.5)),
    )


@pytest.fixture(scope="session")
def figures() -> Profile:
    """Return a profile of ``small`` on the digits, as if this machine had been measured."""
    stages = tuple(_stage(*facts) for facts in _STAGES)
    coded = {
        where: tuple(
            CodecCost(codec=name, bytes_per_sample=n, encode=Seconds(1e-3), decode=Seconds(5e-4))
            for name, n in sizes.items()
        )
        for where, sizes in _BYTES.items()
    }
    return Profile(
        subject=Subject(
            net="small",
            stem=None,
            input_shape=(1, 8, 8),
            classes=10,
            batch_size=128,
            precision="fp32",
            exit="conv",
            version="0",
            structure="0",
        ),
        machine={"cpu": "Some CPU", "gpu": None},
        payloads_from="digits",
        samples=1_437,
        fetch=Seconds(5e-4),
        contention=1.5,
        stages=stages,
        exits={s.name: _stage("exit", (10,), 1_290, 1_280.0, 0.5) for s in stages[:-1]},
        codecs=coded,
        peak_bytes={"conv1": 9_000_000, "conv2": 8_000_000, "conv3": 7_000_000, "head": 5_000_000},
    )


@pytest.fixture
def profile_file(figures: Profile, tmp_path: Path) -> Path:
    """Return a file of :func:`figures`."""
    path = tmp_path / "edge.json"
    path.write_text(figures.to_json())
    return path
