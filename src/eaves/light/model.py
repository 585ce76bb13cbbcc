"""The edge half as ONNX Runtime runs it; needs the extra ``onnx``.

Dimension key:  B batch   K classes
"""

from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from eaves.errors import ConfigError, DivergedError, StateError
from eaves.light.facts import EDGE, EXIT, DeviceFacts, read_model
from eaves.light.noise import Features, Secret

Inputs = npt.NDArray[np.uint8]


@final
class Model:
    """One ONNX model with one input.

    Raises:
        ConfigError: onnxruntime is not installed.
        StateError: the model cannot be loaded.
    """

    def __init__(self, content: bytes, *, source: str, threads: int = 1):
        try:
            import onnxruntime
            from onnxruntime.capi import onnxruntime_pybind11_state as problems
        except ImportError as error:
            raise ConfigError(
                "this needs the package onnxruntime: install eaves[onnx], or onnxruntime alone"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3  # errors; what they are is said in ours
        options.enable_cpu_mem_arena = False  # it keeps what one large batch took
        self._source = source
        self._broken: tuple[type[Exception], ...] = tuple(
            value for value in vars(problems).values() if _is_problem(value)
        )
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except self._broken as error:
            raise StateError(f"{source} is no model for this onnxruntime: {error}") from error
        self._name = self._session.get_inputs()[0].name

    def run(self, x: npt.NDArray[Any]) -> list[Features]:
        """Return all outputs for ``x`` (B, ...).

        Raises:
            StateError: the model does not take ``x``.
        """
        try:
            found: list[Features] = self._session.run(None, {self._name: x})
        except self._broken as error:
            raise StateError(f"{self._source} does not run: {error}") from error
        return found


def _is_problem(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


@final
class LightEdge:
    """From raw inputs to features as they may leave, and early logits.

    Raises:
        ConfigError: onnxruntime is not installed.
        StateError: a model is missing, damaged, or does not fit ``device.json``.
    """

    def __init__(self, folder: Path, facts: DeviceFacts, *, threads: int = 1):
        self._facts, self._source = facts, Secret()
        self._models = {
            name: Model(read_model(folder, facts, name), source=str(folder / name), threads=threads)
            for name in facts.sha256
        }

    @property
    def answers(self) -> bool:
        """Whether there is an exit."""
        return self._facts.early is not None

    def predict(self, inputs: Inputs) -> tuple[Features, Features | None]:
        """Return the features of uint8 inputs (B, ...), noise included, and early logits (B, K).

        Raises:
            ConfigError: inputs of another shape or type.
            DivergedError: features that are not finite, or beyond their bound.
            StateError: the model's outputs are not those of ``device.json``.
        """
        facts = self._facts
        if inputs.dtype != np.uint8 or inputs.shape[1:] != facts.input_shape or not len(inputs):
            raise ConfigError(
                f"expected uint8 inputs (B, {_comma(facts.input_shape)}), "
                f"got {inputs.dtype} ({_comma(inputs.shape)})"
            )
        z, *beside = self._models[EDGE].run(inputs)
        self._expect(z, (len(inputs), *facts.feature_shape), "features")
        if not np.isfinite(z).all():
            raise DivergedError("the features hold NaN or infinity: nothing was sent")
        sent = z if facts.noising is None else facts.noising.noised(z, self._source)
        if facts.early is None:
            return sent, None
        early_BK = beside[0] if facts.early == EDGE and beside else self._behind(sent)
        self._expect(early_BK, (len(inputs), len(facts.classes)), "early logits")
        return sent, early_BK

    def _behind(self, sent: Features) -> Features:
        if EXIT not in self._models:
            raise StateError(f"expected early logits from {EDGE}, which has one output only")
        return self._models[EXIT].run(sent)[0]

    def _expect(self, found: Features, shape: tuple[int, ...], what: str) -> None:
        if found.dtype != np.float32 or found.shape != shape:
            raise StateError(
                f"expected float32 {what} of shape ({_comma(shape)}) from the model, "
                f"got {found.dtype} ({_comma(found.shape)}); export the bundle again"
            )


def _comma(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
