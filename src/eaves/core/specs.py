"""Links in SI units, their named presets, and the time that a transfer takes. Imports no torch."""

import random
import re
from dataclasses import dataclass, replace
from math import ceil, inf, isfinite
from typing import final

from eaves.errors import ConfigError, unknown


@final
@dataclass(frozen=True, slots=True)
class Transfer:
    """What one payload costs: how long it holds the link, and how long after that it arrives."""

    busy_s: float
    delay_s: float


@final
@dataclass(frozen=True, kw_only=True)
class LinkSpec:
    """A link between edge and cloud.

    The rates are goodput: what the application's bytes get after headers. A lost packet is sent
    again, which holds the link once more and costs a round trip before it arrives.
    """

    up_bps: float = inf
    down_bps: float = inf
    delay_s: float = 0.0
    """One way."""
    jitter_s: float = 0.0
    """Standard deviation of the one-way delay."""
    loss: float = 0.0
    """Probability that a packet is lost."""
    packet_bytes: int = 1500
    up_j_per_bit: float | None = None
    """Energy that the edge's radio spends on each bit it sends; None: not known."""
    down_j_per_bit: float | None = None

    def __post_init__(self) -> None:
        for name in ("up_bps", "down_bps"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"expected {name} above 0 bit/s, got {getattr(self, name)}")
        for name in ("delay_s", "jitter_s"):
            value = getattr(self, name)
            if not (isfinite(value) and value >= 0):
                raise ConfigError(f"expected {name} of 0 s or more, got {value}")
        if not 0 <= self.loss < 1:
            raise ConfigError(f"expected a loss in [0, 1), got {self.loss}")
        if self.packet_bytes < 1:
            raise ConfigError(f"expected packets of 1 byte or more, got {self.packet_bytes}")
        for name in ("up_j_per_bit", "down_j_per_bit"):
            energy = getattr(self, name)
            if energy is not None and not (isfinite(energy) and energy >= 0):
                raise ConfigError(f"expected {name} of 0 J or more, got {energy}")

    def transfer(self, size_bytes: int, *, up: bool = True, rng: random.Random) -> Transfer:
        """Draw the cost of sending ``size_bytes``.

        >>> LinkSpec(up_bps=8e6).transfer(1_000_000, rng=random.Random(0))
        Transfer(busy_s=1.0, delay_s=0.0)
        """
        rate_bps = self.up_bps if up else self.down_bps
        sent_bytes, delay_s = float(size_bytes), max(0.0, rng.gauss(self.delay_s, self.jitter_s))
        packets = self._packets(size_bytes) if self.loss else 0
        while packets := sum(rng.random() < self.loss for _ in range(packets)):
            sent_bytes += packets * self.packet_bytes
            delay_s += 2 * self.delay_s
        return Transfer(8 * sent_bytes / rate_bps, delay_s)

    def expected(self, size_bytes: float, *, up: bool = True) -> Transfer:
        """Return what :meth:`transfer` costs on average, jitter aside.

        Each of n packets is sent again until it arrives, and the payload is there with the last of
        them: after the largest of n geometric numbers of rounds.

        >>> LinkSpec(up_bps=8e6, loss=0.5).expected(1500)
        Transfer(busy_s=0.003, delay_s=0.0)
        """
        rate_bps = self.up_bps if up else self.down_bps
        packets, rounds, late = self._packets(size_bytes), 0.0, self.loss
        while (more := 1 - (1 - late) ** packets) > _NEGLIGIBLE:
            rounds += more
            late *= self.loss
        busy_s = 8 * self._sent_bytes(size_bytes) / rate_bps
        return Transfer(busy_s, self.delay_s * (1 + 2 * rounds))

    def energy_j(self, size_bytes: float, *, up: bool = True) -> float | None:
        """Return what sending (or receiving) costs the edge on average; None: not known.

        >>> LinkSpec(up_j_per_bit=1e-6).energy_j(1000)
        0.008
        """
        per_bit = self.up_j_per_bit if up else self.down_j_per_bit
        return None if per_bit is None else 8 * self._sent_bytes(size_bytes) * per_bit

    def _packets(self, size_bytes: float) -> int:
        return ceil(size_bytes / self.packet_bytes)

    def _sent_bytes(self, size_bytes: float) -> float:
        """Return what is sent on average, lost packets again and whole, as in :meth:`transfer`."""
        again = self._packets(size_bytes) * self.loss / (1 - self.loss)
        return size_bytes + again * self.packet_bytes


_NEGLIGIBLE = 1e-9  # the share of payloads that a round more or less still concerns


# Uplink rates: those usual in the literature on edge and cloud inference (Hu et al., "Dynamic
# Adaptive DNN Surgery", INFOCOM 2019). It gives no downlink rate, so ours equals the uplink, and
# the delays are round values of ours. Energy: Huang et al., "A Close Examination of Performance and
# Power Characteristics of 4G LTE Networks", MobiSys 2012, Table 4, measured on phones: while it
# transfers, a radio draws alpha * rate + beta, which is alpha + beta / rate for each bit. Its tail
# after a transfer is not counted.
def _preset(bps: float, delay_s: float, up_j: float, down_j: float, base_w: float) -> LinkSpec:
    base_j = base_w / bps
    return LinkSpec(
        up_bps=bps,
        down_bps=bps,
        delay_s=delay_s,
        up_j_per_bit=up_j + base_j,
        down_j_per_bit=down_j + base_j,
    )


LINKS: dict[str, LinkSpec] = {
    "unlimited": LinkSpec(),
    "3g": _preset(1.1e6, 0.05, 868.98e-9, 122.12e-9, 0.81788),
    "4g": _preset(5.85e6, 0.025, 438.39e-9, 51.97e-9, 1.28804),
    "wifi": _preset(18.88e6, 0.0025, 283.17e-9, 137.01e-9, 0.13286),
}

_MOST_CHANNELS = 100_000
_LARGEST_SIDE = 4096  # of a bottleneck
_NUMBER = r"(?:\d+\.?\d*|\.\d+)"
_OPTION = re.compile(
    rf"(?P<time>delay|jitter)=(?P<ms>{_NUMBER})ms|loss=(?P<loss>{_NUMBER})%"
    rf"|energy=(?P<uj>{_NUMBER})uj"
)
_RATE = re.compile(rf"{_NUMBER}(e\d+)?(/{_NUMBER}(e\d+)?)?")


def parse_link(text: str) -> LinkSpec:
    """Read a link: a preset or ``UP[/DOWN]`` in Mbit/s, then options.

    They are ``delay=`` and ``jitter=`` in ms, ``loss=`` in % and ``energy=`` in uJ for each bit.

    >>> parse_link("3g,loss=1%").loss
    0.01
    >>> link = parse_link("2/8,delay=20ms")
    >>> link.up_bps, link.down_bps, link.delay_s
    (2000000.0, 8000000.0, 0.02)
    """
    name, *options = (part.strip() for part in text.lower().split(","))
    if name in LINKS:
        link = LINKS[name]
    elif _RATE.fullmatch(name):
        rates = [1e6 * float(rate) for rate in name.split("/")]
        link = LinkSpec(up_bps=rates[0], down_bps=rates[-1])
    else:
        raise unknown("link", name, [*LINKS, "UP", "UP/DOWN (numbers in Mbit/s)"])
    for option in options:
        match = _OPTION.fullmatch(option)
        if not match:
            choices = ["delay=50ms", "jitter=5ms", "loss=1%", "energy=1uJ"]
            raise unknown("link option", option, choices)
        if match["loss"]:
            link = replace(link, loss=float(match["loss"]) / 100)
        elif match["uj"]:
            per_bit = float(match["uj"]) / 1e6
            link = replace(link, up_j_per_bit=per_bit, down_j_per_bit=per_bit)
        elif match["time"] == "delay":
            link = replace(link, delay_s=float(match["ms"]) / 1000)
        else:
            link = replace(link, jitter_s=float(match["ms"]) / 1000)
    return link


def parse_bottleneck(wanted: int | str) -> tuple[int, tuple[int, int] | None]:
    """Return the channels of a bottleneck, and its height and width if these are given too.

    Raises:
        ConfigError: it is neither a number nor a shape.

    >>> parse_bottleneck(8), parse_bottleneck("2x4x4")
    ((8, None), (2, (4, 4)))
    """
    try:
        sizes = [int(part) for part in str(wanted).split("x")]
    except ValueError:
        sizes = []
    if (
        len(sizes) not in (1, 3)
        or not all(0 < n <= _LARGEST_SIDE for n in sizes[1:])
        or not all(n <= _MOST_CHANNELS for n in sizes[:1])
    ):
        raise ConfigError(
            f"expected a bottleneck of so many channels or of channels x height x width, as in 8 "
            f"or 2x4x4, got {wanted!r} (channels: at most {_MOST_CHANNELS:,})"
        )
    return sizes[0], (sizes[1], sizes[2]) if len(sizes) == 3 else None
