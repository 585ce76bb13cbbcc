"""What the values of a trace are, tried with batches of 2 and 3: which of them may cross a cut.

Dimension key:  B batch
"""

import operator
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, fx, nn

from eaves.core.example import Example

_SIZES = (2, 3)
_ASSIGNMENTS = (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.setitem)
_RANDOM = ("rand", "bernoulli", "normal", "multinomial", "dropout", "exponential", "uniform")


@final
@dataclass(frozen=True, slots=True)
class Batch:
    """Stands for the number of examples in a value made of whole numbers."""


Known = int | Batch | tuple["Known", ...]
"""A value made of whole numbers that is the same for every batch, but for the size of that."""


@final
class Values:
    """The nodes of a trace by what they are: features that may cross, numbers, constants."""

    def __init__(self, graph: fx.Graph, module: nn.Module, example: Example):
        """Run ``graph``, whose operations are those of ``module``: a copy in evaluation mode."""
        seen = [_seen(graph, module, example, size) for size in _SIZES]
        self.features = {n for n in graph.nodes if _crosses(*(facts.get(n) for facts in seen))}
        """Nodes that make one tensor of floating point with the batch as its first dimension."""
        self.known: dict[fx.Node, Known] = {}
        """Nodes that make whole numbers which are known once the batch is."""
        sized: set[fx.Node] = set()
        for node in graph.nodes:
            if not _is_sized(node, sized):
                continue
            sized.add(node)
            known = _known(*(facts.get(node) for facts in seen))
            if known is not None and (example.given or not _has_constant(known)):
                self.known[node] = known
        self.free = _free(graph, self.known)
        """Nodes that can be made on either side of a cut: of numbers, weights and constants."""


def overwrites(module: nn.Module, node: fx.Node, value: fx.Node) -> bool:
    """Return whether ``node``, an operation of ``module``, may change ``value`` in place."""
    if value not in node.all_input_nodes:
        return False
    if node.op == "call_module":
        parts = module.get_submodule(str(node.target)).modules()
        return any(getattr(part, "inplace", False) for part in parts)
    return _in_place(node)


def _in_place(node: fx.Node) -> bool:
    name = str(getattr(node.target, "__name__", node.target))
    changes = name.endswith("_") and not name.endswith("__")
    return changes or node.target in _ASSIGNMENTS or bool(node.kwargs.get("inplace"))


def _is_sized(node: fx.Node, sized: Collection[fx.Node]) -> bool:
    """Return whether a value depends on shapes alone; one of ``item()`` depends on data."""
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in ("shape", "ndim")
    if node.op == "call_method":
        return node.target in ("size", "dim", "ndimension", "numel", "nelement")
    inputs = node.all_input_nodes
    return node.op == "call_function" and bool(inputs) and all(n in sized for n in inputs)


@final
class _Watching(fx.Interpreter):
    """Runs a graph and notes what every node makes, without keeping it."""

    def __init__(self, module: nn.Module, graph: fx.Graph):
        super().__init__(module, graph=graph)
        self.facts: dict[fx.Node, object] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.facts[n] = _facts(result)
        return result


def _seen(
    graph: fx.Graph, module: nn.Module, example: Example, size: int
) -> Mapping[fx.Node, object]:
    watching = _Watching(module, graph)
    with torch.no_grad():
        watching.run(example.batch(size, module))
    return watching.facts


def _facts(value: object) -> object:
    """Return shape and kind of a tensor, whole numbers as they are, and None of all else."""
    if isinstance(value, Tensor):
        plain = type(value) in (Tensor, nn.Parameter) and value.layout == torch.strided
        return tuple(value.shape), plain and value.is_floating_point()
    return _numbers(value)


def _numbers(value: object) -> object:
    if type(value) is int:
        return value
    if isinstance(value, tuple | list):
        items = [_numbers(item) for item in value]
        return None if None in items else items
    return None


def _crosses(*facts: object) -> bool:
    if not all(isinstance(fact, tuple) and fact[1] for fact in facts):
        return False
    shapes: list[tuple[int, ...]] = [fact[0] for fact in facts]  # type: ignore[index]
    return (
        all(shape[:1] == (size,) for shape, size in zip(shapes, _SIZES, strict=True))
        and len({shape[1:] for shape in shapes}) == 1
        and all(0 not in shape for shape in shapes)
    )


def _known(one: object, other: object) -> Known | None:
    if isinstance(one, int) and isinstance(other, int):
        if (one, other) == _SIZES:
            return Batch()
        return one if one == other else None
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        items = [_known(a, b) for a, b in zip(one, other, strict=True)]
        if all(item is not None for item in items):
            return tuple(item for item in items if item is not None)
    return None


def _has_constant(known: Known) -> bool:
    """Return whether a number would be taken from the example as it is."""
    if isinstance(known, tuple):
        return any(map(_has_constant, known))
    return isinstance(known, int)


def _free(graph: fx.Graph, known: Mapping[fx.Node, Known]) -> set[fx.Node]:
    """Return the nodes that depend on no input, or only on how many there are."""
    changed = {
        source.target
        for node in graph.nodes
        if node.op in ("call_function", "call_method") and _in_place(node)
        for source in _sources(node)
    }
    free: set[fx.Node] = set()
    for node in graph.nodes:
        if node in known and node.op != "placeholder":
            free.add(node)
        elif node.op == "get_attr":
            free |= {node} if node.target not in changed else set()
        elif _is_pure(node) and free.issuperset(node.all_input_nodes):
            free.add(node)
    return free


def _is_pure(node: fx.Node) -> bool:
    """Return whether making ``node`` once more changes nothing and gives the same."""
    operation = node.op in ("call_function", "call_method") and bool(node.all_input_nodes)
    return operation and not _in_place(node) and not _draws(node)


def _sources(node: fx.Node) -> set[fx.Node]:
    """Return the weights and constants that ``node`` is made of."""
    found: set[fx.Node] = set()
    pending = [node]
    seen: set[fx.Node] = set()
    while pending:
        one = pending.pop()
        if one not in seen:
            seen.add(one)
            found |= {one} if one.op == "get_attr" else set()
            pending += one.all_input_nodes
    return found


def _draws(node: fx.Node) -> bool:
    name = str(getattr(node.target, "__name__", node.target))
    return any(word in name for word in _RANDOM)
