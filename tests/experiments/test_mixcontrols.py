"""Positive controls of un-mixing: what surely can be taken apart is, by who can."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from eaves.audit.trial import Allowance
from eaves.audit.unmixing import BESIDE, UNMIXERS, UnmixPlan
from eaves.audit.unmixnet import NetPlan
from eaves.audit.verdict import Planted
from eaves.experiments.auditconfig import AuditConfig
from eaves.experiments.config import TrainConfig
from eaves.experiments.exposing import Subject
from eaves.experiments.mixcontrols import MixControls
from eaves.experiments.mixingconfig import MixingConfig
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.run import run

PLAN = UnmixPlan(net=NetPlan(allowance=Allowance(rounds=2, batch_size=16, time_s=600.0)))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mixed")
    config = TrainConfig(
        method="datamix",
        data="digits:parity",
        cut="conv1",
        max_steps=2,
        privacy=PrivacyConfig(private="high"),
        mixing=MixingConfig(group=4),
        out=out,
    )
    list(run(config))
    return out


def controls(bundle: Path, shape: tuple[int, ...]) -> dict[str, Planted]:
    subject = Subject(bundle, AuditConfig(attacks="unmixing"))
    made = MixControls(subject=subject, shape=shape, plan=PLAN)
    found = {one.attacker: one for one in made.run(generator=torch.Generator().manual_seed(0))}
    assert all(one.attack == "unmixing" and one.strength is None for one in found.values())
    return found


def test_sparse_sources_are_found_by_who_can(bundle: Path) -> None:
    found = controls(bundle, (8, 8, 8))
    assert set(found) == set(UNMIXERS) - set(BESIDE)
    for name in ("raw", "gradient", "known-plaintext"):
        assert found[name].passed, name
        assert found[name].found > 0.8


def test_a_plan_is_that_of_the_attack(bundle: Path) -> None:
    made = MixControls(
        subject=Subject(bundle, AuditConfig(attacks="unmixing")), shape=(2, 2, 2), plan=PLAN
    )
    assert replace(made, shape=(1, 1, 1)).plan is PLAN
