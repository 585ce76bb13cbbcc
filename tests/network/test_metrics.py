"""What Prometheus reads of a cloud: its figures, and no secret."""

import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.network.conftest import Caller, Cloud, payload, wait_until

from eaves.errors import ConfigError
from eaves.network.channel import secure_target
from eaves.network.credentials import Gate, server_credentials
from eaves.network.metrics import Metrics


def read(metrics: Metrics) -> tuple[dict[str, float], str]:
    with urlopen(f"http://127.0.0.1:{metrics.port}/metrics", timeout=5.0) as answer:
        text = answer.read().decode()
    families = text_string_to_metric_families(text)
    return {sample.name: sample.value for family in families for sample in family.samples}, text


def test_the_figures_are_those_of_the_trainer_and_no_secret_is_among_them(
    cloud_of: Callable[..., Cloud],
    caller_of: Callable[..., Caller],
    certs: Path,
    opened: ExitStack,
) -> None:
    folder = certs / "ours" / "server"
    cloud = cloud_of(gate=Gate(folder, "tokens"), credentials=server_credentials(folder, "tokens"))
    device = certs / "ours" / "devices" / "edge-2"
    metrics = opened.enter_context(closing(Metrics(cloud.trainer, "127.0.0.1", 0)))
    before, _ = read(metrics)
    assert before["eaves_uploads_total"] == before["eaves_connected_edges"] == 0
    caller = caller_of(secure_target(cloud.address, device))
    caller.enter()
    for seq in (1, 2, 2, 3):
        caller.upload(seq)
    caller.receipt_of(3)
    assert wait_until(lambda: cloud.trainer.counts.checkpoints > 0)
    figures, text = read(metrics)
    expected = {
        "eaves_uploads_total": 3,
        "eaves_duplicate_uploads_total": 1,
        "eaves_refused_uploads_total": 0,
        "eaves_samples_total": 3,
        "eaves_steps_total": 3,
        "eaves_upload_bytes_total": 4 * len(payload(1)),
        "eaves_connected_edges": 1,
        "eaves_finished_edges": 0,
        "eaves_waiting": 0,
        "eaves_step_fill": 1,
        "eaves_training_loss": 1,
    }
    assert {name: figures[name] for name in expected} == expected
    assert figures["eaves_checkpoints_total"] >= 1
    token = (device / "token").read_text().strip()
    for secret in (token, token.rpartition(".")[2], cloud.trainer.session, "edge-2", "run1"):
        assert secret not in text


def test_a_port_that_is_taken_is_refused_in_words(
    cloud_of: Callable[..., Cloud], opened: ExitStack
) -> None:
    cloud = cloud_of()
    metrics = opened.enter_context(closing(Metrics(cloud.trainer, "127.0.0.1", 0)))
    with pytest.raises(ConfigError, match=f"127.0.0.1:{metrics.port} for metrics"):
        Metrics(cloud.trainer, "127.0.0.1", metrics.port)


def test_closing_frees_the_port_and_the_thread(cloud_of: Callable[..., Cloud]) -> None:
    cloud = cloud_of()
    threads = threading.active_count()
    metrics = Metrics(cloud.trainer, "127.0.0.1", 0)
    port = metrics.port
    metrics.close()
    assert threading.active_count() == threads
    with closing(Metrics(cloud.trainer, "127.0.0.1", port)) as again:
        assert again.port == port
