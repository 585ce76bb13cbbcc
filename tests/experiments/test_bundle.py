"""What a bundle holds is enough to answer as the trained net did."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from eaves.core.methods import METHODS, PROTECTING
from eaves.errors import StateError
from eaves.experiments.answering import Beside
from eaves.experiments.build import build_job
from eaves.experiments.bundle import read_manifest, read_weights
from eaves.experiments.config import TrainConfig
from eaves.experiments.evaluate import evaluate
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.run import run

TINY = TrainConfig(train_samples=64, batch_size=16, epochs=2, bottleneck=8)
HIDDEN = replace(TINY, data="digits:parity", privacy=PrivacyConfig(private="high"))


@pytest.fixture(scope="module", params=METHODS)
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> TrainConfig:
    out = tmp_path_factory.mktemp("bundle")
    config = replace(HIDDEN if request.param in PROTECTING else TINY, method=request.param, out=out)
    if request.param == "siamese":  # it narrows features itself
        config = replace(config, bottleneck=None)
    assert len(list(run(config))) >= 1
    return config


def test_weights_loaded_into_a_new_net_give_the_accuracy_that_was_recorded(
    trained: TrainConfig,
) -> None:
    job = build_job(trained)  # with the same noise, where there is any
    folder = trained.out / "bundle"
    manifest = read_manifest(folder)
    recorded = manifest["accuracy"]
    sides = {"edge": job.method.edge_modules, "cloud": job.method.cloud_modules}
    for side, modules in sides.items():
        if modules:
            parts = nn.ModuleDict(dict(modules))
            weights = read_weights(folder, side)
            assert set(weights) == set(parts.state_dict())
            for tensor in parts.state_dict().values():
                tensor.zero_()
            parts.load_state_dict(weights)
    cloud = job.method.cloud_predictor
    answers = None if cloud is None else Beside(cloud)
    edge, codec = job.method.edge_predictor, job.wire.codec
    found = evaluate(edge, answers, job.dataset.test, codec, job.method.shield)
    assert {k: rate and rate.as_json() for k, rate in found.items()} == recorded


def test_a_side_without_weights_is_said(trained: TrainConfig) -> None:
    folder = trained.out / "bundle"
    sides = set(read_manifest(folder)["sha256"])
    for side in {"edge", "cloud"} - sides:
        assert not (folder / side).exists()
        with pytest.raises(StateError, match=f"holds no weights for the {side}, only"):
            read_weights(folder, side)
    assert sides == {path.parent.name for path in folder.glob("*/*")}


def test_a_new_run_replaces_the_bundle_whole(tmp_path: Path) -> None:
    for method in ("split", "full-edge"):
        list(run(replace(TINY, method=method, out=tmp_path), overwrite=True))
    assert not (tmp_path / "bundle" / "cloud").exists()
    assert read_manifest(tmp_path / "bundle")["method"] == "full-edge"


def test_a_damaged_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"is no bundle: cannot read manifest\.json"):
        read_manifest(tmp_path)
    list(run(replace(TINY, method="split", out=tmp_path)))
    folder = tmp_path / "bundle"
    weights = folder / "edge" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(StateError, match=r"edge/weights\.safetensors is damaged"):
        read_weights(folder, "edge")
    assert all(torch.isfinite(t).all() for t in read_weights(folder, "cloud").values())
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(StateError, match="expected a bundle of format 1"):
        read_manifest(folder)
    (folder / "manifest.json").write_text('{"format": 2}')
    with pytest.raises(StateError, match="expected a bundle of format 1, got 2"):
        read_manifest(folder)
