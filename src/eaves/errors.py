"""What can go wrong, as one tree.

::

    EavesError
    ├── ConfigError (also a ValueError)   a name, number or combination that cannot work
    │   ├── CutError                      a net that cannot be cut there; lists where it can be
    │   └── MisfitError                   a net that does not take these inputs or classes
    ├── DataError                         a data file: missing, damaged, not in its layout
    ├── PayloadError                      bytes that are not what an encoder of ours wrote
    ├── StateError                        a checkpoint or bundle: missing, damaged, of another run
    ├── StorageError                      a disk that is full or refuses to be written
    ├── DivergedError                     training that produced NaN or infinity
    ├── AccessError                       proof of who one is: missing, unknown or revoked
    └── BudgetExceeded                    sending would give away more than is allowed

A caller's mistake in Python (a wrong shape, a wrong type) is a plain ``ValueError`` or
``TypeError``. The command line turns every :class:`EavesError` into one message: exit code 2 for
a :class:`ConfigError`, 1 for the others.
"""

import difflib
from collections.abc import Iterable
from typing import final


class EavesError(Exception):
    """The root: catch this to catch everything that Eaves raises on purpose."""


class ConfigError(EavesError, ValueError):
    """A name, number or combination that cannot work; the message says what can."""


@final
class CutError(ConfigError):
    """A net cannot be cut at the place asked for, or not at all."""


@final
class MisfitError(ConfigError):
    """A net does not take inputs of this shape, or does not answer with these classes."""


@final
class DataError(EavesError):
    """A data file is missing, damaged or not in its published layout."""


@final
class PayloadError(EavesError):
    """Bytes that arrived are not a whole, valid payload."""


@final
class StateError(EavesError):
    """A checkpoint or bundle is missing, damaged or belongs to something else."""


@final
class StorageError(EavesError):
    """The disk is full, or refuses to be written; what was there before is intact."""


@final
class DivergedError(EavesError):
    """The training loss became NaN or infinite."""


@final
class AccessError(EavesError):
    """Somebody did not prove who they are, or may not come in any more."""


@final
class BudgetExceeded(EavesError):  # noqa: N818 - no mistake: a promise that is kept
    """Sending would give away more than the privacy budget allows; nothing was sent."""


def closest_first(given: str, choices: Iterable[str]) -> list[str]:
    """Return ``choices`` with those most like ``given`` in front.

    >>> closest_first("restnet18", ["vgg16", "resnet34", "resnet18"])
    ['resnet18', 'resnet34', 'vgg16']
    """

    def unlikeness(choice: str) -> float:
        return -difflib.SequenceMatcher(None, given.lower(), choice.lower()).ratio()

    return sorted(choices, key=unlikeness)


def unknown(
    kind: str, given: str, choices: Iterable[str], error: type[ConfigError] = ConfigError
) -> ConfigError:
    """Return the error for a name that is not one of ``choices``, the likeliest ones first.

    >>> raise unknown("cut", "layer5", ["layer1", "layer2"])
    Traceback (most recent call last):
    eaves.errors.ConfigError: unknown cut 'layer5'; choose from: layer1, layer2
    """
    return error(
        f"unknown {kind} {given!r}; choose from: {', '.join(closest_first(given, choices))}"
    )
