"""Scikit-learn's bundled digits: 1,797 images of 8 x 8, the set that is always there."""

import torch

from eaves.data.source import (
    Dataset,
    InMemory,
    Interface,
    Request,
    channel_stats,
    refuse_resizing,
    stratified_split,
    subset,
)
from eaves.errors import ConfigError

_SIDE = 8
INTERFACE = Interface(input_shape=(1, _SIDE, _SIDE), classes=tuple("0123456789"))


def load_digits(request: Request) -> Dataset:
    """Return 1,437 training and 360 test digits, a fixed split with equal shares of each class.

    The pixels 0..16 become ``pixel * 255 // 16``, from 0 to 255; ``(value * 16 + 254) // 255``
    gives them back.

    Raises:
        ConfigError: scikit-learn is not installed, or the request does not fit the set.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ConfigError('the digits come with scikit-learn: pip install "eaves[lab]"') from error
    refuse_resizing("digits", _SIDE, request.image_size)
    bunch = datasets.load_digits()
    pixels_NHW = torch.from_numpy(bunch.images).to(torch.int64)
    inputs_NCHW = (pixels_NHW * 255 // 16).to(torch.uint8).unsqueeze(1)
    labels_N = torch.from_numpy(bunch.target).to(torch.int64)
    train_N, test_N = stratified_split(labels_N)
    train_N = train_N[subset(len(train_N), request.train_samples)]
    train = InMemory(inputs_NCHW[train_N], labels_N[train_N])
    mean, std = channel_stats(train)
    return Dataset(
        name="digits",
        train=train,
        test=InMemory(inputs_NCHW[test_N], labels_N[test_N]),
        classes=INTERFACE.classes,
        mean=mean,
        std=std,
        augment="crop",  # no flip: a mirrored digit is another symbol
    )
