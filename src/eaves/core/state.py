"""The state of a learner: what is saved, and what is loaded to go on."""

from dataclasses import dataclass, field
from typing import Any, final

from torch import Tensor


@final
@dataclass(frozen=True)
class State:
    """All that a learner needs to go on where it stood: tensors by name, and plain JSON facts."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
