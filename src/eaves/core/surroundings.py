"""What the forward pass of a net can reach and change outside the net.

Random generators (torch's, Python's and NumPy's global ones), global variables and closures of its
functions, and attributes of its classes. Copying a net copies none of these.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType, MethodType
from typing import Any, final

import numpy as np
import torch
from torch import nn

from eaves.core.contents import WATCHED, content, refill, same

_FUNCTIONS = 2000  # that are read, at most
_APART = {"torch", "builtins", "abc", "typing"}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

State = dict[str, Any]


@final
class Surroundings:
    """The places outside ``net`` that its forward pass can reach, as far as they can be found."""

    def __init__(self, net: nn.Module):
        self._cuda = any(p.is_cuda for p in net.parameters())
        self._owners: dict[str, tuple[object, str]] = {}
        self._seen: set[int] = set()
        # Code of other packages is not followed: it leads anywhere, and little of it has state.
        self._packages = {_package(kind) for m in net.modules() for kind in type(m).__mro__}
        self._packages -= _APART
        for module in net.modules():
            self._add_class(type(module))
            for function in _own_functions(module):
                self._add_function(function)

    def state(self) -> State:
        """Return what stands in every place now."""
        found: State = {
            "torch's random generator": torch.get_rng_state(),
            "Python's random generator": random.getstate(),
            "NumPy's random generator": np.random.get_state(),
            "whether gradients are kept": torch.is_grad_enabled(),
            "the default type of numbers": torch.get_default_dtype(),
        }
        if self._cuda:
            found["CUDA's random generator"] = torch.cuda.get_rng_state()
        for place, (owner, name) in self._owners.items():
            value = _read(owner, name)
            if isinstance(value, WATCHED):
                found[place] = (value, content(value))
        return found

    def restore(self, state: State) -> None:
        """Put everything back to what ``state`` says."""
        torch.set_rng_state(state["torch's random generator"])
        random.setstate(state["Python's random generator"])
        np.random.set_state(state["NumPy's random generator"])
        torch.set_grad_enabled(state["whether gradients are kept"])
        torch.set_default_dtype(state["the default type of numbers"])
        if self._cuda:
            torch.cuda.set_rng_state(state["CUDA's random generator"])
        for place, (owner, name) in self._owners.items():
            if place not in state:
                continue
            value, kept = state[place]
            if _read(owner, name) is not value:
                _write(owner, name, value)
            refill(value, kept)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Restore everything in the end, also after a failure."""
        before = self.state()
        try:
            yield
        finally:
            self.restore(before)

    def _add_class(self, cls: type) -> None:
        for base in cls.__mro__:
            if _package(base) in self._packages and id(base) not in self._seen:
                self._seen.add(id(base))
                for name, value in vars(base).items():
                    if isinstance(value, WATCHED) and name[:2] != "__":
                        self._owners[f"the class attribute {base.__name__}.{name}"] = (base, name)
                    self._add_function(getattr(value, "__func__", value))

    def _add_function(self, function: object) -> None:
        function = getattr(function, "__wrapped__", None) or function
        if isinstance(function, MethodType):
            function = function.__func__
        if not isinstance(function, FunctionType) or _package(function) not in self._packages:
            return
        if id(function) in self._seen or len(self._seen) > _FUNCTIONS:
            return
        self._seen.add(id(function))
        values = function.__globals__
        for name in _names(function.__code__):
            if name in values:
                self._add(values, name, f"the global variable {name}")
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            self._add(cell, "cell_contents", f"the variable {name} of {function.__qualname__}")

    def _add(self, owner: object, name: str, place: str) -> None:
        value = _read(owner, name)
        if isinstance(value, WATCHED):
            while place in self._owners and self._owners[place][0] is not owner:
                place += "'"
            self._owners[place] = (owner, name)
        elif isinstance(value, type) and not issubclass(value, nn.Module):
            self._add_class(value)
        else:
            self._add_function(value)


def first_difference(one: State, other: State) -> str | None:
    """Return the first place in which two states differ; None where they are the same."""
    for place, value in one.items():
        if place not in other or not same(value, other[place]):
            return place
    return None


def _package(thing: object) -> str:
    """Return the outermost package in which a class or function is written."""
    return str(getattr(thing, "__module__", "")).partition(".")[0]


def _own_functions(module: nn.Module) -> Iterator[Callable[..., Any]]:
    for value in vars(module).values():
        if isinstance(value, FunctionType | MethodType):
            yield value
    for hooks in _HOOKS:
        yield from (getattr(module, hooks, None) or {}).values()


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _read(owner: object, name: str) -> object:
    try:
        return owner[name] if isinstance(owner, dict) else getattr(owner, name)
    except (AttributeError, KeyError, ValueError):  # ValueError: a cell that is empty
        return ...


def _write(owner: object, name: str, value: object) -> None:
    if isinstance(owner, dict):
        owner[name] = value
    else:
        setattr(owner, name, value)
