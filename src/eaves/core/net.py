"""A net as an ordered list of named stages, and its division at a cut.

Dimension key:  B batch   C channels   H, W height and width   K classes
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from eaves.core.copies import copy_of, untouched
from eaves.core.example import Example, Given, example_of, find_example, misfit
from eaves.core.modes import modes_kept
from eaves.core.sharing import memory_groups, weights_of
from eaves.core.surroundings import Surroundings
from eaves.core.trace import Stages, copy_input, trace_stages
from eaves.core.tracer import Kept
from eaves.core.verify import Difference, difference
from eaves.errors import CutError, unknown


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
        self._traced = False  # whether its stages were found by tracing a net
        self._copies_input = False
        self._compared: dict[tuple[object, ...], bool] = {}
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
        if self._copies_input:
            x = x.clone()  # the features belong to the caller, and a stage works in place
        for attribute in self._attributes:
            x = self._modules[attribute](x)  # type: ignore[misc]  # never None: set in __init__
        return x


@final
class _Modes(nn.Module):
    """Sets modes as a net does that keeps some of its layers in evaluation mode by its ``train``.

    The last submodule of a :class:`StagedNet` whose stages were found in such a net.
    """

    def __init__(self, modes: Mapping[nn.Module, tuple[bool, bool]]):
        super().__init__()
        self.modes = dict(modes)

    def train(self, mode: bool = True) -> "_Modes":
        super().train(mode)
        for module, (evaluating, training) in self.modes.items():
            module.training = training if mode else evaluating
        return self


@final
@dataclass(frozen=True, slots=True)
class SplitNet:
    """A net divided at ``cut``: ``cloud(edge(x))`` is what the whole net answers."""

    edge: nn.Module
    cloud: nn.Module
    cut: str


def staged(net: nn.Module, example: Given = None) -> StagedNet:
    """Return ``net`` as named stages that share its weights; a :class:`StagedNet` as it is.

    Any other module is traced with torch.fx and divided wherever exactly one tensor crosses. The
    stages, one after the other, are compared with ``net`` (see :mod:`eaves.core.verify`).

    Raises:
        CutError: the module cannot be divided; the message says why and what to do.
        ConfigError: ``example`` does not fit the net.
    """
    if isinstance(net, StagedNet):
        return net
    return _verified(net, example)[0]


def cut_points(net: nn.Module, *, example: Given = None) -> tuple[str, ...]:
    """Return the names of the stages after which ``net`` can be cut, from input to output.

    ``example`` is a batch of inputs, or the shape of one input without the batch. Without it, an
    input is searched for that the net takes.

    Raises:
        CutError: the net cannot be divided, or no input was found that it takes.
        ConfigError: ``example`` does not fit the net.

    >>> cut_points(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
    ('0', '1')
    """
    whole = staged(net, example)
    if whole._traced:
        return whole.names[:-1]
    crossing = _crossings(whole, example)
    return tuple(name for name in whole.names[:-1] if name in crossing)


def split_at(net: nn.Module, cut: str, *, example: Given = None) -> SplitNet:
    """Divide ``net`` after the stage called ``cut``.

    Both parts share their weights with ``net``. They are compared with it on copies before they are
    returned: in training and in evaluation mode, twice in a row, answers, gradients, buffers, modes
    and more (see :mod:`eaves.core.verify`). On these inputs ``cloud(edge(x))`` equals ``net(x)``
    bit for bit, and what the cloud part is given stays as it is. ``example`` is a batch of inputs,
    or the shape of one input without the batch; without it, an input is searched for.

    Raises:
        CutError: no such cut, with the valid ones in the message; or the parts would not be the
            net, with the reason.
        ConfigError: ``example`` does not fit the net.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> split, x = split_at(net, "1"), torch.ones(3, 4)
    >>> bool((split.cloud(split.edge(x)) == net(x)).all())
    True
    """
    if isinstance(net, StagedNet):
        _refuse_hooks(net)
        _check_cut(net, net, cut)
        return _halves(net, net, cut, find_example(net) if example is None else example_of(example))
    whole, source = _divided(net, example, Kept())
    if cut in whole.names[:-1]:
        split = _compared(net, whole, cut, source)
        if isinstance(split, SplitNet):
            return split
    # A submodule may do what a trace does not show: it is looked for, and left whole.
    whole, source = _verified(net, example)
    _check_cut(net, whole, cut)
    return _halves(net, whole, cut, source)


def _check_cut(net: nn.Module, whole: StagedNet, cut: str) -> None:
    cuts = whole.names[:-1]
    if not cuts:
        raise CutError(f"{type(net).__name__} has one stage only, so there is nowhere to cut it")
    if cut not in cuts:
        raise unknown("cut", cut, cuts, CutError)


def _halves(net: nn.Module, whole: StagedNet, cut: str, example: Example) -> SplitNet:
    split = _compared(net, whole, cut, example)
    if isinstance(split, Difference):
        raise _refusal(net, split, f"the halves at '{cut}'")
    return split


def _verified(net: nn.Module, given: Given) -> tuple[StagedNet, Example]:
    """Return stages that are the net one after the other, as fine as they can be."""
    kept, but = Kept(), set[str]()
    suspects = _classes(net)
    whole, source = _divided(net, given, kept)
    while True:  # each round joins stages, lets one copy its input, returns or raises
        stages = whole.stages()
        with untouched(net):
            found = difference(net, _parts(whole, [[stage] for stage in stages]), source)
        if found is None:
            return whole, source
        if found.part is None:
            if not suspects:
                raise _refusal(net, found, "its stages")
            for module, path in suspects.pop(0):
                kept.add(module, path, found.what)
        elif found.overwrites:
            copy_input(stages[found.part][1])
            continue
        else:
            but.add(stages[found.part - 1][0])
        whole, source = _divided(net, given, kept, but)


def _divided(
    net: nn.Module, given: Given, kept: Kept, but: Collection[str] = ()
) -> tuple[StagedNet, Example]:
    """Return the stages of a module, not yet compared with it, and the example that was used."""
    _refuse_wrappers(net)
    _refuse_hooks(net)
    with untouched(net), Surroundings(net).kept():
        example = None if given is None else example_of(given)
        stages, example = trace_stages(net, example, kept=kept, but=but)
        whole = StagedNet(stages)
        whole._traced, whole.training = True, net.training
        _set_modes(whole, _modes_of(net))
    return whole, example


def _compared(
    net: nn.Module, whole: StagedNet, cut: str, example: Example
) -> SplitNet | Difference:
    """Return the parts of ``whole``, the stages of ``net``, or how they differ from it."""
    i = whole.names.index(cut) + 1
    stages = whole.stages()
    edge, cloud = _parts(whole, [stages[:i], stages[i:]])
    key = (cut, example.shape, *map(id, whole.modules()), *map(id, weights_of(whole)))
    if key not in whole._compared:
        with untouched(net):
            found = difference(net, [edge, cloud], example)
            if found is not None and found.overwrites:
                cloud._copies_input = True
                found = difference(net, [edge, cloud], example)
        if found is not None:
            return found
        whole._compared = {**whole._compared, key: cloud._copies_input}
    cloud._copies_input = whole._compared[key]
    return SplitNet(edge, cloud, cut)


def _parts(whole: StagedNet, groups: Sequence[Stages]) -> list[StagedNet]:
    """Return groups of the stages of ``whole`` as nets, with its modes."""
    modes = next((m.modes for m in whole.children() if isinstance(m, _Modes)), {})
    parts = [StagedNet(stages) for stages in groups]
    for part in parts:
        part.training, part._traced = whole.training, whole._traced
        _set_modes(part, modes)
    return parts


def _modes_of(net: nn.Module) -> dict[nn.Module, tuple[bool, bool]]:
    """Return how a net with a ``train`` or ``eval`` of its own sets each of its modules."""
    own = type(net).train is not nn.Module.train or type(net).eval is not nn.Module.eval
    if not own:
        return {}
    twin = copy_of(net)
    evaluating = [module.training for module in twin.eval().modules()]
    training = [module.training for module in twin.train().modules()]
    return dict(zip(net.modules(), zip(evaluating, training, strict=True), strict=True))


def _set_modes(part: StagedNet, modes: Mapping[nn.Module, tuple[bool, bool]]) -> None:
    here = {module: modes[module] for module in part.modules() if module in modes}
    if here:
        part.add_module("_modes_of_the_net", _Modes(here))


def _crossings(whole: StagedNet, given: Given) -> Collection[str]:
    """Return the stages after which one tensor crosses with the batch as its first dimension."""
    try:
        example = find_example(whole) if given is None else example_of(given)
    except CutError:
        return whole.names  # they are what the caller says they are; a cut is compared when used
    seen: list[set[str]] = []
    with Surroundings(whole).kept(), torch.no_grad():
        for size in (2, 3):
            x: Any = example.batch(size, whole)
            names = set()
            twin = copy_of(whole).eval()
            assert isinstance(twin, StagedNet)
            for name, stage in twin.stages():
                try:
                    x = stage(x)
                except Exception as error:  # nets refuse an input with whatever comes up
                    raise misfit(example.shape, error) from error
                if isinstance(x, Tensor) and x.is_floating_point() and x.shape[:1] == (size,):
                    names.add(name)
            seen.append(names)
    return seen[0] & seen[1]


_WRAPPERS = {
    "DataParallel": "nn.DataParallel spreads batches over devices; cut the net inside: net.module",
    "DistributedDataParallel": "it averages gradients of processes; cut the net inside: net.module",
    "FullyShardedDataParallel": "its weights are spread over processes; cut it before wrapping",
    "OptimizedModule": "torch.compile has wrapped it; cut the net inside, net._orig_mod, and "
    "compile the halves",
    "ScriptModule": "TorchScript is a program of its own, which torch.fx cannot trace; cut the "
    "nn.Module that it was made from",
}


def _refuse_wrappers(net: nn.Module) -> None:
    """Refuse what is no plain net, with the real reason."""
    for kind in type(net).__mro__:
        if kind.__name__ in _WRAPPERS and kind.__module__.startswith("torch."):
            raise CutError(f"{type(net).__name__} cannot be cut: {_WRAPPERS[kind.__name__]}")
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        if isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
            raise CutError(
                f"{type(net).__name__} cannot be cut yet: the shape of {name} is not known before "
                "the first input (a lazy module); run the net once on a batch"
            )
        if tensor.device.type == "meta":
            raise CutError(
                f"{type(net).__name__} cannot be cut: {name} is on the device 'meta' and has no "
                "values, so nothing can be compared; move the net to a real device"
            )


def _refuse_hooks(net: nn.Module) -> None:
    """Refuse what runs around the whole forward pass: neither part has that place."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(net, name, None) for name in hooks):
        raise CutError(
            f"{type(net).__name__} cannot be cut: a hook on the net itself runs around its whole "
            "forward or backward pass, and neither half has that place; remove the hook, put it on "
            "a submodule, or do its work in a module"
        )
    for module in net.modules():
        own = type(module).__call__ is not nn.Module.__call__
        if own and not type(module).__module__.startswith("torch."):
            raise CutError(
                f"{type(net).__name__} cannot be cut: {type(module).__name__} has a __call__ of "
                "its own, which runs around its forward; write that into forward"
            )
    if "forward" in vars(net):
        raise CutError(
            f"{type(net).__name__} cannot be cut: it has a forward set on the object, in place of "
            "that of its class; write it into the class"
        )


def _refusal(net: nn.Module, found: Difference, parts: str) -> CutError:
    return CutError(
        f"{type(net).__name__} cannot be cut so that it stays the same net: {parts} "
        f"{found.what}. Its forward does what a trace does not show (it reads the type of a value, "
        "catches an exception, keeps state): move that into a submodule, which is then kept whole, "
        "or list the stages yourself with eaves.StagedNet"
    )


def _classes(net: nn.Module) -> list[list[tuple[nn.Module, str]]]:
    """Return the modules of others than torch inside ``net``, those of one class together.

    The innermost come first: keeping them whole costs the fewest cuts.
    """
    found: dict[type, list[tuple[nn.Module, str]]] = {}
    for path, module in reversed(list(net.named_modules())):
        if path and not type(module).__module__.startswith("torch."):
            found.setdefault(type(module), []).append((module, path))
    return list(found.values())


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
        raise misfit(input_shape, error) from error


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


def _refuse_shared_weights(stages: Sequence[tuple[str, nn.Module]]) -> None:
    groups = memory_groups(tensor for _, stage in stages for tensor in weights_of(stage))
    owners: dict[int, str] = {}
    for name, stage in stages:
        for tensor in weights_of(stage):
            if (owner := owners.setdefault(groups[id(tensor)], name)) != name:
                raise CutError(
                    f"the stages '{owner}' and '{name}' share weights, so the net cannot be cut "
                    "between them; join them, and what lies between, into one stage"
                )


def _device_of(net: nn.Module) -> torch.device:
    return next((p.device for p in net.parameters()), torch.device("cpu"))
