"""Inputs: 8-bit tensors as they are, or each image of a batch as PNG or JPEG.

Dimension key:  B batch   C channels   H, W height and width
"""

import io
from typing import Any, ClassVar, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eaves.codecs.budget import expect_time
from eaves.codecs.contract import (
    Buffer,
    Layout,
    TensorStage,
    expect_bytes,
    integer_option,
    no_option,
)
from eaves.errors import ConfigError, PayloadError

_QUALITY = 90
_MODES = {1: "L", 3: "RGB"}
# Each scan passes over all pixels, and an empty one has few bytes: without a bound, a small file
# can keep a decoder busy for hours. Ours has one; its tables may hold the same two bytes by chance.
_SCAN, _MOST_SCANS = b"\xff\xda", 16
_LARGEST_PIXELS = 1 << 26  # below the size at which Pillow suspects a decompression bomb


@final
class Raw(TensorStage):
    """uint8 as it is, of any shape."""

    dtype: ClassVar[torch.dtype] = torch.uint8

    def __init__(self) -> None:
        self.name = "raw"

    def encode(self, x: Tensor, layout: Layout) -> tuple[bytes, Buffer]:
        """Return the bytes in memory order."""
        return b"", layout.flat(x).numpy().data

    def body_bytes(self, layout: Layout, params: Buffer) -> int:
        """Return one byte for each element; there are no parameters."""
        expect_bytes("parameters", len(params), 0)
        return layout.elements

    def decode(self, layout: Layout, params: Buffer, body: Buffer) -> Tensor:
        """Copy the bytes into a tensor."""
        return layout.restored(torch.from_numpy(np.frombuffer(body, np.uint8).copy()))


@final
class ImageFile(TensorStage):
    """Each image of a batch (B, C, H, W), C 1 (grey) or 3 (RGB), as a file of its own.

    PNG is exact. JPEG is not, and *not guaranteed* is that two versions of the JPEG library decode
    one file to the same bits. Parameters: the size of each file (uint32).
    """

    dtype: ClassVar[torch.dtype] = torch.uint8

    def __init__(self, quality: int | None):
        """Take 1 to 100 for JPEG, None for PNG."""
        lossy = "jpeg" if quality == _QUALITY else f"jpeg:{quality}"
        self.name = "png" if quality is None else lossy
        self._pil = _pillow()
        self._format = "PNG" if quality is None else "JPEG"
        self._options = {} if quality is None else {"quality": quality}

    def encode(self, x: Tensor, layout: Layout) -> tuple[bytes, Buffer]:
        """Write every image to a file in memory."""
        if why := _not_images(layout):
            raise ValueError(f"codec '{self.name}' {why}; use 'raw'")
        images_BHWC = x.detach().cpu().permute(0, 2, 3, 1).contiguous().numpy()
        files = [self._file(image_HWC) for image_HWC in images_BHWC]
        sizes_B = np.array([len(file) for file in files], "<u4")
        return sizes_B.tobytes(), b"".join(files)

    def body_bytes(self, layout: Layout, params: Buffer) -> int:
        """Return the sum of the file sizes."""
        if why := _not_images(layout):
            raise PayloadError(f"codec '{self.name}' {why}")
        expect_bytes("file sizes", len(params), 4 * layout.shape[0])
        return int(np.frombuffer(params, "<u4").sum(dtype=np.uint64))

    def decode(self, layout: Layout, params: Buffer, body: Buffer) -> Tensor:
        """Read every file, each into its place; ``PayloadError`` where one is of another size."""
        batch, channels, height, width = layout.shape
        images_BHWC = np.empty((batch, height, width, channels), np.uint8)
        ends_B = np.frombuffer(params, "<u4").cumsum(dtype=np.int64)
        starts_B = [0, *ends_B[:-1]]
        for image_HWC, start, end in zip(images_BHWC, starts_B, ends_B, strict=True):
            expect_time()
            self._read(bytes(body[start:end]), image_HWC)
        x_BCHW = torch.from_numpy(images_BHWC).permute(0, 3, 1, 2)
        return layout.restored(layout.flat(x_BCHW))

    def _file(self, image_HWC: npt.NDArray[np.uint8]) -> bytes:
        grey = image_HWC.shape[2] == 1
        file = io.BytesIO()
        image = self._pil.fromarray(image_HWC[:, :, 0] if grey else image_HWC)
        image.save(file, self._format, **self._options)
        return file.getvalue()

    def _read(self, file: bytes, into_HWC: npt.NDArray[np.uint8]) -> None:
        """Decode one file into ``into_HWC``, whose shape bounds what is decoded at all."""
        height, width, channels = into_HWC.shape
        if self._format == "JPEG" and file.count(_SCAN) > _MOST_SCANS:
            raise PayloadError(f"expected at most {_MOST_SCANS} scans in a JPEG file, got more")
        try:
            image = self._pil.open(io.BytesIO(file), formats=[self._format])
            if (image.size, image.mode) == ((width, height), _MODES[channels]):
                into_HWC[:] = np.asarray(image).reshape(into_HWC.shape)
                return
        except Exception as error:  # Pillow raises what its plugins happen to meet
            raise PayloadError(f"damaged {self._format} file: {error}; send it again") from error
        raise PayloadError(
            f"expected {width}x{height} {_MODES[channels]} pixels in a {self._format} file, "
            f"got {image.size[0]}x{image.size[1]} {image.mode}"
        )


def _not_images(layout: Layout) -> str:
    """Return what is wrong with a shape for image files; nothing where it is right."""
    shape = layout.shape
    if len(shape) != 4 or shape[1] not in _MODES:
        return f"codes images (B, C, H, W) with C 1 or 3, got shape {shape}"
    if shape[2] * shape[3] > _LARGEST_PIXELS or max(shape[2:]) > 65_500:
        return f"codes at most {_LARGEST_PIXELS} pixels and 65500 to a side, got shape {shape}"
    return ""


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ConfigError(
            "codecs 'png' and 'jpeg' need the package pillow: install eaves[lab], or use 'raw'"
        ) from error
    return Image


def raw(option: str | None) -> Raw:
    """Return the stage ``raw``."""
    no_option("raw", option)
    return Raw()


def png(option: str | None) -> ImageFile:
    """Return the stage ``png``; ``ConfigError`` where pillow is not installed."""
    no_option("png", option)
    return ImageFile(None)


def jpeg(option: str | None) -> ImageFile:
    """Return the stage ``jpeg`` or ``jpeg:N``; ``ConfigError`` where pillow is not installed."""
    return ImageFile(_QUALITY if option is None else integer_option("jpeg", option, (1, 100)))
