"""What is done to features before they leave, when the answers have to be undone for it.

Dimension key:  B batch   K classes   Q queries   ... the shape of the features or of an answer
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import final

from torch import Tensor

Reveal = Callable[[Tensor], Tensor]
"""Turns the cloud's answers (Q, ...) into logits (B, K). It holds the secret of these queries, and
of no others: keep it on the edge, use it once.

Raises ``PayloadError`` for what is no answer to them: of another shape, or not finite.
"""


class Shield(ABC):
    """Stands between the edge part and the codec, in inference."""

    @property
    def counts(self) -> Mapping[str, int]:
        """What was done so far, for a record; empty where there is nothing to tell."""
        return {}

    # Not the secret is returned, but what uses it: a caller with the secret could read the answers
    # to other queries with it by mistake.
    @abstractmethod
    def protect(self, features: Tensor) -> tuple[Tensor, Reveal]:
        """Return what may leave for features (B, ...), and what reads the answers to it.

        Every call has a secret of its own.
        """


@final
class Open(Shield):
    """Does nothing: features leave as they are, and answers are logits."""

    def protect(self, features: Tensor) -> tuple[Tensor, Reveal]:
        """Return the features, and what returns answers as they come."""
        return features, _as_is


def _as_is(answers: Tensor) -> Tensor:
    return answers
