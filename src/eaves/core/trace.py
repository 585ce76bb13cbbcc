"""Find where any traceable module can be cut, and take it apart there (torch.fx).

A place in the traced program is a *cut* when exactly one tensor crosses it and no parameter or
buffer is used on both sides. Inside a residual block two tensors are alive, the branch and the
shortcut, so the block can be left only after its join.
"""

import inspect
import operator
from collections import Counter
from collections.abc import Callable
from itertools import accumulate
from typing import Any, final

import torch
from torch import fx, nn

from eaves.core.modes import modes_kept
from eaves.errors import CutError

_DIVISIONS = ("chunk", "split", "tensor_split", "unbind")
_ASSIGNMENTS = (operator.iadd, operator.isub, operator.imul, operator.itruediv)


def trace_stages(net: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the finest cut of ``net`` into named stages that run one after the other.

    The stages share their weights with ``net``. A stage is named after the outermost submodule that
    ends with it (``layer1.0``, ``layer1``), or after the operation itself (``add_3``, ``flatten``).

    A submodule that torch.fx cannot trace, or that reads ``self.training`` in Python (a trace would
    freeze one of its two modes), stays whole: it is one operation, and is not cut inside.

    Raises:
        CutError: that holds for ``net`` itself, or it takes or returns more than one tensor.
    """
    graph = _trace_both_modes(net)
    nodes = [node for node in graph.nodes if node.op not in ("placeholder", "get_attr", "output")]
    source = next(node for node in graph.nodes if node.op == "placeholder")
    names = _stage_names(nodes)
    stages: list[tuple[str, nn.Module]] = []
    start = 0
    for i in _cut_indices(net, source, nodes):
        stages.append((names[i], _stage(net, source, nodes[start : i + 1])))
        source, start = nodes[i], i + 1
    return stages


def _trace_both_modes(net: nn.Module) -> fx.Graph:
    """Trace, and keep whole the classes that fx cannot look into without freezing or failing."""
    whole: set[type[nn.Module]] = set()
    with modes_kept(net):
        while True:  # each round adds a class to whole, returns or raises
            evaluated = _trace(net.eval(), whole)
            known = len(whole)
            trained = _trace(net.train(), whole)
            if len(whole) > known:
                continue  # the first trace looked into what must stay whole
            difference = _difference(trained, evaluated)
            if difference is None:
                return trained
            name, path = difference
            if not path:
                raise CutError(
                    f"{type(net).__name__} reads self.training in forward (at '{name}'), and a "
                    "trace would freeze it; use modules such as nn.Dropout instead of functions"
                )
            whole.add(type(net.get_submodule(path)))


def _difference(trained: fx.Graph, evaluated: fx.Graph) -> tuple[str, str] | None:
    """Return the first node at which two traces part, and the innermost module that holds both."""
    for a, b in zip(trained.nodes, evaluated.nodes, strict=False):
        if repr((a.op, a.target, a.args, a.kwargs)) != repr((b.op, b.target, b.args, b.kwargs)):
            inside_b = _module_paths(b)
            callers = [p for p in _module_paths(a) if p in inside_b]
            if a.op == b.op == "call_module" and a.target == b.target:
                callers = callers[:-1]  # it is called differently: by the module around it
            return a.name, callers[-1] if callers else ""
    return None


@final
class _Tracer(fx.Tracer):
    """A tracer that takes the classes in ``whole`` as one operation, and adds those that fail."""

    def __init__(self, whole: set[type[nn.Module]]):
        super().__init__()
        self.whole = whole
        self.failed = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in self.whole or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:  # fx raises whatever the traced code raises on a proxy
            # The innermost comes first; what is one operation already is not to blame.
            if not (self.failed or self.is_leaf_module(m, self.path_of_module(m))):
                self.failed = True
                self.whole.add(type(m))
            raise


def _trace(net: nn.Module, whole: set[type[nn.Module]]) -> fx.Graph:
    """Trace with every argument that has a default held at it; may add classes to ``whole``."""
    parameters = inspect.signature(net.forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    while True:
        for constant in [name for name in vars(net) if name.startswith("_tensor_constant")]:
            delattr(net, constant)  # of an earlier trace; fx would number the new ones further on
        tracer = _Tracer(whole)
        try:
            graph = tracer.trace(net, concrete_args=defaults or None)
            break
        except Exception as error:  # fx raises whatever the traced code raises on a proxy
            if tracer.failed:
                continue
            raise CutError(
                f"torch.fx cannot trace {type(net).__name__}: {error}; remove control flow that "
                "depends on tensor values, or list its stages yourself with eaves.StagedNet"
            ) from error
    required = {p.name for p in parameters if p.name not in defaults}
    _check_ends(type(net).__name__, graph, required)
    return graph


def _check_ends(name: str, graph: fx.Graph, required: set[str]) -> None:
    """Refuse all but one tensor in and one out; remove the arguments that are held."""
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    spread = [node for node in placeholders if str(node.target).startswith("*") and node.users]
    if spread:
        raise CutError(f"{name} uses {spread[0].target}; name the one tensor that forward takes")
    inputs = [node for node in placeholders if node.target in required]
    result = next(node for node in graph.nodes if node.op == "output").args[0]
    if len(inputs) != 1 or not isinstance(result, fx.Node):
        raise CutError(
            f"{name} takes {len(inputs)} inputs and returns {type(result).__name__}; "
            "expected one tensor in and one tensor out"
        )
    for node in placeholders:
        if node is not inputs[0]:
            _erase(node)  # with what asserts that the argument is as held, which fx adds


def _erase(node: fx.Node) -> None:
    for user in list(node.users):
        _erase(user)
    node.graph.erase_node(node)


def _cut_indices(net: nn.Module, source: fx.Node, nodes: list[fx.Node]) -> list[int]:
    """Return the positions after which one tensor crosses; the last is where the net ends."""
    at = {node: i for i, node in enumerate(nodes)}
    if not nodes:
        raise CutError(f"{type(net).__name__} does nothing to its input: there is nothing to cut")
    end = len(nodes) - 1
    last_use = {n: max((at.get(u, end + 1) for u in n.users), default=i) for n, i in at.items()}
    source_dies = max((at.get(u, end) for u in source.users), default=0)
    # alive[i]: values made at or before i and used after it
    change = [0] * (end + 3)
    for node, i in at.items():
        change[i] += 1
        change[max(last_use[node], i)] -= 1
    alive = list(accumulate(change))
    shared = _shared_weights(net, nodes)
    return [
        i
        for i, node in enumerate(nodes)
        if i == end
        or (
            alive[i] == 1
            and last_use[node] > i
            and source_dies <= i
            and not shared[i]
            and not _is_tuple(node)
        )
    ]


def _is_tuple(node: fx.Node) -> bool:
    """Guess whether a value is several tensors: it comes from a division, or is used by number."""
    by_number = any(u.target is operator.getitem and isinstance(u.args[1], int) for u in node.users)
    return by_number or getattr(node.target, "__name__", node.target) in _DIVISIONS


def _shared_weights(net: nn.Module, nodes: list[fx.Node]) -> list[int]:
    """Count, for each position, the parameters and buffers used both before and after it."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for i, node in enumerate(nodes):
        for tensor in _weights(net, node):
            first.setdefault(id(tensor), i)
            last[id(tensor)] = i
    change = [0] * (len(nodes) + 1)
    for key, i in first.items():
        change[i] += 1
        change[last[key]] -= 1
    return list(accumulate(change))


def _weights(net: nn.Module, node: fx.Node) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    if node.op == "call_module":
        module = net.get_submodule(str(node.target))
        found += [*module.parameters(), *module.buffers()]
    for source in node.all_input_nodes:
        if source.op == "get_attr":
            path, _, name = str(source.target).rpartition(".")
            found.append(getattr(net.get_submodule(path), name))
    return found


def _stage_names(nodes: list[fx.Node]) -> list[str]:
    """Name each node after the outermost submodule that ends with it, else after itself."""
    calls = Counter(node.target for node in nodes if node.op == "call_module")
    paths = [  # a module called twice would name two stages: those go by fx's name, act and act_1
        [path for path in _module_paths(node) if calls[path] < 2] for node in nodes
    ]
    last = {path: i for i, inside in enumerate(paths) for path in inside}
    return [
        next((path for path in inside if last[path] == i), node.name)
        for i, (node, inside) in enumerate(zip(nodes, paths, strict=True))
    ]


def _module_paths(node: fx.Node) -> list[str]:
    """Return the submodules that a node belongs to, outermost first."""
    stack = node.meta.get("nn_module_stack") or {}
    return [path for path, _ in stack.values() if path]


def _stage(net: nn.Module, source: fx.Node, nodes: list[fx.Node]) -> fx.GraphModule:
    graph = fx.Graph()
    made = {source: graph.placeholder("x")}
    if any(_overwrites(net, node, source) for node in nodes):
        # The features belong to whoever cut there: an exit reads them too, a learner keeps them.
        made[source] = graph.call_method("clone", (made[source],))

    def copied(node: fx.Node) -> fx.Node:
        if node not in made:  # a get_attr: read where it is needed
            made[node] = graph.node_copy(node)
        return made[node]

    for node in nodes:
        made[node] = graph.node_copy(node, copied)
    graph.output(made[nodes[-1]])
    return fx.GraphModule(net, graph)


def _overwrites(net: nn.Module, node: fx.Node, value: fx.Node) -> bool:
    """Return whether ``node`` may change ``value`` in place."""
    if value not in node.all_input_nodes:
        return False
    if node.op == "call_module":
        parts = net.get_submodule(str(node.target)).modules()
        return any(getattr(part, "inplace", False) for part in parts)
    name = str(getattr(node.target, "__name__", node.target))
    in_place = name.endswith("_") or node.target in _ASSIGNMENTS
    return in_place or bool(node.kwargs.get("inplace"))
