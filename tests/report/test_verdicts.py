from copy import deepcopy
from typing import Any

import pytest

from eaves.report.verdicts import (
    accuracy_text,
    attack_rows,
    control_text,
    faults_text,
    known_text,
    rank_controls_text,
    rank_rows,
    rank_text,
    rebuilt_rows,
    statement_of,
    subject_text,
    unmixed_rows,
    verdict_text,
)

Json = dict[str, Any]


@pytest.fixture
def found(audit_json: Json) -> Json:
    one: Json = audit_json["attributes"]["Male"]
    return one


def test_a_line_for_each_attack_then_what_they_are_compared_with(found: Json) -> None:
    rows = attack_rows(found)
    assert [row.cells[0] for row in rows] == [
        "the task label alone",
        "deep",
        "mlp",
        "decoder, reader taught by originals",
        "no shield: deep",
        "control, shuffled labels: mlp",
    ]
    assert [row.best for row in rows] == [False, True, False, False, False, False]
    assert [row.beside for row in rows] == [False] * 4 + [True] * 2
    assert rows[1].cells[1:] == (
        *("65.1 ±2.9", "65.1 ±2.9", "61.0 ±3.0", "7.8 ±2.6", "61.4, 50.0"),
        *("93 % found", "20", "12.5 s"),
    )
    assert [row.cells[6] for row in rows] == [
        "90 % found",
        "93 % found",
        "52 % NOT FOUND",
        "SSIM 0.71 found",
        "",
        "",
    ]


def test_an_attacker_that_time_ended_is_marked(found: Json) -> None:
    found["findings"][1]["effort"] |= {"rounds": 3, "ended_by_time": True}
    found["verdict"] |= {"early": ["deep"], "holds": False}
    assert attack_rows(found)[1].cells[7] == "3 of 20: time"
    assert (
        "INCOMPLETE: time ended deep before all rounds were made, so no limit holds"
        in verdict_text("Male", found)
    )


def test_a_record_of_before_these_figures_is_shown(found: Json) -> None:
    """As earlier audits wrote it: no AUC, no TPR, no positive controls, no limits by name."""
    for finding in [*found["findings"], *found["unshielded"], found["control"]["finding"]]:
        for name in ("auc", "tpr", "tpr_chance", "tpr_luck", "beats", "check", "differs", "seeds"):
            del finding[name]
        for name in ("planned", "ended_by_time"):
            del finding["effort"][name]
    for name in ("beats", "limits", "early", "powerless", "differing"):
        del found["verdict"][name]
    for name in ("controls", "shuffled", "known", "unseen"):
        del found[name]
    found["verdict"]["best"] = found["findings"][1]
    rows = attack_rows(found)
    assert rows[1].cells[3:5] == ("-", "-")
    assert rows[1].cells[6] == ""
    text = verdict_text("Male", found)
    assert "limit 70 %: holds (its interval's upper end does too)." in text
    assert control_text(found).endswith("as it must be.")
    assert known_text(found) == ""


def test_how_much_of_what_the_attacker_has_the_net_was_trained_on(found: Json) -> None:
    assert known_text(found).endswith(
        "14,945 examples of its own; the net was trained on none of them."
    )
    assert known_text({**found, "unseen": 9_000}).endswith("the net was trained on 5,945 of them.")
    assert "surer than the victims'" in known_text({**found, "unseen": 0})


def test_why_an_audit_is_not_to_be_believed() -> None:
    assert faults_text({}) == ""
    assert faults_text({"faults": ["a", "b"]}).endswith("believe none of its figures: a; b.")
    one = {"attack": "unmixing", "attacker": "raw", "passed": True}
    two = {"attack": "unmixing", "attacker": "pooled", "passed": False}
    assert rank_controls_text({}) == ""
    assert rank_controls_text({"controls": [one, one]}).endswith("2 of 2 found what is there.")
    assert "that pooled failed counts for nothing" in rank_controls_text({"controls": [one, two]})


def test_images_are_compared_with_the_better_mean_image(found: Json) -> None:
    sent, before = rebuilt_rows(found)
    assert sent.cells == (
        *("decoder, from what is sent", "0.400 ±0.010", "0.330 ±0.010"),
        *("16.00 ±0.01", "13.20 ±0.01"),
        *("63.3 ±3.0", "1,000", "240 s"),
    )
    assert before.cells[0] == "decoder, before the noise"
    assert before.cells[5] == "81.1 ±2.4"
    found["reconstructions"][0]["sent"]["mean_image_of_label"] = None
    assert rebuilt_rows(found)[0].cells[2] == "0.310 ±0.010"
    del found["reconstructions"][0]["before_noise"]  # interrupted between the two
    assert len(rebuilt_rows(found)) == 1


def test_a_line_for_each_attempt_to_take_mixtures_apart(audit_json: Json) -> None:
    rows = unmixed_rows(audit_json["mixtures"])
    assert [row.cells for row in rows] == [
        ("none: mixtures as they are", "2.0 ±3.2", "0.700 ±0.010", "0.300", "64", "0", "1.50 s"),
        ("gradient", "60.0 ±9.4", "0.900 ±0.010", "0.300", "64", "0", "1.50 s"),
    ]
    assert [(row.best, row.beside) for row in rows] == [(False, True), (True, False)]
    assert unmixed_rows([]) == []


def test_whose_it_is_beside_what_chance_gives(audit_json: Json) -> None:
    rows = rank_rows(audit_json["identity"])
    assert [row.cells for row in rows] == [
        ("mean rank / 4,000", "0.129 ±0.003", "0.500"),
        ("mean log rank / log of the last", "0.700 ±0.010", "0.880"),
        ("found first %", "0.4 ±0.2", "0.025"),
        ("in the best 5 %", "33.0 ±1.5", "5"),
        ("features that coincide %", "10.0 ±0.9", "-"),
        ("signal / noise", "2 = 3.0 dB", "-"),
    ]
    assert [row.beside for row in rows] == [False] * 4 + [True] * 2
    nothing = audit_json["identity"] | {"snr": None, "snr_db": None}
    assert rank_rows(nothing)[-1].cells[1] == "no noise"
    assert rank_rows(nothing | {"snr": 0.0})[-1].cells[1] == "no signal"


def test_whose_it_is_in_words(audit_json: Json) -> None:
    found = audit_json["identity"]
    assert rank_text(found, "priphit") == (
        "Of 4,000 candidates the right one is at place 516.0 on average, by chance at 2,000.5; it "
        "is the first in 0.4 % ±0.2 (n = 4,000)."
    )
    text = rank_text(found | {"beats_chance": False}, "priphit")
    assert text.endswith("this attack failed. Others may not.")


def test_a_mixture_is_nobodys_and_an_earlier_audit_did_not_ask() -> None:
    assert rank_text(None, "datamix").endswith("and mixtures have no owner.")
    assert rank_text(None, "priphit") == ""


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (0.7, "limit 70 %: holds (its interval's upper end does too)"),
        (0.66, "limit 66 %: holds (but its interval reaches above)"),
        (0.651, "limit 65.1 %: holds (but"),
        (0.65, "limit 65 %: does not hold"),
        (None, "no limit is stated"),
    ],
)
def test_a_verdict_in_words(found: Json, limit: float | None, words: str) -> None:
    rate, verdict = found["verdict"]["best"]["rate"], found["verdict"]
    verdict["limits"] = {}
    if limit is not None:
        holds = {"holds": rate["value"] <= limit, "surely_holds": rate["high"] <= limit}
        verdict["limits"] = {"rate": {"limit": limit, "value": rate, **holds}}
    text = verdict_text("Male", found)
    assert text.startswith(
        "Best of 4 attacks: 'deep' reads Male at 65.1 % ±2.9 (n = 1,000); chance 61.4 %; " + words
    )
    assert "failed" not in text


def test_an_attack_that_failed_says_no_more_than_that(found: Json) -> None:
    found["verdict"]["beats"] = []
    assert "these attacks, with this effort, failed. Others may not." in verdict_text("Male", found)


def test_a_rare_class_that_is_read_is_no_failure(found: Json) -> None:
    """The best rate is that of the majority; balanced accuracy is above chance."""
    found["verdict"]["beats"] = ["balanced", "auc"]
    text = verdict_text("Male", found)
    assert "failed" not in text
    assert "Above chance: balanced accuracy up to 65.1 % ±2.9, AUC up to 61.0 % ±3.0." in text


def test_each_limit_is_said(found: Json) -> None:
    value = {"value": 0.66, "low": 0.65, "high": 0.67}
    broken = {"limit": 0.6, "value": value, "holds": False, "surely_holds": False}
    found["verdict"]["limits"]["balanced"] = broken
    text = verdict_text("Male", found)
    assert (
        "limit 70 %: holds (its interval's upper end does too); limit of balanced accuracy" in text
    )
    assert "limit of balanced accuracy 60 %: does not hold (at 66.0 % ±1.0)." in text


def test_the_attack_that_an_attacker_would_trust_is_named_where_it_is_another(found: Json) -> None:
    assert "trust" not in verdict_text("Male", found)
    found["verdict"]["chosen"] = found["findings"][2]
    assert "an attacker would trust 'mlp': 64.0 % ±3.0." in verdict_text("Male", found)


def test_a_control_in_words(found: Json) -> None:
    assert control_text(found) == (
        "Control: with shuffled labels 'mlp' is right in 61.2 % ±3.0, chance is 61.4 %: as it must "
        "be. Planted controls: 3 of 4 attackers found theirs."
    )
    found["control"]["sound"] = False
    assert control_text(found).endswith("broken, believe none of its figures.")


def test_what_is_not_there_yet_is_said(found: Json) -> None:
    nothing = {**found, "verdict": None, "control": None, "findings": [], "unshielded": []}
    assert attack_rows(nothing) == []
    assert verdict_text("Male", nothing) == "No attack on Male was ended."
    assert control_text(nothing) == "The control with shuffled labels was not made."


def test_the_subject_in_words(audit_json: Json) -> None:
    subject = audit_json["subject"]
    assert subject_text(subject) == (
        "priphit on faces:Smiling, resnet18 cut after layer2, bottleneck 2x8x8, int8+zstd, "
        "gaussian noise 0.5"
    )
    assert accuracy_text(subject) == "Task accuracy: cloud 89.3 % ±1.9 (n = 1,000)."
    plain = {**subject, "bottleneck": None, "law": "none", "accuracy": None}
    assert subject_text(plain).endswith("cut after layer2, int8+zstd, no noise")
    assert accuracy_text(plain) == "Task accuracy is not known."


def test_the_noise_statement(audit_json: Json) -> None:
    before = deepcopy(audit_json)
    assert (
        statement_of("priphit", audit_json["subject"]["privacy"])[0] == "Gaussian noise is added."
    )
    assert "no formal guarantee" in statement_of("split", None)[0]
    assert statement_of("split", None)[1] == "Task labels are sent in the clear."
    assert "No task labels are sent" in statement_of("datamix", None)[1]
    assert audit_json == before
