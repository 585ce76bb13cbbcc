"""Scikit-learn's bundled digits: 1,797 images of 8 x 8, the set that is always there.

Dimension key:  N digits   C channels   H, W height and width
"""

from collections.abc import Callable

import torch
from torch import Tensor

from eaves.core.roles import PrivateLabels
from eaves.data.private import choose_private, named, refuse_known, take
from eaves.data.source import (
    Dataset,
    InMemory,
    Interface,
    Request,
    channel_stats,
    lacking,
    refuse_resizing,
    stratified_split,
    subset,
)
from eaves.errors import ConfigError

_SIDE = 8

Facet = tuple[tuple[str, ...], Callable[[Tensor], Tensor]]
"""A way to class digits: the classes by name, and from digits (N,) to their numbers (N,)."""

ATTRIBUTES: dict[str, Facet] = {
    "parity": (("even", "odd"), lambda digits_N: digits_N % 2),
    "high": (("0-4", "5-9"), lambda digits_N: digits_N // 5),
}
_ITSELF: Facet = tuple("0123456789"), lambda digits_N: digits_N


def load_digits(request: Request) -> Dataset:
    """Return 1,437 training and 360 test digits, a fixed split with equal shares of each digit.

    The option of the request names one of :data:`ATTRIBUTES` as the task; without it the task is
    the digit. Another of them may be private, unless the task is the digit, which tells it. The
    same request with other attributes gives the same digits in the same order.

    The pixels 0..16 become ``pixel * 255 // 16``, from 0 to 255; ``(value * 16 + 254) // 255``
    gives them back.

    Raises:
        ConfigError: scikit-learn is not installed, or the request does not fit the set.
    """
    refuse_resizing("digits", _SIDE, request.image_size)
    task = _task(request)
    names = choose_private(request.private, tuple(ATTRIBUTES), task=task)
    inputs_NCHW, digits_N = _read()
    classes, labels_of = ATTRIBUTES.get(task, _ITSELF)
    labels_N, private = labels_of(digits_N), _private(digits_N, names)
    train_N, test_N = stratified_split(digits_N)
    train_N = train_N[subset(len(train_N), request.train_samples)]
    refuse_known(take(private, train_N), labels_N[train_N])
    train, test = (
        InMemory(inputs_NCHW[part_N], labels_N[part_N], take(private, part_N))
        for part_N in (train_N, test_N)
    )
    mean, std = channel_stats(train)
    return Dataset(
        name=f"digits:{task}" if task else "digits",
        train=train,
        test=test,
        classes=classes,
        mean=mean,
        std=std,
        augment="crop",  # no flip: a mirrored digit is another symbol
        private_classes={name: ATTRIBUTES[name][0] for name in names},
        notices=lacking("class", classes, {"train": labels_N[train_N]}, subset=True),
    )


def interface(request: Request) -> Interface:
    """Return what a net for the digits, or for the attribute in the option, is made for.

    Raises:
        ConfigError: no such attribute.
    """
    classes, _ = ATTRIBUTES.get(_task(request), _ITSELF)
    return Interface(input_shape=(1, _SIDE, _SIDE), classes=classes)


def _task(request: Request) -> str:
    """Return the attribute to be learnt; empty for the digit itself."""
    return request.option and named("task of the digits", request.option, tuple(ATTRIBUTES))


def _read() -> tuple[Tensor, Tensor]:
    """Return the images as uint8 (N, 1, 8, 8), and which digits they are as int64 (N,)."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ConfigError('the digits come with scikit-learn: pip install "eaves[lab]"') from error
    bunch = datasets.load_digits()
    pixels_NHW = torch.from_numpy(bunch.images).to(torch.int64)
    inputs_NCHW = (pixels_NHW * 255 // 16).to(torch.uint8).unsqueeze(1)
    return inputs_NCHW, torch.from_numpy(bunch.target).to(torch.int64)


def _private(digits_N: Tensor, names: tuple[str, ...]) -> PrivateLabels | None:
    if not names:
        return None
    return PrivateLabels(torch.stack([ATTRIBUTES[name][1](digits_N) for name in names], 1), names)
