"""Attackers that read a private attribute from what the cloud sees, and their control.

A white box: they hold labelled examples of the same distribution, know the edge part, the bound and
the law of the noise, and train afresh on what the cloud would see of their examples: noise is drawn
for each use, and features take the victims' path through the codec, in batches of the carrier's.
All have the task labels too, which are sent in the clear. Which round of its training answers for
an attacker, and which of several seeds, is chosen on examples that it holds out, never on the
victims.

The upper bound, features without a shield, is the same attack on another exposure. Its positive
control is the same attack on a planted attribute.

Dimension key:  N examples   H held-out features   V victims   K classes of the private attribute
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from math import inf, isfinite
from time import perf_counter
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from eaves.audit.bayes import likelihoods
from eaves.audit.convnets import Quick
from eaves.audit.findings import Effort, Finding, Progress, Reading, Score
from eaves.audit.knowledge import Exposure
from eaves.audit.learners import drawing_from, learn
from eaves.audit.neighbours import vote
from eaves.audit.planted import part_of, planted, share_of
from eaves.audit.readers import Told, deep, linear, mlp
from eaves.audit.trees import boost
from eaves.audit.trial import Allowance, Round, Trial
from eaves.audit.verdict import Control, Planted
from eaves.core.rates import Rate
from eaves.errors import ConfigError, unknown

ATTACK = "attribute"
CLOUD = "cloud"  # the cloud part's own architecture, which the caller hands in
NETS: dict[str, tuple[Callable[[tuple[int, ...], int, int], nn.Module], float]] = {
    "deep": (deep, 2e-3),
    "mlp": (mlp, 2e-3),
    "linear": (linear, 3e-2),
}
"""What builds a net for a shape, L task labels and K classes; and its learning rate."""
TREES = "trees"
BAYES = "bayes"
NEIGHBOURS = "neighbours"
TOGETHER = "together"  # all that were tried, voting
ATTACKERS = (CLOUD, *NETS, TREES, BAYES, NEIGHBOURS)
CHEAP = ("mlp", "linear")
"""Nets that are tried with several seeds where nothing is said."""
_SEEDS = 3  # of those
_CLOUD_LR = 1e-3  # it may be any net
_FEWEST_CHECKED = 10  # of each class: fewer say too little to compare by


@final
@dataclass(frozen=True, kw_only=True)
class Budget:
    """What each attacker may spend, and with how many seeds: None: three for cheap nets."""

    allowance: Allowance = field(default_factory=Allowance)
    seeds: int | None = None

    def seeds_of(self, name: str) -> int:
        """Return how many seeds an attacker has; those that learn nothing at random have one."""
        if name not in (CLOUD, *NETS, TREES):
            return 1
        return self.seeds or (_SEEDS if name in CHEAP else 1)


def attack(
    exposure: Exposure,
    *,
    generator: torch.Generator,
    cloud: nn.Module | None = None,
    attackers: Sequence[str] | None = None,
    budget: Budget | None = None,
) -> Iterator[Progress | Finding]:
    """Let ``attackers`` read the attribute, one after another; yield progress, and their findings.

    Where there are several, the last finding is that of all ``together``: their mean vote.

    ``cloud`` maps features (N, ...) to logits (N, K), its weights fresh; it is copied. Attackers
    are names of :data:`ATTACKERS`, by default all, but for ``cloud`` where there is none. Each gets
    the whole allowance, for each of its seeds. The same generator state gives the same findings but
    for their times, on the same machine, unless time ends an attacker's training.

    Raises:
        ConfigError: an unknown attacker, ``cloud`` without a net or with one of other answers, too
            few examples, or ``trees`` without scikit-learn.
    """
    attackers, budget = _wanted(attackers, cloud), budget or Budget()
    if CLOUD in attackers:
        _expect_answers(cloud, exposure)
    trial = Trial(exposure, generator=generator)
    judged = []
    for name in attackers:
        tried = []
        for _ in range(budget.seeds_of(name)):
            tried.append(_Judge(name, trial))
            for at in _rounds(name, trial, cloud, budget.allowance, generator):
                yield tried[-1].consider(at)
            if tried[-1].ended_by_time:  # another seed would end as early, and take as long
                break
        judged.append(max(tried, key=lambda judge: judge.best.figure))
        yield _of_seeds(judged[-1].finding(), tried)
    if len(judged) > 1:
        yield _together(trial, judged)


def _wanted(attackers: Sequence[str] | None, cloud: nn.Module | None) -> Sequence[str]:
    if attackers is None:
        return [name for name in ATTACKERS if name != CLOUD or cloud is not None]
    for name in attackers:
        if name not in ATTACKERS:
            raise unknown("attacker", name, ATTACKERS)
    return attackers


def control(
    exposure: Exposure,
    *,
    generator: torch.Generator,
    cloud: nn.Module | None = None,
    attackers: Sequence[str] | None = None,
    budget: Budget | None = None,
) -> Iterator[Progress | Control]:
    """Let attackers loose on shuffled private labels; yield progress, and what each shows.

    On a part of the examples, with the rounds of the attack and one seed.

    Raises:
        ConfigError: as :func:`attack` does.
    """
    part = part_of(exposure, generator=generator).shuffled(generator=generator)
    for event in attack(
        part,
        generator=generator,
        cloud=cloud,
        attackers=attackers,
        budget=_of_control(exposure, budget),
    ):
        yield Control(finding=event) if isinstance(event, Finding) else event


def positive_control(
    exposure: Exposure,
    *,
    generator: torch.Generator,
    cloud: nn.Module | None = None,
    attackers: Sequence[str] | None = None,
    budget: Budget | None = None,
) -> Iterator[Progress | Planted]:
    """Let attackers look for a planted attribute; yield progress, and what each finds.

    On a part of the examples, with the rounds of the attack and one seed. ``cloud`` answers two
    classes.

    Raises:
        ConfigError: as :func:`attack` does.
    """
    plant = planted(exposure, generator=generator)
    for event in attack(
        plant.exposure,
        generator=generator,
        cloud=cloud,
        attackers=attackers,
        budget=_of_control(exposure, budget),
    ):
        if isinstance(event, Finding):
            yield Planted.of(event, strength=plant.strength)
        else:
            yield event


def _of_control(exposure: Exposure, budget: Budget | None) -> Budget:
    budget = budget or Budget()
    return Budget(allowance=share_of(exposure, budget.allowance), seeds=1)


def _expect_answers(cloud: nn.Module | None, exposure: Exposure) -> None:
    if cloud is None:
        raise ConfigError(
            "the attacker 'cloud' needs a net of the cloud part's architecture; "
            "give one, or leave the attacker out"
        )
    with torch.no_grad():
        logits_NK = deepcopy(cloud).eval()(exposure.known.features[:2])
    if logits_NK.shape != (2, exposure.classes):
        raise ConfigError(
            f"expected a net 'cloud' with {exposure.classes} answers, one for each class of "
            f"{exposure.attribute}, got logits of shape {tuple(logits_NK.shape)}"
        )


def _rounds(
    name: str,
    trial: Trial,
    cloud: nn.Module | None,
    allowance: Allowance,
    generator: torch.Generator,
) -> Iterator[Round]:
    if name == TREES:
        return boost(trial, allowance, generator=generator)
    if name == BAYES:
        return likelihoods(trial, generator=generator)
    if name == NEIGHBOURS:
        return vote(trial, generator=generator)
    with drawing_from(generator):
        net, lr = _net(name, trial, cloud)
    return learn(net, trial, allowance, lr=lr, generator=generator)


def _net(name: str, trial: Trial, cloud: nn.Module | None) -> tuple[nn.Module, float]:
    """Return a net that has learned nothing yet, and its learning rate."""
    labels, classes = trial.exposure.labels, trial.exposure.classes
    if cloud is not None and name == CLOUD:
        return Told(Quick(deepcopy(cloud)), trial.shape[0], labels, classes), _CLOUD_LR
    build, lr = NETS[name]
    return build(trial.shape, labels, classes), lr


@final
class _Judge:
    """Follows one attacker; scores the rounds that its held-out examples like best."""

    def __init__(self, name: str, trial: Trial):
        self.best, self.fairest = _Best(), _Best()
        self.effort = Effort(known=len(trial.exposure.known), rounds=0, time_s=0.0)
        self._name, self._trial, self._prior_K = name, trial, trial.prior()
        self._start_s = perf_counter()
        self._private_C = trial.held_out_private[: trial.choosing]
        counts_K = self._private_C.bincount(minlength=trial.exposure.classes)
        self._weights_K = 1 / counts_K.clamp(min=1)

    @property
    def ended_by_time(self) -> bool:
        """Whether fewer rounds were made than planned."""
        return self.effort.ended_by_time

    def consider(self, at: Round) -> Progress:
        """Take what the attacker answers after one more round."""
        self.effort = replace(
            self.effort,
            rounds=at.done,
            time_s=perf_counter() - self._start_s,
            planned=at.total,
            ended_by_time=at.done < at.total,
        )
        choosing = self._trial.choosing
        chosen_by = at.held_out[:choosing]
        figure = float((chosen_by.argmax(dim=1) == self._private_C).double().mean())
        self.best.keep(figure, at.held_out, at.victims)
        # As if each class were as likely as the others before the features are seen (Bayes). Few
        # examples are of a rare class: whether they are right is too coarse to choose by.
        fair_HK, fair_VK = at.held_out - self._prior_K, at.victims - self._prior_K
        loss = float(cross_entropy(fair_HK[:choosing], self._private_C, weight=self._weights_K))
        self.fairest.keep(-loss if isfinite(loss) else -inf, fair_HK, fair_VK)
        return Progress(
            attack=ATTACK, attacker=self._name, done=at.done, total=at.total, figure=figure
        )

    def finding(self) -> Finding:
        """Return how well the best rounds read the victims."""
        exposure = self._trial.exposure
        return Finding(
            attack=ATTACK,
            attacker=self._name,
            attribute=exposure.attribute,
            reading=Reading.of(
                self.best.logits_VK.argmax(dim=1),
                exposure.victims.private,
                fair_N=self.fairest.logits_VK.argmax(dim=1),
                scores_NK=self.fairest.logits_VK,
            ),
            effort=self.effort,
            held_out=self.best.figure,
            check=self._check(),
            check_unseen=self._trial.unseen_check,
            note=_note(exposure),
        )

    def _check(self) -> Score | None:
        """Return balanced accuracy on examples that chose nothing; None: none of some class."""
        private_N = self._trial.held_out_private[self._trial.choosing :]
        answers_N = self.fairest.logits_HK[self._trial.choosing :].argmax(dim=1)
        of_class = [answers_N[private_N == k] == k for k in range(self._trial.exposure.classes)]
        if min(len(right) for right in of_class) < _FEWEST_CHECKED:
            return None
        return Score.balanced([Rate.of(int(right.sum()), len(right)) for right in of_class])


@final
class _Best:
    """The answers with the highest figure so far."""

    def __init__(self) -> None:
        self.figure = -inf
        self.logits_HK = self.logits_VK = torch.empty(0, 0)

    def keep(self, figure: float, logits_HK: Tensor, logits_VK: Tensor) -> None:
        """Take these answers, unless some were as good."""
        if figure > self.figure or not self.logits_HK.numel():
            self.figure, self.logits_HK, self.logits_VK = figure, logits_HK, logits_VK


def _together(trial: Trial, judged: Sequence[_Judge]) -> Finding:
    """Return what all attackers read who vote: the mean of their logarithms of probability."""
    judge = _Judge(TOGETHER, trial)
    held_out, victims = (
        torch.stack([logits_NK.log_softmax(dim=1) for logits_NK in all_of]).mean(dim=0)
        for all_of in (
            [each.best.logits_HK for each in judged],
            [each.best.logits_VK for each in judged],
        )
    )
    judge.consider(Round(done=1, total=1, held_out=held_out, victims=victims))
    efforts = [each.effort for each in judged]
    effort = Effort(
        known=efforts[0].known,
        rounds=sum(each.rounds for each in efforts),
        time_s=sum(each.time_s for each in efforts),
        planned=sum(each.planned or 0 for each in efforts),
        ended_by_time=any(each.ended_by_time for each in efforts),
    )
    return replace(judge.finding(), effort=effort)


def _of_seeds(finding: Finding, tried: Sequence[_Judge]) -> Finding:
    """Return the finding of the seed that was chosen, with the rates of all and the time of all."""
    if len(tried) == 1:
        return finding
    rates = tuple(judge.finding().reading.rate.value for judge in tried)
    effort = replace(finding.effort, time_s=sum(judge.effort.time_s for judge in tried))
    return replace(finding, effort=effort, seeds=rates)


def _note(exposure: Exposure) -> str:
    releases = exposure.victims.releases
    return f"{releases} releases of each input joined" if releases > 1 else ""
