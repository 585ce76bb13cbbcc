"""A bound on the time of decoding: stages that can take long keep to it."""

import threading
from time import monotonic

import pytest
import torch

from eaves.codecs.base import decode, parse_codec
from eaves.codecs.budget import expect_time, time_limit
from eaves.errors import PayloadError


@pytest.mark.parametrize("codec", ["raw+range", "png", "jpeg"])
def test_decoding_that_takes_too_long_ends_with_words(codec: str) -> None:
    x_BCHW = torch.randint(0, 256, (400, 1, 64, 64), dtype=torch.uint8)
    payload = parse_codec(codec).encode(x_BCHW)
    started = monotonic()
    decode(payload)
    whole_s = monotonic() - started
    started = monotonic()
    with pytest.raises(PayloadError, match="decoding takes too long"), time_limit(whole_s / 10):
        decode(payload)
    assert monotonic() - started < 0.8 * whole_s
    assert decode(payload).shape == x_BCHW.shape  # the limit is gone


def test_the_shorter_of_two_limits_holds_in_its_thread_alone() -> None:
    with time_limit(-1), time_limit(60):
        with pytest.raises(PayloadError):
            expect_time()
        other = threading.Thread(target=expect_time)  # would print, and fail the test
        other.start()
        other.join()
    expect_time()
