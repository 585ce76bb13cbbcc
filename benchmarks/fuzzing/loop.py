"""One target, many inputs: run, watch time and memory, keep and shorten what is found."""

import hashlib
import random
import re
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from benchmarks.fuzzing import mutate
from benchmarks.fuzzing.contract import Target

from eaves.runtime.process import return_freed_memory

HANG_S = 2.0
_POOL = 2000
_SHORTEN_S = 2.0
_LONGEST = 1 << 20  # what mutations of mutations may grow to
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Hang(BaseException):
    """An input took too long."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise a :class:`Hang` after so many seconds."""

    def ring(_number: int, _frame: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def attempt(target: Target, data: bytes, *, hang_s: float = HANG_S) -> tuple[str, str, str]:
    """Run one input; return the outcome, its message, and where it is a finding, what it is."""
    try:
        with limited(hang_s), warnings.catch_warnings():
            warnings.simplefilter("error")
            return target.run(data), "", ""
    except target.allowed as error:
        return type(error).__name__, str(error), ""
    except Hang:
        return "hang", "", f"hang: more than {hang_s:g} s"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "finding", "", f"{type(error).__name__} at {_place(error)}: {str(error)[:200]}"


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/eaves/" in f.filename] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].name}"


def _key(finding: str) -> str:
    """Return what two findings of the same cause have in common."""
    return re.sub(r"\d+|0x[0-9a-f]+", "N", finding.partition(": ")[0]) + (
        finding if finding.startswith(("Breach", "hang", "memory")) else ""
    )


@final
class Loop:
    """Mutates seeds, and inputs that ended in a new way, for as long as there is time."""

    def __init__(self, target: Target, seed: int, corpus: Path, scratch: Path | None = None):
        self._target, self._corpus, self._scratch = target, corpus, scratch
        self._rng = random.Random(f"{seed}/{target.name}")
        self._seeds = list(target.seeds())
        self._pool = list(self._seeds)
        self._current = None if scratch is None else (scratch / "input").open("wb", buffering=0)
        self.outcomes: Counter[str] = Counter()
        self.findings: dict[str, str] = {}
        self._ways: set[str] = set()
        self.seconds = 0.0

    def run(self, seconds: float, *, most: int | None = None) -> None:
        """Go on for so many seconds, or ``most`` inputs."""
        started = time.monotonic()
        # Twice: what the first inputs load is no matter of memory.
        valid = [attempt(self._target, seed) for seed in self._pool * 2]
        if bad := [finding for _, _, finding in valid if finding]:
            raise AssertionError(f"a seed of {self._target.name} is no valid input: {bad[0]}")
        if all(outcome in {e.__name__ for e in self._target.allowed} for outcome, _, _ in valid):
            raise AssertionError(f"no seed of {self._target.name} is a valid input: {valid[0]}")
        for data in [*self._known(), *self._pool]:
            self._one(data)
        while time.monotonic() - started < seconds and self.outcomes.total() != most:
            self._one(self._next())
        self.seconds = time.monotonic() - started

    def _known(self) -> list[bytes]:
        return [file.read_bytes() for file in sorted(self._corpus.glob("*")) if file.is_file()]

    def _next(self) -> bytes:
        data = self._rng.choice(self._seeds if self._rng.random() < 0.6 else self._pool)
        for _ in range(self._rng.choice((1, 1, 1, 1, 2, 3))):
            data = self._target.mutate(self._rng, data)
        if self._rng.random() < 0.03:
            data = mutate.spliced(self._rng, data, self._rng.choice(self._pool))
        return data[:_LONGEST]

    def _one(self, data: bytes) -> None:
        if self._current is not None:
            self._current.seek(0)
            self._current.truncate()
            self._current.write(data)
        before = _start_peak()
        outcome, message, finding = attempt(self._target, data)
        grown = _peak() - before
        if not finding and grown > self._target.spare_bytes:
            finding = self._memory(data)
        if finding.startswith("hang"):  # perhaps it was the machine
            _, _, finding = attempt(self._target, data, hang_s=2 * HANG_S)
            outcome = "slow once"
        self.outcomes["finding" if finding else outcome] += 1
        if finding:
            self._keep(data, finding)
            return
        way = f"{outcome} {re.sub(r'[0-9]+', 'N', message)[:60]}"
        if way not in self._ways and len(self._pool) < _POOL and len(data) < _LONGEST // 4:
            self._ways.add(way)
            self._pool.append(data)

    def _memory(self, data: bytes) -> str:
        """Return a finding where the same input takes as much once more."""
        return_freed_memory()  # or it would take what malloc has kept of the first time
        before = _start_peak()
        attempt(self._target, data)
        grown = _peak() - before
        return "memory: above its limit" if grown > self._target.spare_bytes else ""

    def _keep(self, data: bytes, finding: str) -> None:
        key = _key(finding)
        if any(_key(known) == key for known in self.findings):
            return
        if not finding.startswith(("hang", "memory")):
            data = self._shortened(data, key)
        self._corpus.mkdir(parents=True, exist_ok=True)
        file = self._corpus / f"{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        file.write_bytes(data)
        self.findings[finding] = str(file)

    def _shortened(self, data: bytes, key: str) -> bytes:
        """Take out halves, quarters and so on, for as long as the finding stays the same."""
        until, step = time.monotonic() + _SHORTEN_S, max(1, len(data) // 2)
        while step and time.monotonic() < until:
            at = 0
            while at < len(data) and time.monotonic() < until:
                shorter = data[:at] + data[at + step :]
                _, _, finding = attempt(self._target, shorter)
                if finding and _key(finding) == key:
                    data = shorter
                else:
                    at += step
            step //= 2
        return data

    def result(self) -> dict[str, Any]:
        """Return what was found, as JSON has it."""
        total = self.outcomes.total()
        return {
            "inputs": total,
            "per_s": total / self.seconds if self.seconds else 0.0,
            "outcomes": dict(self.outcomes),
            "findings": self.findings,
        }


def _start_peak() -> int:
    """Forget the peak of resident memory (Linux); return what is resident now."""
    if not _CLEAR.exists():
        return 0
    _CLEAR.write_text("5")
    return _status("VmRSS:")


def _peak() -> int:
    return _status("VmHWM:") if _CLEAR.exists() else 0


def _status(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0
