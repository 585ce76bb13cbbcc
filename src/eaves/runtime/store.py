"""Uploads kept on the cloud's disk: features that travelled once and are learned from many times.

``uploads.bin`` holds the payloads one after the other. ``uploads.idx`` begins with "EAVSTOR2" and
has, for each of them, its length (uint64, little-endian), a mark of the checksums that are in the
payload itself (CRC-32), and the CRC-32 of its number, its length and this: an entry that is
damaged, or in the place of another, does not pass for one. So nothing is summed twice on the way
in; on the way out, the payload has to fit its own checksums, and those the index.
Both only grow, so a crash costs at most the last upload. Only their user can read them.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any, Final, final
from zlib import crc32

import numpy as np
import torch

from eaves.codecs.contract import Buffer
from eaves.codecs.upload import checksums, expect_whole, unpack_upload
from eaves.core.roles import Upload
from eaves.errors import PayloadError, StateError, StorageError
from eaves.runtime.files import write_atomically

_WINDOW: Final = 16  # payloads that are mixed with each other; bounds the memory of an epoch
_MAGIC: Final = b"EAVSTOR2"
_ENTRY: Final = np.dtype([("length", "<u8"), ("mark", "<u4"), ("check", "<u4")])
_PACKED: Final = struct.Struct("<QII")
_OLD_ENTRY: Final = np.dtype("<u8")  # the length alone, without a beginning
_NUMBERED: Final = struct.Struct("<QQI")
_TWO: Final = struct.Struct("<II")
_MODE: Final = 0o600  # features and labels are in it


@final
class Store:
    """An append-only list of payloads in ``folder``.

    Raises:
        StorageError: the disk is full or refuses; what was stored before is intact.
        StateError: fewer whole payloads are there than ``keep`` says.
    """

    def __init__(self, folder: Path, *, keep: int = 0):
        """Open the store and drop all but the first ``keep`` payloads."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._folder = folder
            _bring_up_to_date(folder)
            with ExitStack() as opened:
                self._data = opened.enter_context(_open(folder / "uploads.bin"))
                self._index = opened.enter_context(_open(folder / "uploads.idx"))
                self._ends, self._marks = self._first(keep, folder)
                self._data.truncate(self.size_bytes)
                self._index.truncate(len(_MAGIC) + keep * _ENTRY.itemsize)
                if not keep:  # the file may be new
                    self._index.truncate(0)
                    self._index.write(_MAGIC)
                opened.pop_all()
        except OSError as error:
            raise StorageError(f"cannot open the store in {folder}: {error}") from error

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def size_bytes(self) -> int:
        """All payloads together."""
        return self._ends[-1] if self._ends else 0

    def append(self, payload: bytes) -> None:
        """Add one payload at the end; raises :class:`PayloadError` for what is no upload."""
        mark = _mark(payload)
        try:
            self._data.write(payload)
            self._index.write(_entry(len(self), len(payload), mark))
        except OSError as error:
            raise StorageError(f"cannot store an upload: {error.strerror}") from error
        self._ends.append(self.size_bytes + len(payload))
        self._marks.append(mark)

    def flush(self) -> None:
        """Force what was appended to the disk."""
        try:
            for file in (self._data, self._index):
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"cannot store uploads: {error.strerror}") from error

    def read(self, i: int) -> Upload:
        """Return the i-th upload, decoded.

        Raises:
            StateError: it has changed since it was stored; the message says which one it is.
        """
        content = self._content(i)
        try:
            return Upload(*unpack_upload(content))
        except PayloadError as error:
            raise self._damaged(i) from error

    def payload(self, i: int) -> bytes:
        """Return the i-th upload as it was stored; raises as :meth:`read` does."""
        content = self._content(i)
        if not _is_whole(content, self._marks[i]):
            raise self._damaged(i)
        return content

    def _content(self, i: int) -> bytes:
        """Return the i-th upload, whose checksums are those it was stored with, if they fit it."""
        start = self._ends[i - 1] if i else 0
        self._data.flush()
        content = os.pread(self._data.fileno(), self._ends[i] - start, start)
        try:
            if _mark(content) == self._marks[i]:
                return content
        except PayloadError as error:
            raise self._damaged(i) from error
        raise self._damaged(i)

    def _damaged(self, i: int) -> StateError:
        return StateError(
            f"upload {i + 1} of the {len(self)} in {self._folder} is damaged: bring the folder "
            "back from a copy, or remove the cloud's folder and start all edges with --overwrite"
        )

    def epoch(self, *, seed: int, epoch: int, steps: int, start: int = 0) -> Iterator[Upload]:
        """Yield batches ``start`` to ``steps`` of one epoch, mixed again by (seed, epoch).

        The payloads come in random order; each window of 16 is decoded and its samples are mixed,
        so an epoch costs the memory of one window however much is stored. An epoch has as many
        batches as ``steps``, at most one for each payload stored.
        """
        order = _generator(seed, epoch).permutation(len(self))[:steps]
        for first in range(0, len(order), _WINDOW):
            window = order[first : first + _WINDOW]
            if first + len(window) <= start:
                continue
            uploads = [self.read(int(i)) for i in window]
            features = torch.cat([upload.features for upload in uploads])
            labels = torch.cat([upload.labels for upload in uploads])
            mixed = torch.from_numpy(_generator(seed, epoch, first).permutation(len(labels)))
            for k, chosen in enumerate(mixed.tensor_split(len(window))):
                if first + k >= start:
                    yield Upload(features[chosen], labels[chosen])

    def close(self) -> None:
        """Close both files; what was not flushed may be lost."""
        for file in (self._data, self._index):
            with suppress(OSError):
                file.close()

    def _first(self, keep: int, folder: Path) -> tuple[list[int], list[int]]:
        """Return where each of the first ``keep`` payloads ends, and its mark."""
        stored = os.fstat(self._data.fileno()).st_size
        self._index.seek(0)
        found = read_index(self._index.read(len(_MAGIC) + keep * _ENTRY.itemsize))
        ends: list[int] = np.cumsum(found["length"], dtype=np.int64).tolist()
        whole = sum(end <= stored for end in ends)
        if whole < keep:
            raise StateError(
                f"{folder} holds {whole} whole uploads, expected {keep}: "
                "it is damaged or belongs to another run"
            )
        return ends, found["mark"].tolist()


def read_index(content: bytes) -> "np.ndarray[Any, np.dtype[np.void]]":
    """Return the whole entries at the beginning of an index: ``length`` and ``mark`` of each."""
    if not content.startswith(_MAGIC):
        return np.empty(0, _ENTRY)
    count = (len(content) - len(_MAGIC)) // _ENTRY.itemsize  # a crash may have cut the last one
    entries = np.frombuffer(content, _ENTRY, count, len(_MAGIC))
    for i, (length, mark, _) in enumerate(entries.tolist()):
        # A huge one would make a sum of lengths overflow.
        if length >= 2**48 or _entry(i, length, mark) != entries[i].tobytes():
            return entries[:i]
    return entries


def check_store(folder: Path, *, keep: int | None) -> tuple[int, int]:
    """Read every upload of a store and change nothing; return how many there are, and their bytes.

    ``keep`` is how many there should be; None: not known.

    Raises:
        OSError: it cannot be read.
        StateError: some are missing or damaged; the message says which.
    """
    content = (folder / "uploads.idx").read_bytes()
    if content and not content.startswith(_MAGIC):
        raise StateError(f"{folder} has no checksums, or a damaged index: an older Eaves wrote it")
    entries, total, bad = read_index(content), 0, []
    with (folder / "uploads.bin").open("rb") as file:
        for i, (length, mark, _) in enumerate(entries.tolist()[:keep]):
            if not _is_whole(file.read(length), mark):
                bad.append(i + 1)
            total += length
    if bad or len(entries) < (keep or 0):
        raise StateError(
            f"of the {keep or len(entries)} uploads in {folder}, "
            f"{max(0, (keep or 0) - len(entries))} are missing and these are damaged: "
            f"{bad[:10] or 'none'}; bring the folder back from a copy"
        )
    return len(entries) if keep is None else keep, total


def _entry(i: int, length: int, mark: int) -> bytes:
    return _PACKED.pack(length, mark, crc32(_NUMBERED.pack(i, length, mark)))


def _mark(content: Buffer) -> int:
    """Return what tells an upload from others; raises a :class:`PayloadError` for what is none."""
    return crc32(_TWO.pack(*checksums(content)))


def _is_whole(content: bytes, mark: int) -> bool:
    try:
        expect_whole(content)
        return _mark(content) == mark
    except PayloadError:
        return False


def _open(path: Path) -> IO[bytes]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, _MODE)
    os.chmod(path, _MODE)  # also where an older version has made it
    return os.fdopen(handle, "a+b")


def _bring_up_to_date(folder: Path) -> None:
    """Give an index of lengths alone its checksums: those of the payloads as they are by now."""
    index, data = folder / "uploads.idx", folder / "uploads.bin"
    if not (index.exists() and data.exists()) or not (content := index.read_bytes()):
        return
    if content.startswith(_MAGIC):
        return
    lengths = np.frombuffer(content, _OLD_ENTRY, len(content) // _OLD_ENTRY.itemsize).tolist()
    entries, left = [_MAGIC], data.stat().st_size
    with data.open("rb") as file:
        for i, length in enumerate(lengths):
            left -= length
            if left < 0:
                break
            try:
                entries.append(_entry(i, length, _mark(file.read(length))))
            except PayloadError:  # it is missing, if it should be there
                break
    write_atomically(index, b"".join(entries), mode=_MODE)


def _generator(*seeds: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seeds))
