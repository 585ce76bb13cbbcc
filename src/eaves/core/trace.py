"""Find where any traceable module can be cut, and take it apart there (torch.fx).

A place in the traced program is a *cut* when exactly one tensor crosses it and no parameter or
buffer is used on both sides. Inside a residual block two tensors are alive, the branch and the
shortcut, so the block can be left only after its join.
"""

import inspect
from itertools import accumulate

import torch
from torch import fx, nn

from eaves.errors import CutError


def trace_stages(net: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the finest cut of ``net`` into named stages that run one after the other.

    The stages share their weights with ``net``. A stage is named after the outermost submodule that
    ends with it (``layer1.0``, ``layer1``), or after the operation itself (``add_3``, ``flatten``).

    Raises:
        CutError: torch.fx cannot trace ``net``, it takes or returns more than one tensor, or it
            reads ``self.training`` in Python, so that a trace would freeze one of its two modes.
    """
    graph = _trace_both_modes(net)
    nodes = [node for node in graph.nodes if node.op not in ("placeholder", "get_attr", "output")]
    source = next(node for node in graph.nodes if node.op == "placeholder")
    names = _stage_names(nodes)
    stages, start = [], 0
    for i in _cut_indices(net, source, nodes):
        stages.append((names[i], _stage(net, source, nodes[start : i + 1])))
        source, start = nodes[i], i + 1
    return stages


def _trace_both_modes(net: nn.Module) -> fx.Graph:
    modes = {module: module.training for module in net.modules()}
    try:
        trained = _trace(net.train())
        evaluated = _trace(net.eval())
    finally:
        for module, mode in modes.items():
            module.training = mode
    for a, b in zip(trained.nodes, evaluated.nodes, strict=False):
        if repr((a.op, a.target, a.args, a.kwargs)) != repr((b.op, b.target, b.args, b.kwargs)):
            raise CutError(
                f"{type(net).__name__} reads self.training in forward (at '{a.name}'), and a trace "
                "would freeze it; use modules such as nn.Dropout instead of functions"
            )
    return trained


def _trace(net: nn.Module) -> fx.Graph:
    """Trace with every argument that has a default held at it."""
    name = type(net).__name__
    defaults = {
        p.name: p.default
        for p in inspect.signature(net.forward).parameters.values()
        if p.default is not p.empty
    }
    try:
        graph = fx.Tracer().trace(net, concrete_args=defaults or None)
    except Exception as error:  # fx raises whatever the traced code raises on a proxy
        raise CutError(
            f"torch.fx cannot trace {name}: {error}; remove control flow that depends on tensor "
            "values, or list its stages yourself with eaves.StagedNet"
        ) from error
    inputs = [n for n in graph.nodes if n.op == "placeholder" and n.target not in defaults]
    result = next(node for node in graph.nodes if node.op == "output").args[0]
    if len(inputs) != 1 or not isinstance(result, fx.Node):
        raise CutError(
            f"{name} takes {len(inputs)} inputs and returns {type(result).__name__}; "
            "expected one tensor in and one tensor out"
        )
    for node in [n for n in graph.nodes if n.op == "placeholder" and n not in inputs]:
        for user in list(
            node.users
        ):  # fx guards held arguments with an assertion; not ours to keep
            graph.erase_node(user)
        graph.erase_node(node)
    return graph


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
        if i == end or (alive[i] == 1 and last_use[node] > i and source_dies <= i and not shared[i])
    ]


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
    """Name each node after the outermost submodule whose last operation it is, else after itself."""
    paths = [_module_paths(node) for node in nodes]
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

    def copied(node: fx.Node) -> fx.Node:
        if node not in made:  # a get_attr: read where it is needed
            made[node] = graph.node_copy(node)
        return made[node]

    for node in nodes:
        made[node] = graph.node_copy(node, copied)
    graph.output(made[nodes[-1]])
    return fx.GraphModule(net, graph)
