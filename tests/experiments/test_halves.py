"""One half from a configuration or a bundle: its own weights only, and what both must agree on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from eaves.core.roles import Upload
from eaves.data.batches import batches
from eaves.data.load import known_examples, load_dataset
from eaves.errors import ConfigError, StateError
from eaves.experiments.build import build_job
from eaves.experiments.bundle import read_weights
from eaves.experiments.config import TrainConfig
from eaves.experiments.halves import (
    Origin,
    cloud_half,
    edge_job,
    open_origin,
    run_uploads,
    write_untrained,
)
from eaves.experiments.phases import edge_phases
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.run import run
from eaves.network.screening import scale_of
from eaves.runtime.sealed import sealed_json, unsealed_json

TINY = TrainConfig(train_samples=64, batch_size=16, epochs=1)


def _bundle(tmp_path: Path, config: TrainConfig = TINY) -> Path:
    write_untrained(config, tmp_path / "bundle")
    return tmp_path / "bundle"


# From where


def test_a_file_is_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(TINY.to_toml())
    assert open_origin(path) == Origin(config=TINY)


def test_a_bundle_brings_its_session_and_its_classes(tmp_path: Path) -> None:
    list(run(replace(TINY, out=tmp_path)))
    by_run, by_bundle = open_origin(tmp_path), open_origin(tmp_path / "bundle")
    assert by_run == by_bundle
    assert by_run.interface is not None
    assert by_run.interface.input_shape == (1, 8, 8)
    assert by_run.interface.classes == tuple("0123456789")
    assert len(by_run.session) >= 16
    assert by_run.accuracy is not None
    assert by_run.accuracy["cloud"]["n"] == 360


@pytest.mark.parametrize("key", ["config", "input_shape", "classes", "session", "accuracy"])
def test_a_manifest_without_what_it_needs_is_damaged(tmp_path: Path, key: str) -> None:
    path = _bundle(tmp_path) / "manifest.json"
    facts = unsealed_json(path.read_bytes())
    del facts[key]
    path.write_bytes(sealed_json(facts))
    with pytest.raises(StateError, match=r"manifest of .* is damaged"):
        open_origin(path.parent)


def test_a_folder_without_a_bundle_and_no_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="is no bundle"):
        open_origin(tmp_path)
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        open_origin(tmp_path / "none")


# Halves


@pytest.mark.parametrize("method", ["hierarchical", "split"])
def test_halves_made_apart_are_those_made_together(method: str) -> None:
    config = replace(TINY, method=method)
    whole = build_job(config).method
    origin = Origin(config=config)
    half, cloud, cloud_terms = cloud_half(origin, "cpu")
    job, edge_terms = edge_job(origin)
    assert cloud_terms == edge_terms
    assert (cloud.edge_modules, job.method.cloud_modules) == ({}, {})
    assert (job.method.cloud, job.method.cloud_predictor) == (None, None)
    for ours, theirs in (
        (cloud.cloud_modules, whole.cloud_modules),
        (job.method.edge_modules, whole.edge_modules),
    ):
        for name, module in theirs.items():
            for key, value in module.state_dict().items():
                assert torch.equal(ours[name].state_dict()[key], value), key
    assert half.accepts.feature_shape == tuple(edge_terms["feature_shape"])
    assert half.accepts.classes == 10


@pytest.mark.parametrize(
    ("change", "term"),
    [
        ({"cut": "conv1"}, "cut"),
        ({"bottleneck": 8}, "bottleneck"),
        ({"method": "split"}, "method"),
        ({"send": "once"}, "send"),
    ],
)
def test_terms_tell_what_does_not_fit(change: dict[str, Any], term: str) -> None:
    _, ours = edge_job(Origin(config=TINY))
    _, theirs = edge_job(Origin(config=replace(TINY, **change)))
    assert ours.get(term) != theirs.get(term)


@pytest.mark.parametrize("change", [{"lr": 0.3}, {"epochs": 9}, {"codec": "fp16"}, {"seed": 5}])
def test_terms_leave_to_each_side_what_is_its_own(change: dict[str, Any]) -> None:
    assert edge_job(Origin(config=TINY))[1] == edge_job(Origin(config=replace(TINY, **change)))[1]


def test_a_trained_bundle_goes_on_where_it_was(tmp_path: Path) -> None:
    list(run(replace(TINY, out=tmp_path)))
    origin = open_origin(tmp_path)
    _, cloud, _ = cloud_half(origin, "cpu")
    job, _ = edge_job(origin)
    for side, modules in (("cloud", cloud.cloud_modules), ("edge", job.method.edge_modules)):
        kept = read_weights(tmp_path / "bundle", side)
        assert kept
        assert {f"{n}.{k}" for n, m in modules.items() for k in m.state_dict()} == set(kept)
        for name, module in modules.items():
            for key, value in module.state_dict().items():
                assert torch.equal(kept[f"{name}.{key}"], value)


def test_half_a_bundle_is_enough_for_its_side_and_for_it_alone(tmp_path: Path) -> None:
    folder = _bundle(tmp_path)
    (folder / "cloud" / "weights.safetensors").rename(tmp_path / "away")
    origin = open_origin(folder)
    edge_job(origin)
    with pytest.raises(StateError, match="cloud"):
        cloud_half(origin, "cpu")
    (tmp_path / "away").rename(folder / "cloud" / "weights.safetensors")
    (folder / "edge" / "weights.safetensors").unlink()
    cloud_half(origin, "cpu")
    with pytest.raises(StateError, match="edge"):
        edge_job(origin)


def test_weights_of_another_net_are_refused(tmp_path: Path) -> None:
    origin = open_origin(_bundle(tmp_path))
    other = replace(origin, config=replace(origin.config, cut="conv1"))
    with pytest.raises(StateError, match="are of another net"):
        cloud_half(other, "cpu")


def test_data_of_other_classes_are_refused(tmp_path: Path) -> None:
    origin = open_origin(_bundle(tmp_path))
    assert origin.interface is not None
    fewer = replace(origin.interface, classes=("a", "b"))
    with pytest.raises(ConfigError, match="of the classes a, b; digits has inputs"):
        edge_job(replace(origin, interface=fewer))


# What no network can do


def test_what_no_network_can_do_is_refused(tmp_path: Path) -> None:
    config = TrainConfig(method="full-edge")
    origin = Origin(config=config)
    for attempt in (
        lambda: cloud_half(origin, "cpu"),
        lambda: edge_job(origin),
        lambda: write_untrained(config, tmp_path / "out"),
    ):
        with pytest.raises(ConfigError, match="full-edge sends nothing"):
            attempt()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["datamix", "siamese"])
def test_what_is_trained_in_one_place_is_not_trained_over_a_network(
    tmp_path: Path, method: str
) -> None:
    config = replace(TINY, method=method)
    origin = Origin(config=config)
    for attempt in (
        lambda: cloud_half(origin, "cpu"),
        lambda: edge_job(origin),
        lambda: write_untrained(config, tmp_path / "out"),
    ):
        with pytest.raises(ConfigError, match=f"{method} is trained in one place: train it with"):
            attempt()
    list(run(replace(config, cut="conv1", out=tmp_path / "trained")))
    trained = open_origin(tmp_path / "trained")
    half, built, terms = cloud_half(trained, "cpu")
    assert built.cloud is None
    assert terms["method"] == method
    assert terms["feature_shape"] == ([8] if method == "siamese" else [32, 8, 8])
    with pytest.raises(ConfigError, match="learns from no upload"):
        half.learner.step(
            Upload(torch.zeros(1, *half.accepts.feature_shape), torch.zeros(1).long())
        )
    edge_job(trained, trains=False)


def test_full_cloud_needs_a_bundle_that_knows_the_mean(tmp_path: Path) -> None:
    config = replace(TINY, method="full-cloud")
    with pytest.raises(ConfigError, match="make a bundle where the data is"):
        cloud_half(Origin(config=config), "cpu")
    half, method, _ = cloud_half(open_origin(_bundle(tmp_path, config)), "cpu")
    assert half.accepts.dtype == torch.uint8
    whole = build_job(config).method
    for name, module in whole.cloud_modules.items():
        for key, value in module.state_dict().items():
            assert torch.equal(method.cloud_modules[name].state_dict()[key], value), key


@pytest.mark.parametrize("bottleneck", ["2x4x4", "4x2x2", None])
def test_the_features_of_a_method_that_hides_have_the_shape_of_its_bottleneck(
    bottleneck: str | None,
) -> None:
    config = replace(
        TINY,
        method="priphit",
        data="digits:parity",
        bottleneck=bottleneck,
        privacy=PrivacyConfig(private="high"),
    )
    half, _, cloud_terms = cloud_half(Origin(config=config), "cpu")
    job, edge_terms = edge_job(Origin(config=config))
    assert cloud_terms == edge_terms
    shape = (64, 4, 4) if bottleneck is None else tuple(map(int, bottleneck.split("x")))
    assert half.accepts.feature_shape == shape
    assert job.method.sender is not None
    (batch,) = batches(job.dataset.train, batch_size=64, seed=0, epoch=0)
    upload, _ = job.method.sender.step(batch)
    assert upload is not None
    assert upload.features.shape[1:] == shape
    assert not torch.equal(upload.features, job.method.sender.step(batch)[0].features)  # type: ignore[union-attr]


def test_inputs_that_travel_once_are_augmented_in_the_cloud_as_suits_the_data(
    tmp_path: Path,
) -> None:
    config = replace(TINY, method="full-cloud", send="once")
    origin = open_origin(_bundle(tmp_path, config))
    assert origin.augment == "crop"  # as the digits say
    upload = Upload(
        torch.randint(256, (8, 1, 8, 8), dtype=torch.uint8), torch.zeros(8, dtype=torch.int64)
    )

    def after(config: TrainConfig, augment: str) -> Tensor:
        half, _, _ = cloud_half(replace(origin, config=config, augment=augment), "cpu")
        half.learner.step(upload)
        return half.learner.state().tensors["weights/cloud.1.conv1.conv.weight"]

    as_it_suits, named = after(config, "crop"), after(replace(config, augment="none"), "crop")
    assert torch.equal(as_it_suits, after(replace(config, augment="crop"), "auto"))
    assert torch.equal(named, after(config, "none"))
    assert not torch.equal(as_it_suits, named)
    with pytest.raises(ConfigError, match="which does not know what suits the data: name"):
        after(config, "auto")


def test_an_untrained_bundle_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine").write_text("precious")
    with pytest.raises(ConfigError, match="is not empty"):
        _bundle(tmp_path)
    assert (tmp_path / "bundle" / "mine").read_text() == "precious"


def test_two_untrained_bundles_are_two_trainings(tmp_path: Path) -> None:
    write_untrained(TINY, tmp_path / "a")
    write_untrained(TINY, tmp_path / "b")
    assert open_origin(tmp_path / "a").session != open_origin(tmp_path / "b").session
    assert open_origin(tmp_path / "a").accuracy is None


# How long a cloud trains, and how large features are, as far as it can know


@pytest.mark.parametrize(
    ("config", "uploads"),
    [
        (TrainConfig(), 110),  # digits: 11 batches of 128, 10 epochs
        (TrainConfig(data="cifar10", epochs=2), 780),
        (TrainConfig(data="images:mine", train_samples=64, batch_size=16, epochs=3), 12),
        (TrainConfig(data="images:mine"), 0),
        (TrainConfig(method="full-edge"), 0),
    ],
)
def test_a_cloud_knows_the_uploads_of_a_run_where_it_knows_the_data(
    config: TrainConfig, uploads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EAVES_DATA", raising=False)
    assert run_uploads(Origin(config=config)) == uploads


def test_a_bundle_says_how_many_examples_there_are(tmp_path: Path) -> None:
    config = TrainConfig(train_samples=100, batch_size=10, epochs=2)
    write_untrained(config, tmp_path / "bundle")
    origin = open_origin(tmp_path / "bundle")
    assert origin.train_examples == 100
    unnamed = replace(origin, config=replace(config, data="images:mine", train_samples=None))
    assert run_uploads(unnamed) == 20
    path = tmp_path / "bundle" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    for wrong in ("many", 0, -1, True):
        path.write_text(json.dumps({**manifest, "train_examples": wrong}))
        with pytest.raises(StateError, match="manifest"):
            open_origin(tmp_path / "bundle")


HIDING = PrivacyConfig(private="high")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_steps": 7},
        {"send": "once"},
        {"send": "once", "copies": 2, "cloud_epochs": 3},
        {"send": "once", "cloud_epochs": 1, "max_steps": 5},
        {"method": "full-cloud", "send": "once"},
        {"method": "split"},
        {"method": "priphit", "data": "digits:parity", "privacy": HIDING},
        {
            "method": "nopeek",
            "data": "digits:parity",
            "privacy": HIDING,
            "send": "every-epoch",
            "cloud_epochs": 3,
        },
    ],
)
def test_a_cloud_counts_the_uploads_that_an_edge_makes(changes: dict[str, Any]) -> None:
    config = TrainConfig(**{"epochs": 2, **changes})
    job, _ = edge_job(Origin(config=config))
    assert run_uploads(Origin(config=config)) == edge_phases(job)[-1].steps


@pytest.mark.parametrize("data", ["digits", "digits:parity"])
def test_the_known_size_of_a_data_set_is_that_of_the_data(data: str) -> None:
    assert known_examples(data, root=None) == len(load_dataset(data, root=None).train)


@pytest.mark.parametrize("method", ["hierarchical", "split", "priphit"])
def test_a_cloud_probes_how_large_features_are(method: str) -> None:
    private: dict[str, Any] = {"data": "digits:parity", "privacy": HIDING}
    config = TrainConfig(method=method, **(private if method == "priphit" else {}))
    half, *_ = cloud_half(Origin(config=config), "cpu")
    again, *_ = cloud_half(Origin(config=config), "cpu")
    assert half.policy.probed is not None
    assert 0 < half.policy.probed.rms < half.policy.probed.peak < 1e3
    if method != "priphit":  # which adds noise from a secret key
        assert again.policy == half.policy
    job, _ = edge_job(Origin(config=config))
    *_, sends = edge_phases(job)
    upload, _ = sends.edge.step(next(iter(sends.batches(job))))
    assert upload is not None
    assert scale_of(upload.features).rms < 100 * half.policy.probed.rms


def test_bytes_need_no_probe() -> None:
    config = TrainConfig(method="full-cloud", data="cifar10")
    half, *_ = cloud_half(Origin(config=config), "cpu")
    assert half.policy.probed is None
