"""The settings of the cloud and the edge: what they refuse, and what an address is."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import tyro
from hypothesis import given
from hypothesis import strategies as st

import eaves.experiments.netconfig as module
from eaves.core.rules import ConfidenceAbove
from eaves.errors import ConfigError
from eaves.experiments.netconfig import (
    PREFIXES,
    AgentConfig,
    InferConfig,
    ServeConfig,
    parse_address,
)

HERE = Path("certs")
ALL = (ServeConfig, AgentConfig, InferConfig)


@pytest.mark.parametrize("cls", ALL)
def test_every_field_has_a_line_of_help(cls: type) -> None:
    assert module.__file__ is not None
    text = Path(module.__file__).read_text(encoding="utf-8")
    body = text.split(f"class {cls.__name__}:", 1)[1].split("def __post_init__", 1)[0]
    for field in fields(cls):
        after = body.split(f"\n    {field.name}: ", 1)[1].split("\n", 2)[1]
        assert after.startswith('    """'), field.name


@pytest.mark.parametrize("cls", ALL)
def test_the_defaults_are_those_of_the_command_without_flags(cls: type) -> None:
    assert tyro.cli(cls, args=[]) == cls()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"auth": "token"}, "unknown auth 'token'; choose from: tokens, certificates"),
        ({"log": "xml"}, "unknown log 'xml'; choose from: "),
        ({"edges": -1}, "expected --edges of 0 or more, got -1"),
        ({"merge": 0}, "expected --merge of 1 or more, got 0"),
        ({"max_edges": 0}, "expected --max-edges of 1 or more, got 0"),
        ({"max_queries": 0}, "expected --max-queries of 1 or more, got 0"),
        ({"threads": 0}, "expected --threads of 1 or more, got 0"),
        ({"checkpoint_s": -1.0}, "expected --checkpoint-s from 0 to 1e+09, got -1"),
        ({"store_mb": 0.0}, "expected --store-mb from 0.001 to 1e+09, got 0"),
        ({"max_message_mb": 0.0}, "expected --max-message-mb from 0.001 to 2000, got 0"),
        ({"max_message_mb": 2001.0}, "expected --max-message-mb from 0.001 to 2000, got 2001"),
        ({"uploads_per_s": 0.0}, "expected --uploads-per-s from 0.001 to 1e+09, got 0"),
        ({"mb_per_s": float("nan")}, "expected --mb-per-s from 0.001 to 1e+09, got nan"),
        ({"edges": 2, "merge": 3}, "--merge 3 takes uploads of 3 different edges, and --edges"),
        ({"insecure": True, "auth": "tokens"}, "--auth tokens needs encryption"),
        ({"insecure": True, "credentials": HERE}, "give --credentials or --insecure, not both"),
        ({"listen": "7443"}, "expected an address as in localhost:7443 or [::1]:7443, got '7443'"),
        ({"metrics": ":9100"}, "expected an address as in localhost:7443 or [::1]:7443, got ':9"),
        ({"metrics": "127.0.0.1:7443"}, "--listen and --metrics are both 127.0.0.1:7443"),
    ],
)
def test_a_cloud_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        ServeConfig(**settings)
    assert str(refused.value).startswith(message)


EDGE_MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"cloud": "cloud"}, "expected an address as in localhost:7443 or [::1]:7443, got 'cloud'"),
    ({"cloud": "cloud:0"}, "expected --cloud with the port that it listens on, got 'cloud:0'"),
    ({"name": ""}, "expected --name of 1 to 64 letters, digits, '.', '_' and '-', got ''"),
    ({"name": "a b"}, "expected --name of 1 to 64 letters, "),
    ({"name": "a\n"}, "expected --name of 1 to 64 letters, "),
    ({"name": "a" * 65}, "expected --name of 1 to 64 letters, "),
    ({"name": "pump", "credentials": HERE}, "--name pump is for --insecure: with --credentials"),
    ({"insecure": True, "credentials": HERE}, "give --credentials or --insecure, not both"),
]


@pytest.mark.parametrize("cls", [AgentConfig, InferConfig])
@pytest.mark.parametrize(("settings", "message"), EDGE_MISTAKES)
def test_an_edge_that_cannot_be(
    cls: type[AgentConfig | InferConfig], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        cls(**settings)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"when_full": "drop"}, "unknown when-full 'drop'; choose from: drop-oldest, block"),
        ({"log": ""}, "unknown log ''; choose from: "),
        ({"spool_mb": 0.0}, "expected --spool-mb from 0.001 to 1e+09, got 0"),
        ({"spool_memory_mb": -1.0}, "expected --spool-memory-mb from 0 to 1e+09, got -1"),
        ({"checkpoint_s": float("inf")}, "expected --checkpoint-s from 0 to 1e+09, got inf"),
        ({"max_backoff_s": 0.0}, "expected --max-backoff-s from 0.001 to 1e+09, got 0"),
    ],
)
def test_an_agent_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        AgentConfig(**settings)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "confidance"}, "unknown rule 'confidance'; choose from: confidence, entropy"),
        ({"threshold": 1.5}, "expected --threshold from 0 to 1, got 1.5"),
        ({"threshold": float("nan")}, "expected --threshold from 0 to 1, got nan"),
        ({"deadline_ms": 0.0}, "expected --deadline-ms from 0.001 to 1e+09, got 0"),
        ({"batch_size": 0}, "expected --batch-size of 1 or more, got 0"),
        ({"samples": 0}, "expected --samples of 1 or more, got 0"),
    ],
)
def test_an_inference_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        InferConfig(**settings)
    assert str(refused.value).startswith(message)


def test_thresholds_are_those_that_a_rule_takes() -> None:
    for threshold in (0.0, 1.0):
        assert InferConfig(threshold=threshold).threshold == threshold
        ConfidenceAbove(threshold=threshold)


def test_without_a_cloud_there_is_no_address_to_check() -> None:
    assert InferConfig(cloud=None, name="").cloud is None


def test_whole_fleets_and_free_ports_are_fine() -> None:
    config = ServeConfig(listen="[::]:0", metrics="[::]:0", edges=3, merge=3, insecure=True)
    assert parse_address(config.listen) == ("::", 0)


def test_a_cloud_may_train_nobody_and_only_answer() -> None:
    assert ServeConfig(edges=0).edges == 0
    with pytest.raises(ConfigError, match="--merge 2 takes uploads of 2 different edges"):
        ServeConfig(edges=0, merge=2)


def test_every_command_has_a_prefix_and_none_begins_another() -> None:
    assert set(PREFIXES) == set(ALL)
    prefixes = list(PREFIXES.values())
    assert not [(a, b) for a in prefixes for b in prefixes if a != b and b.startswith(a)]


# Addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost:7443", ("localhost", 7443)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1)),
        ("[::ffff:10.0.0.1]:80", ("::ffff:10.0.0.1", 80)),
        ("a-b.example.:80", ("a-b.example.", 80)),
        ("cloud_1:80", ("cloud_1", 80)),  # as container networks name their machines
        ("x:80", ("x", 80)),
        ("xn--bcher-kva.example:80", ("xn--bcher-kva.example", 80)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "the port is a number"),
        ("localhost", "the port is a number"),
        ("localhost:", "the port is a number"),
        ("localhost:65536", "the port is a number up to 65535"),
        ("localhost:-1", "the port is a number"),
        ("localhost:+1", "the port is a number"),
        ("localhost:1_0", "the port is a number"),
        ("localhost:٣", "the port is a number"),  # a digit, to str.isdecimal
        ("localhost: 80", "the port is a number"),
        ("localhost:80\n", "the port is a number"),
        ("localhost:" + "9" * 5000, "the port is a number"),
        ("[::1]", "the port is a number"),
        (":80", "for every network of this machine: 0.0.0.0:80"),
        ("::1:80", "an IPv6 address stands in brackets"),
        ("[]:80", "'' is no IPv6 address"),
        ("[127.0.0.1]:80", "'127.0.0.1' is no IPv6 address"),
        ("[::1:80", "an IPv6 address stands in brackets"),
        ("[::g]:80", "'::g' is no IPv6 address"),
        ("127.0.0:80", "'127.0.0' is no IPv4 address"),
        ("127.0.0.256:80", "'127.0.0.256' is no IPv4 address"),
        ("my host:80", "a host has letters, digits"),
        ("-x:80", "a host has letters, digits"),
        ("bücher.example:80", "a host has letters, digits"),
        ("user@host:80", "a host has letters, digits"),
        ("host/path:80", "a host has letters, digits"),
        ("a" * 254 + ":80", "a host has letters, digits"),
        ("https://host:80", "leave out what stands before ://"),
        ("unix:///run/x:80", "leave out what stands before ://"),
    ],
)
def test_what_is_no_address(text: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_address(text)
    assert str(refused.value).startswith("expected an address as in localhost:7443 or [::1]:7443")
    assert hint in str(refused.value)


@given(address=st.ip_addresses(), port=st.integers(0, 65535))
def test_every_number_of_a_machine_is_an_address(address: Any, port: int) -> None:
    host = f"[{address}]" if address.version == 6 else f"{address}"
    assert parse_address(f"{host}:{port}") == (str(address), port)


@given(st.text(max_size=30) | st.text("[]:.%a10-/ ", max_size=12))
def test_any_text_is_an_address_or_a_mistake_in_the_configuration(text: str) -> None:
    try:
        host, port = parse_address(text)
    except ConfigError:
        return
    before, _, after = text.rpartition(":")
    assert before in (host, f"[{host}]")
    assert int(after) == port
