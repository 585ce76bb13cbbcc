"""What an audit of one attribute tries, and with what: budgets, controls, what is left out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from eaves.audit.findings import Finding, Reconstruction, Stage
from eaves.audit.verdict import Control, Planted
from eaves.experiments.attacking import AttributeAudit
from eaves.experiments.auditconfig import AuditConfig
from eaves.experiments.exposing import Subject
from eaves.experiments.record import RunRecord

Runs = Callable[[str], RunRecord]
SHORT = AuditConfig(private="high", attacks="labels,attribute", effort=0.05, patience=100.0)


def audited(run: RunRecord, config: AuditConfig) -> tuple[list[object], AttributeAudit]:
    subject = Subject(Path(run.config["out"]), config)
    audit = AttributeAudit(subject, config, "high", subject.attacker(), subject.victims())
    return list(audit.run()), audit


def test_controls_come_after_all_attacks_and_are_of_each(digits_run: Runs) -> None:
    events, audit = audited(digits_run("priphit"), replace(SHORT, attacks="quick", gallery=0))
    kinds = [type(e) for e in events if isinstance(e, Finding | Control | Planted | Reconstruction)]
    first = kinds.index(Planted)
    assert not {Finding, Reconstruction} & set(kinds[first:])
    found = audit.as_json()
    attackers = {
        (f["attack"], f["attacker"]) for f in found["findings"] if f["attack"] != "decoder"
    }
    assert {(c["attack"], c["attacker"]) for c in found["controls"]} == {
        *attackers,
        ("decoder", "decoder"),
    }
    assert found["unseen"] == 0  # all digits were trained on
    assert found["known"] == 1437
    assert audit.gallery == {}


def test_labels_alone_have_their_controls(digits_run: Runs) -> None:
    """And the reader of shuffled labels: the audit itself is tried in any case."""
    events, audit = audited(digits_run("priphit"), replace(SHORT, attacks="labels"))
    assert [c["attack"] for c in audit.as_json()["controls"]] == ["labels"]
    assert [e.finding.attacker for e in events if isinstance(e, Control)] == ["mlp"]
    assert any(isinstance(e, Stage) and "positive controls" in e.what for e in events)


@pytest.mark.parametrize(("seeds", "several"), [(None, {"mlp", "linear"}), (1, set())])
def test_seeds_are_those_that_were_asked_for(
    digits_run: Runs, seeds: int | None, several: set[str]
) -> None:
    _, audit = audited(digits_run("priphit"), replace(SHORT, attacks="attribute", seeds=seeds))
    found = audit.as_json()
    assert {f["attacker"] for f in found["findings"] if f["seeds"]} == several
    for finding in found["findings"]:
        if finding["seeds"]:
            assert finding["rate"]["value"] in finding["seeds"]
