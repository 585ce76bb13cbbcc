"""What an audit tries: settings that mean nothing are refused, and say which flag it was."""

from typing import Any

import pytest

from eaves.errors import ConfigError
from eaves.experiments.auditconfig import ATTACKS, QUICK, AuditConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"known": 99}, r"expected --known from 100 to 1e\+09, got 99"),
        ({"releases": 0}, "expected --releases from 1 to 10000, got 0"),
        ({"searched": 1}, "expected --searched from 2 to .*, got 1"),
        ({"half_width": 0.0}, r"expected --half-width from 0\.0001 to 0\.49, got 0"),
        ({"half_width": 0.5}, r"expected --half-width from 0\.0001 to 0\.49, got 0\.5"),
        ({"half_width": float("nan")}, "expected --half-width from .*, got nan"),
        ({"effort": 0.0}, "expected --effort from 0.001 to 1000, got 0"),
        ({"seed": -1}, "expected --seed from 0 to .*, got -1"),
        ({"threads": 0}, "expected --threads from 1 to 1024, got 0"),
        ({"gallery": -1}, "expected --gallery from 0 to 100, got -1"),
        ({"max_attack": 0.6, "attacks": "rank"}, "--max-attack limits .* rank reads none"),
        ({"max_attack": 0.0}, r"expected --max-attack from 0 to 1, got 0\.0"),
        ({"max_attack": 1.1}, r"expected --max-attack from 0 to 1, got 1\.1"),
        ({"max_attack": float("nan")}, "expected --max-attack from 0 to 1, got nan"),
        ({"max_balanced": 0.0}, r"expected --max-balanced from 0 to 1, got 0\.0"),
        ({"max_auc": 1.5}, r"expected --max-auc from 0 to 1, got 1\.5"),
        ({"max_tpr": float("nan")}, "expected --max-tpr from 0 to 1, got nan"),
        ({"max_tpr": 0.1, "attacks": "rank"}, "--max-tpr limits .* rank reads none"),
        ({"patience": 0.0}, "expected --patience from 0.001 to 1000, got 0"),
        ({"seeds": 0}, "expected --seeds from 1 to 100, got 0"),
        ({"sent_batch": 0}, r"expected --sent-batch from 1 to 1e\+06, got 0"),
        ({"attacks": "labels,decode"}, "unknown attack 'decode'; choose from: decoder, "),
        ({"attacks": "quick,gan"}, "unknown attack 'quick,gan'|unknown attack 'quick'"),
    ],
)
def test_nonsense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AuditConfig(**changes)


@pytest.mark.parametrize(
    ("attacks", "wanted"),
    [
        ("quick", QUICK),
        ("all", ATTACKS),
        ("gan", ("gan",)),
        (" labels , optimisation,", ("labels", "optimisation")),
    ],
)
def test_attacks_by_name(attacks: str, wanted: tuple[str, ...]) -> None:
    assert AuditConfig(attacks=attacks).wanted == wanted


def test_all_is_more_than_quick_and_a_limit_may_be_one() -> None:
    assert set(QUICK) < set(ATTACKS)
    assert AuditConfig(max_attack=1).max_attack == 1
    assert AuditConfig(private=" Male ,Young").attributes == ("Male", "Young")


@pytest.mark.parametrize(
    ("attacks", "reads"),
    [("rank", False), (" rank,", False), ("rank,labels", True), ("quick", True), ("gan", True)],
)
def test_whose_it_is_alone_reads_nothing(attacks: str, reads: bool) -> None:
    assert AuditConfig(attacks=attacks).reads is reads


def test_limits_are_by_what_they_are_on() -> None:
    assert AuditConfig().limits == {}
    stated = AuditConfig(max_attack=0.7, max_balanced=0.6, max_auc=0.8, max_tpr=0.1)
    assert stated.limits == {"rate": 0.7, "balanced": 0.6, "auc": 0.8, "tpr": 0.1}
