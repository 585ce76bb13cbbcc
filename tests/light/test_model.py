"""The edge half as ONNX Runtime runs it, and what it refuses."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.light.conftest import (
    EXIT_FK,
    FACTS,
    INPUT_SHAPE,
    edge_model,
    exit_model,
    features_of,
    inputs_of,
    write_folder,
)

from eaves.errors import ConfigError, DivergedError, StateError
from eaves.light.facts import EDGE, read_facts
from eaves.light.model import LightEdge, Model

FolderOf = Callable[[str], Path]


def opened(folder: Path) -> LightEdge:
    return LightEdge(folder, read_facts(folder))


@pytest.mark.parametrize("count", [1, 5])
def test_features_and_early_logits_are_those_of_the_model(folder_of: FolderOf, count: int) -> None:
    edge, x = opened(folder_of("plain")), inputs_of(count)
    z, early = edge.predict(x)
    assert edge.answers
    assert z == pytest.approx(features_of(x), abs=1e-5)
    assert early == pytest.approx(z @ EXIT_FK, abs=1e-5)


def test_without_an_exit_there_are_no_early_logits(folder_of: FolderOf) -> None:
    edge = opened(folder_of("without exit"))
    assert not edge.answers
    assert edge.predict(inputs_of(2))[1] is None


def test_an_exit_behind_noise_reads_what_is_sent(folder_of: FolderOf) -> None:
    edge, x = opened(folder_of("noised")), inputs_of(400)
    sent, early = edge.predict(x)
    noise = sent - features_of(x)
    # 2,400 values of deviation 0.5: the bounds are 6 standard errors away, 1 false alarm in 10^8.
    assert abs(noise.mean()) < 6 * 0.5 / np.sqrt(noise.size)
    assert abs(noise.std() - 0.5) < 6 * 0.5 / np.sqrt(2 * noise.size)
    assert early == pytest.approx(sent @ EXIT_FK, abs=1e-5)
    assert not np.array_equal(edge.predict(x)[0], sent)


@pytest.mark.parametrize(
    "inputs",
    [
        np.zeros((2, 1, 4, 5), np.uint8),
        np.zeros(INPUT_SHAPE, np.uint8),
        np.zeros((2, *INPUT_SHAPE), np.float32),
        np.zeros((0, *INPUT_SHAPE), np.uint8),
    ],
)
def test_other_inputs_are_refused(folder_of: FolderOf, inputs: np.ndarray) -> None:
    with pytest.raises(ConfigError, match=r"expected uint8 inputs \(B, 1, 4, 4\)"):
        opened(folder_of("plain")).predict(inputs)


@pytest.mark.parametrize("content", [b"", b"no model", edge_model(early=True)[:-40]])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(StateError, match=r"edge\.onnx is no model for this onnxruntime"):
        opened(write_folder(tmp_path / "f", FACTS, {EDGE: content}))


def test_a_model_of_another_net_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", FACTS, {EDGE: exit_model()})
    with pytest.raises(StateError, match=r"edge\.onnx does not run"):
        opened(folder).predict(inputs_of(2))
    other = replace(FACTS, feature_shape=(7,))
    folder = write_folder(tmp_path / "b", other, {EDGE: edge_model(early=False)})
    with pytest.raises(StateError, match=r"expected float32 features of shape \(2, 7\)"):
        opened(folder).predict(inputs_of(2))
    other = replace(FACTS, early=EDGE)
    folder = write_folder(tmp_path / "c", other, {EDGE: edge_model(early=False)})
    with pytest.raises(StateError, match="which has one output only"):
        opened(folder).predict(inputs_of(2))
    other = replace(FACTS, early=EDGE, classes=("a", "b"))
    folder = write_folder(tmp_path / "d", other, {EDGE: edge_model(early=True)})
    with pytest.raises(StateError, match=r"expected float32 early logits of shape \(2, 2\)"):
        opened(folder).predict(inputs_of(2))


def test_features_that_are_not_finite_do_not_leave(
    folder_of: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = opened(folder_of("without exit"))
    broken = [np.full((2, 6), np.nan, np.float32)]
    monkeypatch.setattr(Model, "run", lambda self, x: broken)
    with pytest.raises(DivergedError, match="nothing was sent"):
        edge.predict(inputs_of(2))


def test_without_onnxruntime_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"install eaves\[onnx\]"):
        Model(edge_model(early=True), source="edge.onnx")
