"""Inputs on which a cut is compared with the net: given, or found by trying.

Dimension key:  B batch   C channels   L length
"""

from collections.abc import Iterator, Sequence
from typing import Final, final

import torch
from torch import Tensor, nn

from eaves.core.copies import copy_of
from eaves.core.surroundings import Surroundings
from eaves.errors import CutError, MisfitError

_SIDES: Final = (32, 8, 28, 16, 64, 224, 12, 24, 48, 96, 128, 256, 4, 5, 6, 7)
_LAYERS = 4  # whose sizes are tried, at most
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

Given = Tensor | Sequence[int] | None
"""A batch of inputs, the shape of one input without the batch, or None: to be found by trying."""


@final
class Example:
    """Where batches of any size come from, always the same ones.

    ``shape`` is that of one input, without the batch; ``inputs`` are examples (B, ...) or None.
    """

    def __init__(
        self, shape: Sequence[int], *, inputs: Tensor | None = None, below: int | None = None
    ):
        """``below``: inputs are whole numbers from 0 to below this, as those of an embedding."""
        self.shape = tuple(shape)
        self.given = True
        """Whether the caller said what inputs look like; else their shape was found by trying."""
        self._inputs = None if inputs is None else inputs.detach()
        self._below = below

    def batch(self, size: int, net: nn.Module, *, positive: bool = False) -> Tensor:
        """Return inputs (``size``, ...) where the weights of ``net`` are, and of their kind."""
        weight = next((p for p in net.parameters() if p.is_floating_point()), torch.zeros(()))
        generator = torch.Generator().manual_seed(size)
        if self._inputs is not None:
            return self._repeated(size, generator).to(weight.device)
        if self._below is not None:
            high = self._below
            return torch.randint(high, (size, *self.shape), generator=generator).to(weight.device)
        draw = torch.rand if positive else torch.randn
        return draw((size, *self.shape), generator=generator).to(weight.device, weight.dtype)

    def _repeated(self, size: int, generator: torch.Generator) -> Tensor:
        """Return ``size`` different examples: the given ones, and weaker versions of these."""
        assert self._inputs is not None
        found = torch.cat([self._inputs] * size)[:size].clone()
        if found.is_floating_point():
            scale = 1 - 0.25 * torch.rand((size, *[1] * (found.ndim - 1)), generator=generator)
            found[len(self._inputs) :] *= scale.to(found)[len(self._inputs) :]
        return found


def example_of(given: Tensor | Sequence[int]) -> Example:
    """Return the example that a caller described.

    Raises:
        ValueError: neither a batch with one example or more, nor a shape of whole numbers.
    """
    if isinstance(given, Tensor):
        if given.ndim < 1 or not len(given):
            raise ValueError(
                f"expected an example as a batch (B, ...) with one input or more, got the shape "
                f"{tuple(given.shape)}; x.unsqueeze(0) makes a batch of one input"
            )
        return Example(given.shape[1:], inputs=given)
    if any(type(side) is not int or side < 1 for side in given):
        raise ValueError(
            "expected an example as a tensor (B, ...) or as the shape of one input without the "
            f"batch, such as (3, 32, 32), got {given!r}"
        )
    return Example(given)


def find_example(net: nn.Module) -> Example:
    """Return an example that ``net`` takes, found from the sizes of its first layers.

    The net is tried in evaluation mode on a copy.

    Raises:
        CutError: nothing that was tried fits; the caller has to give an example.
    """
    with Surroundings(net).kept():
        twin = copy_of(net).eval()
        for example in _candidates(net):
            if _takes(twin, example):
                example.given = False
                return example
    raise CutError(
        f"a cut is compared with the net on an input, and none was found that "
        f"{type(net).__name__} takes; give one: example=x, a batch of inputs, or example=(3, 32, "
        "32), the shape of one"
    )


def misfit(shape: Sequence[int], error: Exception) -> MisfitError:
    """Return the error for a net that refuses an input of ``shape``."""
    return MisfitError(
        f"an input of {'x'.join(map(str, shape))} does not fit this net: {error}; "
        "use larger images, another stem or an earlier cut"
    )


def _takes(net: nn.Module, example: Example) -> bool:
    try:
        with torch.no_grad():
            net(example.batch(2, net))
    except Exception:  # nets refuse an input with whatever comes up
        return False
    return True


def _candidates(net: nn.Module) -> Iterator[Example]:
    """Yield examples in the order in which they are worth trying."""
    layers = [m for m in net.modules() if not list(m.children()) and list(m.parameters())]
    sized = [m for m in layers if _first_tries(m)][:_LAYERS]
    for layer in sized:
        yield from _first_tries(layer)
    for layer in sized:
        yield from _more_tries(layer)
    if not sized:
        sizes = [p.shape[-1] for p in net.parameters() if p.ndim]
        shapes = [*([n] for n in dict.fromkeys([*sizes, *_SIDES])), [3, 32, 32], [16, 32]]
        yield from map(Example, shapes)


def _first_tries(layer: nn.Module) -> list[Example]:
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        return [Example((n,), below=layer.num_embeddings) for n in (16, 8, 4, 32, 64, 128)]
    if isinstance(layer, nn.Linear):
        n = layer.in_features
        return [Example(shape) for shape in ((n,), (8, n), *_products(n))]
    if isinstance(layer, nn.RNNBase):
        return [Example((n, layer.input_size)) for n in (16, 8, 32)]
    if isinstance(layer, nn.LayerNorm):
        fixed = layer.normalized_shape
        return [Example(fixed), Example((8, *fixed)), Example((8, 8, *fixed))]
    if isinstance(layer, _CONVOLUTIONS + _TRANSPOSED):
        return [Example((layer.in_channels, *sides)) for sides in _sides(layer, _SIDES)]
    if isinstance(layer, _NORMS):
        n = layer.num_features
        flat = [Example((n,)), Example((n, 8))] if isinstance(layer, nn.BatchNorm1d) else []
        return flat + [Example((n, *[s] * _dims(layer))) for s in _SIDES[:6]]
    if isinstance(layer, nn.MultiheadAttention):
        return [Example((8, layer.embed_dim))]
    if isinstance(layer, nn.GroupNorm):
        return [Example((layer.num_channels, 8, 8)), Example((layer.num_channels, 8))]
    return []


def _more_tries(layer: nn.Module) -> Iterator[Example]:
    """Yield every size of a small image: one of them may fit a linear layer that comes later."""
    if isinstance(layer, _CONVOLUTIONS) and _dims(layer) < 3:
        for side in range(1, 65):
            yield Example((layer.in_channels, *[side] * _dims(layer)))


def _sides(layer: nn.Module, sides: Sequence[int]) -> list[list[int]]:
    dims = _dims(layer)
    shown = sides if dims < 3 else (16, 8, 32)
    oblong = [[1, 128], [40, 100]] if dims == 2 else []
    return [*([side] * dims for side in shown), *oblong]


def _products(n: int) -> list[tuple[int, ...]]:
    """Return shapes of images that are flattened to ``n`` values."""
    return [(c, s, s) for c in (1, 3) for s in _SIDES if c * s * s == n]


def _dims(layer: nn.Module) -> int:
    """Return the dimensions of an image that a convolution or a normalisation takes."""
    if isinstance(layer, _CONVOLUTIONS + _TRANSPOSED):
        return len(layer.kernel_size)
    return next(i for i, norm in enumerate(_NORMS, 1) if isinstance(layer, norm))
