"""Figures of a running cloud for Prometheus, at ``/metrics``. No secret, no data, is among them."""

from collections.abc import Iterable
from typing import final

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from eaves.errors import ConfigError
from eaves.network.trainer import Trainer


@final
class TrainerFigures(Collector):
    """Reads a trainer whenever Prometheus asks."""

    def __init__(self, trainer: Trainer):
        self._trainer = trainer

    def collect(self) -> Iterable[Metric]:
        """Yield every figure."""
        counts, ledger = self._trainer.counts, self._trainer.accounts()
        for name, help_, value in (
            ("uploads", "Uploads learnt from.", counts.uploads),
            ("duplicate_uploads", "Uploads that had been learnt from before.", counts.duplicates),
            ("refused_uploads", "Uploads that could not be learnt from.", counts.refused),
            ("dropped_uploads", "Uploads of streams that were superseded.", counts.dropped),
            ("failed_steps", "Training steps that failed unexpectedly.", counts.faults),
            ("samples", "Examples learnt from.", counts.samples),
            ("upload_bytes", "Bytes of payloads that arrived.", counts.bytes_in),
            ("steps", "Training steps.", counts.steps),
            ("kept_steps", "Training steps from uploads that are kept.", counts.again),
            ("step_seconds", "Seconds in training steps.", counts.step_s),
            ("queries", "Queries answered.", counts.queries),
            ("answers", "Examples answered.", counts.answered),
            ("answer_batches", "Batches in which queries were answered.", counts.answer_batches),
            ("answer_seconds", "Seconds in answering.", counts.answer_s),
            ("checkpoints", "Checkpoints written.", counts.checkpoints),
            ("failed_checkpoints", "Checkpoints that failed.", counts.failed_checkpoints),
        ):
            yield CounterMetricFamily(f"eaves_{name}", help_, value)
        fill = counts.answered / counts.answer_batches if counts.answer_batches else 0.0
        for name, help_, value in (
            ("connected_edges", "Edges connected for training.", len(self._trainer.connected())),
            ("finished_edges", "Edges that have trained to their end.", ledger.finished()),
            ("waiting", "Uploads and queries that wait.", len(self._trainer.work)),
            ("step_fill", "Uploads in the last step.", counts.step_uploads),
            ("answer_fill", "Examples in a batch of answers, on average.", fill),
        ):
            yield GaugeMetricFamily(f"eaves_{name}", help_, value)
        yield from self._running_means()

    def _running_means(self) -> Iterable[Metric]:
        for name, value in sorted(self._trainer.figures.means.items()):
            help_ = f"Training {name}, a running mean over about 50 steps."
            yield GaugeMetricFamily(f"eaves_training_{name}", help_, value)


@final
class Metrics:
    """The figures of a trainer on a port of their own.

    Raises:
        ConfigError: the address cannot be had.
    """

    def __init__(self, trainer: Trainer, host: str, port: int):
        registry = CollectorRegistry()
        registry.register(TrainerFigures(trainer))
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port} for metrics: {error}") from error

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.server_port)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
