"""A net as an ordered list of named stages, and its division at a cut.

Dimension key:  B batch   C channels   H, W height and width   K classes
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from eaves.core.modes import modes_kept
from eaves.core.trace import trace_stages
from eaves.errors import ConfigError, CutError, unknown


@final
class StagedNet(nn.Module):
    """A net whose forward pass is its named stages, one after the other.

    Weights keep the name of their stage in front (``layer1.0.conv1.weight``); a dot in a stage's
    name becomes an underscore there.

    Raises:
        ValueError: no stage, or two of the same name.
        CutError: two stages share weights, so that a cut between them would train these twice.

    >>> net = StagedNet([("stem", nn.Linear(4, 8)), ("head", nn.Linear(8, 2))])
    >>> net.names
    ('stem', 'head')
    """

    def __init__(self, stages: Mapping[str, nn.Module] | Iterable[tuple[str, nn.Module]]):
        super().__init__()
        pairs = list(stages.items() if isinstance(stages, Mapping) else stages)
        self.names = tuple(name for name, _ in pairs)
        if not pairs or len(set(self.names)) < len(self.names):
            raise ValueError(f"expected one or more stages with distinct names, got {self.names}")
        _refuse_shared_weights(pairs)
        self._attributes: list[str] = []
        for name, stage in pairs:
            attribute = name.replace(".", "_")
            while hasattr(self, attribute):  # a stage may be called 'float' or 'type'
                attribute += "_"
            self.add_module(attribute, stage)
            self._attributes.append(attribute)

    def stages(self) -> list[tuple[str, nn.Module]]:
        """Return the stages in order, each with its name."""
        modules = (self.get_submodule(attribute) for attribute in self._attributes)
        return list(zip(self.names, modules, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Run every stage: (B, ...) -> (B, ...)."""
        for attribute in self._attributes:
            x = self._modules[attribute](x)  # type: ignore[misc]  # never None: set in __init__
        return x


@final
@dataclass(frozen=True, slots=True)
class SplitNet:
    """A net divided at ``cut``: ``cloud(edge(x))`` is what the whole net answers."""

    edge: nn.Module
    cloud: nn.Module
    cut: str


def staged(net: nn.Module) -> StagedNet:
    """Return ``net`` as named stages that share its weights; a :class:`StagedNet` as it is.

    Any other module is traced with torch.fx and divided wherever exactly one tensor crosses.

    Raises:
        CutError: the module cannot be traced; the message says why and what to do.
    """
    return net if isinstance(net, StagedNet) else StagedNet(trace_stages(net))


def cut_points(net: nn.Module) -> tuple[str, ...]:
    """Return the names of the stages after which ``net`` can be cut, from input to output.

    >>> cut_points(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
    ('0', '1')
    """
    return staged(net).names[:-1]


def split_at(net: nn.Module, cut: str) -> SplitNet:
    """Divide ``net`` after the stage called ``cut``.

    Both parts share their weights with ``net``, and ``cloud(edge(x))`` equals ``net(x)`` exactly.

    Raises:
        CutError: no such cut, with the valid ones in the message.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> split, x = split_at(net, "1"), torch.ones(3, 4)
    >>> bool((split.cloud(split.edge(x)) == net(x)).all())
    True
    """
    whole = staged(net)
    stages, cuts = whole.stages(), whole.names[:-1]
    if not cuts:
        raise CutError(f"{type(net).__name__} has one stage only, so there is nowhere to cut it")
    if cut not in cuts:
        raise unknown("cut", cut, cuts, CutError)
    i = cuts.index(cut) + 1
    return SplitNet(StagedNet(stages[:i]), StagedNet(stages[i:]), cut)


def output_shape(net: nn.Module, input_shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape, without the batch, of what ``net`` makes of one input of ``input_shape``.

    Raises:
        ConfigError: the input does not fit the net (too small for its poolings, wrong channels).
    """
    try:
        with modes_kept(net), torch.no_grad():
            zeros = torch.zeros(1, *input_shape, device=_device_of(net))
            return tuple(net.eval()(zeros).shape[1:])
    except (AssertionError, IndexError, RuntimeError, ValueError) as error:  # how nets refuse
        shape = "x".join(map(str, input_shape))
        raise ConfigError(
            f"an input of {shape} does not fit this net: {error}; "
            "use larger images, another stem or an earlier cut"
        ) from error


@final
class Normalise(nn.Module):
    """Turn raw inputs, as 8-bit pixels, into floats of zero mean and unit deviation per channel.

    The first layer of the edge part, so that a trained bundle takes what a camera gives.
    ``mean`` and ``std`` are in the raw unit, one for each channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], spatial_dims: int = 2):
        super().__init__()
        shape = (-1,) + (1,) * spatial_dims
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(shape))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(shape))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) of any number type -> float32 of the same shape."""
        return (x.float() - self.mean) / self.std


def _refuse_shared_weights(stages: Iterable[tuple[str, nn.Module]]) -> None:
    owners: dict[Tensor, str] = {}  # a tensor is equal to itself alone, as a key
    for name, stage in stages:
        for tensor in (*stage.parameters(), *stage.buffers()):
            if (owner := owners.setdefault(tensor, name)) != name:
                raise CutError(
                    f"the stages '{owner}' and '{name}' share weights, so the net cannot be cut "
                    "between them; join them, and what lies between, into one stage"
                )


def _device_of(net: nn.Module) -> torch.device:
    return next((p.device for p in net.parameters()), torch.device("cpu"))
