"""Images of victims beside what attacks made of them, as a page shows them.

Dimension key:  N images   C channels   H, W height and width
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import groupby
from typing import Any, final

import numpy as np

from eaves.errors import ConfigError
from eaves.report.markup import data_url
from eaves.report.runs import Images, Run
from eaves.report.verdicts import KINDS, Record

_FREE = "CC "  # terms that begin so allow to publish


@final
@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Images below each other: a column for each example, a row for each kind of image."""

    warning: str
    """That the data are restricted; empty where they are not."""
    caption: str
    heads: Sequence[tuple[str, int]] = ()
    """What stands above the columns, and above how many of them."""
    rows: Mapping[str, Sequence[str]]
    """Images as data URLs, by what they are."""


def attribute_gallery(run: Run, attribute: str, found: Record) -> Gallery | None:
    """Return the gallery of one attribute, None without images.

    Columns are grouped by task and private class.

    Raises:
        ConfigError: pillow is not installed.
        KeyError, IndexError, ValueError: the gallery does not fit the audit.
    """
    assert run.audit is not None
    images = _rows(run.gallery, attribute, found)
    if not images:
        return None
    classes = run.audit["subject"]["classes"], found["classes"]
    labels, private = (run.gallery[f"{attribute}/{kind}"] for kind in ("labels", "private"))
    order = sorted(range(len(labels)), key=lambda i: (int(labels[i]), int(private[i]), i))
    named = [f"{classes[0][labels[i]]}; {attribute}: {classes[1][private[i]]}" for i in order]
    return Gallery(
        warning=_warning(run.audit["subject"]),
        caption=(
            "What attacks made of examples, by task and private class. Chosen in turn, not by eye."
        ),
        heads=[(name, len(list(group))) for name, group in groupby(named)],
        rows={name: _urls(images[name][i] for i in order) for name in images},
    )


def mixture_gallery(run: Run) -> Gallery | None:
    """Return the gallery of mixtures: inputs, what was sent for them, what was made of that.

    None without images.

    Raises:
        ConfigError: pillow is not installed.
        ValueError: the gallery holds something else than images.
    """
    assert run.audit is not None
    found = mixture_images(run)
    if not found:
        return None
    return Gallery(
        warning=_warning(run.audit["subject"]),
        caption=(
            "Inputs at random, and what a decoder of unmixed features makes of mixtures as they "
            "are sent, of what the best attack took apart, and of the same features without mixing."
        ),
        rows={name: _urls(images) for name, images in found.items()},
    )


def mixture_images(run: Run) -> dict[str, Images]:
    """Return images (N, C, H, W) by what they are, the inputs first; none without inputs."""
    start = "mixtures/"
    found = {k.removeprefix(start): v for k, v in run.gallery.items() if k.startswith(start)}
    if "input" not in found:
        return {}
    return {"input": found.pop("input"), **dict(sorted(found.items()))}


def _rows(gallery: Mapping[str, Images], attribute: str, found: Record) -> dict[str, Images]:
    """Return the inputs, and of each attack its images before the noise, then with it."""
    if f"{attribute}/input" not in gallery:
        return {}
    rows = {"input": gallery[f"{attribute}/input"]}
    for results in found["reconstructions"]:
        attack = results["sent"]["attack"]
        for kind, of in (("before noise", "before_noise"), ("sent", "sent")):
            key = f"{attribute}/{attack}/{kind}"
            if key in gallery:
                rows[f"{attack}, {KINDS[of]}"] = gallery[key]
    return rows


def _urls(images: Iterable[Images]) -> list[str]:
    return [data_url(png(image), "image/png") for image in images]


def png(image_CHW: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """Return an image of 1 or 3 channels as PNG.

    Raises:
        ConfigError: pillow is not installed.
        ValueError: it is no image.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ConfigError('pictures need pillow: pip install "eaves[lab]"') from error
    if image_CHW.dtype != np.uint8 or image_CHW.ndim != 3 or image_CHW.shape[0] not in (1, 3):
        raise ValueError(f"expected an image, got {image_CHW.dtype} {image_CHW.shape}")
    pixels = image_CHW[0] if len(image_CHW) == 1 else np.moveaxis(image_CHW, 0, 2)
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG")
    return buffer.getvalue()


def _warning(subject: Record) -> str:
    """Return a warning unless the data are known to be free: what is not known may not be."""
    terms = str(subject.get("terms", "not known"))
    if terms.startswith(_FREE):
        return ""
    return (
        f"Do not publish this page or pass it on: it shows examples of {subject['data']}, whose "
        f"terms are: {terms}. With --no-gallery it is made without them."
    )
