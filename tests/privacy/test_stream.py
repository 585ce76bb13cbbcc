"""The stream of uniform numbers under a key: what it is made of, and that it is uniform."""

from hashlib import shake_256

import numpy as np
import pytest

from eaves.privacy.stream import KEY_BYTES, signed_uniforms

KEY = bytes(range(KEY_BYTES))


def test_values_are_taken_from_the_hash_as_it_is_specified() -> None:
    """FIPS 202, as hashlib has it, and the integers of Python in place of numpy."""
    sign_N, u_N = signed_uniforms(KEY, 3, 50, salt=b"features")
    digest = shake_256(KEY + (3).to_bytes(8, "big") + b"features").digest(400)
    words = [int.from_bytes(digest[i : i + 8], "little") for i in range(0, 400, 8)]
    assert sign_N.tolist() == [1.0 - 2.0 * (word % 2) for word in words]
    assert u_N.tolist() == [((word >> 11) + 0.5) / 2**54 for word in words]


@pytest.mark.parametrize(
    ("key", "call", "salt"), [(bytes(KEY_BYTES), 0, b""), (KEY, 1, b""), (KEY, 0, b"x")]
)
def test_another_key_call_or_salt_is_another_stream(key: bytes, call: int, salt: bytes) -> None:
    _, first_N = signed_uniforms(KEY, 0, 100, salt=b"")
    _, other_N = signed_uniforms(key, call, 100, salt=salt)
    assert not (first_N == other_N).any()


def test_values_are_uniform() -> None:
    """Kolmogorov-Smirnov, fixed key: it would fail for 1 key in 10^9, and this one does not."""
    n = 20_000
    sign_N, u_N = signed_uniforms(KEY, 0, n, salt=b"")
    distance = np.abs(np.sort(2 * u_N) - (np.arange(n) + 0.5) / n).max() + 0.5 / n
    assert distance < np.sqrt(np.log(2e9) / (2 * n))
    assert abs(sign_N.mean()) < 6 / np.sqrt(n)
