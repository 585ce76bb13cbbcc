import json
import os
import signal
import threading
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from eaves.audit.findings import Progress, Stage
from eaves.experiments.auditconfig import AuditConfig
from eaves.experiments.auditing import AuditEvent, AuditRecord
from eaves.report import auditing, live
from eaves.report.auditing import exit_code, print_audit, show_audit

Json = dict[str, Any]


COMPUTED = ("holds", "ended_by_time", "sound", "faults")


def record(found: Json, **changes: Any) -> AuditRecord:
    facts = {name: value for name, value in found.items() if name not in COMPUTED}
    return AuditRecord(**(facts | changes))


def changed(found: Json, *, holds: bool | None = True, sound: bool = True) -> AuditRecord:
    """Return the record where the last attribute is judged so."""
    last = found["attributes"]["Hat"]
    last["verdict"]["holds"], last["shuffled"][0]["sound"] = holds, sound
    return record(found)


@pytest.mark.parametrize(
    ("holds", "sound", "code"),
    [(True, True, 0), (None, True, 0), (False, True, 3), (False, False, 4), (None, False, 4)],
)
def test_the_exit_code_is_that_of_the_worst_attribute(
    audit_json: Json, holds: bool | None, sound: bool, code: int
) -> None:
    assert exit_code(changed(audit_json, holds=holds, sound=sound)) == code


def printed(found: Json) -> str:
    out = StringIO()
    print_audit(found, Console(file=out, width=200))
    return out.getvalue()


def test_all_that_was_found_is_printed(audit_json: Json) -> None:
    text = printed(audit_json)
    flat = " ".join(text.split())
    for words in (
        *("Who reads Male", "Who reads Hat", "Who rebuilds the inputs"),
        *("the task label alone", "no shield: deep", "control, shuffled labels: mlp"),
        *("65.1 ±2.9", "61.4, 50.0", "12.5 s", "0.400 ±0.010", "0.330 ±0.010"),
        *("61.0 ±3.0", "7.8 ±2.6", "93 % found", "52 % NOT FOUND", "SSIM 0.71 found"),
        "The attacker has 14,945 examples of its own; the net was trained on none of them.",
        "What was planted was not found by mlp: that they read little counts for nothing.",
        "Planted controls: 3 of 4 attackers found theirs.",
        "Best of 4 attacks: 'deep' reads Male at 65.1 % ±2.9 (n = 1,000)",
        "Control: with shuffled labels 'mlp'",
        *("Whose it is", "mean rank / 4,000", "0.129 ±0.003", "Of 4,000 candidates"),
        "Task accuracy: cloud 89.3 % ±1.9",
        "- Labels < are > sent & seen.",
    ):
        assert words in flat, words
    assert text.count("priphit on faces:Smiling, resnet18 cut after layer2") == 2


def test_an_audit_of_before_the_rank_measure_is_printed(audit_json: Json) -> None:
    del audit_json["identity"]
    assert "hose it is" not in printed(audit_json)
    audit_json["subject"]["method"] = "datamix"
    assert "Whose it is was not measured" in printed(audit_json)


def test_whose_it_is_alone_is_printed(audit_json: Json) -> None:
    audit_json |= {"attributes": {}, "mixtures": []}
    text = printed(audit_json)
    assert "Of 4,000 candidates" in text
    assert "Who reads" not in text


def test_names_are_no_markup(audit_json: Json) -> None:
    audit_json["attributes"] = {"[red]": audit_json["attributes"]["Male"]}
    audit_json["subject"]["data"] = "images:[bold]"
    text = printed(audit_json)
    assert "Who reads [red]" in text
    assert "images:[bold]" in text


def test_an_audit_without_images_and_verdicts_is_printed(audit_json: Json) -> None:
    male = audit_json["attributes"]["Male"]
    nothing: Json = {"findings": [], "unshielded": [], "reconstructions": [], "control": None}
    audit_json["attributes"] = {"Male": {**male, **nothing, "verdict": None}}
    audit_json["subject"]["privacy"] = None
    text = printed(audit_json)
    assert "No attack on Male was ended." in text
    assert "Who rebuilds the inputs" not in text
    assert "no formal guarantee" in text


def told(monkeypatch: pytest.MonkeyPatch, *events: AuditEvent, interrupted: bool = False) -> None:
    """Let the next audit be these events; Ctrl-C is pressed before the last, if at all."""

    def audit(source: Path, config: AuditConfig, *, stop: threading.Event) -> Iterator[AuditEvent]:
        yield from events[:-1]
        if interrupted:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.wait(10)
        yield events[-1]

    monkeypatch.setattr(auditing, "run_audit", audit)


EVENTS = (
    Stage(what="Male: attackers"),
    Progress(attack="attribute", attacker="deep", done=3, total=20, figure=0.625),
    Stage(what="Male: decoder, sent"),
    Progress(attack="decoder", attacker="training", done=1, total=20, figure=0.125),
    Progress(attack="decoder", attacker="inverting", done=1, total=2, figure=0.0),
)


def test_a_log_tells_what_is_tried(
    audit_json: Json, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(live, "_LOG_EVERY_S", -1.0)
    told(monkeypatch, *EVENTS, record(audit_json))
    assert show_audit(Path("run"), AuditConfig(), as_json=False) == 0
    out, err = capsys.readouterr()
    assert [line.strip() for line in err.splitlines()] == [
        "Male: attackers 0/1",
        "Male: attackers: deep 3/20 right 0.625",
        "Male: decoder, sent 0/1",
        "Male: decoder, sent: training 1/20 loss 0.125",
        "Male: decoder, sent: inverting 1/2",
    ]
    assert "Record is in elsewhere/audit; eaves report elsewhere makes a page of it" in out
    told(monkeypatch, record(audit_json))
    show_audit(Path("run"), AuditConfig(out=Path("here")), as_json=False)
    assert "makes a page" not in capsys.readouterr().out  # it would not look there


def test_json_is_one_line_with_everything(
    audit_json: Json, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told(monkeypatch, *EVENTS, changed(audit_json, holds=False))
    assert show_audit(Path("run"), AuditConfig(), as_json=True) == 3
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {**audit_json, "holds": False}


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_prints_what_was_found(
    audit_json: Json,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    as_json: bool,
) -> None:
    told(monkeypatch, *EVENTS, record(audit_json, complete=False), interrupted=True)
    with pytest.raises(KeyboardInterrupt):
        show_audit(Path("run"), AuditConfig(), as_json=as_json)
    out, err = capsys.readouterr()
    assert "interrupted; what is printed was found before" in err
    assert (json.loads(out)["complete"] is False) if as_json else ("Who reads Male" in out)
