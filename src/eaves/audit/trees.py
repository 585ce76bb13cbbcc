"""Boosted trees as an attacker: they find what is in single values, and need no tuning.

Dimension key:  N examples   F values that the trees look at   L classes of the task
                K classes of the private attribute
"""

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d

from eaves.audit.pace import paced
from eaves.audit.trial import Allowance, Round, Seen, Trial
from eaves.errors import ConfigError

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

MOST_VALUES = 512  # of one example; more are pooled
_TREES = 8  # of each class, in one round
_STEPS = 4  # times that answers are asked for: each starts with sorting all values again
_COPIES = 2  # of each example, with other noise


def boost(trial: Trial, allowance: Allowance, *, generator: torch.Generator) -> Iterator[Round]:
    """Grow trees on the features and the labels; yield after each quarter of the rounds.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    model = _model(int(torch.randint(2**31, (), generator=generator)))
    rows = torch.arange(len(trial.train)).repeat(_COPIES if trial.exposure.path.varies else 1)
    inputs_NF = _inputs(trial.fresh(rows, generator))
    for step, _ in enumerate(paced(_STEPS, allowance), start=1):
        done = -(-allowance.rounds * step // _STEPS)
        model.set_params(max_iter=done * _TREES)
        model.fit(inputs_NF.numpy(), trial.train_private[rows].numpy())
        held_out, victims = (_answers(model, trial, s) for s in (trial.held_out, trial.victims))
        yield Round(done=done, total=allowance.rounds, held_out=held_out, victims=victims)


def pooled(features: Tensor) -> Tensor:
    """Return features as (N, F) with F at most 512: means of neighbours, where they are more.

    >>> [tuple(pooled(torch.zeros(2, *shape)).shape) for shape in [(8, 8, 8), (32, 16, 16), (900,)]]
    [(2, 512), (2, 512), (2, 512)]
    """
    shape = features.shape[1:]
    if len(shape) == 3 and shape[0] < MOST_VALUES < prod(shape):
        side = int((MOST_VALUES / shape[0]) ** 0.5)
        features = adaptive_avg_pool2d(features, (min(side, shape[1]), min(side, shape[2])))
    flat_NF = features.flatten(1)
    if flat_NF.shape[1] > MOST_VALUES:
        flat_NF = adaptive_avg_pool1d(flat_NF, MOST_VALUES)
    return flat_NF


def _model(seed: int) -> "HistGradientBoostingClassifier":
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier
    except ImportError as error:
        raise ConfigError(
            'boosted trees need scikit-learn; install it with: pip install "eaves[lab]", '
            "or leave the attacker 'trees' out"
        ) from error
    return HistGradientBoostingClassifier(
        learning_rate=0.08,
        max_leaf_nodes=15,
        l2_regularization=1.0,
        early_stopping=False,
        warm_start=True,
        random_state=seed,
    )


def _inputs(seen: Seen) -> Tensor:
    return torch.cat([pooled(seen.features), seen.labels], dim=1)


def _answers(model: "HistGradientBoostingClassifier", trial: Trial, seen: Seen) -> Tensor:
    """Return logits (N, K); next to none for a class that no example taught."""
    shares = torch.from_numpy(model.predict_proba(_inputs(seen).numpy())).float()
    logits_NK = torch.full((len(seen), trial.exposure.classes), -50.0)
    logits_NK[:, torch.from_numpy(model.classes_)] = shares.clamp(min=1e-20).log()
    return logits_NK
