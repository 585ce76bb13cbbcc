"""Why a cloud ends a call, as a gRPC status and back."""

from typing import Final, final

import grpc

from eaves.errors import AccessError, ConfigError, EavesError, PayloadError


@final
class OutOfOrderError(EavesError):
    """An upload arrived before one that it follows; the edge connects anew and sends again."""


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
