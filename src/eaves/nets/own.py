"""A user's own net: a Python file, and the name of what builds the net in it."""

import importlib.util
import inspect
import sys
from collections.abc import Callable
from importlib.abc import SourceLoader
from pathlib import Path
from types import ModuleType
from typing import final

from torch import nn

from eaves.core.net import StagedNet, staged
from eaves.errors import ConfigError, unknown


def is_own(name: str) -> bool:
    """Return whether ``name`` reads ``FILE.py:NAME``.

    >>> is_own("nets/mine.py:Mine"), is_own("timm:resnet18")
    (True, False)
    """
    return name.rpartition(":")[0].endswith(".py")


def own_net(name: str, *, classes: int, input_shape: tuple[int, int, int]) -> StagedNet:
    """Run ``FILE.py`` and return what ``NAME(classes=..., input_shape=...)`` makes, as stages.

    The file is run as Python code, with all rights of this process, each time this is called. What
    it raises itself is passed on. Its folder is not put on ``sys.path``.

    Raises:
        ConfigError: no such file, no such name in it, it does not take these two arguments, or what
            it returns is not an ``nn.Module``.
        CutError: the module cannot be divided into stages.
    """
    file, _, attribute = name.rpartition(":")
    build = _callable(_run(Path(file)), attribute, file)
    try:
        inspect.signature(build).bind(classes=classes, input_shape=input_shape)
    except TypeError as error:
        raise ConfigError(
            f"expected {name} to take (classes, input_shape), but: {error}; "
            f"write it as {attribute}(classes, input_shape)"
        ) from None
    net = build(classes=classes, input_shape=input_shape)
    if not isinstance(net, nn.Module):
        raise ConfigError(f"expected {name} to return an nn.Module, got {type(net).__name__}")
    return staged(net, input_shape)


def own_code(name: str) -> bytes:
    """Return what is in the file of ``FILE.py:NAME``; nothing is run.

    Raises:
        ConfigError: there is no such file, or it cannot be read.
    """
    file = Path(name.rpartition(":")[0])
    if not file.is_file():
        raise ConfigError(f"expected a Python file at {file}, found none; give its path as in FILE")
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the net in {file}: {error.strerror}") from error


@final
class _Loader(SourceLoader):
    """Runs what is in the file now, without Python's cache of compiled code.

    That goes by time and size of the file alone, and would leave a folder beside it.
    """

    def __init__(self, file: Path, code: bytes):
        self._file, self._code = file, code

    def get_filename(self, fullname: str) -> str:
        """Return where the code is from, for tracebacks."""
        return str(self._file)

    def get_data(self, path: str | bytes) -> bytes:
        """Return the code."""
        return self._code


def _run(file: Path) -> ModuleType:
    code = own_code(f"{file}:")
    module_name = f"eaves_own:{file.resolve()}"
    loader = _Loader(file, code)
    spec = importlib.util.spec_from_loader(module_name, loader)
    assert spec is not None  # never for a loader that knows its file
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their own module up there
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _callable(module: ModuleType, attribute: str, file: str) -> Callable[..., object]:
    own = {
        key: value
        for key, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__
    }
    found = getattr(module, attribute, None)
    if callable(found):
        return found  # type: ignore[no-any-return]
    if not own:
        raise ConfigError(
            f"{file} defines no function or class, so there is no {attribute!r} in it"
        )
    raise unknown(f"net in {file}", attribute, own)
