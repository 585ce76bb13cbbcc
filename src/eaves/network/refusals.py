"""Why a cloud ends a call, as a gRPC status and back."""

import re
from typing import Final, final

import grpc

from eaves.errors import AccessError, ConfigError, EavesError, PayloadError


@final
class OutOfOrderError(EavesError):
    """An upload arrived before one that it follows; the edge connects again and sends again."""


@final
class BusyError(EavesError):
    """The cloud has no room, or is stopping; the edge tries again later."""


@final
class LateError(EavesError):
    """The edge has connected and said nothing for too long; a stalled link looks like that."""


@final
class SupersededError(EavesError):
    """The same edge has connected once more; the older connection ends."""


@final
class RefusedError(EavesError):
    """The cloud refuses this edge for a reason that trying again cannot mend."""


@final
class ProtocolError(EavesError):
    """The other side said what the protocol does not allow; the connection ends."""


_CODES: Final[dict[type[EavesError], grpc.StatusCode]] = {
    OutOfOrderError: grpc.StatusCode.OUT_OF_RANGE,
    BusyError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    LateError: grpc.StatusCode.DEADLINE_EXCEEDED,
    SupersededError: grpc.StatusCode.ABORTED,
    AccessError: grpc.StatusCode.UNAUTHENTICATED,
    PayloadError: grpc.StatusCode.INVALID_ARGUMENT,
    ConfigError: grpc.StatusCode.FAILED_PRECONDITION,
}
FATAL: Final = frozenset(
    {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
"""What trying again cannot mend."""


def code_of(error: EavesError) -> grpc.StatusCode:
    """Return the status that stands for ``error``.

    >>> code_of(BusyError("full")).name
    'RESOURCE_EXHAUSTED'
    """
    for kind, code in _CODES.items():
        if isinstance(error, kind):
            return code
    return grpc.StatusCode.INTERNAL


# An edge prints what its cloud says, and a terminal obeys escape sequences.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_MOST_WORDS: Final = 2000


def plain_words(text: str) -> str:
    r"""Return what the other side said, cut to 2,000 characters, with control characters escaped.

    >>> plain_words("no\x1b[2J room\n")
    'no\\x1b[2J room\\n'
    """
    cut = text if len(text) <= _MOST_WORDS else text[: _MOST_WORDS - 3] + "..."
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), cut)
