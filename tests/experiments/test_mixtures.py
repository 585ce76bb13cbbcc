"""What mixtures expose: plain ones are taken apart, hardened ones are not; single ones tell little.

The net is that of the README's digits, for 12 epochs.
"""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from eaves.audit.findings import Unmixed
from eaves.audit.rank import Ranking
from eaves.errors import ConfigError
from eaves.experiments.auditconfig import AuditConfig
from eaves.experiments.auditing import AuditRecord, run_audit
from eaves.experiments.config import TrainConfig
from eaves.experiments.exposing import OPEN, Subject, exposure_of
from eaves.experiments.mixingconfig import MixingConfig
from eaves.experiments.mixtures import MixtureAudit, mixed_exposure
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.record import RunRecord
from eaves.experiments.run import run

PLAIN = TrainConfig(
    method="datamix",
    data="digits:parity",
    cut="conv1",
    epochs=6,
    privacy=PrivacyConfig(private="high"),
    mixing=MixingConfig(group=2, allow_guessable=True),
)
HARDENED = replace(
    PLAIN, bottleneck="4x2x2", epochs=12, mixing=MixingConfig(group=2, hardened=True)
)
SHORT = AuditConfig(attacks="unmixing", effort=0.02, known=300, gallery=0)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(replace(PLAIN, out=tmp_path_factory.mktemp("plain")))


@pytest.fixture(scope="module")
def hardened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(replace(HARDENED, out=tmp_path_factory.mktemp("hardened")))


def trained(config: TrainConfig) -> Path:
    record = [event for event in run(config) if isinstance(event, RunRecord)][-1]
    rate = record.accuracy["cloud"]
    assert rate is not None
    assert rate["value"] >= 0.9
    return config.out


def taken_apart(folder: Path) -> dict[str, Unmixed]:
    subject = Subject(folder, SHORT)
    audit = MixtureAudit(subject, SHORT, subject.attacker(), subject.victims())
    found = [event for event in audit.run() if isinstance(event, Unmixed)]
    return {unmixed.attack: unmixed for unmixed in found}


def test_plain_mixtures_are_taken_apart(plain: Path) -> None:
    found = taken_apart(plain)
    assert found["oracle"].recovered.low > 0.95
    assert found["gradient"].recovered.low > 0.3
    assert found["gradient"].recovered.low > found["nothing"].recovered.high
    assert found["raw"].recovered.value < found["gradient"].recovered.value


@pytest.mark.slow
def test_hardened_mixtures_are_not(hardened: Path) -> None:
    """Not even by who knows the coefficients: the noise was there before them."""
    found = taken_apart(hardened)
    assert found["oracle"].recovered.value <= 0.05
    assert found["gradient"].recovered.value <= 0.05
    assert "laplacian" not in found  # maps of 2x2 are too small for it


def test_a_single_mixture_has_the_class_of_its_strongest_source(plain: Path) -> None:
    subject = Subject(plain, SHORT)
    known, victims = subject.attacker(), subject.victims()
    exposure = exposure_of(subject, "high", known, victims, SHORT)
    generator = torch.Generator().manual_seed(0)
    mixed = mixed_exposure(subject, exposure, known, victims, generator=generator)
    assert mixed.known.features.shape == exposure.known.features.shape
    assert mixed.victims.features.shape == exposure.victims.features.shape
    assert mixed.mechanism is OPEN
    assert not mixed.victims.labels.any()  # no label travels with a mixture
    counted = mixed.victims.private.bincount()
    assert abs(int(counted[0] - counted[1])) < 90  # about half of 360, as of the victims


def test_an_audit_writes_what_was_taken_apart(plain: Path, tmp_path: Path) -> None:
    *events, record = run_audit(plain, replace(SHORT, out=tmp_path, gallery=3))
    assert isinstance(record, AuditRecord)
    found = [event for event in events if isinstance(event, Unmixed)]
    assert [m["attack"] for m in record.mixtures] == [unmixed.attack for unmixed in found]
    assert (tmp_path / "audit.json").exists()
    pictures = load_file(tmp_path / "gallery.safetensors")
    best = max(found[1:-1], key=lambda unmixed: unmixed.correlation.value).attack
    assert set(pictures) == {
        f"mixtures/{kind}"
        for kind in ("input", "mixture", f"taken apart by {best}", "without mixing")
    }
    assert all(images.shape == (3, 1, 8, 8) for images in pictures.values())


def test_a_mixture_is_nobodys(plain: Path, tmp_path: Path) -> None:
    """Refused where it was asked for; left out of a set of attacks."""
    with pytest.raises(ConfigError, match=r"datamix sends mixtures.* leave the attack rank out"):
        list(run_audit(plain, replace(SHORT, attacks="unmixing,rank")))
    stop = threading.Event()
    for event in run_audit(plain, replace(SHORT, attacks="quick", out=tmp_path), stop=stop):
        if isinstance(event, Unmixed):
            stop.set()
        assert not isinstance(event, Ranking)
    assert isinstance(event, AuditRecord)
    assert event.identity is None


def test_only_mixtures_are_taken_apart(tmp_path: Path) -> None:
    config = TrainConfig(method="split", epochs=1, max_steps=2, data="digits:parity", out=tmp_path)
    list(run(config))
    with pytest.raises(ConfigError, match="split does not mix: leave the attack unmixing out"):
        list(run_audit(tmp_path, replace(SHORT, private="high")))
