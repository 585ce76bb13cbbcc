"""Images of victims beside what attacks made of them, as part of a page.

Dimension key:  N images   C channels   H, W height and width
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import groupby
from typing import Any

import numpy as np

from eaves.errors import ConfigError
from eaves.report.markup import Html, element, picture, text, words
from eaves.report.runs import Images, Run
from eaves.report.verdicts import KINDS, Record

_FREE = "CC "  # terms that begin so allow to publish


def gallery_parts(run: Run, attribute: str, found: Record) -> list[Html]:
    """Return the gallery of one attribute: a warning where data are restricted, then the images.

    Columns are grouped by task and private class. Without images there is nothing to return.

    Raises:
        ConfigError: pillow is not installed.
        KeyError, IndexError, ValueError: the gallery does not fit the audit.
    """
    assert run.audit is not None
    images = _rows(run.gallery, attribute, found)
    if not images:
        return []
    classes = run.audit["subject"]["classes"], found["classes"]
    labels, private = (run.gallery[f"{attribute}/{kind}"] for kind in ("labels", "private"))
    order = sorted(range(len(labels)), key=lambda i: (int(labels[i]), int(private[i]), i))
    named = [f"{classes[0][labels[i]]}; {attribute}: {classes[1][private[i]]}" for i in order]
    heads = [words("th", "")]
    for name, group in groupby(named):
        count = len(list(group))
        heads.append(element("th", text(name), {"colspan": str(count)}))
    rows = [element("tr", heads)]
    rows += [_row(name, [images[name][i] for i in order]) for name in images]
    caption = (
        "What attacks made of examples, by task and private class. Chosen in turn, not by eye."
    )
    return _framed(run.audit["subject"], caption, rows)


def mixture_parts(run: Run) -> list[Html]:
    """Return the gallery of mixtures: inputs, what was sent for them, what was made of that.

    Without images there is nothing to return.

    Raises:
        ConfigError: pillow is not installed.
        ValueError: the gallery holds something else than images.
    """
    assert run.audit is not None
    found = mixture_images(run)
    if not found:
        return []
    caption = (
        "Inputs at random, and what a decoder of unmixed features makes of mixtures as they are "
        "sent, of what the best attack took apart, and of the same features without mixing."
    )
    rows = [_row(name, list(images)) for name, images in found.items()]
    return _framed(run.audit["subject"], caption, rows)


def mixture_images(run: Run) -> dict[str, Images]:
    """Return images (N, C, H, W) by what they are, the inputs first; none without inputs."""
    start = "mixtures/"
    found = {k.removeprefix(start): v for k, v in run.gallery.items() if k.startswith(start)}
    if "input" not in found:
        return {}
    return {"input": found.pop("input"), **dict(sorted(found.items()))}


def _framed(subject: Record, caption: str, rows: Sequence[Html]) -> list[Html]:
    return [
        *_warning(subject),
        words("p", caption),
        element("div", element("table", rows, {"class": "gallery"}), {"class": "scroll"}),
    ]


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


def _row(name: str, images: Sequence[Images]) -> Html:
    cells = [element("td", picture(png(image), "image/png", name)) for image in images]
    return element("tr", [words("th", name), *cells])


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


def _warning(subject: Record) -> list[Html]:
    """Return a warning unless the data are known to be free: what is not known may not be."""
    terms = str(subject.get("terms", "not known"))
    if terms.startswith(_FREE):
        return []
    warning = (
        f"Do not publish this page or pass it on: it shows examples of {subject['data']}, whose "
        f"terms are: {terms}. With --no-gallery it is made without them."
    )
    return [words("p", warning, "warning")]
