"""The embedded digits: the fixed split, the exact pixels, the missing extra."""

import sys

import pytest
import torch
from sklearn import datasets

from eaves.data.digits import interface, load_digits
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


@pytest.mark.parametrize(
    ("task", "classes", "expected"),
    [
        ("parity", ("even", "odd"), [0, 1, 0, 1, 0, 1, 0, 1, 0, 1]),
        ("high", ("0-4", "5-9"), [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]),
    ],
)
def test_a_task_classes_the_same_digits_in_the_same_order(
    task: str, classes: tuple[str, ...], expected: list[int]
) -> None:
    plain, data = load_digits(Request()), load_digits(Request(option=task.upper()))
    assert (data.name, data.classes) == (f"digits:{task}", classes)
    assert data.interface.classes == interface(Request(option=task)).classes
    for digits, source in ((plain.train, data.train), (plain.test, data.test)):
        given, classed = (s.fetch(torch.arange(len(source))) for s in (digits, source))
        assert torch.equal(given.inputs, classed.inputs)
        assert classed.labels.tolist() == [expected[digit] for digit in given.labels]


def test_one_attribute_is_learnt_and_the_other_private() -> None:
    data = load_digits(Request(option="parity", private=("High",), train_samples=100))
    plain = load_digits(Request(train_samples=100))
    assert data.private == ("high",)
    assert dict(data.private_classes) == {"high": ("0-4", "5-9")}
    for digits, source in ((plain.train, data.train), (plain.test, data.test)):
        given, batch = (s.fetch(torch.arange(len(source))) for s in (digits, source))
        assert torch.equal(given.inputs, batch.inputs)
        assert batch.private is not None
        assert torch.equal(batch.private.of("high"), (given.labels > 4).long())
        # The label alone says little: three of five odd digits are high, two of five even ones.
        agreement = (batch.labels == batch.private.of("high")).double().mean()
        assert 0.5 < agreement < 0.7


@pytest.mark.parametrize("private", ["parity", "high"])
def test_the_digit_itself_tells_every_attribute(private: str) -> None:
    with pytest.raises(ConfigError, match=f"{private} follows from the task's label on all 1,437"):
        load_digits(Request(private=(private,)))


def test_tasks_and_attributes_that_do_not_exist_are_refused() -> None:
    for wrong in (load_digits, interface):
        with pytest.raises(ConfigError, match=r"unknown task .* 'hihg'; .*: high, parity"):
            wrong(Request(option="hihg"))
    with pytest.raises(ConfigError, match="unknown private attribute 'odd'; choose from: "):
        load_digits(Request(option="parity", private=("odd",)))
    with pytest.raises(ConfigError, match="the private attribute is the task itself: parity"):
        load_digits(Request(option="parity", private=("parity",)))


def test_another_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="8 x 8, got image_size=32"):
        load_digits(Request(image_size=32))


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ConfigError, match=r'pip install "eaves\[lab\]"'):
        load_digits(Request())
