from itertools import islice

import pytest
import torch

from eaves.audit.pace import Epochs, cosine, paced
from eaves.audit.trial import Allowance


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_steps_end_it() -> None:
    assert list(paced(3, Allowance(time_s=60.0))) == pytest.approx([0, 1 / 3, 2 / 3], abs=1e-3)


def test_time_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 4.0, 9.0, 11.0])
    monkeypatch.setattr("eaves.audit.pace.perf_counter", lambda: next(clock))
    assert list(paced(1000, Allowance(time_s=10.0))) == [0.1, 0.4, 0.9]


def test_every_epoch_has_full_batches_in_a_new_order() -> None:
    allowance = Allowance(rounds=2, batch_size=3)
    orders: list[torch.Tensor] = []
    shares: list[float] = []
    for done, batches in Epochs(10, allowance, generator=_generator()):
        taken = list(batches)
        assert done == len(orders) + 1
        assert [len(rows) for rows, _ in taken] == [3, 3, 3]
        orders.append(torch.cat([rows for rows, _ in taken]))
        shares += [share for _, share in taken]
    assert len(orders) == 2
    assert not torch.equal(*orders)
    assert all(len(set(order.tolist())) == 9 for order in orders)
    assert shares == pytest.approx([i / 6 for i in range(6)], abs=1e-3)


def test_few_examples_are_one_batch() -> None:
    ((done, batches),) = Epochs(2, Allowance(rounds=1, batch_size=8), generator=_generator())
    assert done == 1
    assert [sorted(rows.tolist()) for rows, _ in batches] == [[0, 1]]


def test_no_epoch_begins_out_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 11.0])
    monkeypatch.setattr("eaves.audit.pace.perf_counter", lambda: next(clock))
    allowance = Allowance(rounds=5, time_s=10.0, batch_size=4)
    begun = [(done, len(list(b))) for done, b in Epochs(4, allowance, generator=_generator())]
    assert begun == [(1, 1)]


def test_same_generator_same_order() -> None:
    first, second = (
        [
            rows.tolist()
            for _, batches in islice(Epochs(9, Allowance(batch_size=4), generator=_generator(5)), 2)
            for rows, _ in batches
        ]
        for _ in range(2)
    )
    assert first == second


def test_cosine_falls() -> None:
    rates = [cosine(i / 10) for i in range(11)]
    assert rates == sorted(rates, reverse=True)
    assert (rates[0], rates[-1]) == (1, 0)
