"""Find where any traceable module can be cut, and take it apart there (torch.fx).

A place in the traced program is a *cut* when exactly one tensor crosses it, floating point and with
the batch as its first dimension, and no parameter or buffer is used on both sides. Inside a
residual block two tensors are alive, the branch and the shortcut, so the block can be left only
after its join. What depends only on shapes, weights or constants does not cross: it is made again
where it is needed.
"""

import inspect
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, final

import torch
from torch import Tensor, fx, nn

from eaves.core.copies import copy_of
from eaves.core.crossing import Batch, Known, Values, overwrites
from eaves.core.example import Example, find_example, misfit
from eaves.core.sharing import memory_groups, weights_of
from eaves.core.surroundings import Surroundings
from eaves.core.tracer import Constants, Kept, trace
from eaves.errors import CutError

Stages = list[tuple[str, nn.Module]]


def trace_stages(
    net: nn.Module,
    example: Example | None = None,
    *,
    kept: Kept | None = None,
    but: Collection[str] = (),
) -> tuple[Stages, Example]:
    """Return the finest cut of ``net`` into named stages that run one after the other.

    The stages share their weights with ``net``, which is not touched. A stage is named after the
    outermost submodule that ends with it (``layer1.0``, ``layer1``), or after the operation itself
    (``add_3``, ``flatten``). ``example`` is what inputs look like; without it one is searched for,
    and the one that was used is returned, too. Modules in ``kept`` stay
    whole, and no stage ends where one called ``but`` would.

    A submodule that a trace would not reproduce stays whole: one that torch.fx cannot trace, that
    reads ``self.training`` in Python, or that does what :mod:`eaves.core.tracer` lists.

    Raises:
        CutError: that holds for ``net`` itself, or it takes or returns more than one tensor.
        ConfigError: the example does not fit the net.
    """
    plan = _planned(net, Kept() if kept is None else kept)
    if example is None:
        example = find_example(net)
    program = plan.program(example)
    names, stages, start, source = program.names(), list[tuple[str, nn.Module]](), 0, plan.source
    for i in program.cuts():
        if names[i] in but:
            continue
        stages.append((names[i], program.stage(source, start, i + 1)))
        source, start = program.nodes[i], i + 1
    if program.specialised:
        first = stages[0][1]
        assert isinstance(first, fx.GraphModule)
        _guard(first, example.shape)
    return stages, example


@final
@dataclass(frozen=True, slots=True)
class _Traced:
    """The trace of a net that is the same in training and in evaluation mode."""

    net: nn.Module
    graph: fx.Graph
    constants: Constants
    source: fx.Node

    def program(self, example: Example) -> "_Program":
        """Try what every operation makes of ``example``."""
        try:
            with torch.no_grad():
                copy_of(self.net).eval()(example.batch(2, self.net))
        except Exception as error:  # nets refuse an input with whatever comes up
            raise misfit(example.shape, error) from error
        module = _module(copy_of(self.net), self.graph, self.constants).eval()
        return _Program(self, Values(self.graph, module, example), example)


def _planned(net: nn.Module, kept: Kept) -> _Traced:
    """Trace in both modes, and keep whole the modules that differ between them."""
    _check_inputs(net)
    twin, surroundings = copy_of(net), Surroundings(net)
    while True:  # each round adds to kept, returns or raises
        with torch.no_grad():
            evaluated, _ = trace(twin.eval(), kept, surroundings)
        known = len(kept)
        with torch.enable_grad():
            trained, constants = trace(twin.train(), kept, surroundings)
        if len(kept) > known:
            continue  # the first trace looked into what must stay whole
        difference = _difference(trained, evaluated)
        if difference is None:
            _check_constants(net, constants)
            source, _ = _ends(net, trained)
            return _Traced(net, trained, constants, source)
        name, path = difference
        if not path:
            raise CutError(
                f"{type(net).__name__} reads self.training in forward (at '{name}'), or whether "
                "gradients are kept, and a trace would freeze it; use modules such as nn.Dropout "
                "instead of functions"
            )
        kept.add(net.get_submodule(path), path, "reads self.training")


def _check_inputs(net: nn.Module) -> None:
    """Refuse a net that cannot be called with one tensor."""
    try:
        signature = inspect.signature(net.forward)
        signature.bind(None)
    except TypeError:
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        needed = [
            name
            for name, p in signature.parameters.items()
            if p.default is p.empty and p.kind in (*kinds, inspect.Parameter.KEYWORD_ONLY)
        ]
        raise CutError(
            f"{type(net).__name__} takes {len(needed)} inputs ({', '.join(needed)}); expected one "
            "tensor in and one tensor out: give the others a default, or wrap the net in a module "
            "that fills them in"
        ) from None


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


def _check_constants(net: nn.Module, constants: Constants) -> None:
    for value in constants.values():
        if isinstance(value, Tensor) and value.requires_grad:
            raise CutError(
                f"{type(net).__name__} cannot be cut: its forward computes with weights in a way "
                "that a trace does not see (through self.parameters(), or a weight with a "
                "parametrization), and would use their values of today for ever; call the module "
                "that owns the weight instead"
            )


def _ends(net: nn.Module, graph: fx.Graph) -> tuple[fx.Node, fx.Node]:
    """Return the input and the output; refuse an output that is not one tensor."""
    source = next(node for node in graph.nodes if node.op == "placeholder")
    result = next(node for node in graph.nodes if node.op == "output").args[0]
    if result is source or not [n for n in graph.nodes if n.op.startswith("call")]:
        raise CutError(f"{type(net).__name__} does nothing to its input: there is nothing to cut")
    if not isinstance(result, fx.Node):
        raise CutError(
            f"{type(net).__name__} returns {_described(result)}; expected one tensor in and one "
            "tensor out: wrap the net in a module that returns the tensor that is wanted"
        )
    return source, result


def _described(result: object) -> str:
    if isinstance(result, dict):
        return f"a dict with the keys {', '.join(map(repr, result))}"
    if isinstance(result, tuple | list):
        return f"a {'tuple' if isinstance(result, tuple) else 'list'} of {len(result)}"
    return f"a {type(result).__name__}"


@final
@dataclass(slots=True)
class _Program:
    """Operations in order, and where they can be parted."""

    traced: _Traced
    values: Values
    example: Example
    nodes: list[fx.Node] = field(init=False)
    """All that has a place: what is free (see :class:`Values`) is made where it is needed."""
    specialised: bool = field(init=False, default=False)
    """A number of the example stands in a stage, which is right for inputs of its shape only."""

    def __post_init__(self) -> None:
        apart = ("placeholder", "get_attr", "output")
        self.nodes = [
            node
            for node in self.traced.graph.nodes
            if node.op not in apart and node not in self.values.free
        ]

    def names(self) -> list[str]:
        """Name each node after the outermost submodule that ends with it, else after itself."""
        calls = Counter(node.target for node in self.nodes if node.op == "call_module")
        paths = [  # a module called twice would name two stages: those go by fx's name, act, act_1
            [path for path in _module_paths(node) if calls[path] < 2] for node in self.nodes
        ]
        last = {path: i for i, inside in enumerate(paths) for path in inside}
        return [
            next((path for path in inside if last[path] == i), node.name)
            for i, (node, inside) in enumerate(zip(self.nodes, paths, strict=True))
        ]

    def cuts(self) -> list[int]:
        """Return the positions after which one tensor crosses; the last is where the net ends."""
        at = {node: i for i, node in enumerate(self.nodes)}
        end = len(self.nodes) - 1
        last_use = {
            node: max((self._use(user, at, end) for user in node.users), default=-1)
            for node in (self.traced.source, *self.nodes)
        }
        change = [0] * (end + 3)
        for node, i in at.items():  # alive: values made at or before i and used after it
            change[i] += 1
            change[max(last_use[node], i)] -= 1
        alive, shared = list(accumulate(change)), self._shared()
        source_dies = last_use[self.traced.source]
        return [
            i
            for i, node in enumerate(self.nodes)
            if i == end
            or (
                alive[i] == 1
                and last_use[node] > i
                and source_dies <= i
                and not shared[i]
                and node in self.values.features
            )
        ]

    @staticmethod
    def _use(user: fx.Node, at: dict[fx.Node, int], end: int) -> int:
        return end + 1 if user.op == "output" else at.get(user, -1)

    def _shared(self) -> list[int]:
        """Count, for each position, the weights used both before and after it."""
        used = [self._weights(node) for node in self.nodes]
        groups = memory_groups({id(t): t for tensors in used for t in tensors}.values())
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for i, tensors in enumerate(used):
            for tensor in tensors:
                first.setdefault(groups[id(tensor)], i)
                last[groups[id(tensor)]] = i
        change = [0] * (len(self.nodes) + 1)
        for key, i in first.items():
            change[i] += 1
            change[last[key]] -= 1
        return list(accumulate(change))

    def _weights(self, node: fx.Node) -> list[Tensor]:
        found: list[Tensor] = []
        if node.op == "call_module":
            found += weights_of(self.traced.net.get_submodule(str(node.target)))
        pending, seen = list(node.all_input_nodes), set[fx.Node]()
        while pending:
            source = pending.pop()
            if source in seen:
                continue
            seen.add(source)
            if source.op == "get_attr":
                value = _attribute(self.traced.net, self.traced.constants, str(source.target))
                found += [value] if isinstance(value, Tensor) else []
            elif source in self.values.free:
                pending += source.all_input_nodes
        return found

    def stage(self, source: fx.Node, start: int, end: int) -> fx.GraphModule:
        """Return the operations from ``start`` to before ``end`` as a module on ``source``."""
        nodes = self.nodes[start:end]
        part = _Part(self, source, nodes)
        stage = _module(self.traced.net, part.graph, self.traced.constants)
        stage.training = self.traced.net.training
        self.specialised |= part.specialised
        return stage


@final
class _Part:
    """The graph of one stage."""

    def __init__(self, program: _Program, source: fx.Node, nodes: Sequence[fx.Node]):
        self.graph = fx.Graph()
        self.specialised = False
        self._values = program.values
        self._entering = self.graph.placeholder("x")
        self._made: dict[fx.Node, fx.Node] = {source: self._entering}
        if any(overwrites(program.traced.net, node, source) for node in nodes):
            # The features belong to the caller: an exit reads them too, a learner keeps them.
            self._made[source] = self.graph.call_method("clone", (self._entering,))
        for node in nodes:
            self._made[node] = self.graph.node_copy(node, self._argument)
        self.graph.output(self._made[nodes[-1]])

    def _argument(self, node: fx.Node) -> Any:
        """Return what stands for ``node`` here; what is free is made when it is first needed."""
        if node not in self._made:
            if node in self._values.known and not self._is_here(node):
                return self._rebuilt(self._values.known[node])
            self._made[node] = self.graph.node_copy(node, self._argument)
        return self._made[node]

    def _is_here(self, node: fx.Node) -> bool:
        """Return whether all that ``node`` is made of is in this stage."""
        return all(
            source in self._made or (source in self._values.free and self._is_here(source))
            for source in node.all_input_nodes
        )

    def _rebuilt(self, known: Known) -> Any:
        if isinstance(known, Batch):
            return self.graph.call_method("size", (self._entering, 0))
        if isinstance(known, tuple):
            return tuple(map(self._rebuilt, known))
        self.specialised = True
        return known


def _module_paths(node: fx.Node) -> list[str]:
    """Return the submodules that a node belongs to, outermost first."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = (path.removeprefix("net").removeprefix(".") for path, _ in stack.values())
    return [path for path in paths if path]


def _module(net: nn.Module, graph: fx.Graph, constants: Constants) -> fx.GraphModule:
    """Return ``graph`` as a module that shares the submodules and weights of ``net``."""
    targets = [str(n.target) for n in graph.nodes if n.op in ("call_module", "get_attr")]
    root = {target: _attribute(net, constants, target) for target in targets}
    return fx.GraphModule(root, graph)


def _attribute(net: nn.Module, constants: Constants, path: str) -> Any:
    if path in constants:
        return constants[path]
    owner, _, name = path.rpartition(".")
    return getattr(net.get_submodule(owner), name)


def expect_shape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return ``x``, of which each input has the ``shape`` for which a net was cut.

    Raises:
        ValueError: it has another.
    """
    if tuple(x.shape[1:]) != shape:
        raise ValueError(
            f"expected inputs of {'x'.join(map(str, shape))}, for which this net was cut, got "
            f"{'x'.join(map(str, x.shape[1:]))}: it computes with their size; cut it again with "
            "example= of the new size"
        )
    return x


def copy_input(stage: nn.Module) -> None:
    """Let a stage that was traced work on a copy of what it is given."""
    assert isinstance(stage, fx.GraphModule)
    entering = next(node for node in stage.graph.nodes if node.op == "placeholder")
    with stage.graph.inserting_after(entering):
        copied = stage.graph.call_method("clone", (entering,))
    entering.replace_all_uses_with(copied, delete_user_cb=lambda user: user is not copied)
    stage.recompile()


def _guard(stage: fx.GraphModule, shape: tuple[int, ...]) -> None:
    """Let the first stage refuse inputs of another shape."""
    entering = next(node for node in stage.graph.nodes if node.op == "placeholder")
    with stage.graph.inserting_after(entering):
        checked = stage.graph.call_function(expect_shape, (entering, shape))
    entering.replace_all_uses_with(checked, delete_user_cb=lambda user: user is not checked)
    stage.recompile()
