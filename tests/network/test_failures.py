"""What TLS says in words is tested with real connections (test_credentials.py); here: proxies."""

import socket
import threading

import grpc
import pytest

from eaves.network.asking import CloudClient, NoAnswerError
from eaves.network.channel import insecure_target
from eaves.network.failures import explain


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
def test_an_error_names_the_proxy_that_is_used(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        threading.Thread(target=lambda: proxy.accept()[0].close(), daemon=True).start()
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        client = CloudClient(insecure_target("cloud.example:7443", "edge-1"), "")
        with pytest.raises(NoAnswerError, match=rf"the proxy http://127.*{variable}"):
            client.steps_left(timeout_s=2)
        client.close()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_connection_within_this_machine_asks_no_proxy(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0.5)
        for variable in ("grpc_proxy", "https_proxy", "http_proxy"):
            monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            client = CloudClient(insecure_target(f"{host}:{closed.getsockname()[1]}", "edge-1"), "")
            with pytest.raises(NoAnswerError) as found:
                client.steps_left(timeout_s=1)
            client.close()
        assert "proxy" not in str(found.value)
        with pytest.raises(TimeoutError):
            proxy.accept()


class _Refused(grpc.RpcError):  # type: ignore[misc, unused-ignore]
    def __init__(self, code: grpc.StatusCode):
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "as it said"


def test_a_refusal_is_not_blamed_on_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://10.0.0.1:3128")
    assert explain(_Refused(grpc.StatusCode.UNAUTHENTICATED), "cloud.example:1") is None
    late = explain(_Refused(grpc.StatusCode.DEADLINE_EXCEEDED), "cloud.example:1")
    assert late is not None
    assert late.startswith("as it said (the way there goes through the proxy http://10.0.0.1:3128")
