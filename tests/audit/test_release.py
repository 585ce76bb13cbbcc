"""One path for attacker and victims: noise, codec and joining, in batches of one size.

Dimension key:  N examples   R releases of each   F features
"""

import pytest
import torch
from torch import Tensor

from eaves.audit.release import ReleasePath, joined
from eaves.codecs.base import parse_codec
from eaves.errors import ConfigError
from eaves.privacy.bounds import Clip, bound_named
from eaves.privacy.mechanisms import Mechanism
from eaves.privacy.sources import Pseudo

PLAIN = Mechanism(bound=bound_named("clip"), law="none", scale=0.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed)).clamp(-1, 1)


def path(
    codec: str = "", *, scale: float = 0.0, law: str = "gaussian", batch: int = 32
) -> ReleasePath:
    mechanism = Mechanism(bound=Clip(1.0), law=law if scale else "none", scale=scale)
    return ReleasePath(
        mechanism=mechanism, codec=parse_codec(codec) if codec else None, batch_size=batch
    )


# The codec


@pytest.mark.parametrize(
    "codec", ["fp16", "int8+zstd", "int4", "int2:tensor", "int1", "int1:tensor"]
)
@pytest.mark.parametrize("n", [20, 64, 75])
def test_what_teaches_takes_the_codec_as_victims_do(codec: str, n: int) -> None:
    """Both see values of one distribution: means and spreads are within 5 errors."""
    z_NF, through = normal(n, 40), path(codec)
    ours = through.seen(z_NF, releases=1, generator=seeded(1))
    theirs = through.released(z_NF, releases=1, source=Pseudo(seeded(2)), seed=2)[:, 0]
    assert ours.shape == theirs.shape == z_NF.shape
    if codec != "fp16":
        assert not torch.equal(ours, z_NF)
    for a, b in ((ours.mean(), theirs.mean()), (ours.std(), theirs.std())):
        assert float(a) == pytest.approx(float(b), abs=5 / (40 * n) ** 0.5)
    # Each row is of its own example.
    assert float((ours - z_NF).abs().mean()) < {"int1": 0.7, "int1:tensor": 0.7}.get(codec, 0.4)


def test_a_payload_has_as_many_examples_as_the_carrier_s() -> None:
    """One example is far out: with a range for the tensor it takes others of its batch along."""
    z_NF = 0.1 * normal(128, 4)
    z_NF[5] = 1.0
    for batch in (8, 32, 128):
        sent = path("int1:tensor", batch=batch).seen(z_NF, releases=1, generator=seeded())
        levels = {round(float(v), 3) for v in sent.flatten()}
        assert 2 <= len(levels) <= 2 * 128 // batch  # two of each payload, at most
    alone = path("int1:tensor", batch=1).seen(z_NF, releases=1, generator=seeded())
    assert torch.allclose(alone.amax(dim=1), z_NF.amax(dim=1), atol=1e-3)  # each its own range
    assert torch.allclose(alone.amin(dim=1), z_NF.amin(dim=1), atol=1e-3)


def test_who_shares_a_payload_is_drawn_for_each_release() -> None:
    z_NF = torch.randn(64, 4, generator=seeded(3)) / 5
    through = path("int2:tensor", batch=8)
    sent = through.released(z_NF, releases=3, source=Pseudo(seeded()), seed=7)
    again = through.released(z_NF, releases=3, source=Pseudo(seeded()), seed=7)
    assert sent.shape == (64, 3, 4)
    assert torch.equal(sent, again)
    assert not torch.equal(sent[:, 0], sent[:, 1])
    assert through.varies
    assert not through.exact


def test_what_is_the_same_each_time_is_known_to_be() -> None:
    assert path().exact
    assert not path().varies
    assert not path("fp16").varies  # rounded, and always alike
    assert not path("fp16").exact
    assert path("int8", scale=0.5).varies
    assert path("int8", scale=0.5).quiet().mechanism.scale == 0.0


def test_bytes_make_no_difference() -> None:
    z_NF = normal(64, 16)
    made = [
        path(codec).seen(z_NF, releases=1, generator=seeded()) for codec in ("int4", "int4+zstd")
    ]
    assert torch.equal(*made)


def test_what_arrives_on_average_is_what_many_releases_come_to() -> None:
    z_NF, through = normal(64, 16), path("int2:tensor", scale=0.1)
    expected = through.expected(z_NF, generator=seeded())
    many = through.seen(z_NF, releases=400, generator=seeded(1))
    assert float((expected - many).abs().mean()) < 0.06
    assert float((z_NF - many).abs().mean()) > 1.5 * float((expected - many).abs().mean())
    assert torch.equal(path("fp16").expected(z_NF, generator=seeded()), z_NF)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "payloads of 1 example or more"),
        ({"codec": parse_codec("png")}, "codec for features"),
    ],
)
def test_what_is_no_path_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ReleasePath(mechanism=PLAIN, **changes)  # type: ignore[arg-type]


# Several releases


def test_one_release_is_what_it_is() -> None:
    z_NRF = torch.randn(5, 1, 3)
    for law in ("none", "gaussian", "laplace"):
        assert torch.equal(joined(z_NRF, law), z_NRF[:, 0])


@pytest.mark.parametrize("r", [2, 3, 4, 7])
def test_gaussian_releases_are_averaged_and_of_laplace_ones_the_median_is_taken(r: int) -> None:
    z_NRF = torch.randn(5, r, 3, dtype=torch.float64)
    assert torch.allclose(joined(z_NRF, "gaussian"), z_NRF.mean(dim=1))
    assert torch.allclose(joined(z_NRF, "laplace"), z_NRF.quantile(0.5, dim=1))


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_what_the_attacker_makes_is_what_the_victims_releases_come_to(law: str) -> None:
    """Standard deviations of 40,000 values: the bounds are 5 standard errors or more away."""
    mechanism = Mechanism(bound=bound_named("clip"), law=law, scale=0.5)
    source, r = Pseudo(seeded(3)), 9
    bounded = torch.full((10_000, 4), 0.25)
    made = ReleasePath(mechanism=mechanism).seen(bounded, releases=r, generator=seeded(3))
    sent = torch.stack([mechanism.noised(bounded, source) for _ in range(r)], dim=1)
    for z in (made, joined(sent, law)):
        assert float(z.mean()) == pytest.approx(0.25, abs=0.005)
    assert float(made.std()) == pytest.approx(float(joined(sent, law).std()), rel=0.03)
    mean_std = 0.5 / 3 * (2**0.5 if law == "laplace" else 1)
    ratio = float(made.std()) / mean_std
    assert ratio == pytest.approx(1, abs=0.02) if law == "gaussian" else ratio < 0.9


def test_without_noise_the_attacker_makes_what_it_has() -> None:
    bounded = torch.rand(4, 3)
    through = ReleasePath(mechanism=PLAIN)
    assert torch.equal(through.seen(bounded, releases=3, generator=seeded()), bounded)
