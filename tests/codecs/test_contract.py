"""Memory layouts, and reading options."""

import pytest
import torch

from eaves.codecs.contract import Layout, integer_option
from eaves.errors import ConfigError


@pytest.mark.parametrize(
    ("x", "channels_last"),
    [
        (torch.zeros(2, 3, 4, 4), False),
        (torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last), True),
        (torch.zeros(2, 3, 4, 4).permute(1, 0, 2, 3), False),
        (torch.zeros(2, 3, 2, 4, 4).to(memory_format=torch.channels_last_3d), True),
        (torch.zeros(2, 4, 3).mT, False),
        (torch.zeros(2, 3), False),
    ],
)
def test_dense_channels_last_memory_is_seen(x: torch.Tensor, channels_last: bool) -> None:
    assert Layout.of(x) == Layout(tuple(x.shape), channels_last)


@pytest.mark.parametrize("channels_last", [False, True])
def test_flat_and_back_without_a_copy(channels_last: bool) -> None:
    x = torch.arange(120.0).view(2, 3, 4, 5)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    layout = Layout.of(x)
    flat_N = layout.flat(x)
    assert flat_N.data_ptr() == x.data_ptr()
    assert torch.equal(layout.restored(flat_N), x)
    assert layout.restored(flat_N).stride() == x.stride()


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_column_belongs_to_one_channel(channels_last: bool) -> None:
    x = torch.arange(3.0).view(1, 3, 1, 1).repeat(2, 1, 4, 5)
    layout = Layout(tuple(x.shape), channels_last)
    rows_RL = layout.rows(layout.flat(x))
    assert rows_RL.shape == ((40, 3) if channels_last else (2, 60))
    assert torch.equal(rows_RL.amin(0), rows_RL.amax(0))


def test_every_second_column_is_gathered() -> None:
    x = torch.arange(8.0).view(1, 8)[:, 1::2]
    flat_N = Layout.of(x).flat(x)
    assert flat_N.is_contiguous()
    assert flat_N.tolist() == [1, 3, 5, 7]


def test_channels_last_needs_positions() -> None:
    with pytest.raises(ValueError, match=r"expected 4 or 5 dimensions with channels last"):
        Layout((2, 3), True)


@pytest.mark.parametrize("text", ["", "-1", "+5", " 5", "5.0", "1e1", "99999", "٣", "0", "20"])
def test_an_option_is_a_plain_number_within_bounds(text: str) -> None:
    assert integer_option("zstd", "19", (1, 19)) == 19
    with pytest.raises(ConfigError, match="from 1 to 19"):
        integer_option("zstd", text, (1, 19))
