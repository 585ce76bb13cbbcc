"""Training that begins with a net that already works, wherever that one was cut."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from eaves.errors import ConfigError, StateError
from eaves.experiments.build import Job, build_job
from eaves.experiments.bundle import read_weights
from eaves.experiments.config import TrainConfig
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.record import RunRecord
from eaves.experiments.run import run
from eaves.experiments.siameseconfig import SiameseConfig
from eaves.experiments.start import start, whole_weights

TINY = TrainConfig(train_samples=64, batch_size=32, epochs=1)
SIAMESE = replace(TINY, method="siamese", seed=9)


def ran(config: TrainConfig) -> RunRecord:
    *_, record = run(config)
    assert isinstance(record, RunRecord)
    return record


def answers(job: Job, whole: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of the job's two parts, without a projection, and those of a whole net."""
    edge, cloud = job.method.edge_modules["edge"], job.method.cloud_modules["cloud"]
    assert isinstance(edge, nn.Sequential)
    assert isinstance(cloud, nn.Sequential)
    x = job.dataset.test.fetch(torch.arange(20)).inputs
    with torch.no_grad():
        return cloud[-1].eval()(edge[0].eval()(x)), whole.eval()(x)


@pytest.mark.parametrize("method", ["full-edge", "full-cloud", "hierarchical", "split", "siamese"])
def test_every_method_with_a_whole_net_can_be_gone_on_from(method: str, tmp_path: Path) -> None:
    before = replace(TINY, method=method, cut=None if "full" in method else "conv1", out=tmp_path)
    ran(before)
    job = build_job(replace(SIAMESE, cut="conv2"))
    whole = build_job(replace(TINY, method="full-edge")).method.edge_modules["edge"]
    weights = whole_weights(tmp_path)
    whole.load_state_dict({name: weights[name] for name in whole.state_dict()})
    start(job, tmp_path)
    ours, theirs = answers(job, whole)
    torch.testing.assert_close(ours, theirs)


def test_a_run_that_starts_so_leaves_plain_training_out(tmp_path: Path) -> None:
    ran(replace(TINY, method="full-edge", out=tmp_path / "base"))
    settings = SiameseConfig(start=tmp_path / "base", tune_epochs=0, adapt_epochs=0)
    record = ran(replace(SIAMESE, siamese=settings, out=tmp_path / "on"))
    assert record.steps == 2  # of fitting the components
    old, new = (read_weights(tmp_path / name / "bundle", "edge") for name in ("base", "on"))
    assert torch.equal(new["edge.0.1.conv1.conv.weight"], old["edge.1.conv1.conv.weight"])


def test_what_cannot_be_gone_on_from_is_refused(tmp_path: Path) -> None:
    job = build_job(SIAMESE)
    toml = tmp_path / "config.toml"
    toml.write_text(TINY.to_toml())
    with pytest.raises(ConfigError, match="got a configuration in"):
        start(job, toml)
    with pytest.raises(StateError, match="is no bundle"):
        start(job, tmp_path)
    ran(replace(TINY, method="hierarchical", bottleneck=4, out=tmp_path / "narrow"))
    with pytest.raises(ConfigError, match="without a bottleneck, got a bundle of hierarchical"):
        start(job, tmp_path / "narrow")
    hidden = PrivacyConfig(private="high")
    data = "digits:parity"
    ran(replace(TINY, method="priphit", data=data, privacy=hidden, out=tmp_path / "hidden"))
    with pytest.raises(ConfigError, match="got a bundle of priphit"):
        start(job, tmp_path / "hidden")
    ran(replace(TINY, method="full-edge", data=data, out=tmp_path / "two"))
    with pytest.raises(ConfigError, match=r"of the net small .*has another head.fc.weight"):
        start(job, tmp_path / "two")
