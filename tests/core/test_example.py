import pytest
import torch
from torch import Tensor, nn

from eaves.core.example import example_of, find_example
from eaves.errors import CutError

NETS: dict[str, nn.Module] = {
    "linear": nn.Linear(5, 2),
    "flattened": nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2)),
    "images of any size": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
    "images of one size": nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 17 * 17, 2)
    ),
    "signals": nn.Sequential(nn.Conv1d(6, 4, 3), nn.ReLU()),
    "volumes": nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU()),
    "words": nn.Sequential(nn.Embedding(11, 4), nn.Flatten(), nn.Linear(64, 2)),
    "sequences": nn.LSTM(7, 3, batch_first=True),
    "normalised": nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)),
    "normalised layers": nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 2)),
    "no layers": nn.ReLU(),
}


class _Ordered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.stem = nn.Linear(4, 2), nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.head(self.stem(x).mean((2, 3)))
        return z


NETS["another order"] = _Ordered()


@pytest.mark.parametrize("name", NETS)
def test_an_input_is_found_that_a_net_takes(name: str) -> None:
    net = NETS[name].eval()
    before = torch.get_rng_state()
    example = find_example(net)
    assert torch.equal(torch.get_rng_state(), before)
    for size in (2, 3):
        x = example.batch(size, net)
        assert x.shape == (size, *example.shape)
        net(x)
        assert torch.equal(x, example.batch(size, net))
    assert not example.given


class _Picky(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:] != (3, 5, 7, 11):
            raise ValueError("no")
        return x * 2


def test_where_none_is_found_one_is_asked_for() -> None:
    with pytest.raises(CutError, match=r"none was found that _Picky takes; give one: example=x"):
        find_example(_Picky())


def test_a_given_batch_is_repeated_with_weaker_versions() -> None:
    given = torch.arange(1.0, 9).view(2, 4)
    example, net = example_of(given), nn.Linear(4, 2)
    assert torch.equal(example.batch(2, net), given)
    more = example.batch(3, net)
    assert torch.equal(more[:2], given)
    assert (more[2].abs() < given[0].abs()).all()
    assert example.given
    assert example.shape == (4,)


def test_numbers_are_of_the_kind_of_the_weights() -> None:
    assert example_of((4,)).batch(2, nn.Linear(4, 2).double()).dtype == torch.float64
    words = nn.Embedding(11, 4)
    assert find_example(words).batch(3, words).dtype == torch.int64


@pytest.mark.parametrize("given", [torch.zeros(()), torch.zeros(0, 3), (3, 0), (3.0, 2), ("a",)])
def test_what_is_no_example_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="expected an example as a"):
        example_of(given)  # type: ignore[arg-type]
