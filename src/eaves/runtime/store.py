"""Uploads kept on the cloud's disk: features that travelled once and are learned from many times.

``uploads.bin`` holds the payloads one after the other, ``uploads.idx`` the length of each as a
little-endian 64-bit integer. Both only grow, so a crash costs at most the last upload.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, final

import numpy as np
import torch

from eaves.codecs.upload import unpack_upload
from eaves.core.roles import Upload
from eaves.errors import StateError, StorageError

_WINDOW: Final = 16  # payloads that are mixed with each other; bounds the memory of an epoch
_LENGTH: Final = np.dtype("<u8")


@final
class Store:
    """An append-only list of payloads in ``folder``.

    Raises:
        StorageError: the disk is full or refuses; what was stored before is intact.
        StateError: fewer payloads are there than ``keep`` says.
    """

    def __init__(self, folder: Path, *, keep: int = 0):
        """Open the store and drop all but the first ``keep`` payloads."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with ExitStack() as opened:
                self._data = opened.enter_context((folder / "uploads.bin").open("a+b"))
                self._index = opened.enter_context((folder / "uploads.idx").open("a+b"))
                self._ends = self._first(keep, folder)
                self._data.truncate(self.size_bytes)
                self._index.truncate(keep * _LENGTH.itemsize)
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
        """Add one payload at the end."""
        try:
            self._data.write(payload)
            self._index.write(np.array([len(payload)], dtype=_LENGTH).tobytes())
        except OSError as error:
            raise StorageError(f"cannot store an upload: {error.strerror}") from error
        self._ends.append(self.size_bytes + len(payload))

    def flush(self) -> None:
        """Force what was appended to the disk."""
        try:
            for file in (self._data, self._index):
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"cannot store uploads: {error.strerror}") from error

    def read(self, i: int) -> Upload:
        """Return the i-th upload, decoded; raises :class:`PayloadError` where it is damaged."""
        return Upload(*unpack_upload(self.payload(i)))

    def payload(self, i: int) -> bytes:
        """Return the i-th payload as it was appended."""
        start = self._ends[i - 1] if i else 0
        self._data.flush()
        return os.pread(self._data.fileno(), self._ends[i] - start, start)

    def epoch(self, *, seed: int, epoch: int, steps: int, start: int = 0) -> Iterator[Upload]:
        """Yield batches ``start`` to ``steps`` of one epoch, mixed anew by (seed, epoch).

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

    def _first(self, keep: int, folder: Path) -> list[int]:
        """Return where each of the first ``keep`` payloads ends."""
        self._index.seek(0)
        content = self._index.read(keep * _LENGTH.itemsize)
        whole = len(content) // _LENGTH.itemsize  # a crash may have cut the last length
        lengths = np.frombuffer(content, _LENGTH, whole)
        ends: list[int] = np.cumsum(lengths, dtype=np.int64).tolist()
        stored = os.fstat(self._data.fileno()).st_size
        # Each length too: a huge one would make the sum overflow.
        fits = (lengths <= stored) & (np.array(ends, np.int64) <= stored)
        if (found := int(np.logical_and.accumulate(fits).sum())) < keep:
            raise StateError(
                f"{folder} holds {found} whole uploads, expected {keep}: "
                "it is damaged or belongs to another run"
            )
        return ends


def _generator(*seeds: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seeds))
