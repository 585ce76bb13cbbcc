"""From a bundle to a folder that a device without torch can answer with (:mod:`eaves.light`).

Guaranteed: the models were run before the folder came to be, and agree with torch within
:data:`TOLERANCE`; what does not agree leaves nothing behind. Nothing secret is in the folder: a
device makes the key of its noise itself.

Dimension key:  B batch
"""

import hashlib
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import torch
from torch import Tensor, nn

from eaves.core.modes import modes_kept
from eaves.errors import ConfigError, StateError, StorageError
from eaves.experiments.build import Built, build_method, wire_of
from eaves.experiments.calibrating import NAME as RULE
from eaves.experiments.calibrating import read_rule
from eaves.experiments.halves import Origin, load_weights, open_origin, terms_of
from eaves.experiments.record import versions
from eaves.light.codec import LightCodec
from eaves.light.facts import EDGE, EXIT, NAME, DeviceFacts
from eaves.light.model import Model
from eaves.light.noise import Noising
from eaves.privacy.bounds import BOUNDS, Bound, Clip, Tanh
from eaves.runtime.files import held, write_atomically
from eaves.runtime.sealed import sealed_json

TOLERANCE: Final = 1e-4
"""Between the outputs of ONNX Runtime and of torch: this share of an output's root mean square over
the batch, and as much of each value."""

_OPSET: Final = 18
_MOST: Final = 2**20  # of a batch
_CHECKED: Final = (1, 2, 7)  # examples in a batch of synthetic inputs


@final
class _Part(nn.Module):
    """What one model computes: ``net``, then the bound; and an exit from that, if it has one."""

    def __init__(self, net: nn.Module, bound: Bound | None, exit_: nn.Module | None):
        super().__init__()
        self.net, self.exit, self._bound = net, exit_, bound

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(B, ...) -> features (B, ...), or these and early logits (B, K)."""
        z = self.net(x)
        if self._bound is not None:
            z = self._bound.apply(z)
            if isinstance(self._bound, Tanh):  # another library's tanh may be above 1 in its end
                z = Clip(self._bound.limit).apply(z)
        return z if self.exit is None else (z, self.exit(z))


@final
@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written."""

    folder: Path
    facts: DeviceFacts
    model_bytes: int

    def as_json(self) -> dict[str, Any]:
        """Return everything by name."""
        return {
            "folder": str(self.folder),
            "model_bytes": self.model_bytes,
            **self.facts.as_json(),
        }


def export(source: Path, out: Path, *, net: str | nn.Module | None = None) -> Exported:
    """Write the folder ``out`` from a bundle, or from the run that left one.

    ``net``: see :func:`~eaves.experiments.halves.open_origin`.

    Raises:
        ConfigError: a method or codec that cannot be exported, no bundle, a folder that holds
            something, or a package that is missing.
        StateError: the bundle is damaged, or ONNX Runtime does not agree with torch.
        StorageError: the disk is full or refuses, or another process writes there.
    """
    with held(out, beside=True):
        return _export(open_origin(source, net=net), out)


def _export(origin: Origin, out: Path) -> Exported:
    if origin.bundle is None or origin.interface is None:
        raise ConfigError("expected a bundle to export, got a configuration: train it first")
    if reason := origin.config.spec.not_exported:
        raise ConfigError(f"{origin.config.method} cannot be exported: it {reason}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not empty; choose another --out, or remove it")
    LightCodec(wire_of(origin.config).codec.name)  # refuses what a device does not have
    _expect_packages()
    config = replace(origin.config, device="cpu")
    built = build_method(config, origin.interface, net=origin.net)
    load_weights(origin, "edge", built.method.edge_modules)
    parts, noising = _parts(built)
    shapes = {EDGE: origin.interface.input_shape}
    terms = terms_of(config, origin.interface, built.method, built.cut)
    shapes[EXIT] = tuple(terms["feature_shape"])
    models = {name: _model(part, _example(name, 2, shapes[name])) for name, part in parts.items()}
    verified = _verified(parts, models, shapes)
    early = EXIT if EXIT in parts else EDGE if parts[EDGE].exit is not None else None
    facts = _facts(origin, terms, models, noising=noising, early=early, verified=verified)
    _write(out, facts, models)
    return Exported(folder=out, facts=facts, model_bytes=sum(map(len, models.values())))


def _expect_packages() -> None:
    try:
        import onnx  # noqa: F401  # torch's exporter imports them, and says less clearly so
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"an export needs more packages: install eaves[onnx] ({error})"
        ) from error


def _parts(built: Built) -> tuple[dict[str, _Part], Noising | None]:
    """Return what each model computes, in evaluation mode, and the noise behind the first.

    An exit reads features as they are sent: with noise between, it is a model of its own.
    """
    modules, hiding = built.method.edge_modules, built.hiding
    exit_ = modules.get("exit")
    if hiding is None:
        return {EDGE: _Part(modules["edge"], None, exit_).eval()}, None
    mechanism = hiding.mechanism
    noising = Noising(
        bound=next(name for name, kind in BOUNDS.items() if kind is type(mechanism.bound)),
        limit=mechanism.bound.limit,
        law=mechanism.law,
        scale=mechanism.scale,
    )
    # Noise cannot be part of a model (its key is the device's, its salt the bounded features), so
    # an exit behind noise is a model of its own.
    behind = exit_ is not None and mechanism.scale > 0
    edge = _Part(modules["edge"], mechanism.bound, None if behind else exit_).eval()
    if not behind or exit_ is None:
        return {EDGE: edge}, noising
    return {EDGE: edge, EXIT: _Part(exit_, None, None).eval()}, noising


def _model(part: _Part, example: Tensor) -> bytes:
    """Return ``part`` as an ONNX model of any batch size, without a word on where it was made."""
    outputs = ["features", "early"] if part.exit is not None else ["outputs"]
    with _quietly(), torch.no_grad():
        try:
            program = torch.onnx.export(
                part,
                (example,),
                # The other exporter, by TorchScript, is deprecated.
                dynamo=True,
                external_data=False,
                input_names=["inputs"],
                output_names=outputs,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=_MOST)},),
                opset_version=_OPSET,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ConfigError(f"torch cannot export this net: {error}") from error
    assert program is not None
    proto: Any = program.model_proto
    proto.producer_version = proto.doc_string = ""
    del proto.metadata_props[:]
    for graph in (proto.graph, *proto.functions):
        for place in (graph, *graph.node):  # traces of the files that the net was built by
            place.doc_string = ""
            del place.metadata_props[:]
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


@contextmanager
def _quietly() -> Iterator[None]:
    """Hold back what torch says about its own parts: none of it is about the net."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _example(name: str, count: int, shape: tuple[int, ...]) -> Tensor:
    """Return synthetic inputs (B, ...): noise, and on raw inputs also both ends of the scale."""
    generator = torch.Generator().manual_seed(count)
    if name == EXIT:
        return torch.randn(count, *shape, generator=generator)
    inputs = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    if count > 2:
        inputs[0], inputs[1] = 0, 255
    return inputs


def _verified(
    parts: Mapping[str, _Part], models: Mapping[str, bytes], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, float]:
    """Return how far ONNX Runtime is from torch, as a share of what is allowed.

    Raises:
        StateError: farther than is allowed.
    """
    worst = 0.0
    for name, part in parts.items():
        model = Model(models[name], source=name)
        for count in _CHECKED:
            x = _example(name, count, shapes[name])
            with modes_kept(part), torch.no_grad():
                found = part.eval()(x)
            expected = found if isinstance(found, tuple) else (found,)
            for theirs, ours in zip(model.run(x.numpy()), expected, strict=True):
                worst = max(worst, _distance(theirs, ours.numpy()))
    if worst > 1:
        raise StateError(
            f"ONNX Runtime answers otherwise than torch: {worst:.3g} times as far as the "
            f"{TOLERANCE:g} that is allowed. Nothing was written; try another version of either"
        )
    return {"tolerance": TOLERANCE, "of_tolerance": worst, "batches": len(_CHECKED)}


def _distance(theirs: "np.ndarray[Any, Any]", ours: "np.ndarray[Any, Any]") -> float:
    """Return the largest difference as a share of what is allowed.

    Infinity for other shapes, and where either is not finite.
    """
    if theirs.shape != ours.shape or theirs.dtype != ours.dtype or not np.isfinite(theirs).all():
        return float("inf")
    allowed = TOLERANCE * (np.sqrt(np.square(ours).mean()) + np.abs(ours)) + 1e-12
    return float((np.abs(theirs - ours) / allowed).max())


def _facts(
    origin: Origin,
    terms: Mapping[str, Any],
    models: Mapping[str, bytes],
    *,
    noising: Noising | None,
    early: str | None,
    verified: Mapping[str, float],
) -> DeviceFacts:
    assert origin.bundle is not None
    rule = read_rule(origin.bundle).rule if (origin.bundle / RULE).exists() else None
    return DeviceFacts(
        session=origin.session,
        method=terms["method"],
        net=terms["net"],
        cut=terms["cut"],
        input_shape=tuple(terms["input_shape"]),
        feature_shape=tuple(terms["feature_shape"]),
        classes=tuple(terms["classes"]),
        codec=wire_of(origin.config).codec.name,
        early=early,
        noising=noising,
        rule=rule,
        sha256={name: hashlib.sha256(content).hexdigest() for name, content in models.items()},
        versions=versions() | {name: version(name) for name in ("onnx", "onnxruntime")},
        verified=verified,
    )


def _write(out: Path, facts: DeviceFacts, models: Mapping[str, bytes]) -> None:
    """Write the folder whole, or not at all."""
    draft = out.with_name(f".{out.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        for name, content in models.items():
            write_atomically(draft / name, content)
        write_atomically(draft / NAME, sealed_json(facts.as_json()))
        draft.replace(out)
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
