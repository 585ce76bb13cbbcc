"""The state of a learner: what is saved, and what is loaded to go on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

from torch import Tensor

from eaves.errors import StateError


@final
@dataclass(frozen=True)
class State:
    """All that a learner needs to go on where it stood: tensors by name, and plain JSON facts."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def joined(states: Mapping[str, State]) -> State:
    """Return several states as one, each behind its name.

    >>> joined({"part": State({}, {"steps": 3}), "other": State()}).facts
    {'part': {'steps': 3}, 'other': {}}
    """
    tensors = {f"{name}/{k}": v for name, s in states.items() for k, v in s.tensors.items()}
    return State(tensors, {name: s.facts for name, s in states.items()})


def parted(state: State, names: Iterable[str]) -> dict[str, State]:
    """Return what :func:`joined` joined; raises :class:`StateError` for other ``names``."""
    states = {name: State({}, state.facts.get(name, {})) for name in names}
    try:
        for key, value in state.tensors.items():
            name, rest = key.split("/", 1)
            states[name].tensors[rest] = value
    except (KeyError, ValueError) as error:
        raise StateError(f"the saved state belongs to another learner: {error!r}") from error
    return states
