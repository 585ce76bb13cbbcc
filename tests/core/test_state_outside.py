# mypy: disable-error-code="no-untyped-call, no-any-return, misc, index, attr-defined"
"""Nets with state outside what a trace records: every cut offered is the net, or it is refused.

The comparison here is of its own: the halves are trained beside the net, step by step, and so are
copies of them that share nothing, as on two machines.

Dimension key:  B batch   D features
"""

import copy
import random
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

from eaves.core.net import StagedNet, cut_points, split_at
from eaves.errors import CutError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated"),
    pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated"),
    pytest.mark.filterwarnings("ignore:Lazy modules are a new feature"),
]

D = 4
Forward = Callable[[Any, Tensor], object]


@dataclass(frozen=True)
class Case:
    """A net; the cuts that it has at least, or why it is refused."""

    build: Callable[[], nn.Module]
    cuts: tuple[str, ...] = ()
    refused: str = ""
    example: Any = None


CASES: dict[str, Case] = {}


class Layers(nn.Module):
    """Layers a, b and c with one inner module; forward is the function given."""

    def __init__(self, forward: Forward, inner: nn.Module | None = None):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, 2)
        self.inner = nn.Identity() if inner is None else inner
        self.register_buffer("buf", torch.linspace(0.5, 1.5, D))
        self.register_buffer("n", torch.zeros(()))
        self.calls, self.given = 0, forward
        self.kept: list[Tensor] = []

    def forward(self, x: Tensor) -> object:
        return self.given(self, x)


def _plain(net: Any, x: Tensor) -> Tensor:
    z: Tensor = net.c(net.inner(net.b(net.a(x).relu())))
    return z


class Inner(nn.Module):
    """A submodule of one function."""

    def __init__(self, forward: Forward):
        super().__init__()
        self.lin, self.given, self.calls = nn.Linear(D, D), forward, 0
        self.kept: list[Tensor] = []
        self.register_buffer("buf", torch.ones(D))

    def forward(self, x: Tensor) -> object:
        return self.given(self, x)


def root(name: str, refused: str = "", cuts: tuple[str, ...] = ()) -> Callable[[Forward], Forward]:
    """Add a net whose own forward is the function decorated."""

    def add(forward: Forward) -> Forward:
        CASES[name] = Case(lambda: Layers(forward), cuts, refused)
        return forward

    return add


def sub(
    name: str, refused: str = "", cuts: tuple[str, ...] = ("a",)
) -> Callable[[Forward], Forward]:
    """Add a net with a submodule whose forward is the function decorated."""

    def add(forward: Forward) -> Forward:
        CASES[name] = Case(lambda: Layers(_plain, Inner(forward)), cuts, refused)
        return forward

    return add


def both(name: str, refused: str) -> Callable[[Forward], Forward]:
    """Add both: refused in the net's own forward, kept whole in a submodule."""

    def add(forward: Forward) -> Forward:
        CASES[f"{name}, own"] = Case(
            lambda: Layers(lambda n, x: n.c(forward(n, n.a(x)))), (), refused
        )
        CASES[f"{name}, inside"] = Case(lambda: Layers(_plain, Inner(forward)), ("a", "inner"))
        return forward

    return add


# Gradients that are turned off, precision, backward passes of one's own


@both("no_grad", "whether gradients are kept")
def _no_grad(m: Any, x: Tensor) -> object:
    with torch.no_grad():
        y = x * 2
    return x + y.tanh()


@both("no_grad as a decorator", "whether gradients are kept")
@torch.no_grad()
def _decorated(m: Any, x: Tensor) -> object:
    return x * 3


@both("set_grad_enabled left off", "whether gradients are kept")
def _left_off(m: Any, x: Tensor) -> object:
    torch.set_grad_enabled(False)
    y = x * 2
    torch.set_grad_enabled(True)
    return x + y


@both("autocast", "the precision")
def _autocast(m: Any, x: Tensor) -> object:
    with torch.autocast("cpu", torch.bfloat16):
        y = x @ x.t()
    return (y.float() @ x).tanh()


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad


class Untouched(Reverse):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x


class Through(torch.autograd.Function):
    """A straight-through estimator, in the newer style."""

    @staticmethod
    def forward(x: Tensor, scale: float = 4.0) -> Tensor:
        return (x * scale).round() / scale

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


reverse, untouched_reverse = Reverse.apply, Untouched.apply
both("gradient reversal", "torch.autograd.Function")(lambda m, x: reverse(x) * 2)
both("reversal that makes nothing", "torch.autograd.Function")(lambda m, x: untouched_reverse(x))
both("straight-through estimator", "torch.autograd.Function")(lambda m, x: Through.apply(x))
sub("checkpoint")(lambda m, x: checkpoint(lambda z: m.lin(z).tanh(), x, use_reentrant=False))
root("detached", cuts=("a",))(lambda n, x: n.c(n.b(n.a(x).detach())))


@both("branch on grad mode", "whether gradients are kept")
def _grad_branch(m: Any, x: Tensor) -> object:
    return x * 2 if torch.is_grad_enabled() else x * 3


@both("hook on a value", "control flow")
def _value_hook(m: Any, x: Tensor) -> object:
    y = x * 1
    if y.requires_grad:
        y.register_hook(lambda grad: grad * 0.5)
    return y


# State that forward keeps


@both("buffer reassigned", "changes a buffer")
def _reassigned(m: Any, x: Tensor) -> object:
    m.buf = 0.9 * m.buf + 0.1 * x.mean().detach()
    return x * m.buf


@both("counter", "changes the attribute 'calls'")
def _counter(m: Any, x: Tensor) -> object:
    m.calls += 1
    return x * m.calls


@both("list of activations", "changes the attribute 'kept'")
def _activations(m: Any, x: Tensor) -> object:
    m.kept.append(x.detach())
    return x * len(m.kept)


@root("buffer counted in place", cuts=("a", "b"))
def _in_place(n: Any, x: Tensor) -> object:
    n.n.add_(1)
    return n.c(n.b(n.a(x)))


@root("buffer in place, used on both sides", cuts=("a",))
def _both_sides(n: Any, x: Tensor) -> object:
    z = n.b(n.a(x))
    n.n.add_(1)
    return n.c(z * n.n) / n.n


@root("running mean by copy_", cuts=("a",))
def _running(n: Any, x: Tensor) -> object:
    z = n.a(x)
    if n.training is not None:
        n.buf.copy_(0.9 * n.buf + 0.1 * z.detach().mean(0))
    return n.c(n.b(z - n.buf))


COUNT = [0]
TOTAL = 0


def _reset() -> None:
    global TOTAL
    COUNT[0] = TOTAL = Layers.shared = 0
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)


@root("global list", "global variable COUNT")
def _global_list(n: Any, x: Tensor) -> object:
    COUNT[0] += 1
    return n.c(n.b(n.a(x)) * COUNT[0])


@root("global number", "global variable TOTAL")
def _global_number(n: Any, x: Tensor) -> object:
    global TOTAL
    TOTAL += 1
    return n.c(n.b(n.a(x)) + TOTAL)


@root("attribute of the class", "class attribute Layers.shared")
def _class_attribute(n: Any, x: Tensor) -> object:
    Layers.shared += 1
    return n.c(n.b(n.a(x)) * Layers.shared)


@sub("global list, inside")
def _global_inside(m: Any, x: Tensor) -> object:
    COUNT[0] += 1
    return m.lin(x) * float(x.detach().sum() > -1e9) * COUNT[0]


@root("lazily made layer", "changes a submodule|cannot")
def _lazy_layer(n: Any, x: Tensor) -> object:
    if n.calls == 0 and not hasattr(n, "late"):
        torch.manual_seed(1)
        n.late = nn.Linear(D, D)
    return n.c(n.late(n.a(x)))


@root("buffer read past the trace", "answer otherwise")
def _past(n: Any, x: Tensor) -> object:
    return n.c(n.b(n.a(x)) * n._buffers["buf"].exp())


@root("weights summed past the trace", "computes with weights")
def _weights(n: Any, x: Tensor) -> object:
    return n.c(n.b(n.a(x)) * sum(p.abs().sum() for p in n.b.parameters()))


@both("weight changed in forward", "whether gradients are kept")
def _clamped(m: Any, x: Tensor) -> object:
    with torch.no_grad():
        (m.lin if hasattr(m, "lin") else m.b).weight.clamp_(-0.2, 0.2)
    return (m.lin if hasattr(m, "lin") else m.b)(x)


@root("weight's data changed in forward", cuts=("b",))
def _data(n: Any, x: Tensor) -> object:
    n.b.weight.data.mul_(0.5)
    return n.c(n.b(n.a(x)))


@sub("features are a buffer", cuts=("a",))
def _out(m: Any, x: Tensor) -> object:
    if not hasattr(m, "space"):
        m.space = torch.zeros(3, D)
    m.space[: len(x)] = x.detach()
    return m.space[: len(x)]


# Random numbers


@both("layer drop", "draws random numbers")
def _layer_drop(m: Any, x: Tensor) -> object:
    for _ in range(3):
        if m.training and torch.rand([]) < 0.4:
            continue
        x = x.tanh() * 1.5
    return x


@both("noise of a fixed shape", "draws random numbers")
def _noise(m: Any, x: Tensor) -> object:
    return x + torch.randn(D)


@both("Python's random", "draws random numbers")
def _python(m: Any, x: Tensor) -> object:
    return x * 2 if random.random() < 0.5 else x


@both("NumPy's random", "draws random numbers")
def _numpy(m: Any, x: Tensor) -> object:
    return x * float(np.random.rand())


@both("a generator of its own", "changes the attribute 'own'|changes the attribute|draws")
def _generator(m: Any, x: Tensor) -> object:
    if not hasattr(m, "own"):
        m.own = torch.Generator().manual_seed(3)
    return x + torch.randn(D, generator=m.own)


root("noise like x", cuts=("a", "add"))(
    lambda n, x: n.c((lambda z: z + torch.rand_like(z))(n.a(x)))
)
root("dropout without a mode", cuts=("a", "dropout"))(
    lambda n, x: n.c(functional.dropout(n.a(x), 0.5))
)
root("dropout by self.training", "reads self.training")(
    lambda n, x: n.c(functional.dropout(n.a(x), 0.5, n.training))
)
sub("dropout by self.training, inside", cuts=("a", "inner"))(
    lambda m, x: functional.dropout(x, 0.5, m.training)
)
root("mask drawn in place", cuts=("a", "mul"))(
    lambda n, x: n.c((lambda z: z * z.new_empty((z.shape[0], 1)).bernoulli_(0.5))(n.a(x)))
)
CASES["dropouts on both sides"] = Case(
    lambda: nn.Sequential(nn.Linear(D, 9), nn.Dropout(), nn.Linear(9, 9), nn.Dropout(), nn.Tanh()),
    ("0", "1", "2", "3"),
)

# Branches on what a value is


@both("isinstance", "asks for the type")
def _isinstance(m: Any, x: Tensor) -> object:
    return x * 2 if isinstance(x, Tensor) else x


@both("isinstance, true for doubles only", "asks for the type")
def _doubles(m: Any, x: Tensor) -> object:
    return x * 2 if isinstance(x, Tensor) and x.dtype == torch.float64 else x + 0


@both("is_tensor", "asks for the type")
def _is_tensor(m: Any, x: Tensor) -> object:
    return x * 2 if torch.is_tensor(x) else x


@both("match", "asks for the type")
def _match(m: Any, x: object) -> object:
    match x:
        case Tensor():
            return x * 2
    return x


@both("type", "answer otherwise|cannot trace|asks")
def _type(m: Any, x: Tensor) -> object:
    return x * 2 if type(x) is Tensor else x + 0


@both("hasattr", "answer otherwise")
def _hasattr(m: Any, x: Tensor) -> object:
    return x * 2 if hasattr(x, "logits") else x + 0


@both("control flow by values", "control flow")
def _flow(m: Any, x: Tensor) -> object:
    return x * 2 if x.sum() > 0 else x


@both("control flow by batch", "control flow")
def _by_batch(m: Any, x: Tensor) -> object:
    return x * 2 if len(x.shape) and x.shape[0] == 2 else x


@both("failure that is caught", "answer otherwise")
def _caught(m: Any, x: Tensor) -> object:
    try:
        return x * float(x.detach().abs().mean())
    except TypeError:
        return x


@root("a number from data", "")
def _item(n: Any, x: Tensor) -> object:
    z = n.a(x)
    return n.c(n.b(z) / z.detach().abs().max().item())


# Weights that are shared


def _tied(how: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        net: Any = Layers(lambda n, x: n.c(n.b(n.a(x)).relu()))
        if how == "parameter":
            net.b.weight = net.a.weight
        elif how == "storage":
            net.b.weight.data = net.a.weight.data
        elif how == "transposed":
            net.b.weight.data = net.a.weight.data.t()
        elif how == "overlapping":
            flat = torch.randn(D * D + D)
            net.a.weight.data = flat[: D * D].view(D, D)
            net.b.weight.data = flat[D:].view(D, D)
        else:  # side by side: not shared
            flat = torch.randn(2 * D * D)
            net.a.weight.data = flat[: D * D].view(D, D)
            net.b.weight.data = flat[D * D :].view(D, D)
        return net

    return build


_SHARED = ("storage", "transposed", "overlapping")
for _how in ("parameter", *_SHARED):
    CASES[f"tied by {_how}"] = Case(_tied(_how), ("b", "relu"))
CASES["flattened, not tied"] = Case(_tied("flat"), ("a", "b", "relu"))


def _shared_buffer() -> nn.Module:
    net = nn.Sequential(nn.Linear(D, D), nn.BatchNorm1d(D), nn.Linear(D, D), nn.BatchNorm1d(D))
    net[3].running_mean = net[1].running_mean
    return nn.Sequential(*net, nn.Linear(D, 2))


CASES["shared statistics"] = Case(_shared_buffer, ("0", "3"))


@root("one stateful module on both sides", cuts=("a",))
def _twice(n: Any, x: Tensor) -> object:
    return n.c(n.inner(n.b(n.inner(n.a(x)))))


def _stateful_twice() -> nn.Module:
    def count(m: Any, x: Tensor) -> object:
        m.calls += 1
        return x * m.calls

    inner = Inner(count)
    inner.lin = nn.Identity()  # type: ignore[assignment]
    del inner._buffers["buf"]
    return Layers(lambda n, x: n.c(n.inner(n.b(n.inner(n.a(x))))), inner)


CASES["a counter on both sides"] = Case(
    _stateful_twice, refused="answer otherwise|leave the attrib"
)

# Modes


class Frozen(nn.Module):
    """Its BatchNorm stays frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.bn, self.f = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(144, 2)

    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        self.bn.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.f(self.bn(self.c(x)).flatten(1))
        return z


class Freezing(Frozen):
    """It also stops to train the weights of what is frozen."""

    def train(self, mode: bool = True) -> "Freezing":
        super().train(mode)
        self.bn.weight.requires_grad_(not mode)
        return self


class FrozenPart(nn.Sequential):
    def train(self, mode: bool = True) -> "FrozenPart":
        super().train(False)
        return self


class Stubborn(nn.Sequential):
    def eval(self) -> "Stubborn":
        return self


def _block(kind: type[nn.Sequential]) -> nn.Sequential:
    return kind(nn.Linear(D, D), nn.BatchNorm1d(D), nn.Dropout(0.3))


CASES["train() of the net"] = Case(Frozen, ("c", "bn"))
CASES["train() that freezes weights"] = Case(Freezing, refused="requires_grad|another gradient")
CASES["train() of a part"] = Case(
    lambda: nn.Sequential(_block(nn.Sequential), _block(FrozenPart), nn.Linear(D, 2)), ("0", "1")
)
CASES["eval() of a part"] = Case(
    lambda: nn.Sequential(_block(Stubborn), nn.Linear(D, D), nn.Linear(D, 2)), ("0", "1")
)
CASES["eval() of the net"] = Case(lambda: _block(Stubborn), ("0", "1"))


def _frozen_by_hand() -> nn.Module:
    net = nn.Sequential(nn.Linear(D, D), nn.BatchNorm1d(D), nn.Linear(D, 2))
    net[1].eval()
    net[0].weight.requires_grad_(False)
    return net


CASES["frozen by hand"] = Case(_frozen_by_hand, ("0", "1"))

# Hooks


def _hooked(where: str, add: Callable[[nn.Module], object]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        net: Any = Layers(_plain, nn.Sequential(nn.Linear(D, D), nn.Tanh()))
        add(net if where == "net" else getattr(net, where))
        return net

    return build


_HOOKS: dict[str, Callable[[nn.Module], object]] = {
    "forward_pre": lambda m: m.register_forward_pre_hook(lambda m, a: (a[0] / 255,)),
    "forward": lambda m: m.register_forward_hook(lambda m, a, y: y * 2),
    "full_backward": lambda m: m.register_full_backward_hook(lambda m, g, o: (g[0] * 0.5,)),
    "full_backward_pre": lambda m: m.register_full_backward_pre_hook(lambda m, g: (g[0] * 0.5,)),
}
for _kind, _add in _HOOKS.items():
    CASES[f"{_kind} hook on the net"] = Case(
        _hooked("net", _add), refused="a hook on the net itself"
    )
    CASES[f"{_kind} hook on a layer"] = Case(_hooked("b", _add), ("a", "b"))
    CASES[f"{_kind} hook on a container"] = Case(_hooked("inner", _add), ("a", "b", "inner"))


def _tensor_hook() -> nn.Module:
    net = Layers(_plain)
    net.b.weight.register_hook(lambda grad: grad * 0.5)
    return net


CASES["hook on a weight"] = Case(_tensor_hook, ("a", "b"))

# Weights that are computed


def _normed(how: Callable[[nn.Module], nn.Module], reads: bool = False) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        net: Any = Layers(
            (lambda n, x: n.c(functional.linear(n.a(x), n.b.weight))) if reads else _plain
        )
        how(net.b)
        return net

    return build


class Doubled(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w * 2


_NORMS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight norm": torch.nn.utils.weight_norm,
    "spectral norm": torch.nn.utils.spectral_norm,
    "parametrized weight norm": parametrizations.weight_norm,
    "parametrized spectral norm": parametrizations.spectral_norm,
    "parametrized orthogonal": parametrizations.orthogonal,
    "parametrization": lambda m: parametrize.register_parametrization(m, "weight", Doubled()),
}
for _kind, _norm in _NORMS.items():
    CASES[_kind] = Case(_normed(_norm), ("a", "b"))
CASES["parametrized weight that is read"] = Case(
    _normed(_NORMS["parametrization"], reads=True), ("a", "linear")
)

# What crosses, and in place


class Bag(nn.Module):
    """Makes something else of a tensor, or takes it back."""

    def __init__(self, function: Callable[[Any], object]):
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> object:
        if torch.jit.is_scripting():
            return x
        return self.function(x) if bool(torch.ones(()) > 0) else x


def _bags(
    pack: Callable[[Any], object], unpack: Callable[[Any], object]
) -> Callable[[], nn.Module]:
    layers = lambda: [nn.Linear(D, D), Bag(pack), Bag(unpack), nn.Linear(D, 2)]  # noqa: E731
    return lambda: nn.Sequential(*layers())


for _kind, _pack, _unpack in (
    ("dict", lambda x: {"x": x}, lambda d: d["x"]),
    ("tuple", lambda x: (x, x), lambda t: t[0]),
    ("numbers", lambda x: (x * 100).long(), lambda x: x.float() / 100),
    ("batch in second place", lambda x: x.t(), lambda x: x.t()),
    ("batch in pieces", lambda x: x.reshape(-1, 2), lambda x: x.reshape(-1, D)),
    ("batch by batch", lambda x: (x @ x.t(), x), lambda t: t[0] @ t[1]),
):
    CASES[f"crossing: {_kind}"] = Case(_bags(_pack, _unpack), ("0",))
    CASES[f"crossing, staged: {_kind}"] = Case(
        lambda pack=_pack, unpack=_unpack: StagedNet(
            [("0", nn.Linear(D, D)), ("1", Bag(pack)), ("2", Bag(unpack)), ("3", nn.Linear(D, 2))]
        ),
        ("0", "2"),
    )

CASES["staged: in place"] = Case(
    lambda: StagedNet(
        [("a", nn.Linear(D, D)), ("r", nn.ReLU(inplace=True)), ("b", nn.Linear(D, 2))]
    ),
    ("a", "r"),
)
CASES["staged: in place through a view"] = Case(
    lambda: StagedNet(
        [
            ("a", nn.Linear(D, D)),
            ("v", nn.Flatten()),
            ("r", nn.ReLU(inplace=True)),
            ("b", nn.Tanh()),
        ]
    ),
    ("a", "v", "r"),
)
CASES["staged: dropout in place"] = Case(
    lambda: StagedNet(
        [("a", nn.Linear(D, D)), ("r", nn.Dropout(inplace=True)), ("b", nn.Linear(D, 2))]
    ),
    ("a", "r"),
)


@root("in place through a view", cuts=("a", "b"))
def _view(n: Any, x: Tensor) -> object:
    z = n.b(n.a(x))
    z.view(-1).mul_(2)
    return n.c(z * 1)


@sub("in place, inside")
def _inside(m: Any, x: Tensor) -> object:
    if float(x.detach().sum()) > -1e9:
        x.view(-1).mul_(2)
    return m.lin(x)


root("in place on the input", cuts=("a",))(lambda n, x: n.c(n.b(n.a(x.mul_(2)))))
root("size of the batch", cuts=("a", "b", "view"))(
    lambda n, x: n.c((lambda size: n.b(n.a(x)).view(size, D))(x.shape[0]))
)
CASES["size of the input"] = Case(
    lambda: Layers(lambda n, x: n.c(n.b(n.a(x)).view(x.shape) / x.shape[1])), ("a", "b"), "", (D,)
)
root("table of positions", cuts=("a", "b"))(
    lambda n, x: (lambda table: n.c(n.b(n.a(x)) + table))(n.buf.exp() * 2)
)

# Layers with state of their own, and wholes that cannot be cut


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(D, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.head(self.rnn(x)[0][:, -1])
        return z


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(D, D), nn.Linear(D, 2)
        self.mha = nn.MultiheadAttention(D, 2, dropout=0.2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        z: Tensor = self.b((x + self.mha(x, x, x, need_weights=False)[0]).mean(1))
        return z


CASES["recurrent"] = Case(Recurrent, ("getitem",))
CASES["attention with dropout"] = Case(Attention, ("a", "add"), "", (5, D))
CASES["statistics of the batch only"] = Case(
    lambda: nn.Sequential(nn.Linear(D, D), nn.BatchNorm1d(D, track_running_stats=False), nn.Tanh()),
    ("0", "1"),
)
CASES["cumulative statistics"] = Case(
    lambda: nn.Sequential(nn.Linear(D, D), nn.BatchNorm1d(D, momentum=None), nn.Linear(D, 2)),
    ("0", "1"),
)


def _zero_head() -> nn.Module:
    net: Any = Layers(lambda n, x: n.c(n.b(reverse(n.a(x)))))
    nn.init.zeros_(net.c.weight)
    return net


CASES["reversal behind a head of zeros"] = Case(_zero_head, refused="torch.autograd.Function")


def _unregistered() -> nn.Module:
    layer = [nn.Linear(D, D)]
    return Layers(lambda n, x: n.c(layer[0](n.a(x))))


CASES["layer that is not registered"] = Case(_unregistered, refused="not installed as a submodule")


class Called(nn.Linear):
    def __call__(self, *args: Any) -> Any:
        return super().__call__(*args) * 2


def _forward_set() -> nn.Module:
    net: Any = Layers(_plain)
    net.forward = lambda x: net.c(net.a(x)) * 3
    return net


def _lock() -> nn.Module:
    net: Any = Layers(_plain)
    net.lock = threading.Lock()
    return net


def _compiled() -> nn.Module:
    compiled: Any = torch.compile(Layers(_plain))
    return compiled


CASES["__call__ of the net"] = Case(lambda: Called(D, D), refused="a __call__ of its own")
CASES["__call__ of a layer"] = Case(
    lambda: nn.Sequential(nn.Linear(D, D), Called(D, D)), (), "__call__ of its own"
)
CASES["forward set on the object"] = Case(_forward_set, refused="forward set on the object")
CASES["a lock"] = Case(_lock, refused="cannot be copied .*lock")
CASES["DataParallel"] = Case(lambda: nn.DataParallel(Layers(_plain)), refused="net.module")
CASES["torch.compile"] = Case(_compiled, refused="_orig_mod")
CASES["TorchScript"] = Case(
    lambda: torch.jit.script(nn.Sequential(nn.Linear(D, D), nn.ReLU())), refused="TorchScript"
)
CASES["lazy layer"] = Case(
    lambda: nn.Sequential(nn.LazyLinear(D), nn.Linear(D, 2)), refused="before the first input"
)
CASES["no values"] = Case(lambda: nn.Sequential(nn.Linear(D, D, device="meta")), refused="'meta'")
CASES["dict of answers"] = Case(
    lambda: Layers(lambda n, x: {"out": n.c(n.a(x))}), refused="a dict with the keys 'out'"
)
CASES["answers of two"] = Case(
    lambda: Layers(lambda n, x: (n.c(n.a(x)), n.a(x))), refused="a tuple of 2"
)


# The comparison


def _build(case: Case) -> nn.Module:
    _reset()
    net = case.build()
    _reset()
    return net


def _state(net: nn.Module) -> dict[str, Any]:
    """Return all that a caller could find changed in a net and around it."""
    numpy: Any = np.random.get_state()
    found: dict[str, Any] = {"outside": (COUNT[0], TOTAL, Layers.shared)}
    found["draws"] = bytes(torch.get_rng_state().numpy()), random.getstate(), bytes(numpy[1])
    found["grad mode"] = torch.is_grad_enabled()
    for name, module in net.named_modules():
        found[f"mode of {name}"] = module.training
        found[f"attributes of {name}"] = {k: id(v) for k, v in vars(module).items()}
        found[f"kept of {name}"] = len(getattr(module, "kept", None) or ())
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        if tensor.device.type != "meta" and not isinstance(tensor, nn.UninitializedParameter):
            found[name] = (id(tensor), tensor.detach().tolist(), tensor.requires_grad)
        found[f"grad of {name}"] = tensor.grad
    return found


def _inputs(net: nn.Module, example: Any) -> Iterator[Tensor]:
    """Yield other inputs than the cut was compared on."""
    shape = {"Frozen": (1, 8, 8), "Recurrent": (7, D)}.get(type(net).__name__, example or (D,))
    generator = torch.Generator().manual_seed(99)
    for batch in (3, 2):
        yield torch.randn((batch, *shape), generator=generator) + 0.1


def _steps(parts: Iterable[nn.Module], xs: list[Tensor]) -> Iterator[list[Tensor | bool | None]]:
    """Train for two steps, evaluate twice; yield what there is to see after each."""
    parts = list(parts)
    weights = list({id(p): p for part in parts for p in part.parameters()}.values())
    optimiser = torch.optim.SGD([p for p in weights if p.requires_grad], lr=0.1, momentum=0.9)
    for i, training in enumerate((True, True, False, False)):
        for part in parts:
            _ = part.train() if training else part.eval()
        x = xs[i % 2].clone().requires_grad_()
        value, crossing = x * 1, []
        with torch.set_grad_enabled(i < 3):
            for part in parts:
                crossing.append((value, value.detach().clone()))
                value = part(value)
        seen: list[Tensor | bool | None] = [value.detach().clone(), value.requires_grad]
        optimiser.zero_grad()
        if value.requires_grad:
            value.backward(torch.linspace(-1, 2, value.numel()).view_as(value))
            optimiser.step()
        for features, before in crossing[1:]:
            assert torch.equal(features, before), "features were overwritten"
        yield [*seen, x.grad, torch.get_rng_state()]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    return one is other


def _assert_same_training(case: Case, cut: str, *, copied: bool) -> None:
    """Train the net, its halves, and copies of these that share nothing, as on two machines."""
    net, twin = _build(case), _build(case)
    xs = list(_inputs(net, case.example))
    split = split_at(twin, cut, example=case.example)
    assert (COUNT[0], TOTAL, Layers.shared) == (0, 0, 0)
    halves: list[nn.Module] = [split.edge, split.cloud]
    apart = [copy.deepcopy(half) for half in halves] if copied else []
    wanted = list(_steps([net], xs))
    for parts in (halves, apart)[: 1 + copied]:
        _reset()
        for i, (a, b) in enumerate(zip(wanted, _steps(parts, xs), strict=True)):
            assert all(map(_same, a, b)), f"step {i} at {cut}"
        for kind in ("parameters", "buffers", "modules"):
            theirs = {
                id(original): now
                for part, half in zip(parts, halves, strict=True)
                for original, now in zip(getattr(half, kind)(), getattr(part, kind)(), strict=True)
            }
            pairs = zip(getattr(net, f"named_{kind}")(), getattr(twin, kind)(), strict=True)
            for (name, mine), original in pairs:
                _assert_alike(f"{name} at {cut}", mine, theirs.get(id(original)))


def _assert_alike(name: str, mine: Any, other: Any) -> None:
    """Compare a weight, buffer or module of the net with that of the halves, if it is there."""
    if isinstance(mine, nn.Module):
        assert other is None or mine.training == other.training, f"mode of {name}"
    elif other is None:  # no half needs it: then the net must not change it either
        assert mine.grad is None, name
    else:
        assert torch.equal(mine, other), name
        assert _same(mine.grad, other.grad), f"gradient of {name}"
        assert mine.requires_grad == other.requires_grad, name


# copy.deepcopy fails on the first, loses the hook of the second, and parts what shares memory.
_NOT_COPIED = ("weight norm", "hook on a weight", *(f"tied by {how}" for how in _SHARED))


@pytest.mark.parametrize("name", CASES)
def test_a_cut_is_the_net_or_is_refused_with_its_cause(name: str) -> None:
    case = CASES[name]
    net = _build(case)
    before = _state(net)
    try:
        cuts = cut_points(net, example=case.example)
    except CutError as error:
        cuts, said = (), str(error)
    else:
        said = ""
    assert _state(net) == before
    assert bool(said) == bool(case.refused), said
    assert re.search(case.refused, said), said
    assert set(case.cuts) <= set(cuts)
    for cut in cuts:
        _assert_same_training(case, cut, copied=name not in _NOT_COPIED)


def test_there_are_enough_nets() -> None:
    assert len(CASES) >= 60
