"""Examples that lie on disk one by one, decoded when they are asked for.

Dimension key:  B batch   N examples   C channels   H, W height and width
"""

import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eaves.core.roles import Batch, PrivateLabels
from eaves.data.private import refuse_known, take
from eaves.data.source import Contents, Dataset, Request, Source, channel_stats, lacking, subset
from eaves.errors import ConfigError, DataError

MEMORY_LIMIT_BYTES = 2 << 30
"""Decoded files beyond this stay on disk."""

DEFAULT_SIZE = 64

# What Pillow's decoders and its EXIF reader raise on damaged bytes, found by altering files.
_BROKEN = (OSError, SyntaxError, ValueError, struct.error)
_THREADS = min(8, os.cpu_count() or 1)
_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_BACKGROUND = (255, 255, 255, 255)
_OF_ONE_PICTURE = ("MPO",)  # a photograph whose further frames are previews or another view of it


@final
class Listing(NamedTuple):
    """Files and what is known about each."""

    paths: list[Path]
    labels: Tensor
    """Their classes as int64 (N,)."""
    private: PrivateLabels | None = None

    def take(self, indices_B: Tensor) -> "Listing":
        """Return the files at ``indices_B``, in that order."""
        paths = [self.paths[i] for i in indices_B.tolist()]
        return Listing(paths, self.labels[indices_B], take(self.private, indices_B))


class Decoder(ABC):
    """How a file becomes an input."""

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, int, int]:
        """The shape of one input: (C, H, W)."""

    @abstractmethod
    def decode(self, paths: Sequence[Path]) -> Tensor:
        """Return the inputs of one or more files, uint8 (B, C, H, W), in their order.

        Raises:
            DataError: a file that is missing, damaged or of another kind; it is named.
        """

    def notices(self) -> tuple[str, ...]:
        """Return sentences about what was left out of the files decoded so far; none by default."""
        return ()


@final
class Images(Decoder):
    """Image files as RGB of ``size`` x ``size``.

    Of each image the largest centred square is taken and resized; a grey one becomes RGB with three
    equal channels, and a photograph is turned upright as its EXIF data says. What is transparent is
    laid on white. A pool of threads decodes a batch.

    Raises:
        ConfigError: Pillow is not installed.
    """

    def __init__(self, size: int):
        _require_pillow()
        self._size = size

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The shape of one input: (3, size, size)."""
        return 3, self._size, self._size

    def decode(self, paths: Sequence[Path]) -> Tensor:
        """Return the images; see :meth:`Decoder.decode`."""
        inputs_BCHW = torch.empty(len(paths), *self.input_shape, dtype=torch.uint8)
        rows_BHWC = inputs_BCHW.numpy().transpose(0, 2, 3, 1)

        def decode_into(i: int, path: Path) -> None:
            rows_BHWC[i] = read_image(path, self._size)

        with ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(decode_into, range(len(paths)), paths):
                pass  # a failure is raised here, and cancels what has not begun
        return inputs_BCHW


@final
class Files(Source):
    """Files that ``decoder`` reads, and their labels, the private ones too.

    With ``keep`` a decoded input stays in memory, so that each file is decoded once.

    Raises:
        DataError: (by ``fetch``) a file that the decoder cannot read.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels_N: Tensor,
        private: PrivateLabels | None = None,
        *,
        decoder: Decoder,
        keep: bool,
    ):
        if not paths or labels_N.dtype != torch.int64 or labels_N.shape != (len(paths),):
            raise ValueError(
                f"expected one or more paths and as many int64 labels, got {len(paths)} paths, "
                f"{labels_N.dtype} {tuple(labels_N.shape)}"
            )
        if private is not None and len(private) != len(paths):
            raise ValueError(f"expected {len(paths)} private labels, got {len(private)}")
        self._paths = paths
        self._labels_N = labels_N
        self._private = private
        self._decoder = decoder
        # Not written yet, so the system hands out its pages only as inputs come in.
        kept_shape = (len(paths), *self.input_shape)
        self._kept_NCHW = torch.empty(kept_shape, dtype=torch.uint8) if keep else None
        self._is_kept_N = torch.zeros(len(paths), dtype=torch.bool)

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The shape of one input: (C, H, W)."""
        return self._decoder.input_shape

    def fetch(self, indices: Tensor) -> Batch:
        """Return the examples at ``indices``; see :meth:`Source.fetch`."""
        labels_B, private = self._labels_N[indices], take(self._private, indices)
        if self._kept_NCHW is None:
            return Batch(self._decode(indices), labels_B, private)
        lacking = indices[~self._is_kept_N[indices]]
        if len(lacking):
            self._kept_NCHW[lacking] = self._decode(lacking)
            self._is_kept_N[lacking] = True
        return Batch(self._kept_NCHW[indices], labels_B, private)

    def contents(self) -> Contents:
        """Return the files and what is known about each."""
        return Contents(labels=self._labels_N, private=self._private, paths=self._paths)

    def _decode(self, indices_B: Tensor) -> Tensor:
        return self._decoder.decode([self._paths[index] for index in indices_B.tolist()])


def read_image(path: Path, size: int) -> npt.NDArray[np.uint8]:
    """Return the centred square of one image as RGB bytes (size, size, 3).

    See :class:`Images`. Colours are taken as they are: a colour profile is not applied.

    Raises:
        DataError: the file is missing, damaged, too large for Pillow, has several frames or other
            than 8 bits.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(
                    f"{path}: expected 8 bits per channel, found Pillow's mode {image.mode!r}; "
                    "convert it"
                )
            if getattr(image, "n_frames", 1) > 1 and image.format not in _OF_ONE_PICTURE:
                raise DataError(
                    f"{path}: expected one picture, found {getattr(image, 'n_frames', 0)} frames "
                    "or pages; save those that you want as files of their own"
                )
            image.draft("RGB", (size, size))  # JPEG: skip the detail that resizing would discard
            upright = ImageOps.exif_transpose(image)
            if image.mode in _ALPHA or "transparency" in image.info:
                # Before resizing, so that colours under transparent pixels get in nowhere.
                upright = upright.convert("RGBA")
                page = Image.new("RGBA", upright.size, _BACKGROUND)
                upright = Image.alpha_composite(page, upright)
            rgb = upright.convert("RGB")
            return np.asarray(ImageOps.fit(rgb, (size, size), Image.Resampling.BILINEAR))
    except (*_BROKEN, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read the image {path}: {error}; replace or remove it") from error


def dataset_of_files(
    name: str,
    classes: tuple[str, ...],
    listings: Mapping[str, Listing],
    request: Request,
    *,
    private_classes: Mapping[str, tuple[str, ...]],
    decoder: Decoder | None = None,
    notices: tuple[str, ...] = (),
) -> Dataset:
    """Return the data set of the parts ``train``, ``test`` and perhaps ``valid``.

    ``private_classes`` are those of the private labels in the listings; empty where none has any.
    Without a ``decoder`` the files are :class:`Images` of the size that is asked for. ``notices``
    are put before those about classes that lack examples.

    Decoded inputs are kept in memory where all parts together stay within
    :data:`MEMORY_LIMIT_BYTES`, else they are decoded again for each batch.

    Raises:
        ConfigError: more ``train_samples`` than there are, a private attribute that is known from
            the task's labels, or Pillow is not installed.
        DataError: a file cannot be read.
    """
    decoder = decoder or Images(request.image_size or DEFAULT_SIZE)
    train = listings["train"].take(subset(len(listings["train"].paths), request.train_samples))
    refuse_known(train.private, train.labels)
    used = {**listings, "train": train}
    keep = fits_in_memory(sum(len(listing.paths) for listing in used.values()), decoder.input_shape)
    sources = {part: Files(*used[part], decoder=decoder, keep=keep) for part in used}
    mean, std = channel_stats(sources["train"])
    return Dataset(
        name=name,
        train=sources["train"],
        test=sources["test"],
        valid=sources.get("valid"),
        classes=classes,
        mean=mean,
        std=std,
        augment="crop-flip",
        private_classes=private_classes,
        notices=(
            *notices,
            *_uncovered(classes, used, private_classes, subset=request.train_samples is not None),
            *decoder.notices(),
        ),
    )


def _uncovered(
    classes: Sequence[str],
    listings: Mapping[str, Listing],
    private_classes: Mapping[str, tuple[str, ...]],
    *,
    subset: bool,
) -> tuple[str, ...]:
    """Return sentences about classes, private ones too, that a part has no example of."""
    labels = {part: listing.labels for part, listing in listings.items()}
    found = lacking("class", classes, labels, subset=subset)
    for name, values in private_classes.items():
        of_part = {p: x.private.of(name) for p, x in listings.items() if x.private is not None}
        found += lacking(name, values, of_part, subset=subset)
    return found


def fits_in_memory(files: int, input_shape: tuple[int, int, int]) -> bool:
    """Return whether so many decoded files stay within :data:`MEMORY_LIMIT_BYTES`.

    >>> fits_in_memory(30_000, (3, 64, 64)), fits_in_memory(30_000, (3, 224, 224))
    (True, False)
    """
    return files * prod(input_shape) <= MEMORY_LIMIT_BYTES


def _require_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise ConfigError('reading image files needs Pillow: pip install "eaves[lab]"') from error
