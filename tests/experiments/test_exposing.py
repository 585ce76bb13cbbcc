"""What an attacker gets to see: what the codec makes of the noised features, release by release.

Dimension key:  N examples   R releases of each
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from eaves.codecs.base import parse_codec
from eaves.data.gait import write_motion
from eaves.data.source import subset
from eaves.errors import ConfigError, StateError
from eaves.experiments.auditconfig import AuditConfig
from eaves.experiments.auditing import AuditRecord, run_audit
from eaves.experiments.bundle import read_weights
from eaves.experiments.config import TrainConfig
from eaves.experiments.exposing import Subject, exposure_of, scene_of, unshielded
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.run import run
from eaves.privacy.sources import Keyed

TEST_SIZE = 360
AUDIT = AuditConfig(half_width=0.06, private="high", seed=3)
TINY = TrainConfig(data="digits:parity", train_samples=256, batch_size=64, max_steps=2)
HIDES = PrivacyConfig(private="high", noise_scale=0.5)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a way to make the run of a configuration that was hardly trained, once each."""
    made: dict[str, Path] = {}

    def of(**changes: Any) -> Path:
        config = replace(TINY, **changes)
        if config.hash() not in made:
            out = tmp_path_factory.mktemp("run")
            list(run(replace(config, out=out)))
            made[config.hash()] = out
        return made[config.hash()]

    return of


@pytest.fixture(scope="module")
def hidden(bundle: Callable[..., Path]) -> Path:
    return bundle(method="priphit", bottleneck="2x2x2", privacy=HIDES)


def sent_by_hand(subject: Subject, features: Tensor, releases: int, codec: str) -> Tensor:
    """Return (N, R, ...): batches of 64, as in training, are drawn, released and decoded.

    360 are 5 batches and 40: 24 others fill up the first one, and are not looked at.
    """
    source, coder = Keyed.from_seed(3), parse_codec(codec)
    draw = torch.Generator().manual_seed(3)
    per_release = []
    for _ in range(releases):
        order = torch.randperm(TEST_SIZE, generator=draw)
        filling = torch.randint(TEST_SIZE, (24,), generator=draw)
        sent = [
            coder.decode(coder.encode(subject.mechanism.release(features[rows], source)))
            for rows in torch.split(torch.cat([filling, order]), 64)
        ]
        per_release.append(torch.cat(sent)[24:][order.argsort()])
    return torch.stack(per_release, dim=1)


@pytest.mark.parametrize("releases", [1, 3])
@pytest.mark.parametrize("codec", ["int8+zstd", "int2"])
def test_victims_are_seen_as_the_cloud_decodes_them(
    bundle: Callable[..., Path], releases: int, codec: str
) -> None:
    path = bundle(method="priphit", bottleneck="2x2x2", privacy=HIDES, codec=codec)
    audit = replace(AUDIT, releases=releases)
    subject = Subject(path, audit)
    victims, known = subject.victims(), subject.attacker()
    exposure = exposure_of(subject, "high", known, victims, audit)
    seen = exposure.victims.features
    assert seen.shape == (TEST_SIZE, releases, 2, 2, 2)
    assert torch.equal(seen, sent_by_hand(subject, victims.features, releases, codec))
    # Each row is of its own example: without noise and codec, these are its bounded features.
    bounded = victims.features.tanh().unsqueeze(1)
    step = {"int8+zstd": 0.02, "int2": 1.5}[codec]  # of a codec, for values to +-3
    assert float((seen - bounded).mean(dim=0).abs().max()) < 0.2
    assert float((seen - bounded).std()) < 0.5 + step
    if releases > 1:
        assert not torch.equal(seen[:, 0], seen[:, 1])  # fresh noise for each
    assert exposure.mechanism.scale == 0.5


def test_what_is_sent_depends_on_the_seed_of_the_audit_alone(hidden: Path) -> None:
    def sent(seed: int) -> Tensor:
        subject = Subject(hidden, replace(AUDIT, seed=seed))
        return subject.sent(subject.victims().features)

    assert torch.equal(sent(3), sent(3))
    assert not torch.equal(sent(3), sent(4))


def test_without_a_shield_there_is_neither_noise_nor_codec(hidden: Path) -> None:
    audit = replace(AUDIT, releases=3)
    subject = Subject(hidden, audit)
    victims, known = subject.victims(), subject.attacker()
    shielded = exposure_of(subject, "high", known, victims, audit)
    open_ = unshielded(shielded, known, victims)
    assert torch.equal(open_.victims.features, victims.features.unsqueeze(1))
    assert torch.equal(open_.known.features, known.features)
    assert (open_.mechanism.law, open_.mechanism.scale) == ("none", 0.0)
    assert torch.equal(shielded.known.features, known.features.tanh())  # before the noise
    assert torch.equal(open_.victims.private, shielded.victims.private)


def test_what_shields_nothing_is_seen_through_its_codec(bundle: Callable[..., Path]) -> None:
    path = bundle(method="hierarchical", codec="fp32")
    subject = Subject(path, AUDIT)
    victims = subject.victims()
    assert not subject.shields
    assert torch.equal(subject.sent(victims.features), victims.features.unsqueeze(1))
    assert Subject(bundle(method="priphit", bottleneck="2x2x2", privacy=HIDES), AUDIT).shields


def test_the_attacker_has_the_training_set_and_no_victim(hidden: Path) -> None:
    subject = Subject(hidden, AUDIT)
    known, victims = subject.attacker(), subject.victims()
    assert len(known.images) == len(known.private) == 1437
    assert len(victims.images) == len(victims.labels) == TEST_SIZE

    def digests(images: Tensor) -> set[str]:
        return {hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images}

    assert not digests(known.images) & digests(victims.images)
    fewer = Subject(hidden, replace(AUDIT, known=100)).attacker()
    assert len(fewer.images) == 100
    assert digests(fewer.images) <= digests(known.images)


def test_features_are_those_of_the_weights_in_the_bundle(hidden: Path) -> None:
    subject, again = Subject(hidden, AUDIT), Subject(hidden / "bundle", replace(AUDIT, seed=9))
    assert torch.equal(subject.victims().features, again.victims().features)
    with torch.no_grad():
        one = subject.edge(subject.victims().images[:1])
    assert torch.allclose(one, subject.victims().features[:1], atol=1e-5)  # in evaluation mode


def test_a_scene_has_the_same_victims(hidden: Path) -> None:
    audit = replace(AUDIT, releases=3)
    subject = Subject(hidden, audit)
    victims, known = subject.victims(), subject.attacker()
    exposure = exposure_of(subject, "high", known, victims, audit)
    scene = scene_of(subject, exposure, known, victims)
    assert scene.box.releases == 3
    assert torch.equal(scene.features, exposure.victims.features)
    assert torch.equal(scene.victims.images, victims.images)
    assert torch.equal(scene.victims.private, victims.private.of("high"))
    assert scene.feature_shape == (2, 2, 2)


def test_the_cloud_part_as_an_attacker_is_new_and_answers_the_attribute(hidden: Path) -> None:
    def net(seed: int) -> torch.nn.Module:
        return Subject(hidden, replace(AUDIT, seed=seed)).cloud_for("high").eval()

    z = torch.randn(4, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, again, other = net(3)(z), net(3)(z), net(4)(z)
    assert first.shape == (4, 2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_where_features_are_tuned_the_cloud_part_begins_with_what_it_knows(
    bundle: Callable[..., Path],
) -> None:
    path = bundle(method="siamese", data="digits")
    subject = Subject(path, replace(AUDIT, data="digits:parity"))
    weights = {
        name.removeprefix("cloud."): value
        for name, value in read_weights(path / "bundle", "cloud").items()
    }
    attacker = dict(subject.cloud_for("high")[0].state_dict())  # type: ignore[index]
    assert attacker.keys() == weights.keys()
    same = {name for name, value in weights.items() if torch.equal(attacker[name], value)}
    # Ten answers are two now: the last layer alone is new.
    assert weights.keys() - same == {"1.head.fc.weight", "1.head.fc.bias"}
    assert attacker["1.head.fc.bias"].shape == (2,)
    assert float(attacker["0.projection.basis"].norm()) > 0


def test_the_attacker_may_have_what_the_net_has_not_seen(bundle: Callable[..., Path]) -> None:
    path = bundle(method="hierarchical", train_samples=1000)
    order = subset(1437, 1437)
    every = Subject(path, AUDIT).dataset.train.fetch(order).inputs
    for known, unseen, n, fresh in (
        (300, False, 300, 300),
        (500, False, 500, 437),  # then 63 that it was trained on
        (500, True, 437, 437),
        (12_000, False, 1437, 437),
    ):
        found = Subject(path, replace(AUDIT, known=known, unseen=unseen)).attacker()
        assert torch.equal(found.images, every.roll(-1000, dims=0)[:n])
        assert (len(found.features), found.unseen) == (n, fresh)
    exposure = exposure_of(Subject(path, AUDIT), "high", found, found, AUDIT)
    assert exposure.known.not_trained_on == 437
    all_trained = Subject(bundle(method="hierarchical", train_samples=None), AUDIT)
    assert all_trained.attacker().unseen == 0
    with pytest.raises(ConfigError, match="trained on all 1437: leave --unseen out"):
        Subject(
            bundle(method="hierarchical", train_samples=None), replace(AUDIT, unseen=True)
        ).attacker()


def test_facts_name_the_bundle_and_its_noise(hidden: Path) -> None:
    facts = Subject(hidden, AUDIT).facts
    assert (facts["method"], facts["cut"], facts["bottleneck"]) == ("priphit", "conv2", "2x2x2")
    assert (facts["law"], facts["scale"]) == ("gaussian", 0.5)
    assert facts["accuracy"]["cloud"]["n"] == TEST_SIZE
    assert facts["folder"] == str(hidden / "bundle")


# What cannot be audited


@pytest.mark.parametrize(
    ("changes", "audit", "message"),
    [
        ({"method": "full-edge"}, {}, "full-edge sends nothing: there are no features to audit"),
        ({"method": "full-cloud"}, {}, "full-cloud sends the inputs themselves: there are no"),
        ({"method": "hierarchical"}, {"private": ""}, "name what an attacker would like to know"),
        ({"method": "hierarchical"}, {"private": "hihg"}, "unknown private attribute 'hihg'"),
        ({"method": "hierarchical"}, {"data": "digits"}, None),
        ({"method": "hierarchical"}, {"private": "parity"}, "is the task itself: parity"),
    ],
)
def test_what_cannot_be_audited(
    bundle: Callable[..., Path], changes: dict[str, Any], audit: dict[str, Any], message: str | None
) -> None:
    path = bundle(**changes)
    if message is None:  # the data set's own name: the bundle's task on it
        assert Subject(path, replace(AUDIT, **audit)).config.data == "digits:parity"
        return
    with pytest.raises(ConfigError, match=message):
        Subject(path, replace(AUDIT, **audit))


def test_what_is_no_image_is_not_rebuilt(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_motion(
        root / "motionsense", subjects=6, seconds=6.0, generator=torch.Generator().manual_seed(0)
    )
    config = replace(
        TINY, data="motion", data_root=root, net="motion", train_samples=None, out=tmp_path / "run"
    )
    list(run(config))
    audit = AuditConfig(private="gender", known=100, effort=0.05)
    with pytest.raises(ConfigError, match=r"motion is not made of images.*leave out decoder, gan"):
        Subject(tmp_path / "run", replace(audit, attacks="attribute,decoder,gan"))
    *_, record = run_audit(tmp_path / "run", audit)  # quick
    assert isinstance(record, AuditRecord)
    assert record.complete
    assert record.attributes["gender"]["reconstructions"] == []
    assert record.attributes["gender"]["findings"]
    assert record.identity is not None


def test_what_is_no_bundle(tmp_path: Path, hidden: Path) -> None:
    with pytest.raises(ConfigError, match="expected a bundle, or the folder of a run, got"):
        Subject(hidden / "config.toml", AUDIT)
    with pytest.raises(StateError, match="is no bundle"):
        Subject(tmp_path, AUDIT)


def test_too_few_victims_are_refused_with_their_number(hidden: Path) -> None:
    subject = Subject(hidden, AUDIT)
    victims, known = subject.victims(), subject.attacker()
    for half_width, needed in ((0.02, 2398), (0.05, 382)):
        wider = replace(AUDIT, half_width=half_width)
        with pytest.raises(ConfigError, match=rf"expected {needed} victims .* got {TEST_SIZE}; "):
            exposure_of(subject, "high", known, victims, wider)
