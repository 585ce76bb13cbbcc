"""Bayes attacker: the likelihood of what arrived under each class of the attacker's own examples.

A white box knows the features of its examples without noise, and the law of what happens to them on
the way. So it needs no training: what arrived is a draw from the mixture of its examples, each with
the noise around it, and the class with most of the density is the likeliest. At one release no
attacker with the same examples can do better where examples are many; it takes seconds.

What the codec does is learned by sending the examples: the mean of what arrives of each, and the
variance around it. Laplace noise that was sent once has its own likelihood; else it is Gaussian.
Where examples are few for their number of values, the mixture is too rough: then wider kernels, or
one Gaussian for each class (linear and quadratic discriminants, shrunk), read more. Which of these
answers is chosen on held-out examples, as a net's round is.

Dimension key:  N examples that teach   M examples to be read   D values   K classes
"""

from collections.abc import Callable, Iterator
from functools import partial
from math import log

import torch
from torch import Tensor

from eaves.audit.trees import pooled
from eaves.audit.trial import Round, Seen, Trial

WIDTHS = (0.0, 0.03, 0.1, 0.3, 1.0)
"""Variance that is added to each kernel, in those of the values."""
SHRUNK = (0.05, 0.3, 0.8)
"""How far covariances are drawn towards one with equal variances in all directions."""
_SENT = 4  # times that each example is sent to see what arrives
_OTHER_LABEL = log(0.02)  # how much an example counts that has another task label
_LEAST = 1e-6  # of the mean variance: what arrives exactly has none
_AT_ONCE = 512
_WIDE = 2048  # values, above which they are pooled


Answers = Callable[[Seen], Tensor]


def likelihoods(trial: Trial, *, generator: torch.Generator) -> Iterator[Round]:
    """Yield what the mixture answers with each width, then what Gaussians of the classes do."""
    ways = [*_kernels(trial, generator), *_gaussians(trial, generator)]
    for done, answers in enumerate(ways, start=1):
        yield Round(
            done=done,
            total=len(ways),
            held_out=answers(trial.held_out),
            victims=answers(trial.victims),
        )


def _kernels(trial: Trial, generator: torch.Generator) -> list[Answers]:
    """Return mixtures of all examples, one for each width."""
    rows = torch.arange(len(trial.train))
    bounded_ND = _flat(trial.train.features)
    shift_D, square_D = torch.zeros_like(bounded_ND[0]), torch.zeros_like(bounded_ND[0])
    for _ in range(_SENT):
        off_ND = _flat(trial.fresh(rows, generator).features) - bounded_ND
        shift_D = shift_D + off_ND.mean(dim=0) / _SENT
        square_D = square_D + off_ND.square().mean(dim=0) / _SENT
    # The mean over all: noise has none, and what is left is what the codec does to everything.
    variance_D = (square_D - shift_D.square()).clamp(min=0)
    spread_D = bounded_ND.var(dim=0)
    least = _LEAST * float((variance_D + spread_D).mean()) + 1e-30
    examples_ND = bounded_ND + shift_D
    exposure = trial.exposure
    sharp = exposure.mechanism.law == "laplace" and exposure.victims.releases == 1
    sharp = sharp and bounded_ND.shape[1] == trial.train.features[0].numel()
    ways: list[Answers] = []
    if sharp:
        ways.append(lambda seen: _by_l1(trial, examples_ND, seen))
    for width in WIDTHS:
        scale_D = (variance_D + width * spread_D.mean() + least).sqrt()
        ways.append(partial(_by_l2, trial, examples_ND, scale_D=scale_D))
    return ways


def _flat(features: Tensor) -> Tensor:
    """Return features (N, D), pooled where they are so many that densities would take minutes."""
    return pooled(features) if features[0].numel() > _WIDE else features.flatten(1)


def _by_l2(trial: Trial, examples_ND: Tensor, seen: Seen, scale_D: Tensor) -> Tensor:
    scaled_ND = examples_ND / scale_D
    return _mixed(trial, seen, lambda z_MD: torch.cdist(z_MD / scale_D, scaled_ND).square().div(-2))


def _by_l1(trial: Trial, examples_ND: Tensor, seen: Seen) -> Tensor:
    scale = trial.exposure.mechanism.scale
    return _mixed(trial, seen, lambda z_MD: torch.cdist(z_MD, examples_ND, p=1).div(-scale))


def _mixed(trial: Trial, seen: Seen, log_density: Callable[[Tensor], Tensor]) -> Tensor:
    """Return logits (M, K): the log of the density that the examples of each class add up to."""
    classes, private_N = trial.exposure.classes, trial.train_private
    label_N = trial.train.labels.argmax(dim=1)
    made = []
    for z_MD, labels_ML in zip(
        torch.split(_flat(seen.features), _AT_ONCE),
        torch.split(seen.labels, _AT_ONCE),
        strict=True,
    ):
        density_MN = log_density(z_MD)
        other_MN = labels_ML.argmax(dim=1)[:, None] != label_N
        density_MN += other_MN * _OTHER_LABEL
        of_class = [
            density_MN[:, private_N == k].logsumexp(dim=1)
            if bool((private_N == k).any())
            else density_MN.new_full((len(z_MD),), -torch.inf)
            for k in range(classes)
        ]
        made.append(_bounded(torch.stack(of_class, dim=1)))
    return torch.cat(made)


def _gaussians(trial: Trial, generator: torch.Generator) -> list[Answers]:
    """Return discriminants on what arrives and the label, linear and quadratic."""
    rows, sent = torch.arange(len(trial.train)), _SENT if trial.exposure.path.varies else 1
    # Pooled each time before the next: all that was sent would be gigabytes of wide features.
    x_ND = torch.cat([_inputs(trial, trial.fresh(rows, generator)) for _ in range(sent)])
    private_N = trial.train_private.repeat(sent)
    classes = [k for k in range(trial.exposure.classes) if int((private_N == k).sum()) > 1]
    means = {k: x_ND[private_N == k].mean(dim=0) for k in classes}
    covariances = {k: torch.cov(x_ND[private_N == k].T).reshape(x_ND.shape[1], -1) for k in classes}
    shares = {k: float((private_N == k).float().mean()) for k in classes}
    within = sum(shares[k] * covariances[k] for k in classes)
    ways: list[Answers] = []
    for shrunk in SHRUNK:
        for of_class in (dict.fromkeys(classes, within), covariances):
            ways.append(_discriminant(trial, means, of_class, shrunk))  # type: ignore[arg-type]
    return ways


def _discriminant(
    trial: Trial, means: dict[int, Tensor], covariances: dict[int, Tensor], shrunk: float
) -> Answers:
    prior_K = trial.prior().double()
    parts = {}
    for k, covariance_DD in covariances.items():
        size = len(covariance_DD)
        even = float(covariance_DD.diagonal().mean()) + 1e-12
        mixed_DD = (1 - shrunk) * covariance_DD + shrunk * even * torch.eye(size).double()
        parts[k] = torch.linalg.cholesky(mixed_DD)

    def answers(seen: Seen) -> Tensor:
        x_MD = _inputs(trial, seen)
        logits_MK = torch.full((len(seen), len(prior_K)), -torch.inf, dtype=torch.float64)
        for k, root_DD in parts.items():
            z_DM = torch.linalg.solve_triangular(root_DD, (x_MD - means[k]).T, upper=False)
            volume = root_DD.diagonal().log().sum()
            logits_MK[:, k] = prior_K[k] - z_DM.square().sum(dim=0) / 2 - volume
        return _bounded(logits_MK)

    return answers


def _inputs(trial: Trial, seen: Seen) -> Tensor:
    """Return scaled features, pooled where they are many, and the label, float64."""
    x_MD = torch.cat([pooled(trial.scaled(seen.features)), seen.labels], dim=1)
    return x_MD.double()


def _bounded(logits_MK: Tensor) -> Tensor:
    """Return logits whose lowest are 50 below the highest: a class without density is possible."""
    best_M1 = logits_MK.amax(dim=1, keepdim=True)
    return (logits_MK - best_M1).nan_to_num(nan=0.0).clamp(min=-50.0).float()
