"""What every source promises, the data root, fixed subsets and splits, statistics."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from eaves.core.roles import PrivateLabels
from eaves.data.files import Files, Images
from eaves.data.source import (
    InMemory,
    Request,
    Source,
    channel_stats,
    data_root,
    stratified_split,
    subset,
)
from eaves.errors import ConfigError, DataError

_N, _SIDE = 7, 6


def _pixels() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (_N, 3, _SIDE, _SIDE), dtype=torch.uint8, generator=generator)


def _private() -> PrivateLabels:
    """Two attributes: ten times the index, and a hundred times."""
    return PrivateLabels(torch.arange(_N)[:, None] * torch.tensor([10, 100]), ("ten", "hundred"))


def _on_disk(folder: Path, *, keep: bool) -> Files:
    paths = [folder / f"{i}.png" for i in range(_N)]
    for path, image_CHW in zip(paths, _pixels(), strict=True):
        Image.fromarray(image_CHW.permute(1, 2, 0).numpy()).save(path)
    return Files(paths, torch.arange(_N), _private(), decoder=Images(_SIDE), keep=keep)


SOURCES: dict[str, Callable[[Path], Source]] = {
    "memory": lambda folder: InMemory(_pixels(), torch.arange(_N), _private()),
    "files": lambda folder: _on_disk(folder, keep=False),
    "files, kept": lambda folder: _on_disk(folder, keep=True),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_gives_the_examples_asked_for(kind: str, tmp_path: Path) -> None:
    source = SOURCES[kind](tmp_path)
    assert (len(source), source.input_shape) == (_N, (3, _SIDE, _SIDE))
    for indices in ([4, 0, 4], [2], [6, 5, 4, 3, 2, 1, 0]):
        batch = source.fetch(torch.tensor(indices))
        assert batch.labels.tolist() == indices
        assert batch.inputs.dtype == torch.uint8
        assert torch.equal(batch.inputs, _pixels()[indices])
        assert batch.private is not None
        assert batch.private.names == ("ten", "hundred")
        assert batch.private.of("ten").tolist() == [10 * i for i in indices]
        assert batch.private.of("hundred").tolist() == [100 * i for i in indices]
        # A tensor that is sent or saved takes its whole storage along: no other labels lie there.
        assert batch.labels.untyped_storage().nbytes() == 8 * len(indices)
        batch.inputs.zero_()  # the caller's own: the next round sees it unchanged
        batch.private.labels_BA.zero_()


def test_without_private_labels_a_source_gives_none(tmp_path: Path) -> None:
    in_memory = InMemory(_pixels(), torch.arange(_N))
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    for keep in (True, False):
        on_disk = Files([tmp_path / "a.png"], torch.arange(1), decoder=Images(4), keep=keep)
        assert on_disk.fetch(torch.arange(1)).private is None
    assert in_memory.fetch(torch.arange(2)).private is None


def test_a_source_in_memory_refuses_other_tensors() -> None:
    with pytest.raises(ValueError, match="expected uint8 images"):
        InMemory(torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="N > 0"):
        InMemory(_pixels()[:0], torch.arange(0))
    with pytest.raises(ValueError, match=r"expected int64 labels of shape \(7,\)"):
        InMemory(_pixels(), torch.arange(6))
    with pytest.raises(ValueError, match="expected 6 private labels, got 7"):
        InMemory(_pixels()[:6], torch.arange(6), _private())


def test_the_data_root_is_the_argument_else_the_variable(tmp_path: Path) -> None:
    assert data_root(tmp_path, {"EAVES_DATA": "elsewhere"}) == tmp_path
    assert data_root(None, {"EAVES_DATA": str(tmp_path)}) == tmp_path


def test_without_a_data_root_both_ways_to_give_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--data-root .* EAVES_DATA"):
        data_root(None, {})
    with pytest.raises(DataError, match="nowhere is not a folder that exists"):
        data_root(tmp_path / "nowhere", {})


@settings(deadline=None)  # a busy machine is no failure
@given(n=st.integers(1, 300), share=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_subsets_are_distinct_and_lie_within_one_another(
    n: int, share: tuple[float, float]
) -> None:
    small, large = sorted(max(1, round(s * n)) for s in share)
    chosen = subset(n, large).tolist()
    assert len(set(chosen)) == large
    assert set(chosen) <= set(range(n))
    assert subset(n, small).tolist() == chosen[:small]


def test_a_subset_is_random_and_no_larger_than_the_set() -> None:
    labels = torch.arange(1000) // 100  # sorted by class, as folders are
    assert torch.bincount(labels[subset(1000, 300)], minlength=10).min() >= 15
    assert subset(5, None).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ConfigError, match=r"at most 5 train_samples.* got 6"):
        subset(5, 6)


@settings(deadline=None)  # a busy machine is no failure
@given(labels=st.lists(st.integers(0, 4), min_size=2, max_size=200))
def test_a_split_is_a_partition_with_a_fifth_of_each_class(labels: list[int]) -> None:
    labels_N = torch.tensor(labels)
    train, test = stratified_split(labels_N)
    assert sorted(train.tolist() + test.tolist()) == list(range(len(labels)))
    for label in set(labels):
        held_out = int((labels_N[test] == label).sum())
        assert abs(held_out - labels.count(label) / 5) < 1


def test_statistics_are_those_of_numpy() -> None:
    mean, std = channel_stats(InMemory(_pixels(), torch.arange(_N)))
    pixels = _pixels().numpy()
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(std, pixels.std(axis=(0, 2, 3)))


def test_a_channel_that_never_changes_can_be_divided_by() -> None:
    grey = torch.full((3, 1, 2, 2), 9, dtype=torch.uint8)
    assert channel_stats(InMemory(grey, torch.arange(3))) == ((9.0,), (1.0,))


def test_statistics_take_a_sample_of_a_large_set() -> None:
    class Counting(Source):
        def __init__(self) -> None:
            self.fetched = 0

        def __len__(self) -> int:
            return 5000

        @property
        def input_shape(self) -> tuple[int, int, int]:
            return 1, 1, 1

        def fetch(self, indices: Tensor):  # type: ignore[no-untyped-def]
            self.fetched += len(indices)
            pixels = (indices % 256).to(torch.uint8).view(-1, 1, 1, 1)
            return InMemory(pixels, indices).fetch(torch.arange(len(indices)))

    source = Counting()
    (mean,), _ = channel_stats(source)
    assert source.fetched == 1000
    assert 115 < mean < 140


@pytest.mark.parametrize("size", [0, -3, 1025, 10**9])
def test_an_image_size_out_of_range_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=rf"image_size from 1 to 1024 pixels, got {size}"):
        Request(image_size=size)


def test_a_bare_name_is_no_list_of_names() -> None:
    with pytest.raises(ConfigError, match=r"got 'Male'; write \('Male',\)"):
        Request(private="Male")  # type: ignore[arg-type]


def test_no_training_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected 1 or more train_samples, got 0"):
        Request(train_samples=0)
