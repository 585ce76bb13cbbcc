"""Whether the answer for one example depends on the others that are answered with it.

Accuracy is measured in batches, and answers are given in others, often of one. A net with
``BatchNorm2d(track_running_stats=False)`` normalises by its batch in use as well: in batches of 256
it is right more often than alone. Dropout that is never switched off answers otherwise each time.
Both are found by asking, not by looking for layers.

Dimension key:  B batch
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from eaves.core.modes import modes_kept

MOST = 16
"""Examples that are asked about one by one."""
_TOLERANCE = 1e-3  # of the largest value: kernels for one example round in another order


@final
class InputsSeen:
    """The first inputs that each part of a net was called with, up to :data:`MOST` examples."""

    def __init__(self) -> None:
        self.of: dict[str, Tensor] = {}

    def note(self, name: str, args: tuple[Any, ...]) -> None:
        """Keep a copy of the first input of ``name``, if it is one tensor with a batch."""
        if name not in self.of and len(args) == 1 and isinstance(args[0], Tensor) and args[0].dim():
            self.of[name] = args[0][:MOST].detach().clone()


@contextmanager
def inputs_seen(parts: Mapping[str, nn.Module]) -> Iterator[InputsSeen]:
    """Note what ``parts`` are called with inside.

    >>> part = nn.Identity()
    >>> with inputs_seen({"a": part}) as seen:
    ...     _ = part(torch.ones(3, 2))
    >>> seen.of["a"].shape
    torch.Size([3, 2])
    """
    seen = InputsSeen()
    handles = [
        part.register_forward_pre_hook(lambda _, args, name=name: seen.note(name, args))
        for name, part in parts.items()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@final
@dataclass(frozen=True)
class Dependence:
    """Why the answers of a part are not those of its examples alone."""

    why: str
    on_batch: bool
    """False where they are random, and so others each time whatever the batch."""


def dependence(part: nn.Module, x_B: Tensor) -> Dependence | None:
    """Return why the answers of ``part`` are not those of its examples alone; None where they are.

    ``x_B`` are two examples or more. The part is asked in evaluation mode, without gradient, for
    all of them twice and for each alone; modes are as before afterwards.

    >>> dependence(nn.Linear(3, 2), torch.ones(4, 3)) is None
    True
    """
    if len(x_B) < 2:
        return None
    with modes_kept(part), torch.no_grad():
        part.eval()
        whole, again = part(x_B.clone()), part(x_B.clone())
        if not isinstance(whole, Tensor) or whole.shape[:1] != x_B.shape[:1]:
            return None
        if _differ(whole, again):
            return Dependence(
                "it answers the same examples otherwise each time: something random, such as "
                "dropout, is not switched off in evaluation mode",
                on_batch=False,
            )
        try:
            # By asking, because a list of layers that do this would miss a user's own.
            alone = torch.cat([part(x_B[i : i + 1].clone()) for i in range(len(x_B))])
        except (RuntimeError, ValueError) as error:
            return Dependence(f"it cannot answer one example alone: {error}", on_batch=True)
    if not _differ(whole, alone):
        return None
    return Dependence(
        f"its answer for an example depends on the batch{_cause(part)}", on_batch=True
    )


def _differ(left: Tensor, right: Tensor) -> bool:
    if left.shape != right.shape:
        return True
    left, right = left.double(), right.double()
    largest = torch.maximum(left.abs().amax(), right.abs().amax())
    return bool((left - right).abs().amax() > _TOLERANCE * largest)


def _cause(part: nn.Module) -> str:
    """Return which layers normalise by their batch in use, if any do."""
    names = [
        name or type(module).__name__
        for name, module in part.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is None
    ]
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f" (track_running_stats=False: {', '.join(names[:3])}{more})"
