"""A sweep: one training for each combination of settings, and a short audit of each.

The published price of hiding was measured on one data set at one size. What it is on other data is
found by trying: ``noise=0.5,1,2 bottleneck=4x2x2,8x4x4`` trains six runs.
"""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any, Final, final

from eaves.data.load import load_dataset
from eaves.errors import ConfigError, unknown
from eaves.experiments.auditconfig import AuditConfig
from eaves.experiments.auditing import AuditEvent, AuditRecord, run_audit
from eaves.experiments.build import build_method, steps_of, wire_of
from eaves.experiments.bundle import read_manifest
from eaves.experiments.config import TrainConfig, located
from eaves.experiments.position import begun
from eaves.experiments.privacyconfig import PrivacyConfig
from eaves.experiments.record import RunRecord
from eaves.experiments.run import PhaseProgress, run
from eaves.runtime.files import held, write_atomically
from eaves.runtime.sealed import sealed_json, unsealed_json

FORMAT: Final = 1
EFFORT: Final = 0.25
"""Of the rounds of a full audit."""
ATTACKS: Final = "labels,attribute"
SWEPT: Final[dict[str, type]] = {
    "noise": float,
    "noise_scale": float,
    "bottleneck": str,
    "weight": float,
    "epsilon": float,
    "bound": str,
    "bound_limit": float,
    "aim": str,
    "adversaries": int,
    "adversary_steps": int,
    "ramp": float,
    "restarts": int,
    "cut": str,
    "codec": str,
    "epochs": int,
    "cloud_epochs": int,
    "lr": float,
}
"""What a sweep may vary; ``noise`` with a number is ``noise_scale``."""
_MOST: Final = 100
_PRIVACY: Final = {field.name for field in fields(PrivacyConfig)}
_LAWS: Final = ("gaussian", "laplace", "none")


@final
@dataclass(frozen=True, kw_only=True)
class Setting:
    """What came of one setting: the record of its training, and that of its audit."""

    name: str
    folder: Path
    record: Mapping[str, Any]
    audit: Mapping[str, Any]

    def rows(self) -> list[dict[str, Any]]:
        """Return the figures, for each private attribute."""
        accuracy = self.record["accuracy"]
        found = []
        for attribute, one in self.audit["attributes"].items():
            verdict, findings = one["verdict"], one["findings"]
            labels = [f["rate"] for f in findings if f["attack"] == "labels"]
            found.append(
                {
                    "setting": self.name,
                    "attribute": attribute,
                    "folder": self.folder.name,
                    "method": self.record["method"],
                    "accuracy": accuracy["cloud"] or accuracy["exit"],
                    "attacker": verdict["best"]["attacker"],
                    "attack": verdict["best"]["rate"],
                    "balanced": max((f["balanced"] for f in findings), key=lambda x: x["value"]),
                    "majority": verdict["best"]["majority"],
                    "label_alone": labels[0] if labels else None,
                    "ended_by_time": verdict["early"],
                }
            )
        return found


@final
@dataclass(frozen=True, kw_only=True)
class SweepRecord:
    """All settings that were tried."""

    sweep: str
    rows: list[dict[str, Any]]
    faults: list[str]
    """Why figures of an audit are not to be believed; empty: none."""
    effort: float = EFFORT
    attacks: str = ATTACKS
    format: int = FORMAT

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


@final
@dataclass(frozen=True)
class At:
    """The sweep is at one setting."""

    name: str
    number: int
    of: int


SweepEvent = At | PhaseProgress | AuditEvent | Setting | SweepRecord


def swept(config: TrainConfig) -> dict[str, TrainConfig]:
    """Return the runs that ``config.sweep`` asks for by name, each in a folder of its own.

    Raises:
        ConfigError: a key or a value that cannot be, twice the same, or settings without noise and
            adversaries or without a private attribute to audit.

    >>> from eaves.experiments.privacyconfig import PrivacyConfig
    >>> base = TrainConfig(
    ...     method="priphit", privacy=PrivacyConfig(private="high"), sweep="noise=0.5,1"
    ... )
    >>> [(name, c.privacy.noise_scale, c.out.name) for name, c in swept(base).items()]
    [('noise=0.5', 0.5, 'noise-0.5'), ('noise=1', 1.0, 'noise-1')]
    """
    if config.compare:
        raise ConfigError("--sweep and --compare do not go together: do one after the other")
    if not config.privacy.attributes:
        raise ConfigError(
            "--sweep attacks each setting to see what it gives away: name the attribute that is "
            "to be read, as in --private Male"
        )
    axes = _axes(config.sweep)
    chosen = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    if len(chosen) > _MOST:
        raise ConfigError(f"expected a --sweep of {_MOST} settings at most, got {len(chosen)}")
    return {_name(setting): _variant(config, setting) for setting in chosen}


def sweep(
    config: TrainConfig, *, stop: threading.Event, overwrite: bool = False
) -> Iterator[SweepEvent]:
    """Train and audit every setting; yield what happens, each :class:`Setting`, and the record.

    What was finished before is not done again, and what was interrupted goes on, unless
    ``overwrite``. Leaves ``sweep.json`` in ``config.out``, and a folder for each setting. When
    ``stop`` is set it ends after a checkpoint, without a record.

    Raises:
        ConfigError: as :func:`swept`; or ``config.out`` holds a run.
        EavesError: as :func:`~eaves.experiments.run.run` and
            :func:`~eaves.experiments.auditing.run_audit`.
    """
    runs, settings = swept(config), list[Setting]()
    with held(config.out):
        if (config.out / "record.json").exists() or begun(config.out):
            raise ConfigError(
                f"{config.out} holds a run, and a sweep has a folder of its own for each setting: "
                "choose another --out"
            )
        expect_buildable(runs)
        write_atomically(config.out / "config.toml", located(config).to_toml().encode())
        for number, (name, one) in enumerate(runs.items(), start=1):
            yield At(name, number, len(runs))
            setting = None
            for event in _setting(name, one, stop, overwrite=overwrite):
                setting = event if isinstance(event, Setting) else setting
                yield event
            if setting is None:
                return
            settings.append(setting)
        record = SweepRecord(
            sweep=config.sweep,
            rows=[row for setting in settings for row in setting.rows()],
            faults=[f"{s.name}: {fault}" for s in settings for fault in s.audit["faults"]],
        )
        write_atomically(config.out / "sweep.json", sealed_json(record.as_json()))
        yield record


def _setting(
    name: str, config: TrainConfig, stop: threading.Event, *, overwrite: bool
) -> Iterator[SweepEvent]:
    """Train and audit one setting; nothing follows where it was interrupted."""
    record = None
    for event in run(config, stop=stop, resume=not overwrite, overwrite=overwrite):
        if isinstance(event, RunRecord):
            record = event
        else:
            yield event
    if record is None or not record.complete:
        return
    audit = audit_of(config)
    found = None if overwrite else _audited(config.out, audit)
    if found is None:
        for step in run_audit(config.out, audit, stop=stop):
            yield step
            found = step.as_json() if isinstance(step, AuditRecord) and step.complete else None
    if found is not None:
        yield Setting(name=name, folder=config.out, record=record.as_json(), audit=found)


def audit_of(config: TrainConfig) -> AuditConfig:
    """Return the short audit of one setting: one seed, a quarter of the rounds, no images."""
    return AuditConfig(
        data_root=config.data_root,
        attacks=ATTACKS,
        effort=EFFORT,
        seeds=1,
        seed=config.seed,
        threads=config.threads,
        gallery=0,
        out=config.out / "sweep-audit",  # never in the place of a full one
    )


def _audited(folder: Path, config: AuditConfig) -> dict[str, Any] | None:
    """Return the audit that is there, if it is complete, of this bundle and these settings."""
    try:
        found: dict[str, Any] = unsealed_json((folder / "sweep-audit" / "audit.json").read_bytes())
        session = read_manifest(folder / "bundle").get("session")
        asked = {k: v for k, v in asdict(config).items() if k not in ("out", "data_root")}
        same = {k: found["settings"].get(k) for k in asked} == asked
        of_this = found["subject"]["session"] == session
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if found.get("complete") is True and same and of_this else None


def _axes(text: str) -> dict[str, list[str]]:
    """Return the values of each key, as they were given."""
    axes: dict[str, list[str]] = {}
    for word in text.replace(";", " ").split():
        key, equals, given = word.partition("=")
        key = key.replace("-", "_").removeprefix("__")
        values = [value for value in given.split(",") if value]
        if not equals or not values:
            raise ConfigError(
                "expected a --sweep such as 'noise=0.5,1,2 bottleneck=4x2x2,8x4x4': keys with "
                f"their values, commas between values and spaces between keys; got {word!r}"
            )
        if key not in SWEPT:
            raise unknown("key in --sweep", key, SWEPT)
        if key in axes or len(set(values)) < len(values):
            raise ConfigError(f"--sweep names {key if key in axes else word} twice")
        axes[key] = values
    if not axes:
        raise ConfigError(f"expected a --sweep such as 'noise=0.5,1,2', got {text!r}")
    return axes


def _name(setting: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in setting.items())


def _variant(config: TrainConfig, setting: Mapping[str, str]) -> TrainConfig:
    name, changes, hidden = _name(setting), dict[str, Any](), dict[str, Any]()
    for key, text in setting.items():
        key, value = _value(key, text)
        (hidden if key in _PRIVACY else changes)[key] = value
    folder = "_".join(f"{k}-{v}" for k, v in setting.items())
    changes["out"] = config.out / folder.replace(":", "-").replace("/", "-")
    try:
        privacy = replace(config.privacy, **hidden)
        changed = replace(config, privacy=privacy, sweep="", **changes)
        wire_of(changed)
    except ConfigError as error:
        raise ConfigError(f"--sweep, {name}: {error}") from error
    if not changed.hides:
        raise ConfigError(
            f"--sweep, {name}: {config.method} hides nothing in what it sends; expected a method "
            "that does, as in --method priphit --private Male"
        )
    return changed


def _value(key: str, text: str) -> tuple[str, Any]:
    """Return the field that a key means, and its value."""
    if key == "noise":
        if text in _LAWS:
            return "noise", text
        key = "noise_scale"
    kind = SWEPT[key]
    try:
        value = kind(text)
    except ValueError as error:
        wanted = "an integer" if kind is int else "a number"
        raise ConfigError(f"--sweep: expected {key} to be {wanted}, got {text!r}") from error
    return key, int(value) if key == "bottleneck" and text.isdigit() else value


def expect_buildable(runs: Mapping[str, TrainConfig]) -> None:
    """Build the method of each run: a cut that does not exist is said before hours of training.

    Raises:
        BudgetExceeded: one would give away more than its privacy budget allows.
        ConfigError: one cannot be built; the message says which.
        DataError: the data set is missing or damaged.
    """
    first = replace(next(iter(runs.values())), precision="fp32")
    data = load_dataset(
        first.data,
        root=first.data_root,
        train_samples=first.train_samples,
        image_size=first.image_size,
        private=first.privacy.attributes,
    )
    for name, config in runs.items():
        try:
            build_method(
                replace(config, precision="fp32"),
                data.interface,
                steps=steps_of(config, len(data.train)),
                private_classes=data.private_classes,
                secret=False,
            )
        except ConfigError as error:
            raise ConfigError(f"--sweep, {name}: {error}") from error
