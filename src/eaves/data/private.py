"""Which attributes of a data set are private: found by name, refused where hiding means nothing.

Dimension key:  B batch   N examples   A attributes
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from eaves.core.roles import PrivateLabels
from eaves.errors import ConfigError, unknown


def named(kind: str, given: str, names: Sequence[str]) -> str:
    """Return the one of ``names`` that was given, or the one that differs from it in case only.

    Raises:
        ConfigError: there is none, or more than one; the likeliest are named first.

    >>> named("attribute", "smiling", ["Male", "Smiling"])
    'Smiling'
    """
    matches = [name for name in names if name.lower() == given.lower()]
    if given in names:
        return given
    if len(matches) != 1:
        raise unknown(kind, given, names)
    return matches[0]


def choose_private(
    given: Sequence[str], names: Sequence[str], *, task: str | None = None
) -> tuple[str, ...]:
    """Return the private attributes as the data set writes them, in the order they were given.

    ``names`` are the attributes that the set has, ``task`` the one that is learnt, if it is one.

    Raises:
        ConfigError: an attribute that is unknown, given twice, or the task itself.

    >>> choose_private(["male"], ["Male", "Smiling"], task="Smiling")
    ('Male',)
    """
    chosen = tuple(named("private attribute", name, names) for name in given)
    twice = [name for i, name in enumerate(chosen) if name in chosen[:i]]
    if twice:
        raise ConfigError(f"the private attribute {twice[0]} is given twice; give it once")
    if task in chosen:
        raise ConfigError(
            f"the private attribute is the task itself: {task}, whose labels are sent to the "
            "cloud; choose another task or attribute"
        )
    return chosen


def take(private: PrivateLabels | None, indices_B: Tensor) -> PrivateLabels | None:
    """Return a copy of the private labels at ``indices_B``, in that order; None of None."""
    if private is None:
        return None
    return PrivateLabels(private.labels_BA[indices_B], private.names)


def refuse_known(private: PrivateLabels | None, labels_N: Tensor) -> None:
    """Refuse private attributes that whoever sees the task's labels ``labels_N`` knows.

    Both are those of the examples to train on. An attribute that follows from the label in most
    cases, but not in all, is let pass.

    Raises:
        ConfigError: an attribute that is the same everywhere, or follows from the label.
    """
    if private is None:
        return
    for name in private.names:
        attribute_N = private.of(name)
        if bool((attribute_N == attribute_N[0]).all()):
            raise ConfigError(
                f"the private attribute {name} is the same on all {len(private):,} training "
                "examples, so there is nothing to hide; choose another"
            )
        if _follows(attribute_N, labels_N):
            raise ConfigError(
                f"the private attribute {name} follows from the task's label on all "
                f"{len(private):,} training examples, and the labels are sent to the cloud; choose "
                "another task or attribute"
            )


def _follows(attribute_N: Tensor, labels_N: Tensor) -> bool:
    """Return whether each label comes with one value of the attribute only."""
    pairs_N = labels_N * (attribute_N.max() + 1) + attribute_N
    return len(torch.unique(pairs_N)) == len(torch.unique(labels_N))
