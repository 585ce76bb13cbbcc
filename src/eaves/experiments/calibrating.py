"""From a trained method and its test split to the rule of its exit, and that rule in a bundle.

The test split is divided in two: its even examples choose the threshold, its odd ones measure it.
Training examples do neither: an exit is surer of them than it will be of any others.

Dimension key:  B batch   K classes
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import torch

from eaves.codecs.base import Codec
from eaves.core.calibration import Curve, Point, Scored, calibrate, curve, measured
from eaves.core.rates import Rate
from eaves.core.roles import EdgePredictor
from eaves.core.rules import RULES, ExitRule
from eaves.core.shield import Shield
from eaves.data.batches import batches
from eaves.data.source import Source
from eaves.errors import ConfigError, StateError, unknown
from eaves.experiments.answering import Cloud, release
from eaves.experiments.bundle import read_manifest
from eaves.runtime.files import write_atomically
from eaves.runtime.sealed import sealed_json, unsealed_json

BATCH: Final = 256
_TIMEOUT_S: Final = 60.0
_FORMAT: Final = 1
NAME: Final = "rule.json"
"""Of the rule in a bundle."""
_FIELDS: Final = {"format", "session", "rule", "threshold", "target", "chosen", "measured"}


@final
@dataclass(frozen=True, kw_only=True)
class Target:
    """What a rule shall reach: an accuracy sending least, or a share sent answering best."""

    rule: str = "confidence"
    accuracy: float | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise unknown("rule", self.rule, RULES)
        given = [value for value in (self.accuracy, self.share) if value is not None]
        if len(given) != 1 or not 0 <= given[0] <= 1:
            raise ConfigError(
                "expected a target accuracy or a target share, one of them, in [0, 1], "
                f"got accuracy {self.accuracy} and share {self.share}"
            )


@final
@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A rule, why it was chosen, and what it does to examples that did not choose it."""

    target: Target
    rule: ExitRule
    chosen: Point
    """On the even examples, which chose it: flattered."""
    measured: Point
    """On the odd examples: what to expect."""
    exit_alone: Rate
    """On the odd examples."""
    cloud_alone: Rate
    """On the odd examples."""
    curve: Curve
    """Of the even examples."""

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name, without the curve."""
        return {
            "rule": self.target.rule,
            "threshold": self.rule.threshold,
            "target": {"accuracy": self.target.accuracy, "share": self.target.share},
            "chosen": self.chosen.as_json(),
            "measured": self.measured.as_json(),
            "exit_alone": self.exit_alone.as_json(),
            "cloud_alone": self.cloud_alone.as_json(),
        }


@final
@dataclass(frozen=True, kw_only=True)
class StoredRule:
    """What a bundle's ``rule.json`` says: the rule, and what was measured of it."""

    rule: ExitRule
    share_sent: float
    accuracy: Rate


def score(
    edge: EdgePredictor, cloud: Cloud, source: Source, codec: Codec, rule: str, *, shield: Shield
) -> Scored:
    """Return the scores of the exit on ``source``, and who is right, along the way of inference.

    Raises:
        CloudLate: the cloud has not answered for a minute.
        ConfigError: a method that has no exit, or sends nothing: there is nothing to choose.
    """
    scores, right = [], {"exit": [torch.empty(0).bool()], "cloud": [torch.empty(0).bool()]}
    for batch in batches(source, batch_size=BATCH, seed=0, epoch=0, shuffle=False):
        features, early_BK = edge.predict(batch.inputs)
        if features is None or early_BK is None:
            missing = "exit" if early_BK is None else "cloud"
            raise ConfigError(f"there is nothing to calibrate: the method has no {missing}")
        sent = release(features, codec, shield)
        late_BK = sent.read(cloud.ask(sent.payload, timeout_s=_TIMEOUT_S))
        scores.append(RULES[rule].scores(early_BK).cpu())
        for name, logits_BK in (("exit", early_BK), ("cloud", late_BK)):
            right[name].append(logits_BK.argmax(dim=1).cpu() == batch.labels)
    return Scored(
        scores=torch.cat(scores),
        exit_right=torch.cat(right["exit"]),
        cloud_right=torch.cat(right["cloud"]),
    )


def choose(scored: Scored, target: Target) -> Calibration:
    """Choose the rule on the even examples, and measure it on the odd ones.

    Raises:
        ConfigError: the target cannot be reached, or there are fewer than two examples.
    """
    choosing, measuring = scored.halves()
    points = curve(target.rule, choosing)
    rule, chosen = calibrate(points, target_accuracy=target.accuracy, target_share=target.share)
    n = len(measuring)
    return Calibration(
        target=target,
        rule=rule,
        chosen=chosen,
        measured=measured(rule, measuring),
        exit_alone=Rate.of(int(measuring.exit_right.sum()), n),
        cloud_alone=Rate.of(int(measuring.cloud_right.sum()), n),
        curve=points,
    )


def write_rule(folder: Path, calibration: Calibration) -> None:
    """Write the choice into the bundle in ``folder``, as ``rule.json``.

    Raises:
        StateError: there is no bundle.
        StorageError: the disk is full or refuses.
    """
    facts = calibration.as_json()
    stored = {
        "format": _FORMAT,
        "session": read_manifest(folder).get("session", ""),
        **{name: facts[name] for name in facts if name in _FIELDS},
    }
    write_atomically(folder / NAME, sealed_json(stored))


def read_rule(folder: Path) -> StoredRule:
    """Return the rule of the bundle in ``folder``.

    Raises:
        StateError: there is none; it is damaged, or was made for another bundle.
    """
    path = folder / NAME
    session = read_manifest(folder).get("session", "")
    try:
        facts = unsealed_json(path.read_bytes())
        stored = _stored(facts)
    except FileNotFoundError as error:
        raise StateError(
            f"{folder} has no rule for its exit; make one with: eaves calibrate {folder}"
        ) from error
    except (
        AttributeError,
        KeyError,
        OSError,
        OverflowError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise StateError(f"{path} is no rule, or damaged: {error!r}") from error
    if facts["session"] != session:
        raise StateError(
            f"{path} was made for another bundle; make a new one with: eaves calibrate {folder}"
        )
    return stored


def _stored(facts: dict[str, Any]) -> StoredRule:
    if set(facts) != _FIELDS:
        raise ValueError(f"expected the fields {sorted(_FIELDS)}, got {sorted(facts)}")
    if facts["format"] != _FORMAT:
        raise ValueError(f"expected format {_FORMAT}, got {facts['format']}")
    rule = RULES[facts["rule"]](threshold=_share(facts["threshold"]))
    found = facts["measured"]
    accuracy, share = found["accuracy"], _share(found["share_sent"])
    n = accuracy["n"]
    if type(n) is not int or n < 1:
        raise ValueError(f"expected a number of examples, got {n}")
    rate = Rate.of(round(_share(accuracy["value"]) * n), n)
    # The interval follows from the two; a later version may compute it otherwise.
    if rate.value != accuracy["value"] or _share(found["threshold"]) != rule.threshold:
        raise ValueError("the figures do not belong together")
    return StoredRule(rule=rule, share_sent=share, accuracy=rate)


def _share(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise ValueError(f"expected a number in [0, 1], got {value!r}")
    return float(value)
