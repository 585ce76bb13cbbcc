"""Nearest-neighbour attacker: the classes of those examples whose features are most alike.

It learns nothing, so it finds what the training of a net misses, and needs no rounds. How many
neighbours vote, and whether they must have the victim's task label, is chosen on held-out examples.

Dimension key:  N examples that teach   M examples to be read   D values   K classes   J neighbours
"""

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from eaves.audit.trees import pooled
from eaves.audit.trial import Round, Seen, Trial

NEIGHBOURS = (1, 5, 15, 51, 151)
_COPIES = 2  # of each example, where it may arrive as something else
_WIDE = 2048  # values, above which they are pooled
_AT_ONCE = 512


def vote(trial: Trial, *, generator: torch.Generator) -> Iterator[Round]:
    """Yield what so many neighbours answer: of any label, then of the victim's own."""
    rows = torch.arange(len(trial.train)).repeat(_COPIES if trial.exposure.path.varies else 1)
    known, private_N = trial.fresh(rows, generator), trial.train_private[rows]
    counts = [count for count in NEIGHBOURS if count <= len(rows)]
    done = 0
    for same in (False, True):
        found = [
            _nearest(trial, known, seen, max(counts), same=same)
            for seen in (trial.held_out, trial.victims)
        ]
        for count in counts:
            held_out, victims = (_votes(trial, private_N[near[:, :count]]) for near in found)
            done += 1
            total = 2 * len(counts)
            yield Round(done=done, total=total, held_out=held_out, victims=victims)


def _nearest(trial: Trial, known: Seen, seen: Seen, most: int, *, same: bool) -> Tensor:
    """Return rows (M, J) of the nearest examples, in order; ``same``: those of the label first."""
    x_ND, label_N = _flat(trial, known), known.labels.argmax(dim=1)
    found = []
    for z_MD, labels_ML in zip(
        torch.split(_flat(trial, seen), _AT_ONCE), torch.split(seen.labels, _AT_ONCE), strict=True
    ):
        far_MN = torch.cdist(z_MD, x_ND)
        if same:
            far_MN += (labels_ML.argmax(dim=1)[:, None] != label_N) * (1 + far_MN.max())
        found.append(far_MN.topk(most, dim=1, largest=False).indices)
    return torch.cat(found)


def _flat(trial: Trial, seen: Seen) -> Tensor:
    scaled = trial.scaled(seen.features)
    return pooled(scaled) if prod(scaled.shape[1:]) > _WIDE else scaled.flatten(1)


def _votes(trial: Trial, private_MJ: Tensor) -> Tensor:
    """Return logits (M, K) of the votes, with one more that is divided as the classes are."""
    votes_MK = one_hot(private_MJ, trial.exposure.classes).sum(dim=1)
    return (votes_MK + trial.prior().exp()).log()
