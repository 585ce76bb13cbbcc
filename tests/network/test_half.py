"""What a cloud half takes from strangers, and what it does not.

Dimension key:  B batch
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from eaves.codecs.base import LIMIT_BYTES, parse_codec
from eaves.codecs.upload import pack_upload, unpack_upload
from eaves.errors import PayloadError
from eaves.network.half import Accepts

FLOATS = Accepts(feature_shape=(2, 3), dtype=torch.float32, classes=4)
IMAGES = Accepts(feature_shape=(3, 2, 2), dtype=torch.uint8, classes=4)


@given(st.integers(1, 5), st.lists(st.integers(0, 3), min_size=1, max_size=5))
def test_what_fits_is_taken(batch: int, labels: list[int]) -> None:
    FLOATS.check(torch.randn(batch, 2, 3), torch.tensor(labels))
    FLOATS.check(torch.randn(batch, 2, 3))
    IMAGES.check(torch.zeros(batch, 3, 2, 2, dtype=torch.uint8), torch.tensor(labels))


@pytest.mark.parametrize(
    "features",
    [
        torch.zeros(5, 3, 2),
        torch.zeros(5, 6),
        torch.zeros(5, 2, 3, 1),
        torch.zeros(2, 3),
        torch.zeros(5),
        torch.zeros(5, 2, 3, dtype=torch.uint8),
        torch.zeros(5, 2, 3, dtype=torch.float16),
    ],
)
def test_another_shape_or_dtype_is_refused_with_both_in_words(features: Tensor) -> None:
    with pytest.raises(PayloadError) as found:
        FLOATS.check(features)
    words = str(found.value)
    assert "expected torch.float32 features of shape (B, 2, 3)" in words
    assert f"got {features.dtype} of shape ({', '.join(map(str, features.shape))})" in words


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 7, 29])
def test_one_value_that_is_not_finite_is_enough(value: float, place: int) -> None:
    features = torch.randn(5, 2, 3)
    features.view(-1)[place] = value
    with pytest.raises(PayloadError, match="not finite"):
        FLOATS.check(features)


def test_infinities_of_both_signs_do_not_make_each_other_finite() -> None:
    features = torch.zeros(2, 2, 3)
    features[0, 0, 0], features[1, 0, 0] = float("inf"), float("-inf")
    with pytest.raises(PayloadError, match="not finite"):
        FLOATS.check(features)


@pytest.mark.parametrize("sign", [1, -1])
def test_values_whose_squares_would_ruin_statistics_are_refused(sign: int) -> None:
    features = torch.zeros(2, 2, 3)
    features[1, 1, 1] = sign * 1e9
    FLOATS.check(features)
    features[1, 1, 1] = sign * 1.001e9
    with pytest.raises(PayloadError, match="beyond"):
        FLOATS.check(features)
    IMAGES.check(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8))


def test_a_label_of_no_class_is_refused() -> None:
    features = torch.zeros(3, 2, 3)
    FLOATS.check(features, torch.tensor([0, 3, 2]))
    for label in (4, 2**62):
        with pytest.raises(PayloadError, match=f"expected labels below 4, got {label}"):
            FLOATS.check(features, torch.tensor([0, label, 2]))


def test_the_limit_is_that_of_the_largest_batch_and_of_all_codecs() -> None:
    small = Accepts(feature_shape=(2, 3), dtype=torch.float32, classes=4, max_batch=10)
    assert small.limit_bytes == 10 * 6 * 4
    assert Accepts(feature_shape=(2, 3), dtype=torch.uint8, classes=4, max_batch=10) != small
    large = Accepts(feature_shape=(512, 64, 64), dtype=torch.float32, classes=4)
    assert large.limit_bytes == LIMIT_BYTES
    ten, eleven = (
        pack_upload(torch.zeros(n, 2, 3), torch.zeros(n, dtype=torch.int64), parse_codec("int1"))
        for n in (10, 11)
    )
    assert len(unpack_upload(ten, limit_bytes=small.limit_bytes)[0]) == 10
    with pytest.raises(PayloadError, match="above the limit of 240"):
        unpack_upload(eleven, limit_bytes=small.limit_bytes)
