"""Folders for a device, with models made by hand: two matrices, so that all answers are known.

Dimension key:  B batch   D values of an input   F features   K classes
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from eaves.light.facts import EDGE, EXIT, NAME, DeviceFacts
from eaves.light.noise import Features, Noising

INPUT_SHAPE: Final = (1, 4, 4)
FEATURES: Final = 6
CLASSES: Final = ("a", "b", "c")
_RNG = np.random.default_rng(0)
EDGE_DF: Final[Features] = (_RNG.normal(size=(16, FEATURES)) / 1000).astype(np.float32)
EXIT_FK: Final[Features] = _RNG.normal(size=(FEATURES, len(CLASSES))).astype(np.float32)


def features_of(inputs: np.ndarray[Any, Any]) -> Features:
    """Return what the model makes of inputs (B, 1, 4, 4)."""
    flat_BD: Features = inputs.reshape(len(inputs), -1).astype(np.float32)
    z_BF: Features = np.clip(flat_BD @ EDGE_DF, -1, 1)
    return z_BF


def _saved(nodes: list[Any], given: Any, outputs: dict[str, int], weights: dict[str, Any]) -> bytes:
    found = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in outputs.items()
    ]
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "by hand", [given], found, constants)
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def edge_model(*, early: bool, shape: tuple[int, ...] = INPUT_SHAPE) -> bytes:
    """Return inputs -> features, and early logits if asked for."""
    nodes = [
        helper.make_node("Cast", ["inputs"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["flat"]),
        helper.make_node("MatMul", ["flat", "edge"], ["raw"]),
        helper.make_node("Clip", ["raw", "low", "high"], ["features"]),
    ]
    one = np.float32(1)
    weights: dict[str, Any] = {"edge": EDGE_DF, "low": np.asarray(-one), "high": np.asarray(one)}
    outputs = {"features": FEATURES}
    if early:
        nodes.append(helper.make_node("MatMul", ["features", "exit"], ["early"]))
        weights["exit"], outputs["early"] = EXIT_FK, len(CLASSES)
    given = helper.make_tensor_value_info("inputs", TensorProto.UINT8, ["batch", *shape])
    return _saved(nodes, given, outputs, weights)


def exit_model() -> bytes:
    """Return features -> early logits."""
    nodes = [helper.make_node("MatMul", ["inputs", "exit"], ["outputs"])]
    given = helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["batch", FEATURES])
    return _saved(nodes, given, {"outputs": len(CLASSES)}, {"exit": EXIT_FK})


FACTS: Final = DeviceFacts(
    session="s",
    method="hierarchical",
    net="by hand",
    cut="flat",
    input_shape=INPUT_SHAPE,
    feature_shape=(FEATURES,),
    classes=CLASSES,
    codec="fp32",
    sha256={EDGE: ""},
    versions={},
    verified={},
)
NOISING: Final = Noising(bound="clip", limit=1.0, law="gaussian", scale=0.5)


def write_folder(folder: Path, facts: DeviceFacts, models: dict[str, bytes]) -> Path:
    """Write a folder whose digests are right."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in models.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in models.items():
        (folder / name).write_bytes(content)
    (folder / NAME).write_text(json.dumps(replace(facts, sha256=digests).as_json()))
    return folder


@pytest.fixture
def folder_of(tmp_path: Path) -> Callable[[str], Path]:
    """Return a way to get a folder: plain (with an exit), noised (the same), or without exit."""

    def make(name: str) -> Path:
        at = tmp_path / name
        if name == "plain":
            return write_folder(at, replace(FACTS, early=EDGE), {EDGE: edge_model(early=True)})
        if name == "without exit":
            return write_folder(at, FACTS, {EDGE: edge_model(early=False)})
        noised = replace(FACTS, early=EXIT, noising=NOISING, sha256={EDGE: "", EXIT: ""})
        return write_folder(at, noised, {EDGE: edge_model(early=False), EXIT: exit_model()})

    return make


def inputs_of(count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return synthetic inputs (B, 1, 4, 4)."""
    return np.random.default_rng(seed).integers(0, 256, (count, *INPUT_SHAPE), np.uint8)
