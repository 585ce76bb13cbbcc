"""Settings from TOML and from the environment, read strictly into frozen dataclasses.

What is given in more than one place counts in this order: flags, environment, TOML, defaults.
Imports no torch.
"""

import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar, get_args, get_origin

from eaves.errors import ConfigError, unknown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound="DataclassInstance")
MOST: Final = {
    "threads": 1_024,
    "image_size": 1_024,
    "adversaries": 1_000,
    "classes": 1_000_000,
    "batch_size": 1_000_000,
    "copies": 100_000,
    "max_edges": 1_000_000,
    "max_queries": 1_000_000,
    "merge": 1_000_000,
    "fleet": 1_000_000,
    "group": 10_000,
    "components": 1_000_000,
}
"""The most that counts may be, where that is less than a billion: beyond lies a typing mistake."""
_MOST_OF_OTHERS: Final = 1_000_000_000
_TRUE: Final = ("true", "yes", "on", "1")
_FALSE: Final = ("false", "no", "off", "0")


def read_settings(
    cls: type[C], *, prefix: str, environ: Mapping[str, str], path: Path | None = None
) -> C:
    """Return ``cls`` with what the TOML file ``path`` sets, and the environment above it.

    What does not go together is looked for once both are known. Flags go on top of what this
    returns. Raises :class:`ConfigError`, as the functions below.
    """
    values = {} if path is None else _named(cls, _parse(read_text(path), str(path)), str(path))
    changes = _set_by(cls, prefix, environ)
    return _explained(lambda: cls(**values | changes), prefix, changes)


def read_text(path: Path) -> str:
    """Return what is in a file of settings; raises :class:`ConfigError` where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors mark UTF-8
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error


def from_toml(cls: type[C], text: str, source: str) -> C:
    """Read TOML whose keys are the fields of ``cls``; ``source`` is named in errors.

    Raises:
        ConfigError: not TOML, an unknown key, a wrong type, or what ``cls`` refuses.
    """
    return from_values(cls, _parse(text, source), source)


def from_values(cls: type[C], values: object, source: str) -> C:
    """Return ``cls`` with the ``values`` of its fields, as TOML and JSON have them.

    Raises:
        ConfigError: no mapping, an unknown key, a wrong type, or what ``cls`` refuses.
    """
    return cls(**_named(cls, values, source))


def from_environment(base: C, prefix: str, environ: Mapping[str, str]) -> C:
    """Return ``base`` with the fields that variables set: ``prefix`` and the field in capitals.

    An empty value is that of a field that may be None. Switches are true, yes, on or 1, or false,
    no, off or 0. Every variable with this prefix has to be one of a field, so that no typing
    mistake goes unnoticed; others are not looked at.

    Raises:
        ConfigError: an unknown variable, a wrong type, or what the class of ``base`` refuses.
    """
    changes = _set_by(type(base), prefix, environ)
    return _explained(lambda: replace(base, **changes), prefix, changes)


def variable(prefix: str, name: str) -> str:
    """Return the environment variable of a field.

    >>> variable("EAVES_SERVE_", "max_edges")
    'EAVES_SERVE_MAX_EDGES'
    """
    return prefix + name.upper()


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # of numbers too long, of lists too deep
        raise ConfigError(f"{source} is not TOML: {error}") from error


def _named(cls: "type[DataclassInstance]", values: object, source: str) -> dict[str, Any]:
    """Return ``values`` as the types of the fields that they name."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source}: expected settings by their names, got {values!r}")
    types = _types(cls)
    for key in values:
        if key not in types:
            raise unknown(f"key in {source}", key, types)
    return {key: _typed(key, types[key], value, source) for key, value in values.items()}


def _set_by(
    cls: "type[DataclassInstance]", prefix: str, environ: Mapping[str, str]
) -> dict[str, Any]:
    """Return the fields that the environment sets."""
    types = {variable(prefix, name): (name, allowed) for name, allowed in _types(cls).items()}
    changes = {}
    for key, text in sorted(environ.items()):
        if not key.startswith(prefix):
            continue
        if key not in types:
            raise unknown("environment variable", key, types)
        name, allowed = types[key]
        changes[name] = _parsed(key, allowed, text)
    return changes


def _explained(make: Callable[[], C], prefix: str, changes: Iterable[str]) -> C:
    """Return what ``make`` makes; its mistakes say which variables the environment sets."""
    try:
        return make()
    except ConfigError as error:
        if given := ", ".join(variable(prefix, name) for name in changes):
            raise ConfigError(f"{error} (the environment sets {given})") from error
        raise


def _types(cls: "type[DataclassInstance]") -> dict[str, tuple[type, ...]]:
    """Return the types that each field may have."""
    types = {field.name: _bare(field.type) for field in fields(cls)}
    return {
        name: get_args(found) if isinstance(found, UnionType) else (found,)
        for name, found in types.items()
    }


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _typed(key: str, allowed: tuple[type, ...], value: object, source: str) -> Any:
    """Return a value of TOML as one of the types in ``allowed``, or raise."""
    for nested in allowed:
        if is_dataclass(nested):  # a table
            return from_values(nested, value, f"{source}, [{key}]")
    if Path in allowed and isinstance(value, str):
        value = Path(value)
    if type(value) is int and not -(2**63) <= value < 2**63:  # as TOML has it
        raise ConfigError(f"{source}: expected {key} to be {_names(allowed)}, got a huge number")
    if float in allowed and type(value) is int:
        value = float(value)
    # True is an int to Python, and not to us.
    if isinstance(value, allowed) and (bool in allowed or type(value) is not bool):
        return value
    raise ConfigError(f"{source}: expected {key} to be {_names(allowed)}, got {value!r}")


def _parsed(key: str, allowed: tuple[type, ...], text: str) -> Any:
    """Return the text of a variable as one of the types in ``allowed``, or raise."""
    if not text and type(None) in allowed:
        return None
    for wanted in allowed:
        if wanted is bool and text.lower() in _TRUE + _FALSE:
            return text.lower() in _TRUE
        if wanted in (int, float):
            try:
                return wanted(text)
            except ValueError:
                continue
        if wanted is str or (wanted is Path and text):
            return wanted(text)
    raise ConfigError(f"expected {key} to be {_names(allowed)}, got {text!r}")


def _names(allowed: Iterable[type]) -> str:
    words = {bool: "true or false", Path: "a path"}
    return " or ".join(words.get(t, t.__name__) for t in allowed if t is not type(None))


def take_paths(config: "DataclassInstance") -> None:
    """Turn strings in fields of ``config`` that are paths into paths, as Python users write them.

    Raises:
        ConfigError: a field that is a path holds neither, or an empty string.
    """
    for name, allowed in _types(type(config)).items():
        value = getattr(config, name)
        if (
            Path not in allowed
            or isinstance(value, Path)
            or (value is None and type(None) in allowed)
        ):
            continue
        if not isinstance(value, str) or not value or "\0" in value:
            raise ConfigError(f"expected {_flag(name)} to be {_names(allowed)}, got {value!r}")
        object.__setattr__(config, name, Path(value))  # as a frozen dataclass does to itself


def expect_at_least(config: object, name: str, least: int) -> None:
    """Raise a :class:`ConfigError` where the setting ``name`` is not an integer from ``least``.

    Nor may it be above what :data:`MOST` has of it: a million threads end a process without a word.
    """
    value, most = getattr(config, name), MOST.get(name, _MOST_OF_OTHERS)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"expected {_flag(name)} of {least} or more, got {value!r}")
    if value > most:
        raise ConfigError(f"expected {_flag(name)} from {least} to {most:,}, got {value:,}")


def expect_between(config: object, name: str, low: float, high: float) -> None:
    """Raise a :class:`ConfigError` where the setting ``name`` is no number from low to high."""
    value = getattr(config, name)
    if not (isinstance(value, int | float) and low <= value <= high):
        raise ConfigError(f"expected {_flag(name)} from {low:g} to {high:g}, got {value!r}")


def expect_choice(config: object, name: str, choices: Iterable[str]) -> None:
    """Raise a :class:`ConfigError` where the setting ``name`` is none of ``choices``."""
    if (value := getattr(config, name)) not in choices:
        raise unknown(name.replace("_", "-"), str(value), choices)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
