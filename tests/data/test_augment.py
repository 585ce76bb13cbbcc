"""Random crops, shifts, mirror images: against every possible window, by brute force."""

import pytest
import torch
from torch import Tensor

from eaves.data.augment import AUGMENTS, Augment, augment_named, crop_flip
from eaves.errors import ConfigError


def _images(n: int, *, channels: int = 3, height: int = 8, width: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    shape = (n, channels, height, width)
    return torch.randint(1, 256, shape, dtype=torch.uint8, generator=generator)


def _windows(image_CHW: Tensor, augment: Augment) -> dict[tuple[int, int, bool], Tensor]:
    """Every crop of the padded image, by (top, left, mirrored)."""
    channels, height, width = image_CHW.shape
    pad_y, pad_x = max(1, height // 8), max(1, width // 8)
    if augment.shift:
        pad_y, pad_x = 0, max(1, width // 10)
    padded = torch.zeros(channels, height + 2 * pad_y, width + 2 * pad_x, dtype=torch.uint8)
    padded[:, pad_y : pad_y + height, pad_x : pad_x + width] = image_CHW
    return {
        (top, left, mirrored): crop.flip(2) if mirrored else crop
        for top in range(2 * pad_y + 1)
        for left in range(2 * pad_x + 1)
        for mirrored in ((False, True) if augment.flip else (False,))
        for crop in [padded[:, top : top + height, left : left + width]]
    }


def _drawn(inputs_BCHW: Tensor, name: str, seed: int) -> list[tuple[int, int, bool]]:
    """Which window each image became; fails where it is none of them, or not a single one."""
    generator = torch.Generator().manual_seed(seed)
    out = crop_flip(inputs_BCHW, AUGMENTS[name], generator=generator)
    assert out.dtype == torch.uint8
    found = []
    for image, result in zip(inputs_BCHW, out, strict=True):
        windows = _windows(image, AUGMENTS[name])
        (place,) = [key for key, window in windows.items() if torch.equal(window, result)]
        found.append(place)
    return found


@pytest.mark.parametrize("name", ["crop", "crop-flip", "shift"])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (32, 32), (24, 16), (5, 9)])
def test_every_image_becomes_one_window_of_its_padded_self(
    name: str, height: int, width: int
) -> None:
    places = _drawn(_images(12, height=height, width=width), name, seed=1)
    assert len(set(places)) >= (3 if name == "shift" else 4)


def test_the_windows_are_drawn_evenly_and_half_are_mirrored() -> None:
    n = 1800  # 18 windows: 100 of each are expected, and chi-squared with 17 degrees of freedom
    places = _drawn(_images(n), "crop-flip", seed=2)
    counts = torch.tensor([places.count(place) for place in sorted(set(places))]).double()
    assert len(counts) == 18
    assert float(((counts - n / 18) ** 2 / (n / 18)).sum()) < 45  # exceeded once in 4,000 seeds


def test_digits_are_never_mirrored() -> None:
    assert not any(mirrored for _, _, mirrored in _drawn(_images(200), "crop", seed=3))


def test_none_changes_nothing() -> None:
    inputs = _images(6)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(crop_flip(inputs, AUGMENTS["none"], generator=generator), inputs)


def test_the_padding_of_32_pixels_is_4() -> None:
    places = _drawn(_images(300, channels=1, height=32, width=32), "crop", seed=4)
    assert {top for top, _, _ in places} == set(range(9))
    assert {left for _, left, _ in places} == set(range(9))


def test_a_second_of_speech_moves_by_up_to_10_of_its_100_frames_and_never_up_or_down() -> None:
    n = 2100  # 21 places: 100 of each are expected, and chi-squared with 20 degrees of freedom
    places = _drawn(_images(n, channels=1, height=3, width=100), "shift", seed=6)
    assert {(top, mirrored) for top, _, mirrored in places} == {(0, False)}
    counts = torch.bincount(torch.tensor([left for _, left, _ in places])).double()
    assert len(counts) == 21
    assert float(((counts - n / 21) ** 2 / (n / 21)).sum()) < 50  # exceeded once in 4,000 seeds


def test_what_a_shift_uncovers_is_silence() -> None:
    images = torch.full((300, 1, 4, 100), 9, dtype=torch.uint8)
    out = crop_flip(images, AUGMENTS["shift"], generator=torch.Generator().manual_seed(0))
    uncovered = set((out == 0).sum(dim=3).flatten().tolist())
    assert uncovered == set(range(11))


def test_a_crop_shifts_already() -> None:
    with pytest.raises(ValueError, match="expected a crop or a shift, got both"):
        Augment(crop=True, flip=False, shift=True)


def test_the_input_stays_as_it_was() -> None:
    inputs = _images(6)
    before = inputs.clone()
    out = crop_flip(inputs, AUGMENTS["crop-flip"], generator=torch.Generator().manual_seed(0))
    out.zero_()
    assert torch.equal(inputs, before)


def test_an_unknown_augmentation_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown augmentation 'flip-crop'; choose from: .*crop"):
        augment_named("flip-crop")
