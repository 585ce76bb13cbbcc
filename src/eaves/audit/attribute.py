"""Attackers that read a private attribute from what the cloud sees, and their control.

A white box: they hold labelled examples of the same distribution, know the edge part, the bound and
the law of the noise, and train afresh on what the cloud would see of their examples, with noise
drawn anew for each use. All have the task labels too, which are sent in the clear. Which round of
its training answers for an attacker is chosen on examples that it holds out, never on the victims.

The upper bound, features without a shield, is the same attack on another exposure.

Dimension key:  N examples   H held-out features   V victims   K classes of the private attribute
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from math import inf, isfinite
from time import perf_counter
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from eaves.audit.convnets import Quick
from eaves.audit.findings import Control, Effort, Finding, Progress, Reading
from eaves.audit.knowledge import Exposure
from eaves.audit.learners import drawing_from, learn
from eaves.audit.readers import Told, deep, linear, mlp
from eaves.audit.trees import boost
from eaves.audit.trial import Allowance, Round, Trial
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
TOGETHER = "together"  # all that were tried, voting
ATTACKERS = (CLOUD, *NETS, TREES)
_CLOUD_LR = 1e-3  # it may be any net


def attack(
    exposure: Exposure,
    *,
    generator: torch.Generator,
    cloud: nn.Module | None = None,
    attackers: Sequence[str] | None = None,
    allowance: Allowance | None = None,
) -> Iterator[Progress | Finding]:
    """Let ``attackers`` read the attribute, one after another; yield progress, and their findings.

    Where there are several, the last finding is that of all ``together``: their mean vote.

    ``cloud`` maps features (N, ...) to logits (N, K), its weights fresh; it is copied. Attackers
    are names of :data:`ATTACKERS`, by default all, but for ``cloud`` where there is none. Each gets
    the whole ``allowance``. The same generator state gives the same findings but for their times,
    on the same machine, unless time ends an attacker's training.

    Raises:
        ConfigError: an unknown attacker, ``cloud`` without a net or with one of other answers, too
            few examples, or ``trees`` without scikit-learn.
    """
    if attackers is None:
        attackers = [name for name in ATTACKERS if name != CLOUD or cloud is not None]
    for name in attackers:
        if name not in ATTACKERS:
            raise unknown("attacker", name, ATTACKERS)
    if CLOUD in attackers:
        _expect_answers(cloud, exposure)
    trial = Trial(exposure, generator=generator)
    judged = []
    for name in attackers:
        judged.append(_Judge(name, trial))
        rounds = _rounds(name, trial, cloud, allowance or Allowance(), generator)
        for at in rounds:
            yield judged[-1].consider(at)
        yield judged[-1].finding()
    if len(judged) > 1:
        yield _together(trial, judged)


def control(
    exposure: Exposure,
    *,
    generator: torch.Generator,
    cloud: nn.Module | None = None,
    attackers: Sequence[str] = ("mlp",),
    allowance: Allowance | None = None,
) -> Iterator[Progress | Control]:
    """Let attackers loose on shuffled private labels; yield progress, and what each shows.

    Raises:
        ConfigError: as :func:`attack` does.
    """
    for event in attack(
        exposure.shuffled(generator=generator),
        generator=generator,
        cloud=cloud,
        attackers=attackers,
        allowance=allowance,
    ):
        yield Control(finding=event) if isinstance(event, Finding) else event


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
        counts_K = trial.held_out_private.bincount(minlength=trial.exposure.classes)
        self._weights_K = 1 / counts_K.clamp(min=1)

    def consider(self, at: Round) -> Progress:
        """Take what the attacker answers after one more round."""
        self.effort = replace(self.effort, rounds=at.done, time_s=perf_counter() - self._start_s)
        private_H = self._trial.held_out_private
        figure = float((at.held_out.argmax(dim=1) == private_H).double().mean())
        self.best.keep(figure, at.held_out, at.victims)
        # As if each class were as likely as the others before the features are seen (Bayes). Few
        # examples are of a rare class: whether they are right is too coarse to choose by.
        fair_HK, fair_VK = at.held_out - self._prior_K, at.victims - self._prior_K
        loss = float(cross_entropy(fair_HK, private_H, weight=self._weights_K))
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
            ),
            effort=self.effort,
            held_out=self.best.figure,
            note=_note(exposure),
        )


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
    )
    return replace(judge.finding(), effort=effort)


def _note(exposure: Exposure) -> str:
    releases = exposure.victims.releases
    return f"{releases} releases of each input joined" if releases > 1 else ""
