"""One process of the cloud, or several that train the same half data-parallel (torchrun).

Every process has edges of its own. A step takes what each has at hand: gradients are averaged by
the number of examples behind them, so that a process without an upload takes part with nothing and
all keep the same weights. (torch's DistributedDataParallel expects a batch on every process.)
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import timedelta
from time import sleep
from typing import Final, final

import torch
import torch.distributed as dist
from torch import nn

from eaves.core.optimise import Averaging, Optimised
from eaves.errors import ConfigError

_PATIENCE: Final = timedelta(minutes=5)
_LET_GO_S: Final = 0.1


class Group(ABC):
    """The processes that train together."""

    rank: int
    size: int

    @abstractmethod
    def gather(self, figures: Sequence[int]) -> list[list[int]]:
        """Return the figures of every process, by rank; each gives as many, and each waits."""

    @abstractmethod
    def gather_text(self, text: str) -> list[str]:
        """Return the text of every process, by rank."""

    @abstractmethod
    def share(self, examples: int, uploads: int) -> None:
        """Say how many examples in how many uploads this process has for the next step."""

    @abstractmethod
    def taken(self) -> int:
        """Return how many uploads the last step took, of all processes together."""

    @abstractmethod
    def join(self, part: Optimised) -> None:
        """Give ``part`` the weights of rank 0, and average its gradients from now on."""

    @abstractmethod
    def close(self) -> None:
        """Leave the group."""


@final
class Alone(Group):
    """A group of one, for which nothing has to travel."""

    rank, size = 0, 1

    def __init__(self) -> None:
        self._taken = 0

    def gather(self, figures: Sequence[int]) -> list[list[int]]:
        """Return these figures."""
        return [list(figures)]

    def gather_text(self, text: str) -> list[str]:
        """Return this text."""
        return [text]

    def share(self, examples: int, uploads: int) -> None:
        """Take note of the uploads: there is no other process."""
        self._taken = uploads

    def taken(self) -> int:
        """Return what :meth:`share` was told."""
        return self._taken

    def join(self, part: Optimised) -> None:
        """Leave the part as it is."""

    def close(self) -> None:
        """Do nothing."""


@final
class Torchrun(Group):
    """The processes that ``torchrun`` has started; over gloo, or NCCL where there is CUDA."""

    def __init__(self) -> None:
        dist.init_process_group("gloo", timeout=_PATIENCE)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._average = GroupAverage()

    def gather(self, figures: Sequence[int]) -> list[list[int]]:
        """See :meth:`Group.gather`."""
        mine = torch.tensor(figures, dtype=torch.int64)
        all_ = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(all_, mine)
        return [one.tolist() for one in all_]

    def gather_text(self, text: str) -> list[str]:
        """See :meth:`Group.gather_text`."""
        content = text.encode()
        lengths = [length for (length,) in self.gather([len(content)])]
        mine = torch.zeros(max(1, *lengths), dtype=torch.uint8)
        mine[: len(content)] = torch.frombuffer(bytearray(content or b"\0"), dtype=torch.uint8)[
            : len(content)
        ]
        all_ = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(all_, mine)
        return [
            bytes(one[:length].numpy()).decode() for one, length in zip(all_, lengths, strict=True)
        ]

    def join(self, part: Optimised) -> None:
        """See :meth:`Group.join`."""
        for tensor in (*part.modules.parameters(), *part.modules.buffers()):
            dist.broadcast(tensor.detach(), src=0)
        part.averaging = self._average

    def share(self, examples: int, uploads: int) -> None:
        """See :meth:`Group.share`."""
        self._average.examples, self._average.uploads = examples, uploads

    def taken(self) -> int:
        """See :meth:`Group.taken`."""
        return self._average.taken

    def close(self) -> None:
        """See :meth:`Group.close`."""
        dist.destroy_process_group()
        # A thread of gloo's may still let go of a tensor, for which it needs the interpreter. If
        # that is ending by then, the process aborts (pytorch/pytorch#190489).
        sleep(_LET_GO_S)


@final
class GroupAverage(Averaging):
    """Averages over a group, weighted by examples. All processes call it for every step."""

    def __init__(self) -> None:
        self.examples = self.uploads = 0
        """Of this process, in the next step."""
        self.taken = 0
        """Uploads of all processes, in the last step."""

    def average(self, modules: nn.Module) -> bool:
        """See :meth:`Averaging.average`."""
        examples = self.examples
        parameters = [p for p in modules.parameters() if p.requires_grad]
        buffers = [b for b in modules.buffers() if b.dtype.is_floating_point]
        tensors = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters] + buffers
        count = torch.tensor([float(self.uploads), float(examples)], device=tensors[0].device)
        flat = torch.cat([*(examples * t.flatten().float() for t in tensors), count])
        if not examples:  # 0 times NaN would be NaN
            flat = torch.zeros_like(flat)
        dist.all_reduce(flat)
        self.taken = int(flat[-2])
        if not (total := float(flat[-1])):
            return False
        parts = torch.split(flat[:-2] / total, [t.numel() for t in tensors])
        for parameter, part in zip(parameters, parts[: len(parameters)], strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)
        for buffer, part in zip(buffers, parts[len(parameters) :], strict=True):
            buffer.copy_(part.view_as(buffer))
        return True


def find_group(environ: Mapping[str, str] = os.environ) -> Group:
    """Return the group that this process belongs to, as ``torchrun`` says in the environment.

    Raises:
        ConfigError: the environment of torchrun is there in part only.
    """
    if "WORLD_SIZE" not in environ:
        return Alone()
    missing = [k for k in ("RANK", "MASTER_ADDR", "MASTER_PORT") if k not in environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is set, {', '.join(missing)} not: start several processes with torchrun, "
            "or unset it"
        )
    return Torchrun() if int(environ["WORLD_SIZE"]) > 1 else Alone()
