"""What is logged: whole lines that a machine or a person can read, and that nobody can forge."""

import json
import logging
import math
import re
import sys
import threading
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import eaves
from eaves.errors import ConfigError
from eaves.experiments.netconfig import LOGS
from eaves.report.logs import JsonLines, TextLines, configure

SECRET = "tok3n"
LOG = logging.getLogger("eaves.network.server")


def redact(text: str) -> str:
    return text.replace(SECRET, "[secret]")


def _record(message: str, *args: object, exc_info: Any = None, **extra: Any) -> logging.LogRecord:
    return LOG.makeRecord(LOG.name, logging.INFO, "x.py", 1, message, args, exc_info, extra=extra)


def _raised(message: str) -> Any:
    try:
        raise RuntimeError(message)
    except RuntimeError:
        return sys.exc_info()


# JSON


def test_a_line_of_json_has_what_is_promised() -> None:
    record = _record("edge %s is here", "edge-1", edge="edge-1", applied=7, wait_s=0.5)
    record.created = datetime(2026, 1, 31, 12, 0, 0, 250_000, tzinfo=UTC).timestamp()
    line = JsonLines(redact).format(record)
    assert list(json.loads(line).items()) == [
        ("ts", "2026-01-31T12:00:00.250Z"),
        ("level", "info"),
        ("logger", "eaves.network.server"),
        ("message", "edge edge-1 is here"),
        ("edge", "edge-1"),
        ("applied", 7),
        ("wait_s", 0.5),
    ]


def test_an_extra_never_replaces_what_every_line_has() -> None:
    found = json.loads(JsonLines(redact).format(_record("m", ts="x", level=3, logger="y")))
    assert (found["ts_"], found["level_"], found["logger_"]) == ("x", 3, "y")
    assert (found["level"], found["logger"]) == ("info", "eaves.network.server")


def test_exceptions_and_stacks_are_in_the_same_line() -> None:
    record = _record("it broke", exc_info=_raised("why"))
    record.stack_info = "Stack (most recent call last): here"
    line = JsonLines(redact).format(record)
    assert "\n" not in line
    trace = json.loads(line)["exception"]
    assert trace.startswith("Traceback (most recent call last):\n")
    assert trace.endswith("RuntimeError: why\nStack (most recent call last): here")


def test_no_exception_is_no_key() -> None:
    for nothing in (None, (None, None, None)):
        assert "exception" not in json.loads(
            JsonLines(redact).format(_record("m", exc_info=nothing))
        )


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def _refuse(constant: str) -> float:
    raise AssertionError(f"{constant} is not JSON")


@given(message=st.text(), value=VALUES)
def test_whatever_is_logged_is_one_line_of_strict_json(message: str, value: object) -> None:
    line = JsonLines(redact).format(_record("%s", message, value=value))
    assert len(line.splitlines()) == 1
    assert line.isascii()
    found = json.loads(line, parse_constant=_refuse)
    assert found["message"] == redact(message)
    if isinstance(value, str | int | None):
        assert found["value"] == (redact(value) if isinstance(value, str) else value)


def test_what_json_has_no_number_for_is_in_words() -> None:
    record = _record("m", loss=math.nan, rates=[math.inf, 1.5], by={2: -math.inf}, at=Path("x"))
    found = json.loads(JsonLines(redact).format(record), parse_constant=_refuse)
    extra = [found[name] for name in ("loss", "rates", "by", "at")]
    assert extra == ["nan", ["inf", 1.5], {"2": "-inf"}, "x"]


# Text


def test_a_line_of_text() -> None:
    record = _record("edge is here", edge="edge-1", applied=7)
    record.created = datetime(2026, 1, 31, 12, 0, 0, 900_000, tzinfo=UTC).timestamp()
    expected = (
        "2026-01-31T12:00:00Z INFO eaves.network.server: edge is here (edge=edge-1, applied=7)"
    )
    assert TextLines(redact).format(record) == expected


def test_an_exception_is_indented_below_its_line() -> None:
    first, *others = (
        TextLines(redact).format(_record("it broke", exc_info=_raised("why"))).split("\n")
    )
    assert first.endswith(" INFO eaves.network.server: it broke")
    assert others[0] == "    Traceback (most recent call last):"
    assert others[-1] == "    RuntimeError: why"
    assert all(line.startswith("    ") for line in others)


@given(message=st.text(), value=st.text())
def test_nobody_forges_a_line_or_leads_the_terminal(message: str, value: str) -> None:
    line = TextLines(redact).format(_record("%s", message, value=value))
    assert len(line.splitlines()) == 1
    assert not [c for c in line if ord(c) < 32 or 127 <= ord(c) < 160]


def test_a_forged_exception_stays_indented() -> None:
    forged = "x\r2026-01-31T12:00:00Z INFO eaves: all is well\x1b[2J"
    lines = TextLines(redact).format(_record("m", exc_info=_raised(forged))).splitlines()
    assert "\x1b" not in "".join(lines)
    assert all(line.startswith("    ") for line in lines[1:])


# Secrets


@pytest.mark.parametrize("formatter", [JsonLines(redact), TextLines(redact)], ids=LOGS)
def test_secrets_are_taken_out_of_every_part(formatter: logging.Formatter) -> None:
    extra = {"plain": SECRET, "nested": {"a": [SECRET]}, "keys": {SECRET: 1}, "path": Path(SECRET)}
    record = _record("got %s", SECRET, exc_info=_raised(f"no {SECRET}"), **extra)
    record.stack_info = f"stack {SECRET}"
    line = formatter.format(record)
    assert SECRET not in line
    assert line.count("[secret]") == 7


# Setting up


@pytest.mark.parametrize("kind", LOGS)
def test_records_go_to_the_standard_error_stream_once(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        configure(kind, redact=redact)
    LOG.info("hello %s", SECRET)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("hello [secret]") == 1
    assert printed.err.count("\n") == 1


def test_levels_are_ours_and_of_others_only_warnings_count(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen = {}
    for level in ("debug", "info", "warning", "error"):
        configure("json", level, redact=redact)
        for logger in (LOG, logging.getLogger("other")):
            for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
                logger.log(number, "m")
        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
        seen[level] = [f"{line['logger'][:5]} {line['level']}" for line in lines]
    ours = ["eaves debug", "eaves info", "eaves warning", "eaves error"]
    others = ["other warning", "other error"]
    assert seen["debug"] == ours + others
    assert seen["info"] == ours[1:] + others
    assert seen["warning"] == ours[2:] + others
    assert seen["error"] == ours[3:] + others[1:]


def test_warnings_are_records_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        configure("json", redact=redact)
        warnings.warn("old and\nslow", UserWarning, stacklevel=1)
        logging.captureWarnings(False)
    found = json.loads(capsys.readouterr().err)
    assert found["logger"] == "py.warnings"
    assert "old and\nslow" in found["message"]


def test_handlers_of_others_are_left_alone() -> None:
    other = logging.NullHandler()
    logging.getLogger().addHandler(other)
    configure("text", redact=redact)
    configure("json", redact=redact)
    handlers = logging.getLogger().handlers
    assert other in handlers
    assert sum(isinstance(h.formatter, JsonLines | TextLines) for h in handlers) == 1


@pytest.mark.parametrize(
    ("kind", "level", "message"),
    [
        ("xml", "info", "unknown kind of log 'xml'; choose from: "),
        ("json", "loud", "unknown log level 'loud'; choose from: "),
        ("json", "INFO", "unknown log level 'INFO'; choose from: info, "),
    ],
)
def test_what_is_not_known_is_refused(kind: str, level: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        configure(kind, level, redact=redact)
    assert str(refused.value).startswith(message)


def test_lines_of_many_threads_do_not_mix(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", redact=redact)

    def work(number: int) -> None:
        for i in range(100):
            LOG.info("x" * 200, extra={"thread_": number, "i": i})

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert {(line["thread_"], line["i"]) for line in found} == {
        (n, i) for n in range(4) for i in range(100)
    }
    assert len(found) == 400


def test_only_this_module_configures_logging() -> None:
    configuring = re.compile(r"basicConfig|dictConfig|addHandler|captureWarnings|logging\.disable")
    assert eaves.__file__ is not None
    found = {
        path.name
        for path in Path(eaves.__file__).parent.rglob("*.py")
        if configuring.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"logs.py"}
