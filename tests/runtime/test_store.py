"""Dimension key: B batch."""

from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eaves.codecs.base import parse_codec
from eaves.codecs.upload import pack_upload
from eaves.core.roles import Upload
from eaves.errors import PayloadError, StateError, StorageError
from eaves.runtime.store import Store, check_store

FilesEndAt = Callable[[int], AbstractContextManager[None]]
CODEC = parse_codec("fp32")


def payload(i: int, samples: int = 3) -> bytes:
    """Return an upload whose samples are numbered from ``100 * i`` on, as feature and label."""
    labels_B = torch.arange(samples) + 100 * i
    return pack_upload(labels_B.float()[:, None].repeat(1, 2), labels_B, CODEC)


def filled(folder: Path, count: int, samples: int = 3) -> Store:
    store = Store(folder)
    for i in range(count):
        store.append(payload(i, samples))
    return store


def numbers(uploads: list[Upload]) -> list[int]:
    """Return the numbers of all samples, of which feature and label must agree."""
    labels_B = torch.cat([upload.labels for upload in uploads])
    features: Tensor = torch.cat([upload.features for upload in uploads])
    assert torch.equal(features[:, 0].long(), labels_B)
    return labels_B.tolist()


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    with closing(filled(tmp_path, 3)) as store:
        assert len(store) == 3
        assert [numbers([store.read(i)]) for i in (2, 0)] == [[200, 201, 202], [0, 1, 2]]


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_a_store_opened_again_keeps_what_it_is_told_to(tmp_path: Path, keep: int) -> None:
    with closing(filled(tmp_path, 3)) as store:
        store.flush()
    with closing(Store(tmp_path, keep=keep)) as store:
        assert len(store) == keep
        store.append(payload(9))
        assert numbers([store.read(keep)]) == [900, 901, 902]
        assert [numbers([store.read(i)])[0] for i in range(keep)] == [0, 100, 200][:keep]
    assert (tmp_path / "uploads.bin").stat().st_size == sum(
        len(payload(i)) for i in [*range(keep), 9]
    )


@pytest.mark.parametrize("file", ["uploads.bin", "uploads.idx"])
def test_a_store_cut_short_is_refused(tmp_path: Path, file: str) -> None:
    filled(tmp_path, 3).close()
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StateError, match="expected 3: it is damaged or belongs to another run"):
        Store(tmp_path, keep=3)
    with closing(Store(tmp_path, keep=2)) as store:  # what is whole is still there
        assert numbers([store.read(1)]) == [100, 101, 102]


def test_a_damaged_upload_is_refused_when_it_is_read(tmp_path: Path) -> None:
    filled(tmp_path, 2).close()
    content = bytearray((tmp_path / "uploads.bin").read_bytes())
    content[-1] ^= 1
    (tmp_path / "uploads.bin").write_bytes(content)
    with closing(Store(tmp_path, keep=2)) as store:
        assert numbers([store.read(0)]) == [0, 1, 2]
        with pytest.raises(StateError, match=r"upload 2 of the 2 in .* is damaged"):
            store.read(1)


def test_every_flipped_bit_of_an_upload_is_found(tmp_path: Path) -> None:
    filled(tmp_path, 1).close()
    content = (tmp_path / "uploads.bin").read_bytes()
    with closing(Store(tmp_path, keep=1)) as store:
        for bit in range(8 * len(content)):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            (tmp_path / "uploads.bin").write_bytes(damaged)
            with pytest.raises(StateError, match="damaged"):
                store.read(0)
            with pytest.raises(StateError, match="damaged"):
                store.payload(0)
            with pytest.raises(StateError, match="damaged"):
                check_store(tmp_path, keep=1)


def test_what_is_no_upload_is_not_stored(tmp_path: Path) -> None:
    with closing(filled(tmp_path, 1)) as store:
        with pytest.raises(PayloadError, match="expected an upload"):
            store.append(b"nothing")
        assert len(store) == 1
        assert store.size_bytes == len(payload(0))


def test_two_uploads_of_one_length_that_changed_places_are_refused(tmp_path: Path) -> None:
    filled(tmp_path, 2).close()
    content = (tmp_path / "uploads.bin").read_bytes()
    half = len(content) // 2
    (tmp_path / "uploads.bin").write_bytes(content[half:] + content[:half])
    index = (tmp_path / "uploads.idx").read_bytes()
    with closing(Store(tmp_path, keep=2)) as store, pytest.raises(StateError, match="damaged"):
        store.read(0)
    (tmp_path / "uploads.idx").write_bytes(index[:8] + index[24:] + index[8:24])
    with pytest.raises(StateError, match="holds 0 whole uploads, expected 2"):
        Store(tmp_path, keep=2)


def test_every_flipped_bit_of_an_index_is_found_and_never_loses_an_upload_silently(
    tmp_path: Path,
) -> None:
    filled(tmp_path, 2).close()
    index = (tmp_path / "uploads.idx").read_bytes()
    for bit in range(8 * len(index)):
        damaged = bytearray(index)
        damaged[bit // 8] ^= 1 << bit % 8
        (tmp_path / "uploads.idx").write_bytes(damaged)
        with pytest.raises(StateError, match="whole uploads, expected 2"):
            Store(tmp_path, keep=2)


def test_a_store_of_lengths_alone_is_brought_up_to_date(tmp_path: Path) -> None:
    payloads = [payload(i) for i in range(3)]
    (tmp_path / "uploads.bin").write_bytes(b"".join(payloads))
    lengths = b"".join(len(content).to_bytes(8, "little") for content in payloads)
    (tmp_path / "uploads.idx").write_bytes(lengths)
    for keep in (3, 2):
        with closing(Store(tmp_path, keep=keep)) as store:
            assert numbers([store.read(keep - 1)])[0] == 100 * (keep - 1)


def test_nobody_else_can_read_a_store_also_where_they_could(tmp_path: Path) -> None:
    filled(tmp_path, 1).close()
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o644)
    Store(tmp_path, keep=1).close()
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


@settings(deadline=None, max_examples=20)
@given(
    count=st.integers(1, 40),
    samples=st.integers(1, 5),
    seed=st.integers(0, 2**31 - 1),
    epoch=st.integers(0, 1000),
)
def test_an_epoch_takes_every_sample_once(
    tmp_path_factory: pytest.TempPathFactory, count: int, samples: int, seed: int, epoch: int
) -> None:
    with closing(filled(tmp_path_factory.mktemp("store"), count, samples)) as store:
        uploads = list(store.epoch(seed=seed, epoch=epoch, steps=count))
        assert [len(upload.labels) for upload in uploads] == [samples] * count
        everything = [100 * i + k for i in range(count) for k in range(samples)]
        assert sorted(numbers(uploads)) == everything
        again = list(store.epoch(seed=seed, epoch=epoch, steps=count))
        assert numbers(again) == numbers(uploads)


@settings(deadline=None, max_examples=20)
@given(steps=st.integers(0, 40), start=st.integers(0, 40))
def test_a_shorter_epoch_and_the_rest_of_one(
    tmp_path_factory: pytest.TempPathFactory, steps: int, start: int
) -> None:
    with closing(filled(tmp_path_factory.mktemp("store"), 35)) as store:
        whole = [numbers([u]) for u in store.epoch(seed=1, epoch=2, steps=steps)]
        rest = [numbers([u]) for u in store.epoch(seed=1, epoch=2, steps=steps, start=start)]
    taken = [number for batch in whole for number in batch]
    assert len(whole) == min(steps, 35)
    assert len(set(taken)) == len(taken)
    assert rest == whole[start:]


def test_epochs_and_seeds_mix_differently(tmp_path: Path) -> None:
    with closing(filled(tmp_path, 20)) as store:
        orders = [
            tuple(numbers(list(store.epoch(seed=seed, epoch=epoch, steps=20))))
            for seed, epoch in [(0, 0), (0, 1), (1, 0)]
        ]
        batch = next(store.epoch(seed=0, epoch=0, steps=20))
    assert len(set(orders)) == 3
    assert len({number // 100 for number in numbers([batch])}) > 1  # of several uploads


def test_an_epoch_holds_one_window_in_memory(tmp_path: Path) -> None:
    opened: list[int] = []
    with closing(filled(tmp_path, 200)) as store:
        epoch = store.epoch(seed=0, epoch=0, steps=200)
        for _ in range(16):
            opened += numbers([next(epoch)])
    assert len({number // 100 for number in opened}) == 16  # nothing beyond the first window


@pytest.mark.parametrize("when", ["append", "flush"])
def test_a_full_disk_keeps_what_was_flushed(
    tmp_path: Path, files_end_at: FilesEndAt, when: str
) -> None:
    store = filled(tmp_path, 2, samples=100)
    store.flush()
    size = (tmp_path / "uploads.bin").stat().st_size

    def overfill() -> None:
        for i in range(1 if when == "flush" else 1000):
            store.append(payload(i, samples=100))
        store.flush()

    with files_end_at(size + 100), pytest.raises(StorageError, match="cannot store"):
        overfill()
    with files_end_at(size + 100):
        store.close()  # what could not be written then cannot be now: no second error
    with closing(Store(tmp_path, keep=2)) as again:
        assert numbers([again.read(1)]) == list(range(100, 200))
        again.append(payload(5))
        assert numbers([again.read(2)]) == [500, 501, 502]


def test_a_store_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"a file")
    with pytest.raises(StorageError, match=r"cannot open the store in .*taken"):
        Store(tmp_path / "taken")


def test_a_refused_store_leaves_no_file_open(tmp_path: Path) -> None:
    filled(tmp_path, 1).close()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(StateError):
            Store(tmp_path, keep=2)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1
