"""Takes tokens and private keys out of what is logged."""

import logging
import re
from typing import Final, final

_REDACTED: Final = "[redacted]"
_SECRETS: Final = (
    (re.compile(r"eaves-token\.[A-Za-z0-9._-]+"), f"eaves-token.{_REDACTED}"),
    (re.compile(r"(?i)\bbearer\s+[A-Za-z0-9._~+/=-]{16,}"), f"Bearer {_REDACTED}"),
    (
        # To its end, or to that of the text where it was cut off.
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
            re.DOTALL,
        ),
        _REDACTED,
    ),
)


def redact(text: str) -> str:
    """Return ``text`` without what looks like a bearer token or a private key.

    >>> redact("sent authorization: Bearer 0123456789abcdef0123456789abcdef today")
    'sent authorization: Bearer [redacted] today'
    """
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


@final
class RedactingFilter(logging.Filter):
    """Applies :func:`redact` to records: message, exception, stack and the ``extra`` of the call.

    For handlers that are not ours; :mod:`eaves.report.logs` redacts by itself.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record; keep it."""
        record.msg, record.args = redact(record.getMessage()), None
        if record.exc_info:
            record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
            record.exc_info = None  # a formatter would write it out again
        for name, value in vars(record).items():
            if value is not None and redact(str(value)) != str(value):
                setattr(record, name, redact(str(value)))
        return True
