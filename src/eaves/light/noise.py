"""Bound and noise of a device without torch: those of :mod:`eaves.privacy.mechanisms`, in numpy.

The bound itself is part of the model. Here it is only checked: noise on a value beyond it would
have no guarantee.

Dimension key:  B batch   D values of one example   N all values
"""

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite, prod
from typing import Final, NoReturn, final

import numpy as np
import numpy.typing as npt

from eaves.errors import ConfigError, DivergedError, unknown
from eaves.privacy.accounting import expect_noise
from eaves.privacy.stream import KEY_BYTES, Floats, signed_uniforms

Features = npt.NDArray[np.float32]


def _largest(z_BD: Floats) -> Floats:
    found: Floats = np.abs(z_BD).max(axis=1)
    return found


def _l1(z_BD: Floats) -> Floats:
    found: Floats = np.abs(z_BD).sum(axis=1)
    return found


def _l2(z_BD: Floats) -> Floats:
    found: Floats = np.sqrt(np.square(z_BD).sum(axis=1))
    return found


NORMS: Final[dict[str, Callable[[Floats], Floats]]] = {
    "tanh": _largest,
    "clip": _largest,
    "l1": _l1,
    "l2": _l2,
}
"""What each bound of :data:`eaves.privacy.bounds.BOUNDS` limits, of each example."""


@final
class Secret:
    """A keyed stream with a new key of the operating system, as ``Keyed.secret()`` has it.

    Guaranteed: see :class:`eaves.privacy.sources.Keyed`. The key is never written anywhere; every
    process has another one, and every call of one another place in its stream.
    """

    def __init__(self) -> None:
        self._key, self._calls = os.urandom(KEY_BYTES), 0
        self._taking = threading.Lock()  # two threads must never get the same noise

    def normal(self, shape: Sequence[int], *, salt: bytes) -> Features:
        """Return standard normal values; ``salt`` is what they will be added to."""
        sign_N, u_N = self._draw(shape, salt)
        return (sign_N * normal_quantile(u_N)).astype(np.float32).reshape(tuple(shape))

    def laplace(self, shape: Sequence[int], *, salt: bytes) -> Features:
        """Return values of the density exp(-|x|) / 2; ``salt`` as for :meth:`normal`."""
        sign_N, u_N = self._draw(shape, salt)
        return (sign_N * np.log(2 * u_N)).astype(np.float32).reshape(tuple(shape))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a source of noise cannot be copied: both copies would draw the same noise")

    def _draw(self, shape: Sequence[int], salt: bytes) -> tuple[Floats, Floats]:
        with self._taking:
            call = self._calls
            self._calls += 1
        return signed_uniforms(self._key, call, prod(shape), salt=salt)


@final
@dataclass(frozen=True, kw_only=True)
class Noising:
    """The bound that the model keeps, and ``scale`` times noise of ``law`` on each value.

    Formal guarantee: that of :class:`eaves.privacy.mechanisms.Mechanism`, whose law, scale and
    bound these are. Not guaranteed: see there.

    Raises:
        ConfigError: no such bound or law, or numbers that they cannot have.
    """

    bound: str
    limit: float
    law: str
    scale: float

    def __post_init__(self) -> None:
        if self.bound not in NORMS:
            raise unknown("bound", self.bound, NORMS)
        if not (isfinite(self.limit) and self.limit > 0):
            raise ConfigError(f"expected a bound's limit above 0, got {self.limit}")
        expect_noise(self.law, self.scale)

    def noised(self, z: Features, source: Secret) -> Features:
        """Return bounded features (B, ...) plus fresh noise; with a scale of 0, as they are.

        Raises:
            DivergedError: they hold NaN or infinity, or are beyond the bound.
        """
        if self.scale == 0:
            return z
        norms_B = NORMS[self.bound](z.reshape(len(z), -1).astype(np.float64))
        if not (norms_B <= self.limit).all():  # nor is any comparison with NaN true
            raise DivergedError(
                f"expected features of the model within {self.bound} {self.limit:g}, got "
                f"{norms_B.max():g}: nothing was sent; export the bundle again"
            )
        draw = source.laplace if self.law == "laplace" else source.normal
        return z + np.float32(self.scale) * draw(z.shape, salt=np.ascontiguousarray(z).tobytes())


def _numbers(text: str) -> Floats:
    return np.array([float(word) for word in text.split()])


# Wichura, Algorithm AS 241 (1988), PPND16: a relative error of about 10^-16. Numerator and
# denominator, the highest power first; for u near 1/2, for its tail, and for the end of that.
_MIDDLE: Final = (
    _numbers(
        "2509.0809287301226727 33430.575583588128105 67265.770927008700853 45921.953931549871457 "
        "13731.693765509461125 1971.5909503065514427 133.14166789178437745 3.387132872796366608"
    ),
    _numbers(
        "5226.495278852854561 28729.085735721942674 39307.89580009271061 21213.794301586595867 "
        "5394.1960214247511077 687.1870074920579083 42.313330701600911252 1"
    ),
)
_TAIL: Final = (
    _numbers(
        "7.7454501427834140764e-4 0.0227238449892691845833 0.24178072517745061177 "
        "1.27045825245236838258 3.64784832476320460504 5.7694972214606914055 "
        "4.6303378461565452959 1.42343711074968357734"
    ),
    _numbers(
        "1.05075007164441684324e-9 5.475938084995344946e-4 0.0151986665636164571966 "
        "0.14810397642748007459 0.68976733498510000455 1.6763848301838038494 "
        "2.05319162663775882187 1"
    ),
)
_END: Final = (
    _numbers(
        "2.01033439929228813265e-7 2.71155556874348757815e-5 0.0012426609473880784386 "
        "0.026532189526576123093 0.29656057182850489123 1.7848265399172913358 "
        "5.4637849111641143699 6.6579046435011037772"
    ),
    _numbers(
        "2.04426310338993978564e-15 1.4215117583164458887e-7 1.8463183175100546818e-5 "
        "7.868691311456132591e-4 0.0148753612908506148525 0.1369298809227358053 "
        "0.59983220655588793769 1"
    ),
)


def normal_quantile(u_N: Floats) -> Floats:
    """Return Phi^-1(u) for u in (0, 1/2], float64.

    >>> normal_quantile(np.array([0.5, 0.025])).round(12).tolist()
    [0.0, -1.95996398454]
    """
    q_N = u_N - 0.5
    r_N = np.sqrt(-np.log(u_N))
    middle_N = q_N * _ratio(_MIDDLE, 0.180625 - q_N * q_N)
    tail_N = np.where(r_N <= 5, _ratio(_TAIL, r_N - 1.6), _ratio(_END, r_N - 5))
    return np.where(q_N >= -0.425, middle_N, -tail_N)


def _ratio(parts: tuple[Floats, Floats], x_N: Floats) -> Floats:
    above, below = (np.polyval(part, x_N) for part in parts)
    found: Floats = above / below
    return found
