import base64
from collections.abc import Callable, Iterable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eaves.data.load import DATASETS
from eaves.report.gallery import Gallery, attribute_gallery, mixture_gallery, png
from eaves.report.runs import Run, read_runs

Folder = Callable[..., Path]


def gallery(run: Run, terms: str | None = None) -> Gallery:
    assert run.audit is not None
    if terms is not None:
        run.audit["subject"]["terms"] = terms
    found = attribute_gallery(run, "Male", run.audit["attributes"]["Male"])
    assert found is not None
    return found


def images(urls: Iterable[str]) -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    codes = [url.removeprefix("data:image/png;base64,") for url in urls]
    return [np.asarray(Image.open(BytesIO(base64.b64decode(code)))) for code in codes]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_images_of_each_example_are_below_each_other_grouped_by_class(
    run_folder: Folder, channels: int
) -> None:
    (run,) = read_runs([run_folder(channels=channels)])
    found = gallery(run)
    assert found.heads == [
        ("serious; Male: woman", 2),
        ("smiling; Male: woman", 1),
        ("smiling; Male: man", 1),
    ]
    assert list(found.rows) == ["input", "decoder, before the noise", "decoder, from what is sent"]
    shown = images(url for urls in found.rows.values() for url in urls)
    inputs = run.gallery["Male/input"]
    assert len(shown) == 12
    for place, row in enumerate([1, 3, 0, 2]):  # labels 1 0 1 0, private classes 0 0 1 0
        expected = np.moveaxis(inputs[row], 0, 2).squeeze()
        np.testing.assert_array_equal(shown[place], expected)
        np.testing.assert_array_equal(shown[4 + place], 255 - expected)
        np.testing.assert_array_equal(
            shown[8 + place], np.moveaxis(inputs[3 - row], 0, 2).squeeze()
        )


@pytest.mark.parametrize("name", DATASETS)
def test_only_data_that_are_known_to_be_free_have_no_warning(run_folder: Folder, name: str) -> None:
    (run,) = read_runs([run_folder()])
    warning = gallery(run, DATASETS[name].terms).warning
    free = name in ("digits", "spoken-digits", "spoken-words")
    assert ("Do not publish this page or pass it on" in warning) == (not free)
    assert (DATASETS[name].terms in warning) == (not free)


def test_an_attribute_without_images_has_no_gallery(run_folder: Folder) -> None:
    (run,) = read_runs([run_folder()])
    assert run.audit is not None
    assert attribute_gallery(run, "Hat", run.audit["attributes"]["Hat"]) is None


def test_what_is_no_image_is_refused() -> None:
    for wrong in (np.zeros((2, 8, 8), np.uint8), np.zeros((8, 8), np.uint8)):
        with pytest.raises(ValueError, match="expected an image"):
            png(wrong)
    with pytest.raises(ValueError, match="expected an image"):
        png(np.zeros((3, 8, 8), np.float32))


def test_mixtures_are_shown_below_the_inputs_with_a_warning(run_folder: Folder) -> None:
    (run,) = read_runs([run_folder()])
    made = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    kinds = ("input", "without mixing", "mixture", "taken apart by raw")
    mixed = replace(run, gallery={f"mixtures/{kind}": made + i for i, kind in enumerate(kinds)})
    found = mixture_gallery(mixed)
    assert found is not None
    assert list(found.rows) == ["input", *sorted(kinds[1:])]
    shown = images(url for urls in found.rows.values() for url in urls)
    assert len(shown) == 8
    np.testing.assert_array_equal(shown[1], np.moveaxis(made[1], 0, 2))
    np.testing.assert_array_equal(shown[2], np.moveaxis(made[0] + 2, 0, 2))
    assert "Do not publish this page" in found.warning
    assert mixture_gallery(run) is None
