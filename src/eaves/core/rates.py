"""A measured share of successes, with its interval and its n."""

from dataclasses import asdict, dataclass
from math import sqrt
from typing import final

# This module is below planner and audit: both need it, and neither may import the other.
_Z95 = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution


@final
@dataclass(frozen=True, slots=True)
class Rate:
    """``value`` of ``n`` trials succeeded; [``low``, ``high``] is its 95 % interval.

    Source: Wilson (1927), *Probable Inference, the Law of Succession, and Statistical Inference*.
    """

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, successes: int, n: int) -> "Rate":
        """Return the Wilson score interval for ``successes`` out of ``n``.

        >>> rate = Rate.of(95, 100)
        >>> rate.value, round(rate.low, 4), round(rate.high, 4)
        (0.95, 0.8882, 0.9785)
        """
        if not 0 <= successes <= n or n == 0:
            raise ValueError(f"expected 0 <= successes <= n and n > 0, got {successes} of {n}")
        p, z2 = successes / n, _Z95**2
        middle = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = _Z95 / (1 + z2 / n) * sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        return cls(p, max(0.0, middle - half), min(1.0, middle + half), n)

    def minus(self, other: "Rate") -> tuple[float, float, float]:
        """Return the difference to a rate of other trials, and the ends of its 95 % interval.

        Of the same trials, which mostly succeed together, the interval is wider than it need be.

        Source: Newcombe (1998), *Interval Estimation for the Difference Between Independent
        Proportions*, method 10.

        >>> [round(x, 4) for x in Rate.of(56, 70).minus(Rate.of(48, 80))]
        [0.2, 0.0524, 0.3339]
        """
        gap = self.value - other.value
        below = sqrt((self.value - self.low) ** 2 + (other.high - other.value) ** 2)
        above = sqrt((self.high - self.value) ** 2 + (other.value - other.low) ** 2)
        return gap, gap - below, gap + above

    def as_json(self) -> dict[str, float | int]:
        """Return the fields by name."""
        return asdict(self)
