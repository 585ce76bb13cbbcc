"""Byte stages: zstd, and a range coder that learns its table while it codes."""

import struct
import threading
from collections.abc import Iterator
from typing import Any, final

import numpy as np
import numpy.typing as npt
import zstandard

from eaves.codecs.budget import expect_time
from eaves.codecs.contract import Buffer, ByteStage, integer_option, no_option
from eaves.errors import ConfigError, PayloadError

# Level 1, but searching for repeats hardly at all. Quantised features have no repeats, only a
# skewed histogram; the short matches that levels 1-19 find there by chance cost more than the
# Huffman-coded literals they replace. Measured on post-ReLU features: 3-9 % smaller than level 1
# and as quick; level 3 and above are larger AND slower. Runs (dead channels) are still found.
_FEATURES = zstandard.ZstdCompressionParameters.from_level(1, min_match=7, hash_log=6)
_LARGEST_WINDOW = 1 << 23  # what level 19 asks for; a decoder may have to hold that much

_of_this_thread = threading.local()  # a compressor is quick to reuse, and not safe to share


@final
class Zstd(ByteStage):
    """Zstandard (RFC 8878): tuned for features, or with ``zstd:N`` the plain level N (1 to 19)."""

    def __init__(self, level: int | None):
        self.name = "zstd" if level is None else f"zstd:{level}"
        self._level = level

    def encode(self, data: Buffer) -> bytes:
        """Return one zstd frame, which declares its content size."""
        compressors: dict[str, zstandard.ZstdCompressor] = _of_this_thread.__dict__
        if self.name not in compressors:
            compressors[self.name] = (
                zstandard.ZstdCompressor(compression_params=_FEATURES)
                if self._level is None
                else zstandard.ZstdCompressor(level=self._level)
            )
        return compressors[self.name].compress(data)

    def decode(self, data: Buffer, limit_bytes: int) -> bytes:
        """Decompress a frame after checking the sizes that it declares."""
        try:
            frame = zstandard.get_frame_parameters(data)
            # An unknown size reads as 2^64 - 1. Our encoder always writes the size.
            if frame.content_size > limit_bytes:
                raise PayloadError(
                    f"expected a zstd frame of at most {limit_bytes} bytes, got one of "
                    f"{frame.content_size} or of unknown size"
                )
            if frame.window_size > max(frame.content_size, _LARGEST_WINDOW):
                raise PayloadError(f"a zstd frame asks for a window of {frame.window_size} bytes")
            decompressor = zstandard.ZstdDecompressor()
            return decompressor.decompress(data, limit_bytes, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise PayloadError(f"damaged zstd frame: {error}; send it again") from error


_COUNT = struct.Struct("<Q")
_FIRST, _LARGEST_BLOCK = 32, 1 << 20
_PIECE = 1 << 16  # of a block, decoded at once: other threads wait for the interpreter meanwhile
_WEIGHT = 16  # how much one byte seen counts against the 1 that every byte starts with
_MASS = 2**24 - 256


@final
class Range(ByteStage):
    """Range coding of bytes (Martin 1979) with an adaptive model; needs ``constriction``.

    No table travels. Bytes are coded in blocks, each a quarter of what went before, with the counts
    of what went before; the decoder counts the same bytes and so knows the same table. On quantised
    features that comes within 1 % of their zero-order entropy, from some 10 KB on.

    *Not guaranteed*: that damaged words are noticed; that is the payload's checksum's work.
    """

    def __init__(self) -> None:
        try:
            import constriction
        except ImportError as error:
            raise ConfigError(
                "codec stage 'range' needs the package constriction: "
                "install eaves[coder], or use 'zstd'"
            ) from error
        self.name = "range"
        self._stream: Any = constriction.stream

    def encode(self, data: Buffer) -> bytes:
        """Return the number of bytes (uint64), then the coded words (uint32)."""
        bytes_N = np.frombuffer(data, np.uint8)
        counts = np.zeros(256, np.int64)
        encoder = self._stream.queue.RangeEncoder()
        for start, end in _blocks(bytes_N.size):
            block = bytes_N[start:end].astype(np.int32)
            encoder.encode(block, self._model(counts))
            counts += np.bincount(block, minlength=256)
        words: npt.NDArray[np.uint32] = encoder.get_compressed()
        return _COUNT.pack(bytes_N.size) + words.astype("<u4", copy=False).tobytes()

    def decode(self, data: Buffer, limit_bytes: int) -> bytes:
        """Decode, in memory that the count, once checked, bounds."""
        if len(data) < _COUNT.size or len(data) % 4:
            raise PayloadError(f"range-coded data of {len(data)} bytes is not whole; send it again")
        (size,) = _COUNT.unpack_from(data)
        if size > limit_bytes:
            raise PayloadError(f"expected at most {limit_bytes} range-coded bytes, got {size}")
        decoded = np.empty(size, np.uint8)
        counts = np.zeros(256, np.int64)
        words = np.frombuffer(data, "<u4", offset=_COUNT.size).astype(np.uint32)
        decoder = self._stream.queue.RangeDecoder(words)
        try:
            for start, end in _blocks(size):
                model = self._model(counts)
                for at in range(start, end, _PIECE):
                    expect_time()
                    upto = min(end, at + _PIECE)
                    decoded[at:upto] = decoder.decode(model, upto - at)
                counts += np.bincount(decoded[start:end], minlength=256)
        except AssertionError as error:  # what constriction raises for words no encoder writes
            raise PayloadError("damaged range-coded data; send it again") from error
        if not decoder.maybe_exhausted():
            raise PayloadError("range-coded data goes on after its end; send it again")
        return decoded.tobytes()

    def _model(self, counts: npt.NDArray[np.int64]) -> Any:
        """Return the model for ``counts``: integers only, so the same on every machine.

        constriction takes floats p and, with ``perfect=False``, gives symbol i the cumulative
        frequency floor(scale * sum(p[:i])) + i of 2^24, scale = (2^24 - 256) / sum(p) (its
        fast_quantized_cdf, unchanged from 0.4.0 to 0.5.0). Our p are integers whose sum is that
        numerator: every partial sum is an exact double, scale is exactly 1, nothing is rounded.
        """
        weights = counts * _WEIGHT + 1
        mass = weights * _MASS // weights.sum()  # below 2^63 up to 2^34 bytes
        mass[weights.argmax()] += _MASS - mass.sum()
        return self._stream.model.Categorical(mass.astype(np.float64), perfect=False)


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    start = 0
    while start < size:
        end = min(size, start + min(max(_FIRST, start // 4), _LARGEST_BLOCK))
        yield start, end
        start = end


def zstd(option: str | None) -> Zstd:
    """Return the stage ``zstd`` or ``zstd:N``."""
    return Zstd(None if option is None else integer_option("zstd", option, (1, 19)))


def range_coder(option: str | None) -> Range:
    """Return the stage ``range``; ``ConfigError`` where constriction is not installed."""
    no_option("range", option)
    return Range()
