"""Quantities in words, for people: SI inside, friendly units in messages and tables."""

_SIZES = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
_FULL = 0.9995  # of the next unit: what three digits would round up to 1000


def bytes_text(size_bytes: float) -> str:
    """Return a number of bytes in words.

    >>> bytes_text(12_300), bytes_text(512)
    ('12.3 kB', '512 B')
    """
    for unit, factor in _SIZES:
        if size_bytes >= _FULL * factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes:.0f} B"


def seconds_text(time_s: float) -> str:
    """Return a duration in words.

    >>> seconds_text(0.00123), seconds_text(2.5), seconds_text(600), seconds_text(36_000)
    ('1.23 ms', '2.50 s', '10.0 min', '10.0 h')
    """
    if time_s < _FULL:
        return f"{time_s * 1e3:.3g} ms"
    if time_s < 300:
        return f"{time_s:.3g} s" if time_s >= 10 * _FULL else f"{time_s:.2f} s"
    return f"{time_s / 60:.1f} min" if time_s < 18_000 else f"{time_s / 3600:.1f} h"


def joules_text(energy_j: float) -> str:
    """Return an energy in words.

    >>> joules_text(12.34), joules_text(5e4)
    ('12.3 J', '50.0 kJ')
    """
    if energy_j < _FULL * 1e3:
        return f"{energy_j:.3g} J"
    return f"{energy_j / 1e3:.1f} kJ" if energy_j < _FULL * 1e6 else f"{energy_j / 1e6:.1f} MJ"


def percent_text(share: float, *, digits: int = 1) -> str:
    """Return a share in percent, without the sign; only nothing is 0 and only all of it is 100.

    >>> percent_text(0.1234), percent_text(0.9999), percent_text(1e-6), percent_text(1.0)
    ('12.3', '>99.9', '<0.1', '100.0')
    """
    text, step = f"{100 * share:.{digits}f}", 10.0**-digits
    if 0 < share < 1 and float(text) == 100:
        return f">{100 - step:.{digits}f}"
    if share > 0 and float(text) == 0:
        return f"<{step:.{digits}f}"
    return text
