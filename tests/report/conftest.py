"""A run and its audit as they lie in a folder, made up: two private attributes, two attacks."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from eaves.audit.findings import (
    Effort,
    Finding,
    Likeness,
    Reading,
    Reconstruction,
    Score,
    Unmixed,
)
from eaves.audit.rank import Ranking
from eaves.audit.verdict import Control, Planted, Verdict
from eaves.core.rates import Rate
from eaves.experiments.auditing import AuditRecord
from eaves.experiments.config import TrainConfig
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.record import RunRecord
from eaves.runtime.checkpoint import tensors_to_bytes

CLASSES = {"Male": ("woman", "man"), "Hat": ("no <hat>", "hat")}
MACHINE = {"cpu": "Some CPU", "cores": 2, "threads_per_side": 1, "gpu": None}
VERSIONS = {"eaves": "0.1.0", "torch": "2.0"}


def _finding(attack: str, attacker: str, right: int, attribute: str = "Male") -> Finding:
    rates = [Rate.of(right // 2, 500), Rate.of(right - right // 2, 500)]
    return Finding(
        attack=attack,
        attacker=attacker,
        attribute=attribute,
        reading=Reading(
            rate=Rate.of(right, 1000),
            majority=0.614,
            balanced=Score.balanced(rates),
            balanced_chance=0.5,
            auc=Score(value=0.61, low=0.58, high=0.64, n=1000),
            tpr=Rate.of(31, 400),
            tpr_chance=0.011,
            tpr_luck=0.001,
        ),
        effort=Effort(known=12_000, rounds=20, time_s=12.5, planned=20),
        held_out=None if attack == "labels" else right / 1000 - 0.01,
    )


def _likeness(ssim: float) -> Likeness:
    score = Score(value=ssim, low=ssim - 0.01, high=ssim + 0.01, n=1000)
    return Likeness(ssim=score, psnr_db=replace(score, value=40 * ssim), mse=score)


def _rebuilt(ssim: float, right: int) -> dict[str, Any]:
    return Reconstruction(
        attack="decoder",
        likeness=_likeness(ssim),
        mean_image=_likeness(0.31),
        mean_image_of_label=_likeness(0.33),
        effort=Effort(known=12_000, rounds=7, time_s=240.0),
        read=_finding("decoder", "originals", right),
    ).as_json()


def _planted(attack: str, attacker: str, found: float) -> Planted:
    return Planted(
        attack=attack,
        attacker=attacker,
        what="something",
        found=found,
        chance=0.5,
        strength=0.9,
        passed=found > 0.7,
    )


def _found(attribute: str, limit: float | None) -> dict[str, Any]:
    findings = [
        _finding("labels", "most frequent class", 571, attribute),
        _finding("attribute", "deep", 651, attribute),
        _finding("attribute", "mlp", 640, attribute),
        _finding("decoder", "originals", 633, attribute),
    ]
    controls = [
        _planted("labels", "most frequent class", 0.9),
        _planted("attribute", "deep", 0.93),
        _planted("attribute", "mlp", 0.52),
        _planted("decoder", "decoder", 0.71),
    ]
    limits = {} if limit is None else {"rate": limit}
    control = Control(finding=_finding("attribute", "mlp", 612, attribute)).as_json()
    return {
        "classes": list(CLASSES[attribute]),
        "known": 14_945,
        "unseen": 14_945,
        "verdict": Verdict.of(findings, limits=limits, controls=controls).as_json(),
        "findings": [finding.as_json() for finding in findings],
        "control": control,
        "shuffled": [control],
        "controls": [planted.as_json() for planted in controls],
        "unshielded": [_finding("attribute", "deep", 934, attribute).as_json()],
        "reconstructions": [{"sent": _rebuilt(0.4, 633), "before_noise": _rebuilt(0.62, 811)}],
    }


def _privacy() -> dict[str, Any]:
    return {
        "epsilon": {
            "element": {"per_release": 1.25, "total": 2.5},
            "tensor": {"per_release": 77.125, "total": None},
        },
        "statement": ["Gaussian noise is added.", "Labels < are > sent & seen."],
    }


def _unmixed(attack: str, recovered: int, correlation: float) -> dict[str, Any]:
    def score(value: float) -> Score:
        return Score(value=value, low=value - 0.01, high=value + 0.01, n=64)

    return Unmixed(
        attack=attack,
        recovered=Rate.of(recovered, 100),
        correlation=score(correlation),
        chance=score(0.3),
        likeness=None,
        effort=Effort(known=0, rounds=10, time_s=1.5),
    ).as_json()


def _ranked() -> dict[str, Any]:
    return Ranking(
        privacy=Score(value=0.129, low=0.126, high=0.132, n=4000),
        at_rank_1=Rate.of(16, 4000),
        in_best=Rate.of(1320, 4000),
        log_rank=Score(value=0.7, low=0.69, high=0.71, n=4000),
        ties=Rate.of(400, 4000),
        candidates=4000,
        releases=1,
        law="gaussian",
        scale=0.5,
        signal=3.0,
        noise=1.5,
        effort=Effort(known=4000, rounds=1, time_s=0.4),
    ).as_json()


@pytest.fixture
def audit_json() -> dict[str, Any]:
    """Return what an audit of a bundle on faces found, with a limit of 70 %."""
    record = AuditRecord(
        subject={
            "method": "priphit",
            "net": "resnet18",
            "cut": "layer2",
            "bottleneck": "2x8x8",
            "data": "faces:Smiling",
            "codec": "int8+zstd",
            "accuracy": {"cloud": Rate.of(893, 1000).as_json(), "exit": None},
            "law": "gaussian",
            "scale": 0.5,
            "privacy": _privacy(),
            "classes": ["serious", "smiling"],
            "terms": "non-commercial research only; not to be passed on",
            "session": "abc",
            "folder": "elsewhere/bundle",
        },
        settings={"attacks": "all", "max_attack": 0.7, "effort": 1.0, "out": None},
        attributes={"Male": _found("Male", 0.7), "Hat": _found("Hat", 0.7)},
        mixtures=[_unmixed("nothing", 2, 0.7), _unmixed("gradient", 60, 0.9)],
        controls=[],
        precision="fp32",
        identity=_ranked(),
        versions=VERSIONS,
        hardware=MACHINE,
        time_s=321.0,
        complete=True,
    )
    found: dict[str, Any] = json.loads(json.dumps(record.as_json()))
    return found


@pytest.fixture
def run_json() -> dict[str, Any]:
    """Return the record of the run that was audited."""
    config = TrainConfig(
        method="priphit",
        data="faces:Smiling",
        epochs=30,
        out=Path("some/where"),
        privacy=PrivacyConfig(private="Male,Hat"),
    )
    record = RunRecord(
        **{name: getattr(config, name) for name in ("method", "net", "data", "epochs", "seed")},
        **{name: getattr(config, name) for name in ("codec", "link")},
        cut="layer2",
        send="once",
        steps=100,
        samples=12_800,
        train_size=12_000,
        config_hash="c0ffee",
        config=config.to_dict(),
        versions=VERSIONS,
        hardware=MACHINE,
        accuracy={"cloud": Rate.of(893, 1000).as_json(), "exit": Rate.of(880, 1000).as_json()},
        time={"wall_s": 100.0, "edge_busy_s": 30.0, "cloud_busy_s": 90.0},
        bytes={"up": 1_234_000, "down": 0, "per_sample_up": 102.5},
        memory={"edge_peak_bytes": 8_700_000, "cloud_peak_bytes": 1},
        complete=True,
        privacy=_privacy(),
    )
    found: dict[str, Any] = json.loads(json.dumps(record.as_json()))
    return found


@pytest.fixture
def run_folder(
    tmp_path: Path, run_json: dict[str, Any], audit_json: dict[str, Any]
) -> Callable[..., Path]:
    """Return a way to write a run, its audit and a gallery of four examples into a folder."""

    def write(name: str = "run", *, audited: bool = True, channels: int = 3) -> Path:
        folder = tmp_path / name
        (folder / "bundle").mkdir(parents=True)
        (folder / "record.json").write_text(json.dumps(run_json))
        (folder / "bundle" / "manifest.json").write_text(json.dumps({"session": "abc"}))
        if audited:
            (folder / "audit").mkdir()
            (folder / "audit" / "audit.json").write_text(json.dumps(audit_json))
            images = torch.arange(4 * channels * 64).reshape(4, channels, 8, 8).to(torch.uint8)
            gallery = {
                "Male/input": images,
                "Male/labels": torch.tensor([1, 0, 1, 0]),
                "Male/private": torch.tensor([0, 0, 1, 0]),
                "Male/decoder/sent": images.flip(0),
                "Male/decoder/before noise": 255 - images,
            }
            path = folder / "audit" / "gallery.safetensors"
            path.write_bytes(tensors_to_bytes(gallery))
        return folder

    return write
