"""What tests of more than one file share: a cloud on loopback in plaintext, and trained runs."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import final

import grpc
import pytest

from eaves.experiments.config import TrainConfig
from eaves.experiments.halves import Origin
from eaves.experiments.netconfig import ServeConfig
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.record import RunRecord
from eaves.experiments.run import run
from eaves.experiments.serve import ServeProgress, serve
from eaves.network.asking import CloudClient
from eaves.network.channel import Target, insecure_target
from eaves.network.credentials import Gate
from eaves.network.eaves_pb2 import Answer, Query
from eaves.network.wire import INFER


@final
class Cloud:
    """`serve` in a thread, until it is stopped."""

    def __init__(self, origin: Origin, config: ServeConfig):
        self.events: list[ServeProgress] = []
        self.stop, self._there = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(origin, config))
        self._thread.start()
        assert self._there.wait(60)
        if self._error is not None:
            self.ended()

    def _run(self, origin: Origin, config: ServeConfig) -> None:
        try:
            for event in serve(origin, config, Gate(None), None, stop=self.stop):
                self.events.append(event)
                self._there.set()
        except BaseException as error:
            self._error = error
        finally:
            self._there.set()

    def target(self, name: str = "edge-1") -> Target:
        return insecure_target(f"127.0.0.1:{self.events[0].port}", name)

    def ended(self) -> ServeProgress:
        """Stop it; return its last event, or raise what it raised."""
        self.stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error
        return self.events[-1]

    def waited(self) -> ServeProgress:
        """Wait until it ends by itself."""
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.ended()


@contextmanager
def asked_of(answer: Callable[[Query], Answer]) -> Iterator[CloudClient]:
    """Run a service on loopback that answers queries so, and return who asks it."""

    def handle(query: Query, context: grpc.ServicerContext) -> Answer:
        return answer(query)

    handler = grpc.unary_unary_rpc_method_handler(
        handle, Query.FromString, Answer.SerializeToString
    )
    service, _, method = INFER.strip("/").partition("/")
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with closing(CloudClient(insecure_target(f"127.0.0.1:{port}", "edge"), "s")) as client:
        yield client
    server.stop(None).wait()


@pytest.fixture
def cloud_of() -> Iterator[Callable[[Origin, ServeConfig], Cloud]]:
    """Return a way to start clouds, which end with the test."""
    clouds = []

    def start(origin: Origin, config: ServeConfig) -> Cloud:
        clouds.append(Cloud(origin, config))
        return clouds[-1]

    yield start
    for cloud in clouds:
        cloud.stop.set()
        cloud._thread.join(60)


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunRecord]:
    """Return a way to get a run that learns odd from even, made once; it lies in its ``out``.

    ``priphit`` hides whether a digit is 5 or more behind 2x2x2 values with noise; ``hierarchical``
    hides nothing.
    """
    made: dict[str, RunRecord] = {}

    def of(method: str) -> RunRecord:
        if method not in made:
            out = tmp_path_factory.mktemp(method)
            config = TrainConfig(
                method=method,
                data="digits:parity",
                epochs=12,
                bottleneck="2x2x2" if method == "priphit" else None,
                privacy=PrivacyConfig(private="high", weight=3.0)
                if method == "priphit"
                else PrivacyConfig(),
                out=out,
            )
            *_, record = run(config)
            assert isinstance(record, RunRecord)
            made[method] = record
        return made[method]

    return of
