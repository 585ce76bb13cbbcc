"""Health checks (grpc.health.v1) that cost next to nothing, whoever asks.

Who asks need not say who it is. So nothing of the request is read: it could be of any size. There
is one service, and its health is the answer whatever name was asked for.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Final, final

import grpc
from google.protobuf.message import Message
from grpc_health.v1.health_pb2 import HealthCheckResponse

from eaves.network.limits import Share, Shares
from eaves.network.refusals import BusyError, code_of
from eaves.network.wire import pack

_MOST_WATCHERS, _OF_ONE_HOST = 64, 8
_SERVICE: Final = "grpc.health.v1.Health"


def host_of(context: Any) -> str:
    """Return the host that a call comes from, as a name that no edge can have."""
    return f"host {str(context.peer()).rpartition(':')[0]}"


@final
class Health:
    """Says whether the cloud takes edges."""

    def __init__(self, shares: Shares):
        self._shares = shares
        self._serving, self._changed = True, asyncio.Event()
        self._watchers: Counter[str] = Counter()

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the methods, as gRPC takes them."""
        return grpc.method_handlers_generic_handler(
            _SERVICE,
            {
                "Check": grpc.stream_unary_rpc_method_handler(self.check, None, pack),
                "Watch": grpc.stream_stream_rpc_method_handler(self.watch, None, pack),
            },
        )

    def stop(self) -> None:
        """Say from now on that no edges are taken."""
        self._serving = False
        self._changed.set()

    async def check(self, _: AsyncIterator[bytes], context: Any) -> Message:
        """Answer once."""
        await self._pause(self._shares.of(host_of(context)), context)
        return self._answer()

    async def watch(self, _: AsyncIterator[bytes], context: Any) -> AsyncIterator[Message]:
        """Answer now, and when it changes."""
        host = host_of(context)
        await self._pause(self._shares.of(host), context)
        if self._watchers.total() >= _MOST_WATCHERS or self._watchers[host] >= _OF_ONE_HOST:
            await context.abort(code_of(BusyError()), "too many watch the health of this cloud")
        self._watchers[host] += 1
        try:
            yield self._answer()
            await self._changed.wait()
            yield self._answer()
        finally:
            self._watchers[host] -= 1

    async def _pause(self, share: Share, context: Any) -> None:
        try:
            await share.pause()
        except BusyError as error:
            await context.abort(code_of(error), str(error))

    def _answer(self) -> Message:
        kind = HealthCheckResponse
        answer: Message = kind(status=kind.SERVING if self._serving else kind.NOT_SERVING)
        return answer
