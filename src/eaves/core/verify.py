"""Compare the parts of a net with the net: the evidence on which a cut is offered.

Both are run on copies, from the same weights and the same random numbers: in training and in
evaluation mode, each twice in a row, with batches of 3 and 2, once as one program and once as on
two machines, where features arrive as a copy and their gradient comes back. Between the runs the
weights move and the buffers are scaled, equally on both sides, so that what was computed from them
once and for all shows. Compared bit for bit: answers, gradients of every parameter and of the
input, buffers, modes, other attributes, random generators, and whether features stay as they are.

Not guaranteed: anything on inputs of other kinds than these; a cut is compared, not proven.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, final

import torch
from torch import Tensor, nn

from eaves.core.contents import SCALARS, WATCHED, content, equal, same
from eaves.core.copies import copy_of
from eaves.core.example import Example
from eaves.core.sharing import memory_groups, weights_of
from eaves.core.surroundings import Surroundings, first_difference

_TOLERANCE = 1e-4  # of a value, where the net itself is not repeatable to the bit
_STEP = 0.01  # how far weights move between two runs, as a part of their size
_SCALE = 1.01  # of buffers, between two runs
_STRUCTURE = ("training", "_modules", "_parameters", "_buffers", "_non_persistent_buffers_set")


@final
@dataclass(frozen=True, slots=True)
class _Run:
    """One pass; ``delivered``: features reach the next part as a copy, as over a link."""

    training: bool
    gradient: bool
    delivered: bool
    batch: int


# Still needed beside the tracer's refusals: those know only what a trace is known to lose.
_RUNS: Final = (
    _Run(training=True, gradient=True, delivered=False, batch=3),
    _Run(training=True, gradient=True, delivered=True, batch=2),
    _Run(training=False, gradient=True, delivered=False, batch=2),
    _Run(training=False, gradient=False, delivered=True, batch=3),
)


@final
@dataclass(frozen=True, slots=True)
class Difference:
    """How parts differ from their net, as the rest of a sentence about the parts."""

    what: str
    rounding: bool = False
    """The values are the same but for rounding."""
    part: int | None = None
    """The part that takes the features in question, where features are the matter."""
    overwrites: bool = False
    """That part works in place on the features that it is given."""


def difference(net: nn.Module, parts: Sequence[nn.Module], example: Example) -> Difference | None:
    """Return how ``parts``, run one after the other, differ from ``net``; None: they do not.

    The parts share their weights and modules with the net: by these they are compared. Neither is
    touched, nor are the random generators.
    """
    surroundings = Surroundings(net)
    with surroundings.kept():
        found = _compared(net, parts, example, surroundings)
        if found is None or found.part is not None:
            return found
        # Is it the parts, or is the net not repeatable, as with atomic additions on a GPU?
        own = _compared(net, [net], example, surroundings)
        if own is None:
            return found
        if own.rounding:
            return _compared(net, parts, example, surroundings, exact=False)
        return Difference(
            f"cannot be compared with it, since the net differs from itself: {own.what}"
        )


def _compared(
    net: nn.Module,
    parts: Sequence[nn.Module],
    example: Example,
    surroundings: Surroundings,
    *,
    exact: bool = True,
) -> Difference | None:
    start = surroundings.state()
    one, other = _Trial(net, [net], start), _Trial(net, parts, start)
    before = one.attributes()
    checks = _Checks(one, other, exact=exact)
    for run in _RUNS:
        x = example.batch(run.batch, net)
        for trial in (one, other):
            surroundings.restore(trial.surroundings)
            trial.run(run, x)
            trial.surroundings = surroundings.state()
        found = checks.first(run, before)
        if found is not None:
            surroundings.restore(start)
            mode = "training" if run.training else "evaluation"
            return replace(found, what=f"{found.what} (in {mode} mode)")
        if run.delivered:
            continue  # the next run sees the same weights in another mode
        for trial in (one, other):
            trial.move(other)
        for name in one.buffers.keys() - other.buffers.keys():
            before["", f"buffer {name}"] = one.buffers[name].clone()
    surroundings.restore(start)
    return None


@final
@dataclass(slots=True)
class _Outcome:
    """What one run has left."""

    output: object = None
    error: Exception | None = None
    input_gradient: Tensor | None = None
    features: list[tuple[Tensor, Tensor, int]] = field(default_factory=list)
    """What each part but the first was given, as it was before, and its version."""
    sent: list[Tensor] = field(default_factory=list)
    """What each part but the last has made."""
    contiguous: bool = True


@final
class _Trial:
    """Copies of parts; their tensors and modules by the names that the net has for them."""

    def __init__(self, net: nn.Module, parts: Sequence[nn.Module], surroundings: dict[str, Any]):
        self.surroundings = surroundings
        self.parts = [copy_of(part) for part in parts]
        self.weights: dict[str, Tensor] = {}
        self.buffers: dict[str, Tensor] = {}
        self.modules: dict[str, nn.Module] = {}
        self.outcome = _Outcome()
        self.previous: list[tuple[Tensor, Tensor, int]] = []
        for part, twin in zip(parts, self.parts, strict=True):
            pairs = (
                (self.weights, net.named_parameters(), part.parameters(), twin.parameters()),
                (self.buffers, net.named_buffers(), part.buffers(), twin.buffers()),
                (self.modules, net.named_modules(), part.modules(), twin.modules()),
            )
            for found, named, originals, twins in pairs:
                names = {id(item): name for name, item in named}
                for original, copied in zip(originals, twins, strict=True):
                    if id(original) in names:
                        found[names[id(original)]] = copied  # type: ignore[assignment]
        self._fill()

    def _fill(self) -> None:
        """Give weights that are all zero small values: a zero hides what happens before it."""
        generator = torch.Generator()
        for name, weight in self.weights.items():
            if weight.is_floating_point() and not weight.detach().any():
                generator.manual_seed(len(name))
                values = torch.randn(weight.shape, generator=generator) * 0.05
                weight.data.copy_(values)

    def attributes(self) -> dict[tuple[str, str], Any]:
        """Return a copy of what every module holds apart from weights and modules."""
        return {
            (name, key): content(value) if not isinstance(value, SCALARS) else value
            for name, module in self.modules.items()
            for key, value in _own(module).items()
        } | {("", f"buffer {name}"): content(value) for name, value in self.buffers.items()}

    def run(self, run: _Run, x: Tensor) -> None:
        """Take ``x`` forward and, if so asked, back."""
        self.previous, self.outcome = self.outcome.features, _Outcome()
        for part in self.parts:
            _ = part.train() if run.training else part.eval()
            for parameter in part.parameters():
                parameter.grad = None
        try:
            with torch.set_grad_enabled(run.gradient), _quiet():
                self._run(run, x.clone())
        except Exception as error:  # a net may refuse an input with whatever comes up
            self.outcome.error = error

    def _run(self, run: _Run, x: Tensor) -> None:
        leaf = x.requires_grad_(run.gradient and x.is_floating_point())
        value: Any = leaf.clone()  # a net may work in place on its input
        links: list[tuple[Tensor, Tensor]] = []
        for i, part in enumerate(self.parts):
            if i:
                if (problem := _misfit(value, run.batch)) is not None:
                    raise _Crossing(problem, i)
                value = self._delivered(run, value, links)
            value = part(value)
        self.outcome.output = value
        if not (run.gradient and isinstance(value, Tensor) and value.requires_grad):
            return
        torch.autograd.backward(value, _cotangent(value))
        for sent, received in reversed(links):
            if sent.requires_grad and received.grad is not None:
                torch.autograd.backward(sent, received.grad)
        self.outcome.input_gradient = leaf.grad

    def _delivered(self, run: _Run, value: Any, links: list[tuple[Tensor, Tensor]]) -> Any:
        self.outcome.sent.append(value)
        if run.delivered:
            sent, value = value, value.detach().clone()
            if not run.gradient:
                self.outcome.contiguous &= sent.is_contiguous()
                value = value.contiguous()
            links.append((sent, value.requires_grad_(run.gradient)))
        self.outcome.features.append((value, value.detach().clone(), value._version))
        return value

    def move(self, parts: "_Trial") -> None:
        """Move weights down their gradients, and scale buffers, and what ``parts`` do not hold.

        Either shows where values were computed from them once and for all.
        """
        with torch.no_grad():
            for name, weight in self.weights.items():
                if name not in parts.weights:
                    weight.mul_(_SCALE)
                elif weight.grad is not None and bool(length := weight.grad.norm()):
                    step = _STEP * (weight.norm() + _STEP) / length
                    weight.sub_(weight.grad, alpha=float(step))
            for buffer in self.buffers.values():
                if buffer.is_floating_point():
                    buffer.mul_(_SCALE)


@final
class _Checks:
    """Comparisons of two trials after one and the same run."""

    def __init__(self, net: _Trial, parts: _Trial, *, exact: bool):
        self._net, self._parts, self._exact = net, parts, exact

    def first(self, run: _Run, before: dict[tuple[str, str], Any]) -> Difference | None:
        """Return the first difference; ``before`` is what the net held before all runs."""
        steps: tuple[Iterator[Difference], ...] = (
            self._errors(),
            self._features(),
            self._answers(),
            self._gradients(),
            self._held(before),
            self._modes(),
            self._outside(),
        )
        return next((found for step in steps for found in step), None)

    def _errors(self) -> Iterator[Difference]:
        wanted, got = self._net.outcome.error, self._parts.outcome.error
        if wanted is not None:
            yield Difference(
                f"cannot be compared with it: the net itself fails on a batch of this example "
                f"with {type(wanted).__name__}: {wanted}"
            )
            return
        for i, (value, old, version) in enumerate(self._parts.outcome.features, 1):
            if value._version != version or not equal(value, old):
                yield Difference("work in place on the features", part=i, overwrites=True)
        if isinstance(got, _Crossing):
            yield Difference(str(got), part=got.part)
        if got is not None:
            yield Difference(f"fail with {type(got).__name__}: {got}")

    def _features(self) -> Iterator[Difference]:
        for i, (value, old, _) in enumerate(self._parts.previous, 1):
            if not equal(value, old):
                yield Difference("change features that were sent earlier", part=i)
        for i, value in enumerate(self._parts.outcome.sent, 1):
            groups = memory_groups([value, *weights_of(self._parts.parts[i - 1])])
            if list(groups.values()).count(groups[id(value)]) > 1:
                yield Difference("send a weight or buffer itself as features", part=i)

    def _answers(self) -> Iterator[Difference]:
        wanted, got = self._net.outcome.output, self._parts.outcome.output
        if not isinstance(wanted, Tensor) or not isinstance(got, Tensor):
            yield Difference(f"answer with a {type(got).__name__}, where one tensor is expected")
            return
        if wanted.requires_grad != got.requires_grad:
            kept = "keep a gradient" if got.requires_grad else "keep no gradient"
            yield Difference(f"{kept} where the net does otherwise (torch.no_grad, detach)")
        loose = not self._parts.outcome.contiguous
        yield from self._values("answer otherwise", wanted, got, loose=loose)

    def _gradients(self) -> Iterator[Difference]:
        one, other = self._net.outcome.input_gradient, self._parts.outcome.input_gradient
        yield from self._values("give the input another gradient", one, other)
        for name, weight in self._net.weights.items():
            twin = self._parts.weights.get(name)
            if twin is None and weight.grad is not None:
                yield Difference(f"do not hold the weight {name}, which the net trains")
            if twin is not None and weight.requires_grad != twin.requires_grad:
                yield Difference(f"disagree on whether {name} is trained (requires_grad)")
            if twin is not None:
                yield from self._values(f"give {name} another gradient", weight.grad, twin.grad)

    def _held(self, before: dict[tuple[str, str], Any]) -> Iterator[Difference]:
        for name, buffer in self._net.buffers.items():
            twin = self._parts.buffers.get(name, before["", f"buffer {name}"])
            yield from self._values(f"leave the buffer {name} otherwise", buffer, twin)
        for name, module in self._net.modules.items():
            other = self._parts.modules.get(name)
            kind = type(module).__name__
            for key, value in _own(module).items():
                if other is not None:
                    alike = same(value, _own(other).get(key, ...))
                else:  # its forward is spread over the parts: it must not keep anything
                    now = value if isinstance(value, SCALARS) else content(value)
                    alike = (name, key) in before and same(now, before[name, key])
                if not alike:
                    yield Difference(f"leave the attribute '{key}' of {kind} otherwise")

    def _modes(self) -> Iterator[Difference]:
        for name, module in self._net.modules.items():
            twin = self._parts.modules.get(name)
            if twin is not None and twin.training != module.training:
                now, wanted = ("training" if m.training else "evaluation" for m in (twin, module))
                yield Difference(f"set {name} to {now} mode where the net sets it to {wanted} mode")

    def _outside(self) -> Iterator[Difference]:
        place = first_difference(self._net.surroundings, self._parts.surroundings)
        if place is not None:
            yield Difference(f"leave {place} otherwise")

    def _values(
        self, what: str, wanted: Tensor | None, got: Tensor | None, *, loose: bool = False
    ) -> Iterator[Difference]:
        if wanted is None or got is None:
            if wanted is not got:
                yield Difference(f"{what}: {_shown(got)} where the net has {_shown(wanted)}")
        elif not equal(wanted, got):
            close = _close(wanted, got)
            if not (close and (loose or not self._exact)):
                yield Difference(f"{what} ({_gap(wanted, got)})", rounding=close)


def _own(module: nn.Module) -> dict[str, Any]:
    """Return the attributes of ``module`` that can be compared, but for weights and modules."""
    return {
        key: value
        for key, value in vars(module).items()
        if key not in _STRUCTURE and isinstance(value, WATCHED) and "_hooks" not in key
    }


@final
class _Crossing(Exception):  # noqa: N818  # never leaves this module
    """What would cross between two parts is no tensor that can."""

    def __init__(self, problem: str, part: int):
        super().__init__(problem)
        self.part = part


def _misfit(value: object, batch: int) -> str | None:
    if not isinstance(value, Tensor):
        return f"would exchange a {type(value).__name__}, where one tensor is expected"
    if not value.is_floating_point():
        return f"would exchange a tensor of {value.dtype}, where floating point is expected"
    if value.ndim < 1 or len(value) != batch:
        return (
            f"would exchange a tensor of shape {tuple(value.shape)} for a batch of {batch}, where "
            "the batch is expected to be the first dimension"
        )
    return None


def _cotangent(output: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(output.numel())
    return torch.randn(output.shape, generator=generator).to(output.device, output.dtype)


def _close(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    scale = one.detach().abs().max().item() if one.numel() else 0.0
    return torch.allclose(one, other, _TOLERANCE, _TOLERANCE * float(scale), equal_nan=True)


def _gap(wanted: Tensor, got: Tensor) -> str:
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        return f"{tuple(got.shape)} {got.dtype} in place of {tuple(wanted.shape)} {wanted.dtype}"
    return f"by {float((wanted - got).detach().abs().max()):.2g} at most"


def _shown(gradient: Tensor | None) -> str:
    return "none" if gradient is None else "one"


@contextmanager
def _quiet() -> Iterator[None]:
    """Ignore warnings: these runs are ours, and those of the user show them again."""
    with warnings.catch_warnings(record=True):
        yield
