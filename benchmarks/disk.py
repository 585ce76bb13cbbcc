"""Processor time of uploads on their way to a disk, beside another checkout of Eaves.

    python -m benchmarks.disk --base FOLDER [--pairs 9] [--kb 80] [--folder /dev/shm]

FOLDER is the root of the other checkout. Each measures itself in a process of its own that stays;
they take turns, the one and then the other, and the first of a pair changes. Printed are the
medians of both in microseconds an upload, and the median of the ratios of the pairs, with its
quartiles; above 1: this checkout is slower. In memory (/dev/shm) the disk's own time, which hides
most of the difference, is left out.

    spill     a spool whose memory is full writes one upload to its file
    persist   a spool writes all that it holds, in one go; for each upload
    take      the uplink reads an upload that is on disk alone
    append    the store of uploads that were sent once takes one
    read      it gives one back, decoded
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import median, quantiles
from threading import Event
from time import process_time

import torch

from eaves.codecs.base import parse_codec
from eaves.codecs.upload import pack_upload
from eaves.network.spool import Spool
from eaves.runtime.store import Store

_UPLOADS = 200
_KINDS = ("spill", "persist", "take", "append", "read")
_STOP = Event()


def _payloads(kb: int) -> list[bytes]:
    """Return uploads of so many KB, each with a checksum within, as edges send them."""
    features = torch.randint(0, 256, (16, kb * 64), dtype=torch.uint8)
    labels = torch.arange(16)
    codec = parse_codec("raw")
    return [pack_upload(features.roll(i), labels, codec) for i in range(_UPLOADS)]


def _spool(path: Path, memory_bytes: int) -> Spool:
    return Spool(
        path, limit_bytes=2**30, memory_bytes=memory_bytes, when_full="block", keep_through=0
    )


def _spooled(folder: Path, payloads: list[bytes]) -> Iterator[float]:
    """Yield the seconds of the first three kinds, each for one upload."""
    with closing(_spool(folder / "spill.db", 0)) as spool:
        start_s = process_time()
        for seq, payload in enumerate(payloads, 1):
            spool.put(seq, payload, 16, stop=_STOP)
        yield (process_time() - start_s) / len(payloads)
        start_s = process_time()
        taken = [spool.after(seq, timeout_s=0) for seq in range(len(payloads))]
        took_s = (process_time() - start_s) / len(payloads)
        assert all(entry is not None for entry in taken)
    with closing(_spool(folder / "persist.db", 2**30)) as spool:
        for seq, payload in enumerate(payloads, 1):
            spool.put(seq, payload, 16, stop=_STOP)
        start_s = process_time()
        spool.persist()
        yield (process_time() - start_s) / len(payloads)
    yield took_s


def _stored(folder: Path, payloads: list[bytes]) -> Iterator[float]:
    """Yield the seconds of the last two kinds, each for one upload."""
    with closing(Store(folder / "store")) as store:
        start_s = process_time()
        for payload in payloads:
            store.append(payload)
        yield (process_time() - start_s) / len(payloads)
        start_s = process_time()
        for i in range(len(payloads)):
            store.read(i)
        yield (process_time() - start_s) / len(payloads)


def _child(kb: int, root: str) -> None:
    """Answer each line with the seconds of all kinds."""
    torch.set_num_threads(1)
    payloads = _payloads(kb)
    for _ in sys.stdin:
        with tempfile.TemporaryDirectory(dir=root) as name:
            found = [*_spooled(Path(name), payloads), *_stored(Path(name), payloads)]
        print(*found, flush=True)


def _started(checkout: Path, kb: int, folder: str) -> "subprocess.Popen[str]":
    command = [sys.executable, __file__, "--child", "--kb", str(kb), "--folder", folder]
    environ = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    return subprocess.Popen(
        command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _asked(process: "subprocess.Popen[str]") -> list[float]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return [float(word) for word in process.stdout.readline().split()]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, help="root of the other checkout")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--kb", type=int, default=80, help="of one upload")
    parser.add_argument("--folder", default="/dev/shm")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child(options.kb, options.folder)
        return 0
    if options.base is None:
        parser.error("--base is missing: the root of the other checkout")
    checkouts = (options.base, Path(__file__).parents[1])
    ends = [_started(checkout, options.kb, options.folder) for checkout in checkouts]
    found: list[list[list[float]]] = [[], []]
    for pair in range(-1, options.pairs):  # what the first ones take is not counted
        for side in (0, 1) if pair % 2 else (1, 0):
            seconds = _asked(ends[side])
            if pair >= 0:
                found[side].append(seconds)
    for end in ends:
        end.communicate()
    print(f"{options.kb} KB an upload, {options.pairs} pairs, microseconds")
    print(f"{'':<10}{'base':>10}{'this':>10}{'ratio':>8}  quartiles")
    for k, kind in enumerate(_KINDS):
        base, this = ([row[k] for row in side] for side in found)
        ratios = [b / a for a, b in zip(base, this, strict=True)]
        low, middle, high = quantiles(ratios, n=4)
        print(
            f"{kind:<10}{median(base) * 1e6:>10.1f}{median(this) * 1e6:>10.1f}{middle:>8.3f}  "
            f"{low:.3f} to {high:.3f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
