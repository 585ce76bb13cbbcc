"""The embedded digits: the fixed split, the exact pixels, the missing extra."""

import sys

import pytest
import torch
from sklearn import datasets

from eaves.data.digits import load_digits
from eaves.data.source import Request
from eaves.errors import ConfigError


def test_the_split_is_fixed_stratified_and_holds_every_digit_once() -> None:
    digits = load_digits(Request())
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    train = digits.train.fetch(torch.arange(1437))
    test = digits.test.fetch(torch.arange(360))
    shares = torch.bincount(test.labels) / torch.bincount(torch.cat([train.labels, test.labels]))
    assert (shares - 0.2).abs().max() < 0.01
    pixels = torch.cat([train.inputs, test.inputs]).flatten(1).int()
    given = torch.from_numpy(datasets.load_digits().data).int()
    assert sorted(pixels.tolist()) == sorted((given * 255 // 16).tolist())
    inverted = (pixels * 16 + 254) // 255
    assert sorted(inverted.tolist()) == sorted(given.tolist())
    assert (digits.train.input_shape, digits.augment) == ((1, 8, 8), "crop")


def test_pixels_are_scaled_exactly_invertibly() -> None:
    raw = torch.arange(17)
    scaled = raw * 255 // 16
    assert (int(scaled[0]), int(scaled[-1])) == (0, 255)
    assert torch.equal((scaled * 16 + 254) // 255, raw)


def test_two_loads_agree_and_a_subset_lies_within_the_whole() -> None:
    whole, again = load_digits(Request()), load_digits(Request())
    few = load_digits(Request(train_samples=50))
    everything = whole.train.fetch(torch.arange(1437)).inputs
    assert torch.equal(everything, again.train.fetch(torch.arange(1437)).inputs)
    for image in few.train.fetch(torch.arange(50)).inputs:
        assert (everything == image).flatten(1).all(dim=1).any()
    assert len(few.test) == 360


def test_another_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="8 x 8, got image_size=32"):
        load_digits(Request(image_size=32))


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ConfigError, match=r'pip install "eaves\[lab\]"'):
        load_digits(Request())
