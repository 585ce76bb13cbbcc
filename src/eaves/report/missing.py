"""Packages that are not installed, in words: which, and what to install."""

from typing import Final

from eaves.errors import ConfigError

_EXTRA: Final = {
    "sklearn": "lab",
    "scipy": "lab",
    "PIL": "lab",
    "matplotlib": "lab",
    "jinja2": "lab",
    "markupsafe": "lab",
    "simpy": "lab",
    "dp_accounting": "lab",
    "cryptography": "serve",
    "grpc_health": "serve",
    "prometheus_client": "serve",
    "constriction": "coder",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "torchvision": "vision",
    "timm": "vision",
}
"""The extra of Eaves that each importable package comes with."""
_CORE: Final = {
    "torch": "torch",
    "numpy": "numpy",
    "safetensors": "safetensors",
    "zstandard": "zstandard",
    "grpc": "grpcio",
    "google": "protobuf",
    "rich": "rich",
    "tyro": "tyro",
}
"""What a device without all of Eaves may lack, and what pip calls it."""


def explained(error: ModuleNotFoundError, command: str) -> ConfigError | None:
    """Return the error for a package that ``command`` needs; None for a module of ours.

    >>> print(explained(ModuleNotFoundError(name="timm.models"), "cuts"))
    `eaves cuts` needs timm, which is not installed here: pip install "eaves[vision]"
    """
    package = (error.name or "").partition(".")[0]
    if not package or package == "eaves":
        return None
    install = f'"eaves[{_EXTRA[package]}]"' if package in _EXTRA else _CORE.get(package, package)
    words = f"`eaves {command}` needs {package}, which is not installed here: pip install {install}"
    if package == "torch":
        words += (
            ". A device without torch answers with `eaves light`, from a folder that `eaves "
            "export` has made where torch is"
        )
    return ConfigError(words)
