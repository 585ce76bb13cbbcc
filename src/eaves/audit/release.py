"""The release path: bound, noise and codec in the carrier's batches, for attacker and victims.

An attacker that learns from other features than those of the victims is weaker than it need be, and
its failure says nothing. So there is one way from bounded features to what the cloud holds, and all
take it: what teaches an attacker, what it holds out, and the victims. A codec may have one range
for all values of a batch, so what an example decodes to depends on the others of its batch: batches
are as large as the carrier's, and drawn at random.

Dimension key:  N examples   R releases of each   B examples of one payload
                ... the shape of the features
"""

from dataclasses import dataclass, replace
from math import ceil
from typing import final

import torch
from torch import Tensor

from eaves.codecs.base import Codec
from eaves.errors import ConfigError
from eaves.privacy.bounds import Clip
from eaves.privacy.mechanisms import Mechanism
from eaves.privacy.sources import Pseudo, Source

_ELEMENTWISE = ("fp32", "fp16", "bf16")  # each value by itself: batches make no difference
_DRAWS = 32  # of the noise, to see what the codec makes of it
_WIDE = Clip(1e30)  # binds nothing


@final
@dataclass(frozen=True, kw_only=True)
class ReleasePath:
    """All that is done to features between the edge part and the cloud.

    Raises:
        ConfigError: batches of no example, or a codec that is not for features.
    """

    mechanism: Mechanism
    codec: Codec | None = None
    """None: features arrive as they were sent."""
    batch_size: int = 128
    """Examples of one payload."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"expected payloads of 1 example or more, got {self.batch_size}")
        if self.codec is not None and not self.codec.dtype.is_floating_point:
            raise ConfigError(
                f"expected a codec for features, as in int8+zstd, got {self.codec.name}"
            )

    @property
    def law(self) -> str:
        """The law of the noise."""
        return self.mechanism.law

    @property
    def exact(self) -> bool:
        """True where bounded features arrive as they are: there is neither noise nor codec."""
        return self.mechanism.scale == 0 and self.codec is None

    @property
    def varies(self) -> bool:
        """True where one example may arrive as different features when it is sent again."""
        return self.mechanism.scale > 0 or self._mixes

    @property
    def _mixes(self) -> bool:
        stage = None if self.codec is None else self.codec.tensor_stage.name
        return stage is not None and stage not in _ELEMENTWISE

    def released(self, bounded: Tensor, *, releases: int, source: Source, seed: int) -> Tensor:
        """Return what the cloud decodes of bounded features (N, ...): (N, R, ...).

        ``seed`` draws who shares a payload. A last batch that is not full is filled up with
        other examples of the N, which are then left out: so all payloads are of one size.
        """
        generator = torch.Generator().manual_seed(seed)
        sent = [self._once(bounded, source, generator) for _ in range(releases)]
        return torch.stack(sent, dim=1)

    def seen(self, bounded: Tensor, *, releases: int, generator: torch.Generator) -> Tensor:
        """Return the cloud's estimate (N, ...) of bounded features: fresh releases, joined.

        Where nothing but Gaussian noise is added, the mean of R values is one of scale / sqrt(R).
        """
        if self.exact:
            return bounded
        source = Pseudo(generator)
        if self.law != "laplace" and self.codec is None:
            each = replace(self.mechanism, scale=self.mechanism.scale / releases**0.5)
            return each.noised(bounded, source)
        if self.law == "laplace":
            sent = [self._once(bounded, source, generator) for _ in range(releases)]
            return joined(torch.stack(sent, dim=1), self.law)
        total = self._once(bounded, source, generator)
        for _ in range(releases - 1):
            total = total + self._once(bounded, source, generator)
        return total / releases

    def expected(self, bounded: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return what arrives of bounded features (N, ...) on average, noise left out.

        The mean is over what the codec does to some noised releases: the noise itself has mean 0.
        """
        if not self._mixes:
            return bounded
        assert self.codec is not None
        bare, source = replace(self.mechanism, law="none", scale=0.0), Pseudo(generator)
        through = replace(self, mechanism=bare)
        off = torch.zeros_like(bounded)
        for _ in range(_DRAWS):
            noised = self.mechanism.noised(bounded, source)
            off += through.unbounded()._once(noised, source, generator) - noised
        return bounded + off / _DRAWS

    def quiet(self) -> "ReleasePath":
        """Return the same path without noise."""
        return replace(self, mechanism=replace(self.mechanism, law="none", scale=0.0))

    def unbounded(self) -> "ReleasePath":
        """Return the same path for features that lie outside of the bound: for planted ones."""
        return replace(self, mechanism=replace(self.mechanism, bound=_WIDE))

    def _once(self, bounded: Tensor, source: Source, generator: torch.Generator) -> Tensor:
        """Return one release of each example, (N, ...)."""
        if not self._mixes:
            noised = self.mechanism.noised(bounded, source)
            return noised if self.codec is None else self._carried(noised)
        n = len(bounded)
        order = torch.randperm(n, generator=generator)
        missing = ceil(n / self.batch_size) * self.batch_size - n
        filling = torch.randint(n, (missing,), generator=generator)
        carried = [
            self._carried(self.mechanism.noised(bounded[rows_B], source))
            for rows_B in torch.split(torch.cat([filling, order]), self.batch_size)
        ]
        arrived = torch.empty_like(bounded)
        arrived[order] = torch.cat(carried)[missing:]
        return arrived

    def carried(self, sent: Tensor) -> Tensor:
        """Return what arrives of (N, ...) that are sent as they are, in order."""
        if self.codec is None:
            return sent
        return torch.cat([self._carried(sent_B) for sent_B in torch.split(sent, self.batch_size)])

    def _carried(self, sent: Tensor) -> Tensor:
        """Return what arrives of one payload; the byte stages lose nothing, and are left out."""
        assert self.codec is not None
        through = Codec(self.codec.tensor_stage)
        return through.decode(through.encode(sent), limit_bytes=2**40)


def joined(releases: Tensor, law: str) -> Tensor:
    """Return one estimate (N, ...) from R releases of each input (N, R, ...).

    It is the most likely value of what was released: for Gaussian noise the mean, for Laplace noise
    the median, whose variance comes down to half of the mean's as R grows.

    >>> joined(torch.tensor([[[0.0], [1.0], [5.0]]]), "laplace"), joined(
    ...     torch.tensor([[[0.0], [1.0], [5.0]]]), "gaussian")
    (tensor([[1.]]), tensor([[2.]]))
    """
    if law != "laplace":
        return releases.mean(dim=1)
    r = releases.shape[1]
    ordered = releases.sort(dim=1).values
    return (ordered[:, (r - 1) // 2] + ordered[:, r // 2]) / 2
