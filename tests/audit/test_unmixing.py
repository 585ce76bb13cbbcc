"""Attacks on mixtures of made-up pictures: what recovers them, what does not, and with what."""

from functools import cache

import pytest
import torch
from torch import Tensor

from eaves.audit.findings import Unmixed
from eaves.audit.intercept import Intercept, Mix
from eaves.audit.trial import Allowance
from eaves.audit.unmixing import (
    UNMIXERS,
    UnmixPlan,
    calmed,
    inverse_rows,
    learned,
    pooled,
    take_apart,
    together,
)
from eaves.audit.unmixnet import NetPlan
from eaves.errors import ConfigError
from eaves.privacy.mixing import MixingLaw
from eaves.privacy.sources import Pseudo

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 24
SHAPES = 10  # in one picture
BY_ICA = ["raw", "gradient", "coarse", "laplacian", "pooled", "known-plaintext"]
QUICK = NetPlan(allowance=Allowance(rounds=2, time_s=600.0, batch_size=16), width=8)
NET = NetPlan(allowance=Allowance(rounds=10, time_s=600.0, batch_size=16), width=8, lr=1e-2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def pictures(groups: int, k: int, seed: int = 0) -> Tensor:
    """Return pictures (G, K, 3, H, W) in [0, 1]: a slope of light behind boxes and soft blobs."""
    generator, n = seeded(seed), groups * k
    y, x = torch.meshgrid(torch.linspace(0, 1, SIDE), torch.linspace(0, 1, SIDE), indexing="ij")
    slope = torch.rand(n, 3, 2, generator=generator)[..., None, None]
    made = 0.5 * (slope[:, :, 0] * x + slope[:, :, 1] * y)
    for number in range(SHAPES):
        colour, place = torch.rand(2, n, 3, 1, 1, generator=generator)
        across, down = (x - place[:, :1]).abs(), (y - place[:, 1:2]).abs()
        size = 0.05 + 0.2 * place[:, 2:]
        if number % 2:
            cover = ((across < size) & (down < 0.7 * size)).float()
        else:
            cover = (-(across.square() + down.square()) / size.square()).exp()
        made = (1 - cover) * made + cover * colour
    return made.reshape(groups, k, 3, SIDE, SIDE)


def rotations(groups: int, k: int, generator: torch.Generator) -> Tensor:
    rotation_GKK: Tensor = torch.linalg.qr(torch.randn(groups, k, k, generator=generator)).Q
    return rotation_GKK


def turned(n: int, generator: torch.Generator) -> Tensor:
    """The law of :func:`rotations` of pairs."""
    return rotations(n, 2, generator)


def mixed(
    matrices: Tensor, sources: Tensor, noise_std: float, generator: torch.Generator
) -> Tensor:
    clean = (matrices @ sources.flatten(2)).reshape(sources.shape)
    return clean + noise_std * torch.randn(clean.shape, generator=generator)


def law(noise_std: float) -> Mix:
    def mix(sources: Tensor, generator: torch.Generator) -> Tensor:
        matrices = rotations(len(sources), sources.shape[1], generator)
        return mixed(matrices, sources, noise_std, generator)

    return mix


def intercepted(sources: Tensor, share: float = 0.0) -> Intercept:
    """Return what is seen of them, with noise of ``share`` times the deviation of the queries."""
    groups, k = sources.shape[:2]
    noise_std = share * float(sources.flatten(2).std(dim=2).mean())
    matrices = rotations(groups, k, seeded(1))
    return Intercept(
        queries=mixed(matrices, sources, noise_std, seeded(2)),
        noise_std=noise_std,
        own=pictures(64, 4, seed=7).flatten(0, 1),
        mix=law(noise_std),
        draw=turned,
        plaintext=sources[:, 0],
        matrices=matrices,
    )


def attacked(
    name: str, sources: Tensor, share: float = 0.0, plan: UnmixPlan | None = None
) -> Unmixed:
    return take_apart(name, intercepted(sources, share), sources, plan=plan, generator=seeded())[0]


# Without noise


@pytest.mark.parametrize("k", [2, 4, 8])
def test_gradients_tell_sources_apart_and_plain_values_do_not(k: int) -> None:
    sources = pictures(8, k)
    by_gradient, by_values, by_nothing = (
        attacked(name, sources) for name in ("gradient", "raw", "nothing")
    )
    assert by_gradient.recovered.value > 0.95
    assert by_values.recovered.value < by_gradient.recovered.value - 0.1
    assert by_gradient.correlation.value > by_nothing.correlation.value + 0.1


@pytest.mark.parametrize("name", ["coarse", "laplacian", "pooled", "known-plaintext", "oracle"])
def test_recovers_all_without_noise(name: str) -> None:
    found = attacked(name, pictures(8, 4))
    assert found.recovered.value > 0.95
    assert found.attack == name
    assert found.beats_chance


@pytest.mark.parametrize("by", ["orthogonal", "convex", "affine"])
def test_a_pair_is_guessed_from_the_law_alone(by: str) -> None:
    """At the defaults: no ICA, no examples, no training."""
    sources, mixing = pictures(40, 2), MixingLaw(name=by, group=2)
    queries = mixing.draw(40, Pseudo(seeded(1))).mix(sources.flatten(0, 1)).reshape(sources.shape)
    seen = Intercept(
        queries=queries, draw=lambda n, generator: mixing.draw(n, Pseudo(generator)).matrix_GKK
    )
    alone, _ = take_apart("nothing", seen, sources, generator=seeded())
    found, _ = take_apart("guessed", seen, sources, generator=seeded())
    assert (alone.recovered.value, found.recovered.value) == (0, 1)
    few = UnmixPlan(guesses=2)
    assert take_apart("guessed", seen, sources, plan=few, generator=seeded())[0].beats_chance


def test_a_mixing_that_is_badly_conditioned_hides_nothing() -> None:
    sources = pictures(8, 3)
    shares = torch.rand(8, 3, 3, generator=seeded(4))
    matrices = shares / shares.sum(dim=2, keepdim=True)
    assert torch.linalg.cond(matrices).max() > 10
    seen = Intercept(queries=(matrices @ sources.flatten(2)).reshape(sources.shape))
    assert take_apart("gradient", seen, sources, generator=seeded())[0].recovered.value > 0.95


def test_recovered_images_are_held_against_the_originals() -> None:
    sources = pictures(8, 2)
    seen = intercepted(sources)
    good, poor = (
        take_apart(name, seen, sources, white=1.0, generator=seeded())[0].likeness
        for name in ("oracle", "nothing")
    )
    assert good is not None
    assert poor is not None
    assert good.ssim.value > 0.99
    assert good.psnr_db.value > 50
    assert poor.ssim.high < good.ssim.low


def test_queries_shuffled_across_groups_find_each_other() -> None:
    sources = pictures(8, 3)
    guess = pooled(intercepted(sources), UnmixPlan(pool_groups=4), generator=seeded())
    assert guess.sources.shape == (2, 12, 3, SIDE, SIDE)
    assert guess.note == "8 of 8 groups put together, in pools of 4"


def test_pools_are_unmixed_whatever_order_their_queries_come_in() -> None:
    sources = pictures(8, 3)
    clean = mixed(rotations(8, 3, seeded(1)), sources, 0.0, seeded())
    pools = clean.reshape(2, 12, 3, SIDE, SIDE)[:, torch.randperm(12, generator=seeded(3))]
    seen = Intercept(queries=pools.reshape(sources.shape))
    plan = UnmixPlan(pool_groups=4)
    recovered = {
        name: take_apart(name, seen, sources, plan=plan, generator=seeded())[0].recovered.value
        for name in ("pooled", "gradient")
    }
    assert recovered["pooled"] > 0.95
    assert recovered["gradient"] < 0.5  # of "groups" that are none


def test_together_on_many_pools_at_once() -> None:
    """Blocks of random matrices, their rows and columns shuffled; each row has a home."""
    generator = seeded()
    inside = torch.eye(4).repeat_interleave(3, dim=0).repeat_interleave(3, dim=1)
    blocks = inside * (torch.rand(5, 12, 12, generator=generator) + 0.3)
    rows, columns = torch.rand(2, 5, 12, generator=generator).argsort(dim=2)
    shuffled = torch.stack([b[r][:, c] for b, r, c in zip(blocks, rows, columns, strict=True)])
    home_PSK = rows.gather(1, together(shuffled, 3).flatten(1)).reshape(5, 4, 3) // 3
    assert torch.equal(home_PSK, home_PSK[:, :, :1].expand(-1, -1, 3))
    assert torch.equal(home_PSK[:, :, 0].sort(dim=1).values, torch.arange(4).expand(5, 4))


def test_groups_that_fill_no_pool() -> None:
    with pytest.raises(ConfigError, match=r"leave out the last 2, or set pool_groups"):
        attacked("pooled", pictures(6, 2))


def test_a_known_source_gives_its_row_of_the_inverse() -> None:
    seen = intercepted(pictures(8, 4))
    assert seen.matrices is not None
    assert seen.plaintext is not None
    rows_GK = inverse_rows(seen.queries, seen.plaintext)
    assert torch.allclose(rows_GK.float(), torch.linalg.inv(seen.matrices)[:, 0], atol=1e-3)


def test_a_known_source_is_taken_off_and_not_counted() -> None:
    found = attacked("known-plaintext", pictures(8, 2))
    assert found.recovered.value == 1.0
    assert found.note.endswith("gives 1.0000 of the known source")


# With noise


@pytest.mark.parametrize("name", ["gradient", "coarse", "oracle"])
def test_noise_lowers_the_share(name: str) -> None:
    sources = pictures(8, 4)
    clean, noisy = (attacked(name, sources, share) for share in (0.0, 0.3))
    assert noisy.recovered.value < clean.recovered.value - 0.2
    assert noisy.correlation.high < clean.correlation.low


def test_calmed_is_nearer_to_what_was_before_the_noise() -> None:
    sources = pictures(8, 4)
    shares = torch.rand(8, 4, 4, generator=seeded(4))  # some directions of these hold noise alone
    clean = mixed(shares, sources, 0.0, seeded())
    noisy = mixed(shares, sources, 0.2, seeded())
    before, after = (
        (x - clean).square().mean() for x in (noisy, calmed(noisy, noise_std=0.2).float())
    )
    assert after < 0.8 * before
    assert torch.allclose(calmed(noisy, noise_std=0.0).float(), noisy, atol=1e-4)


def test_a_net_takes_off_the_noise_that_ica_leaves() -> None:
    sources = pictures(8, 2)
    plain, better = (
        attacked(name, sources, 0.6, UnmixPlan(steps=40, net=NET))
        for name in ("coarse", "denoised")
    )
    assert better.correlation.value > plain.correlation.value + 0.01
    assert better.effort.known == 256
    assert better.effort.rounds == 80
    assert better.note.startswith("ICA after the filter")


# Learned


def test_a_net_learns_to_unmix_pairs() -> None:
    sources = pictures(24, 2)
    by_net = attacked("learned", sources, plan=UnmixPlan(net=NET))
    by_nothing = attacked("nothing", sources)
    assert by_net.correlation.low > by_nothing.correlation.value
    assert (by_net.effort.known, by_net.effort.rounds) == (256, 80)


def test_the_same_seed_learns_the_same() -> None:
    seen = intercepted(pictures(4, 2), 0.1)
    before = torch.get_rng_state()
    a, b, c = (
        learned(seen, UnmixPlan(net=QUICK), generator=seeded(seed)).sources for seed in (0, 0, 1)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), before)


# The score cannot be cheated


@pytest.mark.parametrize("name", sorted(set(UNMIXERS) - {"oracle"}))
def test_what_holds_nothing_of_the_sources_gives_nothing(name: str) -> None:
    """Queries of other pictures: whatever an attack makes of them, it is no recovery.

    The oracle is left out: it would be told a secret that is none.
    """
    sources, others = pictures(16, 2), pictures(16, 2, seed=99)
    seen = Intercept(
        queries=mixed(rotations(16, 2, seeded(1)), others, 0.02, seeded(2)),
        noise_std=0.02,
        own=pictures(64, 4, seed=7).flatten(0, 1),
        mix=law(0.02),
        draw=turned,
        plaintext=pictures(16, 1, seed=98)[:, 0],
    )
    found, _ = take_apart(
        name, seen, sources, plan=UnmixPlan(steps=40, net=QUICK), generator=seeded()
    )
    assert found.recovered.value == 0
    assert not found.beats_chance


@pytest.mark.parametrize("name", BY_ICA)
def test_noise_alone_is_unmixed_into_noise(name: str) -> None:
    noise = torch.randn(16, 3, 3, SIDE, SIDE, generator=seeded(5))
    seen = Intercept(queries=noise, plaintext=torch.randn(16, 3, SIDE, SIDE, generator=seeded(6)))
    found, _ = take_apart(name, seen, pictures(16, 3), plan=UnmixPlan(steps=40), generator=seeded())
    assert found.recovered.value == 0
    assert found.correlation.value < 0.2


@pytest.mark.parametrize("name", sorted(UNMIXERS))
def test_constant_queries_are_no_failure(name: str) -> None:
    sources = pictures(8, 2)
    seen = Intercept(
        queries=torch.ones_like(sources),
        own=pictures(8, 2, seed=7).flatten(0, 1),
        mix=law(0.0),
        draw=turned,
        plaintext=sources[:, 0],
        matrices=torch.eye(2).expand(8, 2, 2),
    )
    found, _ = take_apart(
        name, seen, sources, plan=UnmixPlan(steps=40, net=QUICK), generator=seeded()
    )
    assert found.recovered.value == 0


# What is refused


@pytest.mark.parametrize(
    ("name", "lacks"),
    [
        ("known-plaintext", "plaintext"),
        ("guessed", "draw"),
        ("learned", "own"),
        ("denoised", "own"),
        ("oracle", "matrices"),
    ],
)
def test_what_an_attack_cannot_do_without(name: str, lacks: str) -> None:
    sources = pictures(4, 2)
    with pytest.raises(ConfigError, match=f"with '{lacks}' for the attack '{name}'"):
        take_apart(name, Intercept(queries=sources), sources, generator=seeded())


def test_examples_without_the_law() -> None:
    sources = pictures(4, 2)
    seen = Intercept(queries=sources, own=sources.flatten(0, 1))
    with pytest.raises(ConfigError, match="with 'mix' for the attack 'learned'"):
        take_apart("learned", seen, sources, generator=seeded())


def test_attacks_that_are_not_known() -> None:
    with pytest.raises(ConfigError, match=r"nothing, raw, gradient, .*, got 'magic'"):
        attacked("magic", pictures(4, 2))


def test_sources_of_other_queries() -> None:
    with pytest.raises(ConfigError, match="expected sources of the queries' shape"):
        take_apart("raw", intercepted(pictures(4, 2)), pictures(4, 3), generator=seeded())


@pytest.mark.parametrize("setting", [{"steps": 0}, {"pool_groups": 1}, {"filter": "sobel"}])
def test_plans_that_cannot_be(setting: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="expected 1 or more steps"):
        UnmixPlan(**setting)  # type: ignore[arg-type]
