"""Several methods under the same conditions: which runs a comparison is made of."""

from dataclasses import replace
from typing import Any

from eaves.core.methods import method_named
from eaves.errors import ConfigError
from eaves.experiments.build import wire_of
from eaves.experiments.config import TrainConfig
from eaves.runtime.sealed import unsealed_json


def compared(config: TrainConfig) -> dict[str, TrainConfig]:
    """Return the runs that ``config.compare`` asks for by name, each in a folder of its own.

    The run of ``config`` itself is not among them, also where it is named.

    >>> runs = compared(TrainConfig(compare="full-cloud:png,full-cloud:once"))
    >>> [(name, c.input_codec, c.send, str(c.out)) for name, c in runs.items()]
    [('full-cloud:png', 'png', 'auto', 'runs/latest/full-cloud-png'), \
('full-cloud:once', 'raw', 'once', 'runs/latest/full-cloud-once')]
    """
    names = [name.strip() for name in config.compare.split(",") if name.strip()]
    if len(set(names)) < len(names):
        raise ConfigError(f"--compare names the same run twice: {config.compare}")
    return {name: _variant(config, name) for name in names if name != own_name(config)}


def own_name(config: TrainConfig) -> str:
    """Return what the run of ``config`` itself is called beside those it is compared with.

    >>> own_name(TrainConfig(send="once"))
    'hierarchical:once'
    """
    return config.method + (":once" if config.send == "once" else "")


def _variant(config: TrainConfig, name: str) -> TrainConfig:
    method, _, variant = name.partition(":")
    changes: dict[str, Any] = {"method": method, "compare": ""}
    changes |= {"send": "auto", "copies": 1, "cloud_epochs": None}
    changes["privacy"] = replace(config.privacy, keep_training=False)  # with every-epoch alone
    changes["out"] = config.out / name.replace(":", "-").replace("/", "-")
    if variant == "once":
        changes["send"] = "once"
    elif variant:
        changes["input_codec" if method_named(method).sends == "inputs" else "codec"] = variant
    changed = replace(config, **changes)
    wire_of(changed)  # a codec that cannot work is said now, not after the runs before this one
    return changed


def finished(config: TrainConfig) -> dict[str, Any] | None:
    """Return the record in ``config.out`` if it is of this very configuration and complete."""
    try:
        record: dict[str, Any] = unsealed_json((config.out / "record.json").read_bytes())
    except (OSError, ValueError):
        return None
    same = record.get("complete") is True and record.get("config_hash") == config.hash()
    return record if same else None
