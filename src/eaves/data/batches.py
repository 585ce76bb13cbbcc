"""Batches of an epoch in a seeded order, which can be taken up in its middle.

Dimension key:  B batch   N examples
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import torch

from eaves.core.roles import Batch
from eaves.data.augment import AUGMENTS, Augment, augment_named, crop_flip
from eaves.data.source import Source


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Return the training batches of an epoch over ``n`` examples; the last, if short, is dropped.

    A set smaller than one batch makes one short batch.

    >>> steps_per_epoch(50_000, 128), steps_per_epoch(100, 128)
    (390, 1)
    """
    if n < 1 or batch_size < 1:
        raise ValueError(
            f"expected 1 or more examples and a batch of 1 or more, {n=} {batch_size=}"
        )
    return max(1, n // batch_size)


def batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    augment: str = "none",
    start: int = 0,
    shuffle: bool = True,
) -> Iterator[Batch]:
    """Return the batches of one epoch from number ``start`` on.

    The order is a function of (seed, epoch) alone and the augmentation of a batch one of (seed,
    epoch, its number), so starting at ``start`` gives the rest of the whole epoch bit for bit.
    Training (``shuffle``) drops a short last batch unless it is the only one, as
    :func:`steps_per_epoch` counts; evaluation (``shuffle=False``) goes in order and keeps it.
    Private labels come with their examples and change neither the order nor the augmentation.

    Raises:
        ConfigError: an unknown augmentation.
        ValueError: a batch size below 1, or a start outside the epoch.
        DataError: an image that cannot be read, when its batch is taken.
    """
    chosen = augment_named(augment)
    steps = steps_per_epoch(len(source), batch_size)
    if not shuffle:
        steps = -(-len(source) // batch_size)
    if not 0 <= start <= steps:
        raise ValueError(f"expected a start from 0 to {steps}, the steps of the epoch, got {start}")
    order_N = torch.arange(len(source))
    if shuffle:
        order_N = torch.randperm(len(source), generator=_generator(seed, epoch, "order"))
    numbered = ((i, order_N[i * batch_size : (i + 1) * batch_size]) for i in range(start, steps))
    return (
        _augmented(source.fetch(indices_B), chosen, _generator(seed, epoch, f"batch {i}"))
        for i, indices_B in numbered
    )


def _augmented(batch: Batch, augment: Augment, generator: torch.Generator) -> Batch:
    if augment == AUGMENTS["none"]:
        return batch
    return replace(batch, inputs=crop_flip(batch.inputs, augment, generator=generator))


def _generator(seed: int, epoch: int, use: str) -> torch.Generator:
    """Return the generator for one use; a hash keeps neighbouring seeds and uses apart."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{use}".encode()).digest()
    # 32 bits, because torch's generator on the CPU uses no more of its seed.
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
