"""Noise has the law it should have, never repeats, and comes again only when it is asked to.

Statistics: seeds are fixed, so a test fails only after a change; a right change of the stream
fails with the probability that its threshold says.
"""

import copy
import hashlib
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from math import exp, log, sqrt
from statistics import NormalDist

import pytest
import torch
from scipy.stats import binom, kstest
from torch import Tensor

from eaves.errors import ConfigError, StateError
from eaves.privacy.sources import LARGEST_LAPLACE, LARGEST_NORMAL, Keyed, Pseudo, Source

N = 200_000
ALARM = 1e-5  # of one test, by chance, after a right change of the stream
SOURCES: dict[str, Callable[[], Source]] = {
    "pseudo": lambda: Pseudo(torch.Generator().manual_seed(5)),
    "keyed": lambda: Keyed.from_seed(5),
}
LAWS = {"normal": "norm", "laplace": "laplace"}  # with their names in scipy

every_source = pytest.mark.parametrize("source", SOURCES)
every_law = pytest.mark.parametrize("law", LAWS)


def _draw(source: Source, law: str, *shape: int) -> Tensor:
    return source.normal(shape) if law == "normal" else source.laplace(shape)


@pytest.fixture
def global_generator() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        yield


# The law


@every_source
@every_law
def test_values_follow_the_law(source: str, law: str) -> None:
    noise_N = _draw(SOURCES[source](), law, N)
    assert noise_N.dtype == torch.float32
    assert kstest(noise_N.double().numpy(), LAWS[law]).pvalue > ALARM


@every_source
@every_law
@pytest.mark.parametrize("side", [-1, 1])
def test_the_tails_are_as_heavy_as_they_should_be(source: str, law: str, side: int) -> None:
    beyond = 3.0 if law == "normal" else 6.0
    share = 1 - NormalDist().cdf(beyond) if law == "normal" else exp(-beyond) / 2
    count = int((side * _draw(SOURCES[source](), law, N) > beyond).sum())
    low, high = binom.ppf([ALARM / 2, 1 - ALARM / 2], N, share)
    assert low <= count <= high


@every_source
@every_law
def test_calls_and_neighbours_are_independent(source: str, law: str) -> None:
    drawn = SOURCES[source]()
    first_N, second_N = _draw(drawn, law, N), _draw(drawn, law, N)
    five_sigma = 5 / sqrt(N)  # false alarm: 6e-7
    for u_N, v_N in ((first_N, second_N), (first_N[1:], first_N[:-1])):
        for f in (torch.Tensor.abs, torch.Tensor.clone):  # sizes, and with them signs
            pair = torch.stack([f(u_N), f(v_N)]).double()
            assert abs(float(torch.corrcoef(pair)[0, 1])) < five_sigma


def test_both_laws_of_one_source_take_turns_with_the_stream() -> None:
    source = Keyed.from_seed(0)
    normal_N, laplace_N = source.normal((N,)).double(), source.laplace((N,)).double()
    assert abs(float(torch.corrcoef(torch.stack([normal_N, laplace_N]))[0, 1])) < 5 / sqrt(N)


@every_source
@every_law
@pytest.mark.parametrize("shape", [(), (3,), (0, 4), (2, 3, 4)])
def test_shapes(source: str, law: str, shape: tuple[int, ...]) -> None:
    assert _draw(SOURCES[source](), law, *shape).shape == shape


# The keyed stream, against its definition


def _defined(seed: int, call: int, n: int, law: str) -> list[float]:
    """Return the values by their definition, in plain Python."""
    key = hashlib.shake_256(f"eaves noise, seed {seed}".encode()).digest(32)
    stream = hashlib.shake_256(key + call.to_bytes(8, "big")).digest(8 * n)
    values = []
    for i in range(n):
        word = int.from_bytes(stream[8 * i : 8 * i + 8], "little")
        u = ((word >> 11) + 0.5) / 2**54
        size = -NormalDist().inv_cdf(u) if law == "normal" else -log(2 * u)
        values.append(size if word & 1 else -size)
    return values


@every_law
def test_the_keyed_stream_is_the_one_defined(law: str) -> None:
    """A change here makes other noise of a seed: saved states would not make it again."""
    source = Keyed.from_seed(11)
    for call in range(3):
        found = _draw(source, law, 500).tolist()
        assert found == pytest.approx(_defined(11, call, 500, law), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("byte", [0x00, 0x01, 0xFE, 0xFF])
def test_the_largest_values(byte: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck:
        def __init__(self, data: bytes):
            assert len(data) == 40

        def digest(self, n: int) -> bytes:
            return bytes([byte]) * n

    source = Keyed(bytes(32))
    monkeypatch.setattr("eaves.privacy.sources.hashlib.shake_256", Stuck)
    normal, laplace = float(source.normal((1,))), float(source.laplace((1,)))
    if byte == 0x00:  # u = 2^-55, negative
        assert normal == pytest.approx(NormalDist().inv_cdf(2.0**-55), rel=1e-6)
        assert laplace == pytest.approx(-LARGEST_LAPLACE, rel=1e-6)
    if byte == 0xFF:  # u = 1/2
        assert normal == laplace == 0
    assert abs(normal) <= LARGEST_NORMAL
    assert abs(laplace) <= LARGEST_LAPLACE * (1 + 1e-7)


# Never the same noise twice


@every_law
def test_no_call_repeats_a_part_of_another(law: str) -> None:
    source = Keyed.from_seed(1)
    calls = [_draw(source, law, 300).tolist() for _ in range(200)]
    runs = [tuple(call[i : i + 3]) for call in calls for i in range(len(call) - 2)]
    assert len(set(runs)) == len(runs)  # three float32 in a row: by chance 1e-10 or less


def test_a_call_of_another_size_is_another_call() -> None:
    source = Keyed.from_seed(1)
    assert not torch.equal(source.normal((10,)), source.normal((20,))[:10])


def test_secret_keys_differ_and_seeds_do_too() -> None:
    made = [
        Keyed.secret(),
        Keyed.secret(),
        Keyed.from_seed(0),
        Keyed.from_seed(1),
        Keyed(bytes(32)),
    ]
    first = {tuple(source.normal((4,)).tolist()) for source in made}
    assert len(first) == len(made)


def test_threads_never_get_the_same_noise() -> None:
    source = Keyed.from_seed(2)
    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(lambda _: tuple(source.normal((8,)).tolist()), range(400)))
    alone = Keyed.from_seed(2)
    assert set(drawn) == {tuple(alone.normal((8,)).tolist()) for _ in range(400)}


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_keyed_source_is_not_copied(duplicate: Callable[[object], object]) -> None:
    with pytest.raises(TypeError, match="both copies would draw the same noise"):
        duplicate(Keyed.secret())


# The same noise again


@every_law
@pytest.mark.parametrize("make", [Keyed.secret, lambda: Keyed.from_seed(4)])
def test_what_comes_after_a_state_comes_again_bit_for_bit(
    law: str, make: Callable[[], Keyed]
) -> None:
    source = make()
    source.normal((5,))
    state = source.state()
    assert (state.dtype, state.shape) == (torch.uint8, (41,))
    after = [_draw(source, law, 3, 7) for _ in range(3)]
    restored = Keyed.secret()
    restored.load_state(state)
    assert restored.about == source.about
    assert all(torch.equal(_draw(restored, law, 3, 7), noise) for noise in after)
    assert torch.equal(restored.state(), source.state())


def test_a_state_does_not_change_when_the_source_goes_on() -> None:
    source = Keyed.from_seed(4)
    state = source.state()
    before = state.clone()
    source.normal((1,))
    assert torch.equal(state, before)
    assert not torch.equal(source.state(), before)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (torch.zeros(40, dtype=torch.uint8), r"uint8 \(41,\), got torch.uint8 \(40,\)"),
        (torch.zeros(1, 41, dtype=torch.uint8), r"got torch.uint8 \(1, 41\)"),
        (torch.zeros(41), r"got torch.float32 \(41,\)"),
        (torch.full((41,), 3, dtype=torch.uint8), "damaged, or of a later version"),
    ],
)
def test_what_is_no_state_is_refused_and_changes_nothing(state: Tensor, says: str) -> None:
    source = Keyed.from_seed(4)
    before = source.state()
    with pytest.raises(StateError, match=says):
        source.load_state(state)
    assert torch.equal(source.state(), before)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_keys_of_another_length_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=f"key of 32 bytes, got {size}"):
        Keyed(bytes(size))


def test_a_generator_makes_pseudorandom_noise_again() -> None:
    first, again = SOURCES["pseudo"](), SOURCES["pseudo"]()
    assert torch.equal(first.normal((3, 4)), again.normal((3, 4)))
    assert torch.equal(first.laplace((3, 4)), again.laplace((3, 4)))
    assert not torch.equal(first.normal((3, 4)), again.laplace((3, 4)))


@pytest.mark.usefixtures("global_generator")
def test_without_a_generator_it_is_the_global_one() -> None:
    expected = torch.randn(6, generator=torch.Generator().manual_seed(3))
    assert torch.equal(Pseudo().normal((6,)), expected)


@pytest.mark.usefixtures("global_generator")
def test_a_generator_of_its_own_leaves_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    for make in SOURCES.values():
        make().normal((6,))
        make().laplace((6,))
    assert torch.equal(torch.get_rng_state(), before)


# Words


def test_each_source_says_who_can_take_its_noise_off() -> None:
    assert "no epsilon holds against them" in Pseudo().about
    assert "whoever knows the seed takes the noise off" in Keyed.from_seed(0).about
    assert Keyed.secret().about == "a keyed stream (SHAKE-256) with a secret key of this device"
    assert Keyed(bytes(32)).about == "a keyed stream (SHAKE-256) with a key that was handed in"


def test_a_key_is_not_printed() -> None:
    key = b"0123456789abcdef0123456789abcdef"
    assert "0123" not in repr(Keyed(key)) + Keyed(key).about
