"""A symbolic trace (torch.fx) that stops where it would lose something.

A trace records operations on tensors. What else ``forward`` does is run once, while tracing, and is
lost: it turns gradients off, draws a random number, counts its calls, asks for the type of its
input, goes through a custom backward. Each of these is noticed here. The submodule that does it is
*kept whole*: it is one operation of the trace, and runs as it is. Where the net's own ``forward``
does it, the net is refused with this reason.
"""

import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, fx, nn

from eaves.core.contents import SCALARS
from eaves.core.copies import copy_of
from eaves.core.surroundings import Surroundings, first_difference
from eaves.core.typechecks import asker
from eaves.errors import CutError

_NET = "net."  # what the wrapper around the net puts in front of every path
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_PARTS = {"_buffers": "a buffer", "_parameters": "a parameter", "_modules": "a submodule"}
_UNSEEN = (
    "remove control flow that depends on tensor values, or list its stages yourself with "
    "eaves.StagedNet"
)

Constants = dict[str, Any]


@final
class Kept:
    """The modules that stay whole, each with the reason: whole classes, or single modules by path.

    Containers of torch, such as ``nn.Sequential``, are single ones: others of their class differ.
    """

    def __init__(self) -> None:
        self._classes: dict[type, str] = {}
        self._paths: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._classes) + len(self._paths)

    def __contains__(self, item: tuple[nn.Module, str]) -> bool:
        module, path = item
        return type(module) in self._classes or path in self._paths

    def add(self, module: nn.Module, path: str, reason: str) -> None:
        """Keep ``module`` whole from now on, and those that are built as it is."""
        if type(module).__module__.startswith("torch."):
            self._paths[path] = reason
        else:
            self._classes[type(module)] = reason


@final
class Whole(BaseException):  # no error, and not to be caught by code of a net
    """A trace would lose what the module at ``path`` does; ``reason`` says what that is."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def trace(net: nn.Module, kept: Kept, surroundings: Surroundings) -> tuple[fx.Graph, Constants]:
    """Return the trace of ``net`` in the mode in which it is, and the constants it refers to.

    The forward pass that is traced is that of a copy: it may leave anything behind. May add to
    ``kept``.

    Raises:
        CutError: the net's own ``forward`` does what a trace would lose.
    """
    watched = False
    while True:  # each round adds to kept, begins to watch, returns or raises
        known, twin, outside = len(kept), copy_of(net), surroundings.state()
        before, tracer = _Attributes(twin), _Tracer(kept, surroundings if watched else None)
        try:
            with _functions_watched(), surroundings.kept():
                graph = tracer.trace(_OneInput(twin))
                changes = first_difference(outside, surroundings.state()) is not None
        except Whole as whole:
            if len(kept) == known:
                raise _refusal(net, whole.reason) from None
        except Exception as error:  # fx raises whatever the traced code raises on a proxy
            if len(kept) == known:
                raise _failure(net, error) from error
        else:
            changed = before.changed(twin)
            if not (changed or changes):
                return graph, tracer.constants()
            if changed:
                _keep_changed(twin, changed, kept)
            watched |= changes  # which module does it? Looking at each of its steps takes longer


def _failure(net: nn.Module, error: Exception) -> CutError:
    """Return the refusal of a net in which fx failed on the net's own code."""
    said = str(error)
    if "cannot assign" in said:
        return _refusal(net, f"assigns a new tensor to one of its own ({said})")
    return CutError(f"torch.fx cannot trace {type(net).__name__}: {said}; {_UNSEEN}")


def _refusal(net: nn.Module, reason: str) -> CutError:
    return CutError(
        f"{type(net).__name__} cannot be cut: its forward {reason}, which a division into two "
        "halves would lose; move that into a submodule, which is then kept whole, or list the "
        "stages yourself with eaves.StagedNet"
    )


@final
class _OneInput(nn.Module):
    """Calls ``net`` with one input, as users do: other arguments have their defaults."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> object:
        return self.net(x)


class _Value(fx.Proxy):
    """A value of the trace that notices when code of the net asks for its type."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        frame = asker(sys._getframe(1))
        if frame is not None:
            self.tracer.notice(  # type: ignore[attr-defined]
                f"asks for the type of a value (in {frame.f_code.co_name}, line {frame.f_lineno})"
            )
        return fx.Proxy


@final
class _Weight(_Value):
    """A parameter or buffer: its shape is known, and may be used in Python."""

    def __init__(self, node: fx.Node, tracer: fx.Tracer, tensor: Tensor):
        super().__init__(node, tracer)
        self.tensor = tensor

    @property
    def shape(self) -> torch.Size:
        return self.tensor.shape

    @property
    def ndim(self) -> int:
        return self.tensor.ndim

    def size(self, dim: int | None = None) -> torch.Size | int:
        return self.tensor.shape if dim is None else self.tensor.shape[dim]

    def dim(self) -> int:
        return self.tensor.ndim

    def numel(self) -> int:
        return self.tensor.numel()

    def __len__(self) -> int:
        return len(self.tensor)


@final
class _Frame:
    """What held when the forward pass of a module began, or when it last called another."""

    def __init__(self, surroundings: Surroundings | None):
        self.contexts = _contexts()
        self.draws = _draws()
        self.surroundings = surroundings
        self.outside = surroundings.state() if surroundings else {}

    def loss(self) -> str | None:
        """Return what the module did since then that a trace does not record."""
        for name, value in _contexts().items():
            if value != self.contexts[name]:
                return f"changes {name} for a part of itself"
        if _draws() != self.draws:
            return (
                "draws random numbers that do not depend on a tensor (as torch.rand does, where "
                "torch.rand_like would be seen)"
            )
        if self.surroundings is not None:
            place = first_difference(self.outside, self.surroundings.state())
            return None if place is None else f"changes {place}"
        return None


def _contexts() -> dict[str, object]:
    return {
        "whether gradients are kept (torch.no_grad)": torch.is_grad_enabled(),
        "whether tensors are for inference only": torch.is_inference_mode_enabled(),
        "the precision (torch.autocast)": (
            torch.is_autocast_enabled("cpu"),
            torch.is_autocast_enabled("cuda"),
            torch.get_autocast_dtype("cpu"),
        ),
        "the default type of numbers": torch.get_default_dtype(),
        "whether algorithms are deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def _draws() -> tuple[object, ...]:
    numpy = np.random.get_state()
    return bytes(torch.get_rng_state().numpy()), random.getstate(), bytes(numpy[1]), numpy[2:]  # type: ignore[index]


@final
class _Tracer(fx.Tracer):
    """A tracer that takes what is in ``kept`` as one operation, and adds what has to be."""

    def __init__(self, kept: Kept, watched: Surroundings | None):
        super().__init__()
        self._kept, self._watched = kept, watched
        self._frames: list[_Frame] = []
        self._failed = False

    def constants(self) -> Constants:
        """Return what the trace holds that is no part of the net: tensors made in ``forward``."""
        return {key: value for key, value in vars(self.root).items() if key in self._made}

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        self._made: set[str] = set()
        self._net = root.net
        weights = [*self._net.named_parameters(), *self._net.named_buffers()]
        self._names = {id(tensor): name for name, tensor in reversed(weights)}
        return super().trace(root, concrete_args)

    def notice(self, reason: str) -> None:
        """End the trace of the module that is at work, for ``reason``."""
        raise Whole(reason)

    def path_of_module(self, mod: nn.Module) -> str:
        return super().path_of_module(mod).removeprefix(_NET)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if m is self._net:
            return False
        if (m, module_qualified_name) in self._kept or _runs_around(m):
            return True
        return bool(super().is_leaf_module(m, module_qualified_name))

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        path = "" if m is self._net else self.path_of_module(m)
        self._look()
        if self.is_leaf_module(m, path):
            return super().call_module(m, forward, args, kwargs)
        self._frames.append(_Frame(self._watched))
        try:
            result = super().call_module(m, forward, args, kwargs)
            self._look()
        except (Exception, Whole) as error:  # fx raises what the traced code raises on a proxy
            self._blame(m, path, error)
            raise
        finally:
            self._frames.pop()
        return result

    def create_node(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        self._look()
        if kind in ("call_module", "get_attr"):
            target = str(target).removeprefix(_NET)
        return super().create_node(kind, target, *args, **kwargs)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Value(node, self)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        name = self._names.get(id(attr_val))
        if name is None:
            return attr_val
        if name not in parameter_proxy_cache:
            node = self.create_node("get_attr", name, (), {})
            parameter_proxy_cache[name] = _Weight(node, self, attr_val)
        return parameter_proxy_cache[name]

    def get_fresh_qualname(self, prefix: str) -> str:
        number = 0
        while hasattr(self._net, f"{prefix}{number}") or hasattr(self.root, f"{prefix}{number}"):
            number += 1
        self._made.add(f"{prefix}{number}")
        return f"{prefix}{number}"

    def _look(self) -> None:
        """End the trace of the module that is at work where it did what a trace would lose."""
        if self._frames and (loss := self._frames[-1].loss()) is not None:
            raise Whole(loss)

    def _blame(self, module: nn.Module, path: str, error: BaseException) -> None:
        """Keep whole the innermost module that failed, unless it is the net itself."""
        if self._failed or not path:
            return
        self._failed = True
        self._kept.add(module, path, error.reason if isinstance(error, Whole) else str(error))


def _runs_around(module: nn.Module) -> bool:
    """Return whether code runs around ``forward`` that a trace would not take along."""
    return (
        any(getattr(module, hooks, None) for hooks in _HOOKS)
        or type(module).train is not nn.Module.train
        or type(module).eval is not nn.Module.eval
        or type(module).__call__ is not nn.Module.__call__
        or bool({"train", "eval", "forward"} & vars(module).keys())
    )


@contextmanager
def _functions_watched() -> Iterator[None]:
    """End the trace of a module that calls a ``torch.autograd.Function``.

    Its backward is its own, and a trace would replace it by that of what its forward does.
    """
    # Private to torch: look at it again when the upper limit on torch's version moves.
    utils: Any = torch._functorch.utils  # every call goes through it
    usual = utils.unwrap_dead_wrappers

    def watched(args: tuple[object, ...]) -> tuple[object, ...]:
        if any(issubclass(type(arg), fx.Proxy) for arg in args):
            raise Whole("calls a torch.autograd.Function, which has a backward of its own")
        found: tuple[object, ...] = usual(args)
        return found

    utils.unwrap_dead_wrappers = watched
    try:
        yield
    finally:
        utils.unwrap_dead_wrappers = usual


@final
class _Attributes:
    """What every attribute of every module of a net was, down into lists and dicts."""

    def __init__(self, net: nn.Module):
        self._held: list[object] = []  # a print has ids: what they name must go on living
        self._prints = {
            (path, key): self._print(value)
            for path, module in net.named_modules()
            for key, value in vars(module).items()
            if key != "training"
        }

    def changed(self, net: nn.Module) -> list[tuple[str, str]]:
        """Return path and attribute of all that is not as it was."""
        now = _Attributes(net)._prints
        keys = [*self._prints, *(key for key in now if key not in self._prints)]
        return [key for key in keys if self._prints.get(key) != now.get(key)]

    def _print(self, value: object, depth: int = 4) -> object:
        if isinstance(value, SCALARS):
            return type(value), value
        self._held.append(value)
        if isinstance(value, torch.Generator):
            return id(value), bytes(value.get_state().numpy())
        if isinstance(value, dict) and depth:
            return id(value), [(key, self._print(item, depth - 1)) for key, item in value.items()]
        if isinstance(value, list | tuple | set | deque) and depth:
            return id(value), [self._print(item, depth - 1) for item in value]
        return id(value), value._version if isinstance(value, Tensor) else None


def _keep_changed(net: nn.Module, changed: Iterable[tuple[str, str]], kept: Kept) -> None:
    """Keep whole the modules of which a trace has changed attributes.

    Raises:
        CutError: the net's own ``forward`` has changed something.
    """
    for path, key in changed:
        module = net.get_submodule(path)
        while path and ((module, path) in kept or _is_of_torch(module)):
            path = path.rpartition(".")[0]  # it did not run: the module around it did this
            module = net.get_submodule(path)
        what = _PARTS.get(key, f"the attribute '{key}'")
        reason = f"changes {what} of {type(module).__name__}"
        if not path:
            raise _refusal(net, reason)
        kept.add(module, path, reason)


def _is_of_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.")
