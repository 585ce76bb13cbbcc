"""Mixtures: within their bounds, taken apart exactly, and secret."""

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eaves.errors import ConfigError
from eaves.privacy.mixing import LAWS, Mixing, MixingLaw, Stock
from eaves.privacy.sources import Keyed, Pseudo

GROUPS = [2, 3, 4, 8]


def drawn(law: MixingLaw, groups: int = 50, seed: int = 0) -> Mixing:
    return law.draw(groups, Keyed.from_seed(seed))


def law_of(name: str, group: int) -> MixingLaw:
    # Eight positive parts are never as well conditioned as four.
    condition = 12.0 if (name, group) == ("convex", 8) else 4.0
    return MixingLaw(name=name, group=group, max_condition=condition)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("name", LAWS)
def test_every_matrix_is_within_the_bounds(name: str, group: int) -> None:
    law = law_of(name, group)
    mixing = drawn(law)
    condition_G = torch.linalg.cond(mixing.matrix_GKK)
    energy_GKK = mixing.matrix_GKK**2
    share_GKK = energy_GKK / energy_GKK.sum(dim=2, keepdim=True)
    assert mixing.matrix_GKK.shape == (50, group, group)
    assert condition_G.max() <= law.max_condition * (1 + 1e-6)
    assert share_GKK.max() <= law.max_share + 1e-6
    assert mixing.share.equal(share_GKK.amax(dim=2))


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("name", LAWS)
def test_rows_add_up_to_one_so_that_a_bias_survives(name: str, group: int) -> None:
    mixing = drawn(law_of(name, group))
    bias = torch.randn(3, dtype=torch.float64).expand(50 * group, 3)
    torch.testing.assert_close(mixing.unmix(mixing.mix(bias)), bias)
    torch.testing.assert_close(mixing.unmix(bias), bias)


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(list(LAWS)), st.sampled_from(GROUPS), st.integers(1, 5), st.integers(0, 2**30)
)
def test_what_is_mixed_is_taken_apart_exactly(
    name: str, group: int, groups: int, seed: int
) -> None:
    mixing = drawn(law_of(name, group), groups, seed)
    generator = torch.Generator().manual_seed(seed)
    sources = torch.randn(groups * group, 2, 3, 3, generator=generator)
    queries = mixing.mix(sources)
    assert queries.shape == sources.shape
    torch.testing.assert_close(mixing.unmix(queries), sources, rtol=1e-4, atol=1e-4)


def test_a_linear_answer_is_what_each_would_have_got_alone() -> None:
    mixing, weights = drawn(MixingLaw(group=4), 3), torch.randn(6, 5)
    sources = torch.randn(12, 6)
    answers = mixing.mix(sources) @ weights + 7.0
    torch.testing.assert_close(mixing.unmix(answers), sources @ weights + 7.0, rtol=1e-4, atol=1e-4)


def test_groups_do_not_mix_with_each_other() -> None:
    sources = torch.zeros(6, 4)
    sources[3:] = 1.0
    queries = drawn(MixingLaw(group=3), 2).mix(sources)
    assert queries[:3].abs().max() == 0
    torch.testing.assert_close(queries[3:], sources[3:])


@pytest.mark.parametrize("group", [2, 4])
@pytest.mark.parametrize("name", LAWS)
def test_errors_of_answers_grow_as_stated(name: str, group: int) -> None:
    """1,000 x K independent errors: the root mean square is known to 1 part in 40 or better."""
    mixing = drawn(law_of(name, group), 1)
    generator = torch.Generator().manual_seed(5)
    errors = torch.randn(group, 10_000, generator=generator, dtype=torch.float64)
    grown = mixing.unmix(errors).square().mean().sqrt()
    assert grown == pytest.approx(float(mixing.amplification[0]), rel=0.05)


def test_convex_parts_are_positive_and_the_dominant_source_is_any() -> None:
    mixing = drawn(MixingLaw(name="convex", group=3), 300)
    dominant_GK = mixing.matrix_GKK.argmax(dim=2)
    assert mixing.matrix_GKK.min() >= 0
    assert all(set(dominant_GK[:, j].tolist()) == {0, 1, 2} for j in range(3))
    assert any(row == [1, 2, 0] for row in dominant_GK.tolist())


@pytest.mark.parametrize("name", ["orthogonal", "affine"])
def test_signed_laws_keep_the_mean_of_a_group(name: str) -> None:
    sources = torch.randn(8, 5, dtype=torch.float64)
    queries = drawn(MixingLaw(name=name, group=4), 2).mix(sources)
    mean, before = queries.reshape(2, 4, 5).mean(dim=1), sources.reshape(2, 4, 5).mean(dim=1)
    torch.testing.assert_close(mean, before)


def test_orthogonal_deviations_keep_their_angles() -> None:
    mixing = drawn(MixingLaw(name="orthogonal", group=5), 20)
    centred = mixing.matrix_GKK - 1 / 5
    gram = centred @ centred.mT
    scale = gram.diagonal(dim1=1, dim2=2).sum(dim=1) / 4
    expected = scale[:, None, None] * (torch.eye(5, dtype=torch.float64) - 1 / 5)
    torch.testing.assert_close(gram, expected)


def test_every_group_and_every_draw_has_a_secret_of_its_own() -> None:
    source = Keyed.from_seed(3)
    law = MixingLaw(group=4)
    first, second = law.draw(20, source), law.draw(20, source)
    all_GKK = torch.cat([first.matrix_GKK, second.matrix_GKK]).flatten(1)
    distance = torch.cdist(all_GKK, all_GKK) + torch.eye(40)
    assert distance.min() > 1e-3
    assert drawn(law, seed=3).matrix_GKK[:20].shape == first.matrix_GKK.shape


def test_the_same_seed_draws_the_same_secret() -> None:
    law = MixingLaw(group=3)
    assert drawn(law).matrix_GKK.equal(drawn(law).matrix_GKK)
    pseudo = [law.draw(4, Pseudo(torch.Generator().manual_seed(1))).matrix_GKK for _ in range(2)]
    assert pseudo[0].equal(pseudo[1])


def test_what_is_beyond_a_bound_is_drawn_again_and_counted() -> None:
    loose, tight = (
        drawn(MixingLaw(name="affine", group=4, max_share=share)) for share in (1.0, 0.5)
    )
    assert loose.redrawn == 0 < tight.redrawn
    assert tight.share.max() <= 0.5


def test_bounds_that_no_matrix_keeps_are_an_error_in_words() -> None:
    law = MixingLaw(name="convex", group=16, max_condition=1.5)
    with pytest.raises(ConfigError, match=r"or less among [0-9,]+; raise --max-share"):
        drawn(law, 2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"group": 1}, "one input alone is mixed with nothing"),
        ({"group": 65}, "from 2 to 64, got 65"),
        ({"name": "secret"}, "unknown law of mixing 'secret'; choose from: orthogonal"),
        ({"group": 2, "max_share": 0.5}, r"above 1/2, what every source has"),
        ({"max_share": 1.5}, "up to 1, got 1.5"),
        ({"max_condition": 1.0}, "--max-condition above 1"),
        ({"max_condition": float("nan")}, "--max-condition above 1"),
        ({"group": 2, "max_condition": 2.0}, "need a --max-condition of 3.00 or more, got 2"),
        (
            {"name": "affine", "group": 2, "max_share": 0.6},
            "need a --max-condition of 9.90 or more, got 4",
        ),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        MixingLaw(**settings)  # type: ignore[arg-type]


def test_two_sources_are_never_as_they_were() -> None:
    """With K = 2 an orthogonal matrix whose rows add up to 1 is the identity or the swap."""
    mixing = drawn(MixingLaw(name="orthogonal", group=2), 500)
    assert mixing.share.max() <= 0.8
    parts = mixing.matrix_GKK[:, 0]
    scale = (parts[:, 0] - parts[:, 1]).abs()
    assert ((scale >= 3) | (scale <= 1 / 3)).all()
    assert 150 < int((scale > 1).sum()) < 350  # 500 fair coins: beyond by chance in 1 of 10^18


def test_an_empty_group_is_nothing() -> None:
    mixing = drawn(MixingLaw(group=2), 0)
    assert mixing.mix(torch.zeros(0, 3)).shape == (0, 3)


def test_another_number_of_tensors_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 6 tensors in 3 groups of 2, got 5"):
        drawn(MixingLaw(group=2), 3).mix(torch.zeros(5, 2))


def test_coefficients_neither_show_nor_leave() -> None:
    mixing = drawn(MixingLaw(group=2), 1)
    assert repr(mixing) == "Mixing(1 groups of 2)"
    with pytest.raises(TypeError, match="does not leave the edge"):
        pickle.dumps(mixing)


def test_amplification_of_an_orthogonal_matrix_is_one() -> None:
    turn = torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64)[None]
    assert float(Mixing(turn).amplification) == pytest.approx(1.0)
    assert float(Mixing(2 * turn).amplification) == pytest.approx(0.5)
    assert float(Mixing(turn).share.max()) == pytest.approx(0.64)


def test_what_is_drawn_ahead_is_used_once() -> None:
    stock = Stock(MixingLaw(group=3), Keyed.from_seed(0))
    taken = [stock.take(groups) for groups in (1, 200, 0, 400, 3, 900, 1)]
    assert [mixing.groups for mixing in taken] == [1, 200, 0, 400, 3, 900, 1]
    matrices = torch.cat([mixing.matrix_GKK for mixing in taken])
    assert len(torch.unique(matrices, dim=0)) == len(matrices)
    inverses = torch.cat([mixing.inverse_GKK for mixing in taken])
    torch.testing.assert_close(matrices @ inverses, torch.eye(3).double().expand_as(matrices))
    assert [mixing.redrawn > 0 for mixing in taken] == [True, False, False, True, False, True, True]
