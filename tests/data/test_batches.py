"""The order of an epoch: seeded, complete, and the same from its middle on."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eaves.core.roles import Batch, PrivateLabels
from eaves.data.batches import batches, steps_per_epoch
from eaves.data.source import InMemory
from eaves.errors import ConfigError


def _source(n: int) -> InMemory:
    """Images that differ, labelled with their own index."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return InMemory(inputs, torch.arange(n))


def _same(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a.inputs, b.inputs) and torch.equal(a.labels, b.labels)
        for a, b in zip(left, right, strict=True)
    )


@settings(deadline=None)  # a busy machine is no failure
@given(
    n=st.integers(1, 60),
    batch_size=st.integers(1, 70),
    seed=st.integers(-(2**70), 2**70),
    epoch=st.integers(0, 1000),
    where=st.floats(0, 1),
    shuffle=st.booleans(),
)
def test_a_resumed_epoch_is_the_rest_of_the_whole_one(
    n: int, batch_size: int, seed: int, epoch: int, where: float, shuffle: bool
) -> None:
    source = _source(n)

    def run(start: int) -> list[Batch]:
        return list(
            batches(
                source,
                batch_size=batch_size,
                seed=seed,
                epoch=epoch,
                augment="crop-flip",
                start=start,
                shuffle=shuffle,
            )
        )

    whole = run(0)
    start = round(where * len(whole))
    assert _same(run(start), whole[start:])


@settings(deadline=None)  # a busy machine is no failure
@given(n=st.integers(1, 60), batch_size=st.integers(1, 70))
def test_training_sees_no_example_twice_and_drops_only_a_short_last_batch(
    n: int, batch_size: int
) -> None:
    taken = list(batches(_source(n), batch_size=batch_size, seed=0, epoch=0))
    assert len(taken) == steps_per_epoch(n, batch_size)
    labels = torch.cat([batch.labels for batch in taken]).tolist()
    assert len(set(labels)) == len(labels) == (n // batch_size * batch_size or n)


@settings(deadline=None)  # a busy machine is no failure
@given(n=st.integers(1, 60), batch_size=st.integers(1, 70))
def test_evaluation_sees_every_example_in_order(n: int, batch_size: int) -> None:
    taken = batches(_source(n), batch_size=batch_size, seed=0, epoch=0, shuffle=False)
    assert torch.cat([batch.labels for batch in taken]).tolist() == list(range(n))


def test_the_order_is_that_of_the_first_release() -> None:
    # Golden values of ours: another order here means that old runs cannot be repeated.
    taken = next(batches(_source(100), batch_size=10, seed=7, epoch=3))
    assert taken.labels.tolist() == [18, 37, 73, 92, 0, 17, 7, 46, 93, 71]


def test_seed_and_epoch_each_change_the_order_and_the_augmentation_follows() -> None:
    def run(seed: int, epoch: int) -> list[Batch]:
        taken = batches(_source(40), batch_size=8, seed=seed, epoch=epoch, augment="crop-flip")
        return list(taken)

    assert _same(run(1, 2), run(1, 2))
    orders = {tuple(torch.cat([b.labels for b in run(s, e)]).tolist()) for s, e in PAIRS}
    assert len(orders) == len(PAIRS)


PAIRS = [(0, 0), (0, 1), (1, 0), (1, 1), (-1, 0), (10, 1), (1, 10), (2**32, 0), (0, 2**32)]


def test_batches_of_an_epoch_are_augmented_differently() -> None:
    same = InMemory(_source(1).fetch(torch.zeros(64, dtype=torch.int64)).inputs, torch.arange(64))
    first, second = batches(same, batch_size=32, seed=0, epoch=0, augment="crop-flip")
    assert not torch.equal(first.inputs, second.inputs)


@pytest.mark.parametrize("augment", ["none", "crop", "crop-flip", "shift"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_private_labels_come_along_and_change_nothing_else(augment: str, shuffle: bool) -> None:
    images = _source(40).fetch(torch.arange(40)).inputs
    private = PrivateLabels(1000 + torch.arange(40)[:, None], ("number",))

    def run(source: InMemory) -> list[Batch]:
        return list(
            batches(source, batch_size=16, seed=3, epoch=1, augment=augment, shuffle=shuffle)
        )

    without, with_them = run(_source(40)), run(InMemory(images, torch.arange(40), private))
    assert _same(without, with_them)
    assert all(batch.private is None for batch in without)
    for batch in with_them:
        assert batch.private is not None
        assert torch.equal(batch.private.of("number"), 1000 + batch.labels)


def test_a_batch_is_the_callers_own() -> None:
    source = _source(8)
    for batch in batches(source, batch_size=4, seed=0, epoch=0):
        batch.inputs.zero_()
        batch.labels.zero_()
    assert _same([source.fetch(torch.arange(8))], [_source(8).fetch(torch.arange(8))])


def test_nonsense_is_refused_before_the_first_batch() -> None:
    with pytest.raises(ValueError, match="batch_size=0"):
        batches(_source(4), batch_size=0, seed=0, epoch=0)
    with pytest.raises(ValueError, match=r"a start from 0 to 2, .* got 3"):
        batches(_source(4), batch_size=2, seed=0, epoch=0, start=3)
    with pytest.raises(ValueError, match="got -1"):
        batches(_source(4), batch_size=2, seed=0, epoch=0, start=-1)
    with pytest.raises(ConfigError, match="unknown augmentation"):
        batches(_source(4), batch_size=2, seed=0, epoch=0, augment="rotate")
    with pytest.raises(ValueError, match="n=0"):
        steps_per_epoch(0, 4)
