"""What an audit found, in words and in cells, for the terminal and for the page.

All of it is read from ``audit.json``, as a mapping. Imports no torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from eaves.core.methods import METHODS
from eaves.core.units import seconds_text
from eaves.report.tables import rate_text

Record = Mapping[str, Any]

ATTACK_HEADS = (
    "attack",
    "accuracy %",
    "balanced %",
    "AUC %",
    "TPR %",
    "chance %",
    "control",
    "rounds",
    "time",
)
ATTACK_CAPTION = (
    "± half a 95 % interval. TPR: the share of a class that is caught where 1 % of the others are, "
    "too. chance: the most frequent class; one part in as many as there are classes for balanced "
    "accuracy; half for AUC; about 1 % for TPR. control: how much of a planted attribute was found "
    "behind the same noise and codec, at the same budget; an attacker that did not find it counts "
    "for nothing. Bold: the best on the victims, which no attacker could know."
)
REBUILT_HEADS = (
    "rebuilt by",
    "SSIM",
    "a mean image's",
    "PSNR dB",
    "a mean image's",
    "attribute %",
    "victims",
    "time",
)
UNMIXED_HEADS = (
    "taken apart by",
    "recovered %",
    "|correlation|",
    "by chance",
    "groups",
    "own examples",
    "time",
)
UNMIXED_CAPTION = (
    "recovered: an estimate correlates by more than 0.95 with the features as they were before any "
    "noise. by chance: with those of another group. ± half a 95 % interval over groups. Attacks on "
    "attributes suppose that mixtures were taken apart without a fault."
)
RANK_HEADS = ("whose it is", "measured", "by chance")
RANK_CAPTION = (
    "What was sent is held against the features of all candidates, before any noise, and the place "
    "of the right one is noted. ± half a 95 % interval. It depends on the signal-to-noise ratio: "
    "compare at equal ones. Coinciding features raise it, whatever the noise. It is no bound, and "
    "says nothing about differential privacy."
)
KINDS = {"sent": "from what is sent", "before_noise": "before the noise"}
"""What images are rebuilt from, in the order in which it is shown."""
_BESIDE = {"nothing": "none: mixtures as they are", "oracle": "who knows the coefficients"}


@final
@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table."""

    cells: tuple[str, ...]
    best: bool = False
    beside: bool = False
    """It is there to be compared with, and no attack on what is sent."""


def attack_rows(found: Record) -> list[Row]:
    """Return a line for each attack on one attribute, then the upper bound and the control."""
    best = found["verdict"] and found["verdict"]["best"]
    rows = [
        Row(
            cells=_attack_cells(attack_name(finding), finding, control_cell(found, finding)),
            best=finding == best,
        )
        for finding in found["findings"]
    ]
    if found["unshielded"]:
        upper = max(found["unshielded"], key=lambda finding: finding["rate"]["value"])
        cells = _attack_cells(f"no shield: {attack_name(upper)}", upper, "")
        rows.append(Row(cells=cells, beside=True))
    if found["control"]:
        finding = found["control"]["finding"]
        cells = _attack_cells(f"control, shuffled labels: {attack_name(finding)}", finding, "")
        rows.append(Row(cells=cells, beside=True))
    return rows


def control_cell(found: Record, finding: Record) -> str:
    """Return how much of what was planted the attacker of a finding found; empty: not tried."""
    control = _control_of(found.get("controls") or (), finding)
    if control is None:
        return ""
    what = "SSIM " if control["attack"] == finding["attack"] != "attribute" else ""
    figure = (
        f"{what}{control['found']:.2f}"
        if what and control["attack"] != "labels"
        else f"{100 * control['found']:.0f} %"
    )
    return f"{figure} found" if control["passed"] else f"{figure} NOT FOUND"


def _control_of(controls: Sequence[Record], finding: Record) -> Record | None:
    """Return the control of who made a finding; of one who rebuilt images, that of rebuilding."""
    attack = "attribute" if finding["attack"] == "single mixture" else finding["attack"]
    for control in controls:
        if control["attack"] == attack and control["attacker"] in (finding["attacker"], attack):
            return control
    return None


def unmixed_rows(mixtures: Sequence[Record]) -> list[Row]:
    """Return a line for each attempt to take mixtures apart; the one that got most is marked."""
    tried = [m for m in mixtures if m["attack"] not in _BESIDE]
    best = max(tried, key=lambda m: float(m["correlation"]["value"]), default=None)
    return [
        Row(cells=_unmixed_cells(m), best=m is best, beside=m["attack"] in _BESIDE)
        for m in mixtures
    ]


def _unmixed_cells(unmixed: Record) -> tuple[str, ...]:
    name = str(unmixed["attack"])
    return (
        _BESIDE.get(name, name),
        rate_text(unmixed["recovered"]),
        _score(unmixed["correlation"], 3),
        f"{unmixed['chance']['value']:.3f}",
        f"{unmixed['correlation']['n']:,}",
        f"{unmixed['effort']['known']:,}",
        seconds_text(unmixed["effort"]["time_s"]),
    )


def rank_rows(identity: Record) -> list[Row]:
    """Return a line for each figure of the rank measure, then what they depend on."""
    first, best = identity["at_rank_1_chance"], identity["in_best_chance"]
    cells = (
        (
            f"mean rank / {identity['candidates']:,}",
            _score(identity["privacy"], 3),
            f"{identity['chance']:.3f}",
        ),
        (
            "mean log rank / log of the last",
            _score(identity["log_rank"], 3),
            f"{identity['log_rank_chance']:.3f}",
        ),
        ("found first %", rate_text(identity["at_rank_1"]), f"{100 * first:.2g}"),
        (f"in the best {100 * best:.2g} %", rate_text(identity["in_best"]), f"{100 * best:.2g}"),
        ("features that coincide %", rate_text(identity["ties"]), "-"),
        ("signal / noise", _ratio_text(identity), "-"),
    )
    return [Row(cells=line, beside=number >= 4) for number, line in enumerate(cells)]


def _ratio_text(identity: Record) -> str:
    if identity["snr"] is None:
        return "no noise"
    if identity["snr_db"] is None:
        return "no signal"
    return f"{identity['snr']:.3g} = {identity['snr_db']:.1f} dB"


def rank_text(identity: Record | None, method: str) -> str:
    """Return what the rank measure comes to, in a sentence or two; empty where not measured."""
    if identity is None:
        mixed = (
            "Whose it is was not measured: what is sent are mixtures, and mixtures have no owner."
        )
        return mixed if _is(method, "mixes") else ""
    n = identity["candidates"]
    text = (
        f"Of {n:,} candidates the right one is at place {n * identity['privacy']['value']:,.1f} on "
        f"average, by chance at {n * identity['chance']:,.1f}; it is the first in "
        f"{_rate(identity['at_rank_1'])} (n = {identity['at_rank_1']['n']:,})."
    )
    if identity["beats_chance"]:
        return text
    return f"{text} That does not differ from chance: this attack failed. Others may not."


def attack_name(finding: Record) -> str:
    """Return who reads the attribute, and from what.

    >>> attack_name({"attack": "decoder", "attacker": "originals"})
    'decoder, reader taught by originals'
    """
    if finding["attack"] == "labels":
        return "the task label alone"
    if finding["attack"] == "attribute":
        return str(finding["attacker"])
    if finding["attack"] == "single mixture":
        return f"{finding['attacker']}, from a single mixture"
    return f"{finding['attack']}, reader taught by {finding['attacker']}"


def _attack_cells(name: str, finding: Record, control: str) -> tuple[str, ...]:
    effort = finding["effort"]
    rounds = f"{effort['rounds']:,}"
    if effort.get("ended_by_time"):
        rounds = f"{rounds} of {effort['planned']:,}: time"
    return (
        name,
        rate_text(finding["rate"]),
        rate_text(finding["balanced"]),
        rate_text(finding.get("auc")),
        rate_text(finding.get("tpr")),
        f"{100 * finding['majority']:.1f}, {100 * finding['balanced_chance']:.1f}",
        control,
        rounds,
        seconds_text(effort["time_s"]),
    )


def rebuilt_rows(found: Record) -> list[Row]:
    """Return a line for each attack that rebuilt images, from what is sent and before the noise."""
    return [
        Row(cells=_rebuilt_cells(kind, results[kind]), beside=kind != "sent")
        for results in found["reconstructions"]
        for kind in KINDS
        if kind in results
    ]


def _rebuilt_cells(kind: str, result: Record) -> tuple[str, ...]:
    likeness, mean = result["likeness"], _mean_image(result)
    read = result["read"]
    return (
        f"{result['attack']}, {KINDS[kind]}",
        _score(likeness["ssim"], 3),
        _score(mean["ssim"], 3),
        _score(likeness["psnr_db"], 2),
        _score(mean["psnr_db"], 2),
        rate_text(read and read["rate"]),
        f"{likeness['ssim']['n']:,}",
        seconds_text(result["effort"]["time_s"]),
    )


def _mean_image(result: Record) -> Record:
    """Return how like the victims the better mean image is: of all, or of each task label."""
    means: list[Record] = [result["mean_image"]]
    if result["mean_image_of_label"]:
        means.append(result["mean_image_of_label"])
    return max(means, key=lambda likeness: float(likeness["ssim"]["value"]))


def _score(score: Record, digits: int) -> str:
    return f"{score['value']:.{digits}f} ±{(score['high'] - score['low']) / 2:.{digits}f}"


def verdict_text(attribute: str, found: Record) -> str:
    """Return what all attacks on one attribute come to, in a sentence or two."""
    verdict = found["verdict"]
    if verdict is None:
        return f"No attack on {attribute} was ended."
    best, chosen = verdict["best"], verdict["chosen"]
    text = (
        f"Best of {_times(verdict['attempts'], 'attack')}: {attack_name(best)!r} reads {attribute} "
        f"at {_rate(best['rate'])} (n = {best['rate']['n']:,}); chance {100 * best['majority']:.1f}"
        f" %; {_limits_text(verdict)}."
    )
    text += _beaten_text(verdict, found)
    if chosen != best:
        text += (
            f" By its own held-out examples an attacker would trust {attack_name(chosen)!r}: "
            f"{_rate(chosen['rate'])}."
        )
    return text + _doubts_text(verdict)


FIGURES = {
    "rate": "accuracy",
    "balanced": "balanced accuracy",
    "auc": "AUC",
    "tpr": "TPR at 1 % FPR",
}
"""What a figure is called, by its name in the record."""


def _beaten_text(verdict: Record, found: Record) -> str:
    """Return whether any figure of any attack lies above chance; which, and how high they are."""
    beats = verdict.get("beats")
    if beats is None:  # an audit of before these figures
        beats = ["rate"] if verdict["best"]["beats_chance"] else []
    if not beats:
        return (
            " No figure of any attack lies above chance: these attacks, with this effort, failed. "
            "Others may not."
        )
    highest = (
        f"{FIGURES[name]} up to {_rate(max((f[name] for f in found['findings']), key=_value))}"
        for name in beats
        if all(name in finding for finding in found["findings"])
    )
    return f" Above chance: {', '.join(highest)}."


def _value(figure: Record) -> float:
    return float(figure["value"])


def _doubts_text(verdict: Record) -> str:
    """Return why less may be said than the figures seem to say."""
    doubts = ""
    if early := verdict.get("early"):
        doubts += (
            f" INCOMPLETE: time ended {', '.join(early)} before all rounds were made, so no limit "
            "holds; repeat it with --patience."
        )
    if powerless := verdict.get("powerless"):
        doubts += (
            f" What was planted was not found by {', '.join(powerless)}: that they read little "
            "counts for nothing."
        )
    if differing := verdict.get("differing"):
        doubts += (
            f" {', '.join(differing)}: its own held-out examples are read otherwise than the "
            "victims, by more than the intervals. Another attacker may read more."
        )
    return doubts


def _limits_text(verdict: Record) -> str:
    """Return which limits hold."""
    limits = verdict.get("limits")
    if limits is None and verdict["max_attack"] is not None:  # an audit of before other limits
        limits = {"rate": {"limit": verdict["max_attack"], **_held(verdict)}}
    if not limits:
        return "no limit is stated"
    return "; ".join(_limit_text(name, limit) for name, limit in limits.items())


def _held(verdict: Record) -> Record:
    return {name: verdict[name] for name in ("holds", "surely_holds")}


def _limit_text(name: str, limit: Record) -> str:
    on = "" if name == "rate" else f" of {FIGURES[name]}"
    text = f"limit{on} {100 * limit['limit']:g} %"
    if not limit["holds"]:
        at = f" (at {_rate(limit['value'])})" if name != "rate" and "value" in limit else ""
        return f"{text}: does not hold{at}"
    if limit["surely_holds"]:
        return f"{text}: holds (its interval's upper end does too)"
    return f"{text}: holds (but its interval reaches above)"


def control_text(found: Record) -> str:
    """Return what the control says about the audit itself."""
    control = found["control"]
    if control is None:
        return "The control with shuffled labels was not made."
    finding = control["finding"]
    text = (
        f"Control: with shuffled labels {finding['attacker']!r} is right in "
        f"{_rate(finding['rate'])}, chance is {100 * finding['majority']:.1f} %"
    )
    if not control["sound"]:
        return f"{text}: the audit itself is broken, believe none of its figures."
    text += ": as it must be."
    controls = found.get("controls")
    if controls is None:
        return text
    passed = sum(bool(one["passed"]) for one in controls)
    return f"{text} Planted controls: {passed} of {_times(len(controls), 'attacker')} found theirs."


def rank_controls_text(record: Record) -> str:
    """Return what the controls of un-mixing and of the rank measure say; empty where none were."""
    controls = record.get("controls") or ()
    if not controls:
        return ""
    lost = [str(one["attacker"]) for one in controls if not one["passed"]]
    passed = len(controls) - len(lost)
    text = f"Controls of {controls[0]['attack']}: {passed} of {len(controls)} found what is there"
    if lost:
        return f"{text}; that {', '.join(lost)} failed counts for nothing."
    return f"{text}."


def faults_text(record: Record) -> str:
    """Return why no figure of an audit is to be believed; empty: there is no reason."""
    faults = record.get("faults") or ()
    if not faults:
        return ""
    return f"The audit is unsound, believe none of its figures: {'; '.join(faults)}."


def known_text(found: Record) -> str:
    """Return how many examples of its own the attacker had; empty in earlier audits."""
    if "known" not in found:
        return ""
    known, unseen = found["known"], found["unseen"]
    text = f"The attacker has {known:,} examples of its own; the net was trained on "
    if unseen == known:
        return f"{text}none of them."
    text += f"{known - unseen:,} of them."
    if unseen < known / 5:
        text += (
            " So some that it holds out are of those: features of what a net was trained on may be "
            "surer than the victims'."
        )
    return text


def accuracy_text(subject: Record) -> str:
    """Return how well the bundle does its task."""
    rates = {side: rate for side, rate in (subject["accuracy"] or {}).items() if rate}
    if not rates:
        return "Task accuracy is not known."
    words = [f"{side} {_rate(rate)} (n = {rate['n']:,})" for side, rate in rates.items()]
    return f"Task accuracy: {', '.join(words)}."


def subject_text(subject: Record) -> str:
    """Return what was attacked, in a line."""
    narrow = "" if subject["bottleneck"] is None else f", bottleneck {subject['bottleneck']}"
    noise = f"{subject['law']} noise {subject['scale']:g}"
    shield = "no noise" if subject["law"] == "none" else noise
    return (
        f"{subject['method']} on {subject['data']}, {subject['net']} cut after {subject['cut']}"
        f"{narrow}, {subject['codec']}, {shield}"
    )


def statement_of(method: str, privacy: Record | None) -> list[str]:
    """Return what the noise proves and what it does not, in sentences."""
    if privacy is not None:
        return [str(sentence) for sentence in privacy["statement"]]
    if _is(method, "mixes"):
        last = "Mixing is no guarantee: see who takes mixtures apart. No task labels are sent."
    elif _is(method, "tunes"):
        last = "Tuning and projecting features is no guarantee. No task labels are sent."
    else:
        last = "Task labels are sent in the clear."
    return [
        "This method adds no noise, so there is no formal guarantee: what is sent is protected "
        "by nothing but what attacks fail to read.",
        last,
    ]


def _is(method: str, fact: str) -> bool:
    """Return a fact of a method; False for one of another version, of which nothing is known."""
    return method in METHODS and bool(getattr(METHODS[method], fact))


def _rate(rate: Record) -> str:
    return f"{100 * rate['value']:.1f} % ±{50 * (rate['high'] - rate['low']):.1f}"


def _times(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
