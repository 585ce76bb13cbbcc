"""What each stage of a net does, counted without a clock: work, memory, traffic.

Dimension key:  B batch
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from eaves.core.memory import kept_for_backward
from eaves.planner.counting import counted
from eaves.planner.profile import Stage

_FEW, _MORE = 2, 4  # batches that bytes are counted at, to part what grows with the batch


@final
class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its __init_subclass__
    """Count what every operation inside reads and writes, and how many there are.

    Views move nothing and are not counted.

    >>> with Traffic() as traffic:
    ...     x = torch.zeros(1000).exp().view(10, 100)
    >>> traffic.moved_bytes, traffic.operations
    (12000, 2)
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moved_bytes = 0
        self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        returns = func._schema.returns
        if not any(r.alias_info is not None and not r.alias_info.is_write for r in returns):
            tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
            self.moved_bytes += sum(x.nbytes for x in tensors)
            self.operations += 1
        return result


def analyse_chain(
    stages: Mapping[str, nn.Module], inputs: Tensor, forward: Callable[[], Any]
) -> list[Stage]:
    """Return the facts of stages that follow one another, without times.

    ``inputs`` are examples (B, ...); what a batch of B moves once, as weights, is shared out among
    them. ``forward`` returns the context of a forward pass, as of bfloat16. The stages themselves
    are left as they were.
    """
    copies = {name: deepcopy(module).train() for name, module in stages.items()}
    x = torch.cat([inputs[:_MORE]] * _MORE)[:_MORE]
    few, more = (_kept_along(copies, part, forward) for part in (x[:_FEW], x))
    found = []
    for i, (name, module) in enumerate(copies.items()):
        # The first stage has nothing before it that a gradient could go back to, but for an exit.
        linked = i > 0 or x.is_floating_point()
        stage, x = _analyse(name, module, x, forward, linked=linked, batch_size=len(inputs))
        kept, kept_fixed = _parted(few[i], more[i])
        found.append(replace(stage, kept_bytes=kept, kept_fixed_bytes=kept_fixed))
    return found


def _parted(few: int, more: int) -> tuple[float, float]:
    """Return what grows with each example, and what is there whatever the batch."""
    per_sample = max(0.0, (more - few) / (_MORE - _FEW))
    return per_sample, max(0.0, few - _FEW * per_sample)


def _analyse(
    name: str,
    module: nn.Module,
    x: Tensor,
    forward: Callable[[], Any],
    *,
    linked: bool,
    batch_size: int,
) -> tuple[Stage, Tensor]:
    """Return the facts of a stage, but for the bytes that it keeps, and its output."""
    leaf_macs = _macs(module, x, forward, linked=False)
    macs = _macs(module, x, forward, linked=True) if linked else leaf_macs
    (few, _), (more, output) = (_traffic(module, part, forward) for part in (x[:_FEW], x))
    moved, moved_fixed = _parted(few.moved_bytes, more.moved_bytes)
    stage = Stage(
        name=name,
        output_shape=tuple(output.shape[1:]),
        params=sum(p.numel() for p in module.parameters()),
        buffer_bytes=sum(b.nbytes for b in module.buffers()),
        forward_macs=macs[0] / len(x),
        backward_macs=macs[1] / len(x),
        backward_leaf_macs=leaf_macs[1] / len(x),
        kept_bytes=0.0,
        kept_fixed_bytes=0.0,
        moved_bytes=moved + moved_fixed / batch_size,
        operations=more.operations,
        times=None,
        uncounted=macs[2],
    )
    return stage, output


def _traffic(module: nn.Module, x: Tensor, forward: Callable[[], Any]) -> tuple[Traffic, Tensor]:
    """Return what a forward pass moves, and the output."""
    entering = x.clone()  # a stage may work in place
    with torch.no_grad(), forward(), Traffic() as traffic:
        output = module(entering)
    return traffic, output


def _kept_along(
    stages: Mapping[str, nn.Module], x: Tensor, forward: Callable[[], Any]
) -> list[int]:
    """Return what each stage keeps for backward that none before it kept; no weights, no input."""
    own = [t for module in stages.values() for t in (*module.parameters(), *module.buffers())]
    totals = [0]
    with forward(), kept_for_backward(but=[*own, x]) as kept:
        for module in stages.values():
            x = module(x)
            totals.append(kept.total)
    return [after - before for before, after in pairwise(totals)]


def _macs(
    module: nn.Module, x: Tensor, forward: Callable[[], Any], *, linked: bool
) -> tuple[float, float, tuple[str, ...]]:
    """Return the multiply-accumulates of a forward and a backward pass, and what has no count."""
    with counted(module) as ahead, forward():
        output = module(_entering(x, linked=linked))
    if not output.requires_grad:
        return ahead.macs, 0.0, ahead.uncounted
    with counted() as back:
        output.backward(torch.ones_like(output))
    return ahead.macs, back.macs, ahead.uncounted


def _entering(x: Tensor, *, linked: bool) -> Tensor:
    """Return ``x`` as the input of a stage; a copy, since a stage may work in place."""
    if not (linked and x.is_floating_point()):
        return x.detach().clone()
    return x.detach().requires_grad_().clone()
