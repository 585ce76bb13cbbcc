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

    def transfer(self, size_bytes: int, *, up: bool = True, rng: random.Random) -> Transfer:
        """Draw the cost of sending ``size_bytes``.

        >>> LinkSpec(up_bps=8e6).transfer(1_000_000, rng=random.Random(0))
        Transfer(busy_s=1.0, delay_s=0.0)
        """
        rate_bps = self.up_bps if up else self.down_bps
        sent_bytes, delay_s = float(size_bytes), max(0.0, rng.gauss(self.delay_s, self.jitter_s))
        packets = ceil(size_bytes / self.packet_bytes) if self.loss else 0
        while packets := sum(rng.random() < self.loss for _ in range(packets)):
            sent_bytes += packets * self.packet_bytes
            delay_s += 2 * self.delay_s
        return Transfer(8 * sent_bytes / rate_bps, delay_s)


# Uplink rates: those usual in the literature on edge and cloud inference (Hu et al., "Dynamic
# Adaptive DNN Surgery", INFOCOM 2019). It gives no downlink rate, so ours equals the uplink, and
# the delays are round values of ours.
LINKS: dict[str, LinkSpec] = {
    "unlimited": LinkSpec(),
    "3g": LinkSpec(up_bps=1.1e6, down_bps=1.1e6, delay_s=0.05),
    "4g": LinkSpec(up_bps=5.85e6, down_bps=5.85e6, delay_s=0.025),
    "wifi": LinkSpec(up_bps=18.88e6, down_bps=18.88e6, delay_s=0.0025),
}

_NUMBER = r"(?:\d+\.?\d*|\.\d+)"
_OPTION = re.compile(rf"(delay|jitter)=({_NUMBER})ms|(loss)=({_NUMBER})%")
_RATE = re.compile(rf"{_NUMBER}(e\d+)?(/{_NUMBER}(e\d+)?)?")


def parse_link(text: str) -> LinkSpec:
    """Read a link: a preset or ``UP[/DOWN]`` in Mbit/s, then ``delay=``, ``jitter=``, ``loss=``.

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
            raise unknown("link option", option, ["delay=50ms", "jitter=5ms", "loss=1%"])
        if match[3]:
            link = replace(link, loss=float(match[4]) / 100)
        elif match[1] == "delay":
            link = replace(link, delay_s=float(match[2]) / 1000)
        else:
            link = replace(link, jitter_s=float(match[2]) / 1000)
    return link
