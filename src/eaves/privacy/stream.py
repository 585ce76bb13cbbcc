"""A keyed stream of uniform numbers, of which noise is made. Imports no torch.

:class:`eaves.privacy.sources.Keyed` says what is guaranteed of it.

Dimension key:  N values
"""

import hashlib
from typing import Final

import numpy as np
import numpy.typing as npt

KEY_BYTES: Final = 32
COUNTER_BYTES: Final = 8

Floats = npt.NDArray[np.float64]


def signed_uniforms(key: bytes, call: int, count: int, *, salt: bytes) -> tuple[Floats, Floats]:
    """Return ``count`` signs, and uniforms in (0, 1/2], of SHAKE-256(key, call, salt).

    Each takes 64 bits: a sign, and u = (k + 1/2) 2^-54 of 53 bits k. ``call`` must never repeat
    under one key with the same ``salt``, which is what the noise will be added to.

    >>> sign_N, u_N = signed_uniforms(bytes(KEY_BYTES), 0, 4, salt=b"")
    >>> sign_N.tolist(), bool((0 < u_N).all() and (u_N <= 0.5).all())
    ([-1.0, -1.0, -1.0, -1.0], True)
    """
    position = call.to_bytes(COUNTER_BYTES, "big")
    stream = hashlib.shake_256(key + position + salt)
    words_N = np.frombuffer(bytearray(stream.digest(8 * count)), "<u8")
    u_N = (words_N >> np.uint64(11)).astype(np.float64)
    u_N += 0.5
    u_N *= 2.0**-54
    sign_N: Floats = 1.0 - 2.0 * (words_N & np.uint64(1)).astype(np.float64)
    return sign_N, u_N
