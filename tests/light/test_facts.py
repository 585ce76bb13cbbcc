"""What a device reads of its folder, and what it refuses."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eaves.core.rules import ConfidenceAbove
from eaves.errors import ConfigError, StateError
from eaves.light.facts import EDGE, EXIT, NAME, DeviceFacts, read_facts, read_model

FolderOf = Callable[[str], Path]


def changed(folder: Path, **changes: Any) -> Path:
    values = json.loads((folder / NAME).read_text()) | changes
    (folder / NAME).write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("name", ["plain", "noised", "without exit"])
def test_facts_are_read_as_they_were_written(
    folder_of: FolderOf, tmp_path: Path, name: str
) -> None:
    facts = read_facts(folder_of(name))
    assert facts.early == {"plain": EDGE, "noised": EXIT, "without exit": None}[name]
    assert (facts.noising is not None) == (name == "noised")
    facts = replace(facts, rule=ConfidenceAbove(threshold=0.25))
    (tmp_path / NAME).write_text(json.dumps(facts.as_json()))
    assert read_facts(tmp_path) == facts


def test_nothing_secret_is_in_it(folder_of: FolderOf) -> None:
    text = (folder_of("noised") / NAME).read_text()
    known = {
        *("format", "session", "method", "net", "cut", "input_shape", "feature_shape", "classes"),
        *("codec", "sha256", "early", "noising", "rule", "versions", "verified"),
    }
    assert json.loads(text).keys() == known
    assert json.loads(text)["noising"].keys() == {"bound", "limit", "law", "scale"}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format": 2}', b'{"format": 1}', b"[" * 9999],
)
def test_what_is_no_device_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(StateError, match=r"device\.json"):
        read_facts(tmp_path)


def test_a_folder_without_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"cannot read device\.json"):
        read_facts(tmp_path)
    with pytest.raises(ConfigError, match="expected a folder that `eaves export` has made"):
        read_facts(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("input_shape", [1, 0, 8]),
        ("input_shape", "1x8x8"),
        ("input_shape", 8),
        ("feature_shape", []),
        ("feature_shape", [True]),
        ("classes", ["one"]),
        ("classes", [1, 2]),
        ("session", 7),
        ("codec", "int4"),
        ("codec", None),
        ("sha256", {}),
        ("sha256", {"../edge.onnx": ""}),
        ("sha256", None),
        ("early", "elsewhere.onnx"),
        ("early", EXIT),
        ("rule", {"rule": "luck", "threshold": 0.5}),
        ("rule", {"rule": "confidence", "threshold": 2}),
        ("rule", "confidence"),
        ("noising", {"bound": "clip"}),
        ("noising", {"bound": "clip", "limit": 1, "law": "gaussian", "scale": "much"}),
        ("noising", {"bound": "clip", "limit": 1.0, "law": "gaussian", "scale": 1.0}),
        ("more", 1),
    ],
)
def test_a_damaged_value_is_refused(folder_of: FolderOf, name: str, value: object) -> None:
    with pytest.raises(StateError, match=r"device\.json is damaged"):
        read_facts(changed(folder_of("plain"), **{name: value}))


def test_another_format_says_what_to_do(folder_of: FolderOf) -> None:
    with pytest.raises(StateError, match=r"expected format 1, got 2; export the bundle again"):
        read_facts(changed(folder_of("plain"), format=2))


def test_a_model_is_checked_against_its_digest(folder_of: FolderOf) -> None:
    folder = folder_of("plain")
    facts: DeviceFacts = read_facts(folder)
    content = (folder / EDGE).read_bytes()
    assert read_model(folder, facts, EDGE) == content
    for other in (content[:-1], content + b"\0", b""):
        (folder / EDGE).write_bytes(other)
        with pytest.raises(StateError, match="is damaged, or of another export"):
            read_model(folder, facts, EDGE)
    (folder / EDGE).unlink()
    with pytest.raises(StateError, match=r"cannot read .*edge\.onnx"):
        read_model(folder, facts, EDGE)
