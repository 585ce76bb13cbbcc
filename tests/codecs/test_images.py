"""Image files: what a second reader sees in them, and what JPEG costs."""

import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from eaves.codecs.base import parse_codec
from eaves.codecs.payload import Payload


def smooth(channels: int) -> Tensor:
    """Return two images (2, C, 24, 16) that JPEG likes."""
    y, x = torch.meshgrid(torch.arange(24), torch.arange(16), indexing="ij")
    planes = [5 * y + 3 * x + 20 * c for c in range(channels)]
    image = torch.stack(planes).to(torch.uint8)
    return torch.stack([image, 255 - image])


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_is_a_file_that_any_reader_opens(channels: int) -> None:
    x = smooth(channels)
    payload = Payload.from_bytes(parse_codec("png").encode(x))
    first, second = struct.unpack("<2I", payload.params)
    assert first + second == len(payload.body)
    with Image.open(io.BytesIO(payload.body[first:])) as image:
        assert image.format == "PNG"
        seen = np.asarray(image).reshape(24, 16, channels)
    assert np.array_equal(seen, x[1].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_jpeg_is_near_and_its_quality_tells(
    channels: int, memory_format: torch.memory_format
) -> None:
    x = smooth(channels).contiguous(memory_format=memory_format)
    sizes, errors = [], []
    for name in ("jpeg:10", "jpeg:75", "jpeg"):
        data = parse_codec(name).encode(x)
        y = parse_codec(name).decode(data)
        assert y.stride() == x.stride()
        sizes.append(len(data))
        errors.append((y.float() - x.float()).abs().mean().item())
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    assert 0 < errors[-1] < 2
