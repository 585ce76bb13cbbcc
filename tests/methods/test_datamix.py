"""DataMix: mixed on the edge, answered in the cloud, taken apart on the edge.

Dimension key:  B batch   K classes   Q queries
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from eaves.core.net import Normalise, StagedNet
from eaves.core.optimise import OneCycle
from eaves.core.roles import Batch, PrivateLabels
from eaves.errors import ConfigError, PayloadError
from eaves.methods.datamix import Dummies, MixingShield, Mixture, datamix
from eaves.methods.hiding import HidingEdge
from eaves.methods.setup import Hiding, Method, Mixed, Setup
from eaves.privacy.bounds import Tanh
from eaves.privacy.mechanisms import Mechanism
from eaves.privacy.mixing import MixingLaw
from eaves.privacy.sources import Keyed

K = 3


def setup_of(group: int = 2, *, shuffle: bool = False, cloud_ends: str | None = None) -> Setup:
    torch.manual_seed(0)
    stages = [
        ("stem", nn.Sequential(nn.Linear(6, 8), nn.ReLU())),
        ("middle", nn.Linear(8, 8)),
        ("last", nn.Linear(8, K)),
    ]
    schedule = OneCycle(total_steps=40, lr=0.05)
    return Setup(
        net=StagedNet(stages),
        normalise=Normalise([0.0], [1.0], spatial_dims=0),
        input_shape=(6,),
        classes=K,
        cut="stem",
        bottleneck=None,
        exit="linear",
        edge_schedule=schedule,
        cloud_schedule=schedule,
        device=torch.device("cpu"),
        mixed=Mixed(
            law=MixingLaw(group=group),
            source=Keyed.from_seed(1),
            shuffle=shuffle,
            cloud_ends=cloud_ends,
        ),
    )


def inputs(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))


def answered(method: Method, x_BF: Tensor) -> tuple[Tensor, Tensor]:
    """Return what was sent for inputs, and the logits made of the answers."""
    features, early = method.edge_predictor.predict(x_BF)
    assert features is not None
    assert early is None
    assert method.cloud_predictor is not None
    queries, reveal = method.shield.protect(features)
    return queries, reveal(method.cloud_predictor.answer(queries))


@pytest.mark.parametrize("cloud_ends", [None, "middle", "last"])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("n", [1, 2, 5, 12])
@pytest.mark.parametrize("group", [2, 3, 4])
def test_with_a_linear_cloud_the_answers_are_those_of_the_net_itself(
    group: int, n: int, shuffle: bool, cloud_ends: str | None
) -> None:
    setup, x_BF = setup_of(group, shuffle=shuffle, cloud_ends=cloud_ends), inputs(n)
    method = datamix(setup)
    queries, logits_BK = answered(method, x_BF)
    assert len(queries) == -(-n // group) * group
    torch.testing.assert_close(logits_BK, setup.whole()(x_BF), rtol=1e-4, atol=1e-4)


def test_inputs_can_be_mixed_themselves() -> None:
    setup, x_BF = replace(setup_of(3), cut="input"), inputs(6)
    linear = StagedNet([("middle", nn.Linear(6, 8)), ("last", nn.Linear(8, K))])
    method = datamix(replace(setup, net=linear))
    queries, logits_BK = answered(method, x_BF)
    assert queries.shape == x_BF.shape
    torch.testing.assert_close(logits_BK, linear(x_BF), rtol=1e-4, atol=1e-4)
    assert not list(method.edge_modules["edge"].parameters())
    with pytest.raises(ConfigError, match="name a --cut after a stage"):
        datamix(replace(setup, bottleneck=2))


def test_no_query_is_a_source_and_every_batch_is_mixed_anew() -> None:
    method, x_BF = datamix(setup_of(4)), inputs(8)
    features, _ = method.edge_predictor.predict(x_BF)
    assert features is not None
    sent = [method.shield.protect(features)[0] for _ in range(2)]
    for queries in sent:
        assert torch.cdist(queries, features).min() > 0.05
    assert torch.cdist(sent[0], sent[1]).min() > 1e-3


def test_a_group_is_filled_with_dummies_that_nobody_reports() -> None:
    method = datamix(setup_of(4))
    method.edge.step(Batch(inputs(40), torch.arange(40) % K))
    _, logits_BK = answered(method, inputs(5))
    assert logits_BK.shape == (5, K)
    assert method.shield.counts == {
        "groups": 2,
        "dummies": 3,
        "redrawn": method.shield.counts["redrawn"],
    }
    dummies = method.edge_modules["dummies"]
    assert isinstance(dummies, Dummies)
    drawn = dummies.some(20, Keyed.from_seed(0))
    assert torch.cdist(drawn, drawn).fill_diagonal_(1).min() > 1e-3


@pytest.mark.parametrize("shape", [(6,), (3, 12), (3, 12, 8), (2, 4, 6, 6)])
def test_dummies_are_like_features_on_average(shape: tuple[int, ...]) -> None:
    """The same mean, variance and, along the sides of maps, correlation of neighbours."""
    dummies, generator = Dummies(shape), torch.Generator().manual_seed(0)
    level = torch.linspace(-2, 2, 6)[: shape[0]].reshape(-1, *[1] * (len(shape) - 1))
    for _ in range(300):
        white = torch.randn(32, *shape, generator=generator)
        smooth = white + white.roll(1, dims=-1) if len(shape) > 1 else white
        dummies.learn(level + 0.5 * smooth)
    real, drawn = level + 0.5 * smooth, dummies.some(4000, Keyed.from_seed(0))
    assert drawn.shape == (4000, *shape)
    by_channel = [0, *range(2, len(shape) + 1)]
    torch.testing.assert_close(drawn.mean(by_channel), level.flatten(), atol=0.1, rtol=0)
    expected = 0.5 * (2**0.5 if len(shape) > 1 else 1)
    spread = (drawn - drawn.mean(dim=0)).std()
    assert spread == pytest.approx(expected, rel=0.1)
    assert spread == pytest.approx(float((real - level).std()), rel=0.1)
    if len(shape) > 1:
        centred = drawn - drawn.mean(dim=0)
        alike = (centred * centred.roll(1, dims=-1)).mean() / centred.square().mean()
        assert alike == pytest.approx(0.5, abs=0.05)
    assert dummies.some(0, Keyed.from_seed(0)).shape == (0, *shape)


def test_an_edge_half_holds_no_training_input() -> None:
    """At the cut input, features are the normalised inputs themselves."""
    linear = StagedNet([("middle", nn.Linear(6, 8)), ("last", nn.Linear(8, K))])
    method = datamix(replace(setup_of(3), cut="input", net=linear))
    seen = [inputs(40, seed) for seed in range(20)]
    for x_BF in seen:
        method.edge.step(Batch(x_BF, torch.arange(40) % K))
    held = nn.ModuleDict(dict(method.edge_modules)).state_dict()
    rows = torch.cat([x.float().reshape(-1, 6) for x in held.values() if x.numel() % 6 == 0])
    dummies = method.edge_modules["dummies"]
    assert isinstance(dummies, Dummies)
    rows = torch.cat([rows, dummies.some(100, Keyed.from_seed(0))])
    assert torch.cdist(rows, torch.cat(seen)).min() > 1e-3


def test_examples_in_an_old_bundle_become_statistics() -> None:
    """Bundles of Eaves 0.1 hold 32 training features."""
    stock = torch.randn(32, 3, 6, 6, generator=torch.Generator().manual_seed(0)) + 2
    dummies = nn.ModuleDict({"dummies": Dummies((3, 6, 6))})
    dummies.load_state_dict({"dummies.stock": stock})
    assert set(dummies.state_dict()) == {f"dummies.{name}" for name in ("mean", "power", "seen")}
    inner = dummies["dummies"]
    assert isinstance(inner, Dummies)
    torch.testing.assert_close(inner.mean, stock.mean(dim=0))
    assert inner.some(2000, Keyed.from_seed(0)).std() == pytest.approx(float(stock.std()), rel=0.1)


def test_shuffling_sends_the_same_queries_in_another_order() -> None:
    x_BF = inputs(30)
    plain, _ = answered(datamix(setup_of(3)), x_BF)
    shuffled, _ = answered(datamix(setup_of(3, shuffle=True)), x_BF)
    assert not plain.equal(shuffled)
    torch.testing.assert_close(plain.sort(dim=0).values, shuffled.sort(dim=0).values)


def test_answers_in_another_order_are_of_no_use() -> None:
    """The transport keeps the order, and says so by its ticket; here is why it has to."""
    method, x_BF = datamix(setup_of(4)), inputs(8)
    features, _ = method.edge_predictor.predict(x_BF)
    assert features is not None
    assert method.cloud_predictor is not None
    queries, reveal = method.shield.protect(features)
    answers = method.cloud_predictor.answer(queries)
    assert (reveal(answers.flip(0)) - reveal(answers)).abs().max() > 0.1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda r: r[:-1],
            r"answers of shape \(4, 3\) to 4 mixtures, got torch.float32 .*\(3, 3\)",
        ),
        (lambda r: torch.cat([r, r]), r"got torch.float32 of shape \(8, 3\)"),
        (lambda r: r[:, :2], r"got torch.float32 of shape \(4, 2\)"),
        (lambda r: r.long(), "got torch.int64"),
        (lambda r: r.index_fill(0, torch.tensor([1]), float("nan")), "got NaN or infinity"),
        (lambda r: r * float("inf"), "got NaN or infinity"),
    ],
    ids=["missing", "too many", "another width", "integers", "nan", "infinity"],
)
def test_what_is_no_answer_is_refused(change: object, words: str) -> None:
    method = datamix(setup_of(2))
    features, _ = method.edge_predictor.predict(inputs(4))
    assert features is not None
    assert method.cloud_predictor is not None
    assert callable(change)
    queries, reveal = method.shield.protect(features)
    answers = method.cloud_predictor.answer(queries)
    with pytest.raises(PayloadError, match=words):
        reveal(change(answers))


def test_the_head_stays_on_the_edge() -> None:
    method = datamix(setup_of(cloud_ends="middle"))
    assert set(method.cloud_modules) == {"cloud"}
    assert set(method.edge_modules) == {"edge", "head", "dummies"}
    weights = {tuple(p.shape) for p in method.cloud_modules["cloud"].parameters()}
    assert weights == {(8, 8), (8,)}
    assert isinstance(method.shield, MixingShield)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cloud_ends": "stem"}, r"last stage \(--cloud-ends\) after the cut 'stem', got 'stem'"),
        ({"cloud_ends": "nowhere"}, "unknown cut 'nowhere'"),
    ],
)
def test_an_end_that_leaves_the_cloud_nothing_is_refused(
    change: dict[str, str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        datamix(setup_of(cloud_ends=change["cloud_ends"]))


def test_how_to_mix_has_to_be_said() -> None:
    with pytest.raises(ConfigError, match=r"say how, in \[mixing\]"):
        datamix(replace(setup_of(), mixed=None))


def test_every_step_mixes_anew_and_the_gradient_reaches_all_parts() -> None:
    method = datamix(setup_of(2, cloud_ends="middle"))
    parts = nn.ModuleDict({**method.edge_modules, **method.cloud_modules})
    before = {k: v.clone() for k, v in parts.state_dict().items()}
    drawn = method.edge.state().tensors["draws/state"]
    method.edge.step(Batch(inputs(7), torch.arange(7) % K))  # 7: the last group is not full
    after = parts.state_dict()
    changed = {k.split(".")[0] for k, v in after.items() if not v.equal(before[k])}
    assert changed == {"edge", "cloud", "head", "dummies"}
    assert not method.edge.state().tensors["draws/state"].equal(drawn)


def test_one_input_alone_can_be_learnt_from() -> None:
    _, losses = datamix(setup_of(4)).edge.step(Batch(inputs(1), torch.tensor([0])))
    assert 0 < losses["loss"] < 10


def test_training_answers_as_use_does() -> None:
    """With a linear cloud both are the net itself, whatever C."""
    setup, x_BF = setup_of(3), inputs(7)
    method = datamix(setup)
    body, dummies = method.cloud_modules["cloud"], method.edge_modules["dummies"]
    assert isinstance(dummies, Dummies)
    mixture = Mixture(body, method.edge_modules["head"], dummies, MixingLaw(group=3))
    features, _ = method.edge_predictor.predict(x_BF)
    assert features is not None
    torch.testing.assert_close(mixture(features), setup.whole()(x_BF), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(dummies.mean, features.mean(dim=0))


def hardened(adversaries: int = 2, scale: float = 0.5) -> Method:
    hiding = Hiding(
        mechanism=Mechanism(bound=Tanh(1.0), law="gaussian", scale=scale),
        source=Keyed.from_seed(2),
        answer_source=Keyed.from_seed(3),
        attributes={"p": 2},
        adversaries=adversaries,
    )
    return datamix(replace(setup_of(2), hiding=hiding))


def test_hardened_features_are_bounded_and_noised_before_they_are_mixed() -> None:
    x_BF = inputs(2000)
    clean, noisy = (hardened(scale=scale).edge_predictor for scale in (0.0, 0.5))
    z, sent = clean.predict(x_BF)[0], noisy.predict(x_BF)[0]
    assert z is not None
    assert sent is not None
    assert z.abs().max() <= 1
    assert (sent - z).std() == pytest.approx(0.5, rel=0.05)  # 16,000 values: 9 standard errors
    assert noisy.predict(x_BF)[1] is None


def test_hardened_training_has_adversaries_that_read_features_unmixed() -> None:
    edge = hardened().edge
    assert isinstance(edge, HidingEdge)
    batch = Batch(inputs(8), torch.arange(8) % K, PrivateLabels(torch.ones(8, 1).long(), ("p",)))
    _, losses = edge.step(batch)
    assert set(losses) == {"loss", "accuracy", "adversary"}
    _, losses = hardened(adversaries=0).edge.step(batch)
    assert set(losses) == {"loss", "accuracy"}
