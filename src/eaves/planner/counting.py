"""Multiply-accumulates of every operation of a net, and the names of those with no count.

``torch.utils.flop_counter`` knows convolutions, matrix products and attention. What it lacks, and
nets use, is added here by formula: LSTMs as a CPU has them, bilinear layers, products with a
vector, distances. An operation on a weight matrix that is neither counted nor known to multiply
nothing is named, so that a share of the work is never wrong without a word.

Dimension key:  B batch   T steps   H hidden
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

_ATEN = torch.ops.aten
Shape = Sequence[int]

_PRODUCTS = ("mul", "mul_", "addcmul", "addcmul_")

# Operations on weights that multiply nothing: they look up, arrange, copy, add up or normalise.
_WITHOUT_MACS = (
    *("embedding", "_embedding_bag", "_embedding_bag_forward_only", "index", "index_select"),
    *("gather", "take", "clone", "copy", "copy_", "_to_copy", "contiguous", "cat", "stack", "pad"),
    *("constant_pad_nd", "repeat", "roll", "flip", "tile", "sum", "mean", "var", "var_mean", "std"),
    *("amax", "amin", "max", "min", "norm", "linalg_vector_norm", "_softmax", "_log_softmax"),
    *("native_layer_norm", "native_batch_norm", "native_group_norm", "_fused_rms_norm"),
    *("_native_batch_norm_legit", "cudnn_batch_norm", "mkldnn_reorder_conv2d_weight"),
    *("_weight_norm_interface", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_nearest2d"),
    *("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "topk", "sort", "argmax", "equal"),
    *("new_empty_strided", "empty_like", "zeros_like", "ones_like", "new_zeros", "native_dropout"),
)


@final
class Count:
    """What a pass through a net comes to."""

    def __init__(self) -> None:
        self.macs = 0.0
        self.uncounted: tuple[str, ...] = ()
        """Operations on weights that have no count, by name."""


@contextmanager
def counted(module: nn.Module | None = None) -> Iterator[Count]:
    """Count the multiply-accumulates of all operations inside.

    With ``module``, name the operations on its weights that have no count.

    >>> with counted() as count:
    ...     y = torch.ones(2, 3) @ torch.ones(3, 5)
    >>> count.macs
    30.0
    """
    found, weights = Count(), _Weights(module)
    # Attention by its formula: torch does not count the kernel that a CPU has for it.
    with weights, sdpa_kernel(SDPBackend.MATH):
        counter = FlopCounterMode(display=False, custom_mapping=dict(_FORMULAS))
        with counter:
            yield found
    found.macs = counter.get_total_flops() / 2
    known = {op.__name__ for op in counter.flop_registry}
    found.uncounted = tuple(sorted(weights.used_by - known - set(_WITHOUT_MACS)))


@final
class _Weights(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its __init_subclass__
    """Note which operations are handed a weight matrix, or a view of one."""

    def __init__(self, module: nn.Module | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        own = [] if module is None else list(module.parameters())
        self._storages = {w.untyped_storage().data_ptr() for w in own if _is_matrix(w)}
        self.used_by: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        weights = [x for x in tensors if self._is_weight(x)]
        if weights and _may_multiply(func, result, weights):
            self.used_by.add(_name(func))
        return result

    def _is_weight(self, x: Tensor) -> bool:
        return _is_matrix(x) and x.untyped_storage().data_ptr() in self._storages


def _may_multiply(func: Any, result: Any, weights: Sequence[Tensor]) -> bool:
    """Return whether an operation does more to ``weights`` than to show, add or change them.

    An element-wise product with features makes more values than there are weights.
    """
    if any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns):
        return False  # a view
    if torch.Tag.pointwise not in func.tags:
        return True
    values = result.numel() if isinstance(result, Tensor) else 0
    return _name(func) in _PRODUCTS and values > max(w.numel() for w in weights)


def _name(func: Any) -> str:
    """Return ``mm`` for an operation of torch, ``namespace::name`` for one of others."""
    name: str = func._schema.name
    return name.removeprefix("aten::")


def _is_matrix(x: Tensor) -> bool:
    """Return whether two sides or more are longer than 1: scales and biases are not matrices."""
    return sum(side > 1 for side in x.shape) > 1


def _convolution_backward(*shapes: Any, out_shape: Any) -> int:
    """Count each gradient like the forward pass; torch's own count takes no notice of groups.

    ``shapes`` are the arguments of the operation, with shapes in place of tensors.
    """
    (grad_BC, x_BC, weight), transposed, wanted = shapes[:3], shapes[7], shapes[10]
    positions = prod((x_BC if transposed else grad_BC)[2:])
    flops: int = 2 * sum(wanted[:2]) * x_BC[0] * positions * prod(weight)
    return flops


def _rnn_layer(x_TBC: Shape, from_input: Shape, from_hidden: Shape, *_: Any, **__: Any) -> int:
    """Count one direction of one layer: each step, both matrices of all gates."""
    return 2 * prod(x_TBC[:2]) * (prod(from_input) + prod(from_hidden))


def _rnn_layer_backward(*shapes: Any, **kwargs: Any) -> int:
    """Count the gradients by what enters and by the weights, each like the forward pass."""
    return 2 * _rnn_layer(*shapes[:3])


def _trilinear(*shapes: Any, **_: Any) -> int:
    """Count a product of three tensors, each expanded at given places, summed over some."""
    given, places = shapes[:3], shapes[3:6]
    sides = [_expanded(shape, at) for shape, at in zip(given, places, strict=True)]
    flops: int = 2 * prod(map(max, zip(*sides, strict=True)))
    return flops


def _expanded(shape: Shape, places: Sequence[int]) -> list[int]:
    sides = list(shape)
    for place in sorted(places):
        sides.insert(place, 1)
    return sides


def _matrix_vector(a: Shape, b: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(a)


def _added_matrix_vector(c: Shape, a: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(a)


def _distances(a: Shape, b: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(a) * b[-2]


_FORMULAS: dict[Any, Callable[..., int]] = {
    _ATEN.convolution_backward: _convolution_backward,
    _ATEN.mkldnn_rnn_layer: _rnn_layer,
    _ATEN.mkldnn_rnn_layer_backward: _rnn_layer_backward,
    _ATEN._trilinear: _trilinear,
    _ATEN.mv: _matrix_vector,
    _ATEN.dot: _matrix_vector,
    _ATEN.vdot: _matrix_vector,
    _ATEN.addmv: _added_matrix_vector,
    _ATEN._euclidean_dist: _distances,
    _ATEN._cdist_forward: _distances,
}
