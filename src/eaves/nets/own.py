"""A user's own net: a Python file, and the name of what builds the net in it."""

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

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


def _run(file: Path) -> ModuleType:
    if not file.is_file():
        raise ConfigError(f"expected a Python file at {file}, found none; give its path as in FILE")
    module_name = f"eaves_own:{file.resolve()}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:  # never for a name that ends in .py
        raise ConfigError(f"{file} cannot be loaded as Python code")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their own module up there
    try:
        spec.loader.exec_module(module)
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
