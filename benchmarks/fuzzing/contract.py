"""What is fuzzed: a target takes bytes, and may end in no way but those that its code promises."""

import random
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

from benchmarks.fuzzing import mutate

MIB = 2**20


class Breach(Exception):  # noqa: N818 - not raised by what is tested: a promise was broken
    """The code ended in a way that it may end in, but broke another promise."""


class Target(ABC):
    """One place where bytes from outside come in."""

    name: ClassVar[str]
    allowed: ClassVar[tuple[type[Exception], ...]]
    """What the code documents that it raises."""
    spare_bytes: ClassVar[int] = 24 * MIB
    """How much more memory one input may take than there was before."""

    @abstractmethod
    def seeds(self) -> Sequence[bytes]:
        """Return valid inputs."""

    @abstractmethod
    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        """Return another input, most often an invalid one."""

    @abstractmethod
    def run(self, data: bytes) -> str:
        """Take an input; return one word for how it ended, raise what the code raised.

        Raises:
            Breach: a promise is broken.
        """

    def close(self) -> None:  # noqa: B027 - most have nothing to let go of
        """Let go of threads and files."""


def expect(holds: bool, what: str) -> None:
    """Raise a :class:`Breach` unless ``holds``."""
    if not holds:
        raise Breach(what)


def joined(parts: Sequence[bytes]) -> bytes:
    """Return several byte strings as one, each behind its length."""
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def parted(data: bytes, count: int | None = None) -> list[bytes]:
    """Undo :func:`joined`; what is cut is what there is. With ``count``, return so many."""
    parts, at = [], 0
    while at + 4 <= len(data):
        (length,) = struct.unpack_from("<I", data, at)
        parts.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return parts if count is None else [*parts, *[b""] * count][:count]


def one_part(change: Callable[[random.Random, bytes], bytes]) -> mutate.Mutation:
    """Return a mutation of one of several joined byte strings."""

    def mutated(rng: random.Random, data: bytes) -> bytes:
        parts = parted(data)
        if not parts:
            return mutate.any_bytes(rng, data)
        i = rng.randrange(len(parts))
        parts[i] = change(rng, parts[i])
        return joined(parts)

    return mutated


def by_content(rng: random.Random, data: bytes) -> bytes:
    """Mutate as what the bytes are."""
    if data.startswith(b"EAVU"):
        return mutate.upload(rng, data)
    if data.startswith(b"EAVP"):
        return mutate.payload(rng, data)
    if data[:1] in (b"{", b"["):
        return mutate.json_values(rng, data)
    if data.startswith(b"-----BEGIN"):
        return mutate.pem(rng, data)
    return rng.choice((mutate.any_bytes, mutate.text))(rng, data)


def expect_words(message: str) -> None:
    """Expect of an error's message that gRPC can carry it and a person read it."""
    try:
        size = len(message.encode())
    except UnicodeEncodeError as error:
        raise Breach("a message that is not UTF-8") from error
    expect(size <= 4000, f"a message of {'many' if size > 4000 else size} bytes")
