"""What a device knows of its half: ``device.json``, beside the models that it names.

::

    folder/device.json    what it is, and the SHA-256 of each model; nothing secret
    folder/edge.onnx      inputs -> bounded features, and early logits where no noise is between
    folder/exit.onnx      features as sent -> early logits, where noise is between
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, final

from eaves.core.rules import RULES, ExitRule, name_of
from eaves.errors import ConfigError, StateError, unknown
from eaves.light.codec import LightCodec
from eaves.light.noise import Noising
from eaves.runtime.sealed import unsealed_json

FORMAT: Final = 1
NAME: Final = "device.json"
EDGE: Final = "edge.onnx"
EXIT: Final = "exit.onnx"
_LARGEST_BYTES: Final = 2**20  # of device.json; a thousand classes have some 20 000


@final
@dataclass(frozen=True, kw_only=True)
class DeviceFacts:
    """What a folder for a device holds, and how its answers are made.

    Raises:
        ConfigError: parts that cannot be, or do not go together.
    """

    session: str
    """That of the bundle: a cloud of another one refuses."""
    method: str
    net: str
    cut: str | None
    input_shape: tuple[int, ...]
    """Without the batch, of uint8 inputs."""
    feature_shape: tuple[int, ...]
    """Without the batch, of float32 features."""
    classes: tuple[str, ...]
    codec: str
    sha256: Mapping[str, str]
    """Of each model, by the name of its file."""
    early: str | None = None
    """The model whose last output are early logits; None: there is no exit."""
    noising: Noising | None = None
    """What is done to features before they leave; None: nothing."""
    rule: ExitRule | None = None
    """When the exit is final; None: all is sent while the cloud answers."""
    versions: Mapping[str, str]
    verified: Mapping[str, float]
    """How far the models were from torch when they were made."""

    def __post_init__(self) -> None:
        names = (self.session, self.method, self.net, self.codec, self.cut or "", *self.classes)
        if not all(isinstance(name, str) for name in names) or len(self.classes) < 2:
            raise ConfigError(f"expected names, and 2 classes or more, got {names}")
        for shape in (self.input_shape, self.feature_shape):
            if not shape or not all(type(n) is int and n > 0 for n in shape):
                raise ConfigError(f"expected sizes above 0 in a shape, got {shape}")
        if self.early not in (None, EDGE, EXIT):
            raise unknown("model with an exit", str(self.early), [EDGE, EXIT])
        expected = {EDGE, EXIT} if self.early == EXIT else {EDGE}
        if self.sha256.keys() != expected:
            raise ConfigError(f"expected digests of {sorted(expected)}, got {sorted(self.sha256)}")
        if self.early == EDGE and self.noising is not None and self.noising.scale > 0:
            raise ConfigError(f"an exit behind noise is a model of its own: {EXIT}")
        LightCodec(self.codec)

    def as_json(self) -> dict[str, Any]:
        """Return everything by name, as ``device.json`` has it."""
        rule = self.rule
        return {
            "format": FORMAT,
            **{k: v for k, v in vars(self).items() if k not in ("noising", "rule")},
            "noising": None if self.noising is None else asdict(self.noising),
            "rule": None if rule is None else {"rule": name_of(rule), "threshold": rule.threshold},
        }


def read_facts(folder: Path) -> DeviceFacts:
    """Return what ``device.json`` says.

    Raises:
        ConfigError: ``folder`` is none.
        StateError: the file is missing, damaged, or of another format.
    """
    path = folder / NAME
    if not folder.is_dir():
        raise ConfigError(f"expected a folder that `eaves export` has made, got {folder}")
    try:
        with path.open("rb") as file:
            values = unsealed_json(file.read(_LARGEST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise StateError(
            f"{folder} is no folder of `eaves export`: cannot read {NAME} ({error})"
        ) from error
    found = values.get("format") if isinstance(values, dict) else None
    if found != FORMAT:
        raise StateError(
            f"{path}: expected format {FORMAT}, got {found!r}; export the bundle again with the "
            "Eaves of this device"
        )
    try:
        return _facts(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StateError(f"{path} is damaged: {error}; export the bundle again") from error


def read_model(folder: Path, facts: DeviceFacts, name: str) -> bytes:
    """Return a model, checked against its digest.

    Raises:
        StateError: it is missing, or not the one that was exported.
    """
    path = folder / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StateError(f"cannot read {path}: {error.strerror}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != facts.sha256[name]:
        raise StateError(
            f"{path} is damaged, or of another export: expected SHA-256 {facts.sha256[name]}, "
            f"found {found}; copy the whole folder again"
        )
    return content


def _facts(values: Mapping[str, Any]) -> DeviceFacts:
    fields = {k: v for k, v in values.items() if k != "format"}
    for name in ("input_shape", "feature_shape", "classes"):
        fields[name] = tuple(fields[name])
    if fields["noising"] is not None:
        fields["noising"] = Noising(**fields["noising"])
    if (rule := fields["rule"]) is not None:
        fields["rule"] = RULES[rule["rule"]](threshold=rule["threshold"])
    return DeviceFacts(**fields)
