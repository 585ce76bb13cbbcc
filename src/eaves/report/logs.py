"""What Eaves logs while it runs, on the standard error stream: as text, or as lines of JSON.

Modules log to ``logging.getLogger(__name__)`` and configure nothing; a command configures once.
"""

import json
import logging
import math
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, final

from eaves.errors import unknown
from eaves.experiments.netconfig import LOGS
from eaves.report.printable import printable_line

LEVELS: Final = ("debug", "info", "warning", "error")
_USUAL: Final = frozenset([*vars(logging.makeLogRecord({})), "message", "asctime"])
"""What every record has; whatever else one has was given as ``extra``."""
Redact = Callable[[str], str]
"""Takes secrets out of a text."""


def configure(kind: str, level: str = "info", *, redact: Redact) -> None:
    """Write our records from ``level`` up to the standard error stream, and warnings of others.

    ``redact`` is applied to every text in a record, its exception included, before it is written.
    Called again, it replaces what it set up before.

    text: ``2026-01-31T12:00:00Z INFO eaves.network.server: edge is here (edge=edge-1)``.
    json: an object with ts, level, logger, message, then the ``extra`` of the call, then exception.

    Raises:
        ConfigError: an unknown ``kind`` or ``level``.
    """
    if kind not in LOGS:
        raise unknown("kind of log", kind, LOGS)
    if level not in LEVELS:
        raise unknown("log level", level, LEVELS)
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h.formatter, JsonLines | TextLines)]:
        root.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(redact) if kind == "json" else TextLines(redact))
    root.addHandler(handler)
    root.setLevel(level.upper() if level == "error" else "WARNING")  # libraries: no chatter
    logging.getLogger("eaves").setLevel(level.upper())
    logging.captureWarnings(True)


@final
class JsonLines(logging.Formatter):
    """One object of JSON, in ASCII, on one line for each record."""

    def __init__(self, redact: Redact):
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        facts = {
            "ts": _utc(record, "milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._redact(record.getMessage()),
        }
        extra = {(k if k not in facts else f"{k}_"): v for k, v in _extra(record).items()}
        line = facts | {k: _plain(v, self._redact) for k, v in extra.items()}
        if trace := _trace(self, record):
            line["exception"] = self._redact(trace)
        return json.dumps(line, allow_nan=False)


@final
class TextLines(logging.Formatter):
    """One line for each record, to be read by people; and the lines of its exception."""

    def __init__(self, redact: Redact):
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        start = f"{_utc(record, 'seconds')} {record.levelname} {record.name}: "
        extra = {k: _plain(v, self._redact) for k, v in _extra(record).items()}
        shown = ", ".join(f"{k}={v}" for k, v in extra.items())
        message = self._redact(record.getMessage()) + (f" ({shown})" if shown else "")
        lines = [start + printable_line(message)]
        if trace := _trace(self, record):
            lines += [f"    {printable_line(line)}" for line in self._redact(trace).splitlines()]
        return "\n".join(lines)


def _utc(record: logging.LogRecord, precision: str) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec=precision).replace("+00:00", "Z")


def _extra(record: logging.LogRecord) -> Mapping[str, Any]:
    return {k: v for k, v in vars(record).items() if k not in _USUAL}


def _plain(value: object, redact: Redact) -> Any:
    """Return ``value`` as JSON takes it: what it cannot take, in words."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, Mapping):
        return {redact(str(k)): _plain(v, redact) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, redact) for v in value]
    return redact(str(value))


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """Return the exception and the stack of a record, as far as it has them."""
    info = record.exc_info
    raised = formatter.formatException(info) if info and info[0] else ""
    return "\n".join(part for part in (raised, record.stack_info) if part)
