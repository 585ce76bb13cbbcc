"""Scores along the way of inference, the choice on one half, and the rule in a bundle.

Dimension key:  N examples   K classes
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import pytest
import torch
from torch import Tensor

from eaves.codecs.base import parse_codec
from eaves.core.calibration import Scored
from eaves.core.rates import Rate
from eaves.core.roles import CloudPredictor, EdgePredictor
from eaves.core.rules import RULES, ConfidenceAbove, EntropyBelow
from eaves.core.shield import Open, Reveal, Shield
from eaves.data.source import InMemory
from eaves.errors import ConfigError, StateError
from eaves.experiments.answering import Beside, Cloud
from eaves.experiments.bundle import write_bundle
from eaves.experiments.calibrating import (
    Calibration,
    Target,
    choose,
    read_rule,
    score,
    write_rule,
)

N, K = 600, 4


@final
class Edge(EdgePredictor):
    """Sends the label that is written in the input; its exit is surest, and right, of class 3."""

    def __init__(self, *, sends: bool = True, exits: bool = True):
        self._sends, self._exits = sends, exits

    def predict(self, inputs: Tensor) -> tuple[Tensor | None, Tensor | None]:
        sent = inputs.float().reshape(len(inputs), 1)
        early_BK = torch.zeros(len(inputs), K)
        early_BK[:, 3] = 1 + sent[:, 0]
        return (sent if self._sends else None), (early_BK if self._exits else None)


@final
class Reading(CloudPredictor):
    """Right, except of class 0."""

    def answer(self, features: Tensor) -> Tensor:
        label_B = features[:, 0].round().long()
        return torch.nn.functional.one_hot(label_B.clamp(min=1), K).float()


@pytest.fixture
def source() -> InMemory:
    labels_N = torch.arange(N) // 2 % K  # both halves have every class
    return InMemory(labels_N.to(torch.uint8).reshape(N, 1, 1, 1), labels_N)


def calibration(target: Target) -> Calibration:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(N, generator=generator, dtype=torch.float64)
    early = torch.rand(N, generator=generator) < scores
    late = torch.rand(N, generator=generator) < 0.9
    return choose(Scored(scores=scores, exit_right=early, cloud_right=late), target)


@pytest.mark.parametrize("rule", RULES)
def test_every_example_is_scored_with_who_is_right(source: InMemory, rule: str) -> None:
    found = score(Edge(), Beside(Reading()), source, parse_codec("fp32"), rule, shield=Open())
    labels_N = torch.arange(N) // 2 % K
    assert found.exit_right.equal(labels_N == 3)
    assert found.cloud_right.equal(labels_N != 0)
    early_NK = torch.zeros(N, K)
    early_NK[:, 3] = 1 + labels_N
    torch.testing.assert_close(found.scores, RULES[rule].scores(early_NK))


def test_the_features_go_through_the_codec(source: InMemory) -> None:
    crude = score(
        Edge(), Beside(Reading()), source, parse_codec("int1"), "confidence", shield=Open()
    )
    assert crude.cloud_right.sum() == N / 2  # one bit tells two classes; else 3 N / 4


@final
class Reversed(Shield):
    """Features leave in another order, and the answers come back in the right one."""

    def protect(self, features: Tensor) -> tuple[Tensor, Reveal]:
        return features.flip(0), lambda answers: answers.flip(0)


@final
class Listening(Cloud):
    """Keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    def ask(self, payload: bytes, *, timeout_s: float) -> Tensor:
        self.asked.append(payload)
        return Beside(Reading()).ask(payload, timeout_s=timeout_s)


def test_the_features_go_past_the_shield(source: InMemory) -> None:
    clouds, codec = (Listening(), Listening()), parse_codec("fp32")
    plain, shielded = (
        score(Edge(), cloud, source, codec, "confidence", shield=shield)
        for cloud, shield in zip(clouds, (Open(), Reversed()), strict=True)
    )
    assert shielded.cloud_right.equal(plain.cloud_right)
    assert len(clouds[0].asked) == len(clouds[1].asked) > 1
    assert not set(clouds[0].asked) & set(clouds[1].asked)


@pytest.mark.parametrize(
    ("edge", "missing"), [(Edge(exits=False), "exit"), (Edge(sends=False), "cloud")]
)
def test_without_two_answers_there_is_nothing_to_choose(
    source: InMemory, edge: Edge, missing: str
) -> None:
    with pytest.raises(ConfigError, match=f"the method has no {missing}"):
        score(edge, Beside(Reading()), source, parse_codec("fp32"), "entropy", shield=Open())


def test_even_examples_choose_and_odd_ones_measure() -> None:
    n = 10
    early = torch.tensor([True, False] * (n // 2))  # right of all even ones, of no odd one
    scored = Scored(scores=torch.full((n,), 0.7), exit_right=early, cloud_right=~early)
    found = choose(scored, Target(accuracy=1.0))
    assert (found.chosen.share_sent, found.chosen.accuracy) == (0, Rate.of(5, 5))
    assert (found.measured.share_sent, found.measured.accuracy) == (0, Rate.of(0, 5))
    assert (found.exit_alone.value, found.cloud_alone.value) == (0, 1)
    assert found.chosen in found.curve.points


def test_the_choice_holds_on_the_other_half() -> None:
    """Of 300 examples each: the shares differ by more than 0.16 once in 10,000 draws."""
    for target in (Target(accuracy=0.85), Target(share=0.4), Target(rule="entropy", share=0.4)):
        found = calibration(target)
        assert found.chosen.share_sent == pytest.approx(found.measured.share_sent, abs=0.16)
    assert calibration(Target(accuracy=0.85)).chosen.accuracy.value >= 0.85
    assert calibration(Target(share=0.4)).chosen.share_sent <= 0.4


@pytest.mark.parametrize(
    ("accuracy", "share"), [(None, None), (0.5, 0.5), (1.5, None), (None, -1.0)]
)
def test_a_target_that_cannot_be_is_refused(accuracy: float | None, share: float | None) -> None:
    with pytest.raises(ConfigError, match="expected a target accuracy or a target share"):
        Target(accuracy=accuracy, share=share)


def test_a_target_for_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown rule 'entropie'; choose from: entropy, "):
        Target(rule="entropie", share=0.5)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    modules = {"edge": {"edge": torch.nn.Linear(2, 2)}}
    write_bundle(tmp_path / "bundle", modules, {})
    return tmp_path / "bundle"


@pytest.mark.parametrize(
    ("name", "kind"), [("confidence", ConfidenceAbove), ("entropy", EntropyBelow)]
)
def test_a_rule_comes_back_from_its_bundle(bundle: Path, name: str, kind: type) -> None:
    found = calibration(Target(rule=name, share=0.3))
    for _ in range(2):  # over what is there
        write_rule(bundle, found)
        stored = read_rule(bundle)
        assert isinstance(stored.rule, kind)
        assert stored.rule == found.rule
        assert stored.accuracy == found.measured.accuracy
        assert stored.share_sent == found.measured.share_sent


def test_a_bundle_without_a_rule_says_how_to_make_one(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"has no rule for its exit; make one with: eaves calib"):
        read_rule(bundle)
    for use in (read_rule, lambda folder: write_rule(folder, calibration(Target(share=1)))):
        with pytest.raises(StateError, match="is no bundle"):
            use(tmp_path)
    assert list(tmp_path.iterdir()) == [bundle]


def test_a_rule_of_another_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_bundle(other, {"edge": {"edge": torch.nn.Linear(3, 3)}}, {})
    write_rule(bundle, calibration(Target(share=0.5)))
    (other / "rule.json").write_bytes((bundle / "rule.json").read_bytes())
    with pytest.raises(StateError, match="was made for another bundle"):
        read_rule(other)


CHANGES: list[dict[str, Any]] = [
    {"format": 2},
    {"rule": "both"},
    {"rule": ["entropy"]},
    {"threshold": 1.5},
    {"threshold": True},
    {"threshold": "0.5"},
    {"threshold": 0.123},  # of another measurement
    {"measured": {}},
    {"measured": []},
    {"more": 1},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_damaged_rule_is_refused(bundle: Path, change: dict[str, Any]) -> None:
    write_rule(bundle, calibration(Target(share=0.5)))
    path = bundle / "rule.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
    with pytest.raises(StateError, match=r"rule\.json is no rule, or damaged"):
        read_rule(bundle)


@pytest.mark.parametrize("name", ["value", "n"])
@pytest.mark.parametrize("value", [-1, 0.12345, None, 10**400])
def test_a_damaged_measurement_is_refused(bundle: Path, name: str, value: Any) -> None:
    write_rule(bundle, calibration(Target(share=0.5)))
    path = bundle / "rule.json"
    facts = json.loads(path.read_bytes())
    facts["measured"]["accuracy"][name] = value
    path.write_text(json.dumps(facts))
    with pytest.raises(StateError, match=r"rule\.json is no rule, or damaged"):
        read_rule(bundle)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"3", b"null", b'"text"', b"{}", b"\xff", b"[" * 100_000, b"NaN"]
)
def test_what_is_no_rule_is_refused(bundle: Path, content: bytes) -> None:
    (bundle / "rule.json").write_bytes(content)
    with pytest.raises(StateError, match=r"rule\.json is no rule, or damaged"):
        read_rule(bundle)


def test_a_field_that_is_missing_is_refused(bundle: Path) -> None:
    write_rule(bundle, calibration(Target(share=0.5)))
    path = bundle / "rule.json"
    facts = json.loads(path.read_bytes())
    for name in facts.keys() - {"checksum"}:
        path.write_text(json.dumps({k: v for k, v in facts.items() if k != name}))
        with pytest.raises(StateError, match=r"rule\.json is no rule, or damaged"):
            read_rule(bundle)


def test_a_calibration_becomes_json() -> None:
    found = calibration(Target(accuracy=0.8))
    facts = json.loads(json.dumps(replace(found).as_json(), allow_nan=False))
    assert facts["threshold"] == found.rule.threshold
    assert facts["target"] == {"accuracy": 0.8, "share": None}
    assert facts["measured"] == found.measured.as_json()
    assert facts["chosen"]["share_sent"] == found.chosen.share_sent
