"""How long something takes, and a spread of such figures in words."""

from collections.abc import Callable, Sequence
from statistics import quantiles
from time import perf_counter


def seconds(work: Callable[[], object]) -> float:
    start_s = perf_counter()
    work()
    return perf_counter() - start_s


def in_words(found: Sequence[float]) -> str:
    """Return the median and the quartiles."""
    low, middle, high = quantiles(found, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"
