"""Where noise comes from: pseudorandom numbers for training, a keyed stream for what is sent.

Who knows how noise was drawn can take it off again. So noise that leaves the device must come from
a secret; noise that only hardens a net in training need not.
"""

import hashlib
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import log, prod
from typing import NoReturn, final

import torch
from torch import Tensor

from eaves.errors import ConfigError, StateError
from eaves.privacy.stream import COUNTER_BYTES, KEY_BYTES, signed_uniforms

LARGEST_NORMAL = 8.38
"""No standard normal value of :class:`Keyed` is larger: -Phi^-1(2^-55) = 8.374."""
LARGEST_LAPLACE = 54 * log(2)
"""No Laplace value of :class:`Keyed` of scale 1 is larger: -ln(2^-54) = 37.43."""

_ORIGINS = ("a key that was handed in", "a secret key of this device", "a key made from a seed")
_HANDED, _SECRET, _SEEDED = range(3)


class Source(ABC):
    """Draws noise of scale 1, independent from value to value and from call to call."""

    @property
    @abstractmethod
    def about(self) -> str:
        """Where the noise comes from, in words, and who could take it off."""

    @abstractmethod
    def normal(self, shape: Sequence[int], *, salt: bytes = b"") -> Tensor:
        """Return standard normal values as float32; ``salt`` is what they will be added to."""

    @abstractmethod
    def laplace(self, shape: Sequence[int], *, salt: bytes = b"") -> Tensor:
        """Return values of the density exp(-|x|) / 2 as float32; ``salt`` as for :meth:`normal`."""


@final
class Pseudo(Source):
    """Values of a ``torch.Generator``, or of torch's global one where it is None.

    Fast, repeatable, and on the device it is used on. **No guarantee** for what is sent: the state
    of such a generator can be found from its values. On a CPU torch's standard normal values end
    at 5.8.
    """

    def __init__(self, generator: torch.Generator | None = None, *, device: str = "cpu"):
        self._generator = generator
        self._device = torch.device(device) if generator is None else generator.device

    @property
    def about(self) -> str:
        """A warning: such noise is for training."""
        return (
            "a pseudorandom generator that is not made to withstand attacks: whoever finds out its "
            "seed or state takes the noise off again, and no epsilon holds against them"
        )

    def normal(self, shape: Sequence[int], *, salt: bytes = b"") -> Tensor:
        """Return standard normal values on the generator's device, whatever the ``salt``."""
        return torch.randn(tuple(shape), generator=self._generator, device=self._device)

    def laplace(self, shape: Sequence[int], *, salt: bytes = b"") -> Tensor:
        """Return Laplace values, each the difference of two exponential ones, on its device."""
        pair = torch.empty(2, *shape, dtype=torch.float64, device=self._device)
        first, second = pair.exponential_(generator=self._generator)
        laplace: Tensor = first - second
        return laplace.float()


@final
class Keyed(Source):
    """A stream of SHAKE-256(key, number of the call, salt), through the inverse distribution.

    Each value takes 64 bits: a sign, and a uniform u = (k + 1/2) 2^-54 of 53 bits k, which is in
    (0, 1/2]. Its magnitude is -Phi^-1(u) or -ln(2u), computed in float64, so the tails are those
    of float64; they end at :data:`LARGEST_NORMAL` and :data:`LARGEST_LAPLACE`, where less than
    1 value in 10^16 of the exact law would go further.

    Guaranteed: without the key the values cannot be told from random ones, as far as is known of
    SHAKE-256. With the same key and position they are the same, on the same machine and release
    of torch.

    Not guaranteed: anything against who has the key, or the seed that it was made from. Noise that
    is used for two inputs cancels in their difference. So what the noise is added to is its salt:
    whoever goes on from an older :meth:`state` makes the very same payloads again, or others with
    other noise. Source: FIPS 202; Bertoni et al., *Cryptographic
    Sponge Functions* (2011), for a sponge keyed by a prefix.

    Raises:
        ConfigError: a key that is not of 32 bytes.
    """

    def __init__(self, key: bytes):
        if len(key) != KEY_BYTES:
            raise ConfigError(f"expected a key of {KEY_BYTES} bytes, got {len(key)}")
        self._key, self._origin, self._calls = key, _HANDED, 0
        self._taking = threading.Lock()  # two threads must never get the same noise

    @classmethod
    def secret(cls) -> "Keyed":
        """Return a stream with a new key from the operating system: for what is really sent."""
        source = cls(os.urandom(KEY_BYTES))
        source._origin = _SECRET
        return source

    @classmethod
    def from_seed(cls, seed: int) -> "Keyed":
        """Return a stream that can be repeated, by whoever knows or guesses ``seed``.

        >>> same = [Keyed.from_seed(7).normal((2, 3)) for _ in range(2)]
        >>> torch.equal(*same)
        True
        """
        source = cls(hashlib.shake_256(f"eaves noise, seed {seed}".encode()).digest(KEY_BYTES))
        source._origin = _SEEDED
        return source

    @property
    def about(self) -> str:
        """The construction and where the key is from."""
        warning = "; whoever knows the seed takes the noise off" if self._origin == _SEEDED else ""
        return f"a keyed stream (SHAKE-256) with {_ORIGINS[self._origin]}{warning}"

    def normal(self, shape: Sequence[int], *, salt: bytes = b"") -> Tensor:
        """Return standard normal values on the CPU."""
        sign, u = self._draw(shape, salt)
        magnitude: Tensor = torch.special.ndtri(u)
        return (sign * magnitude).float().reshape(tuple(shape))

    def laplace(self, shape: Sequence[int], *, salt: bytes = b"") -> Tensor:
        """Return Laplace values on the CPU."""
        sign, u = self._draw(shape, salt)
        return (sign * (2 * u).log()).float().reshape(tuple(shape))

    def state(self) -> Tensor:
        """Return key and position as uint8 (41,). It is as secret as the key: keep it here."""
        # Saved with the edge, so that after a crash the same payloads are made again: other noise
        # on the same input would be a second release.
        facts = self._calls.to_bytes(COUNTER_BYTES, "big") + bytes([self._origin])
        return torch.frombuffer(bytearray(self._key + facts), dtype=torch.uint8)

    def load_state(self, state: Tensor) -> None:
        """Go on from ``state``: the next values are those that came after it was taken.

        Raises:
            StateError: it is not what :meth:`state` returned.
        """
        expected = KEY_BYTES + COUNTER_BYTES + 1
        if state.dtype != torch.uint8 or state.shape != (expected,):
            raise StateError(
                f"expected the state of a noise source, uint8 ({expected},), "
                f"got {state.dtype} {tuple(state.shape)}"
            )
        saved = bytes(state.tolist())
        if saved[-1] >= len(_ORIGINS):
            raise StateError("the state of a noise source is damaged, or of a later version")
        self._key, self._origin = saved[:KEY_BYTES], saved[-1]
        self._calls = int.from_bytes(saved[KEY_BYTES:-1], "big")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Keyed source cannot be copied: both copies would draw the same noise")

    def _draw(self, shape: Sequence[int], salt: bytes) -> tuple[Tensor, Tensor]:
        """Return signs and uniforms in (0, 1/2], float64 (N,), and move on by one call."""
        with self._taking:
            call = self._calls
            self._calls += 1
        sign_N, u_N = signed_uniforms(self._key, call, prod(shape), salt=salt)
        return torch.from_numpy(sign_N), torch.from_numpy(u_N)
